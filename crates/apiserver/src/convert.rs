//! Between the stored and the served version of an object. Most versions differ in `apiVersion` only and are written
//! without parsing; events, autoscaling/v1 and resource.k8s.io/v1beta1 have forms of their own; a secret's stringData is never stored as such.

mod autoscaling;
mod devices;
mod events;
mod secrets;

use serde_json::Value;

use crate::resources::{Resource, api_version};
use mainstay_access::object::Object;

/// The version of resource.k8s.io that looks different.
const DEVICES_BETA: &str = "v1beta1";

/// Appends a stored object in the version that `resource` serves.
pub fn write_served(resource: &Resource, object: &Object, out: &mut Vec<u8>) {
    if resource.is_stored_as_served() {
        return object.write(out);
    }
    if !is_special(resource) {
        return object.write_as(&resource.api_version(), out);
    }
    let value = served(resource, object);
    serde_json::to_writer(out, &value).expect("a JSON value is always written to memory");
}

/// Parses a stored object into the version that `resource` serves.
pub fn served(resource: &Resource, object: &Object) -> Value {
    to_served(resource, object.value())
}

/// Turns a stored value into the version that `resource` serves.
pub fn to_served(resource: &Resource, mut value: Value) -> Value {
    if resource.is_stored_as_served() {
        return value;
    }
    match resource.gvk.group.as_str() {
        "events.k8s.io" => events::to_new(&mut value),
        "autoscaling" => autoscaling::to_v1(&mut value),
        "resource.k8s.io" if resource.gvk.version == DEVICES_BETA => devices::to_beta(&mut value),
        _ => {}
    }
    value["apiVersion"] = resource.api_version().into();
    value
}

/// Turns a served value into the version that is stored.
pub fn to_stored(resource: &Resource, mut value: Value) -> Value {
    if &*resource.store == "core/secrets" {
        secrets::to_stored(&mut value);
    }
    if resource.is_stored_as_served() {
        return value;
    }
    match resource.gvk.group.as_str() {
        "events.k8s.io" => events::to_core(&mut value),
        "autoscaling" => autoscaling::to_v2(&mut value),
        "resource.k8s.io" if resource.gvk.version == DEVICES_BETA => devices::to_v1(&mut value),
        _ => {}
    }
    value["apiVersion"] = api_version(&resource.storage.group, &resource.storage.version).into();
    value
}

fn is_special(resource: &Resource) -> bool {
    let gvk = &resource.gvk;
    resource.custom.is_none()
        && match gvk.group.as_str() {
            "events.k8s.io" | "autoscaling" => true,
            "resource.k8s.io" => gvk.version == DEVICES_BETA,
            _ => false,
        }
}
