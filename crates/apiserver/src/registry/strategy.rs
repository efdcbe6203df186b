//! What differs per resource when objects are written: who counts generations, what a status write may touch, what
//! the server fills in. A table and a few rules; field by field validation lives in crate `objects`.

use serde_json::{Value, json};

use super::{meta_text, metadata};
use crate::resources::Resource;

/// Built-in resources whose spec changes are counted in metadata.generation.
const COUNTED: &[&str] = &[
    "apps/deployments",
    "apps/daemonsets",
    "apps/replicasets",
    "apps/statefulsets",
    "core/pods",
    "core/replicationcontrollers",
    "core/podtemplates",
    "batch/jobs",
    "batch/cronjobs",
    "networking.k8s.io/ingresses",
    "networking.k8s.io/networkpolicies",
    "networking.k8s.io/ingressclasses",
    "policy/poddisruptionbudgets",
    "discovery.k8s.io/endpointslices",
    "scheduling.k8s.io/priorityclasses",
    "apiextensions.k8s.io/customresourcedefinitions",
    "admissionregistration.k8s.io/mutatingwebhookconfigurations",
    "admissionregistration.k8s.io/validatingwebhookconfigurations",
    "admissionregistration.k8s.io/validatingadmissionpolicies",
    "admissionregistration.k8s.io/validatingadmissionpolicybindings",
    "admissionregistration.k8s.io/mutatingadmissionpolicies",
    "admissionregistration.k8s.io/mutatingadmissionpolicybindings",
    "flowcontrol.apiserver.k8s.io/flowschemas",
    "flowcontrol.apiserver.k8s.io/prioritylevelconfigurations",
    "resource.k8s.io/deviceclasses",
    "resource.k8s.io/devicetaintrules",
    "resource.k8s.io/resourceslices",
];

/// Whether the server counts generations for this resource.
pub fn counts_generation(resource: &Resource) -> bool {
    resource.custom.is_some() || COUNTED.contains(&&*resource.store)
}

/// Whether status is written through its own subresource.
pub fn has_status(resource: &Resource) -> bool {
    resource.subresource("status").is_some()
}

/// Brings a new object into its first state: what clients may not choose is removed or set.
pub fn prepare_create(resource: &Resource, object: &mut Value) {
    if has_status(resource)
        && &*resource.store != "core/nodes"
        && let Some(map) = object.as_object_mut()
    {
        map.remove("status");
    }
    let meta = metadata(object);
    for key in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "resourceVersion",
    ] {
        meta.remove(key);
    }
    if counts_generation(resource) {
        meta.insert("generation".into(), 1.into());
    }
    first_state(resource, object);
}

fn first_state(resource: &Resource, object: &mut Value) {
    match &*resource.store {
        "core/namespaces" => {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
            let name = meta_text(object, "name").to_string();
            if !name.is_empty() {
                object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name.into();
            }
        }
        crate::custom::DEFINITIONS => crate::custom::first_state(object),
        "core/pods" => object["status"] = json!({"phase": "Pending", "qosClass": qos(object)}),
        "core/persistentvolumes" => object["status"] = json!({"phase": "Pending"}),
        "core/persistentvolumeclaims" => object["status"] = json!({"phase": "Pending"}),
        _ => {}
    }
}

fn qos(pod: &Value) -> &'static str {
    let spec: mainstay_semantics::pod::PodResources =
        serde::Deserialize::deserialize(&pod["spec"]).unwrap_or_default();
    mainstay_semantics::qos::class(&spec).as_str()
}

/// Brings a changed object into the form that may be stored, given what is there.
pub fn prepare_update(resource: &Resource, subresource: &str, old: &Value, new: &mut Value) {
    keep_metadata(old, new);
    if subresource.is_empty() {
        mainstay_objects::prepare::update(&resource.gvk.group, &resource.gvk.kind, new, old);
    }
    match subresource {
        "" if has_status(resource) => copy(old, new, "status"),
        "status" => keep_all_but_status(resource, old, new),
        "approval" => {
            let conditions = new["status"]["conditions"].clone();
            copy(old, new, "spec");
            copy(old, new, "status");
            new["status"]["conditions"] = conditions;
        }
        "finalize" => {
            let finalizers = new["spec"]["finalizers"].clone();
            *new = old.clone();
            new["spec"]["finalizers"] = finalizers;
        }
        "ephemeralcontainers" => {
            let containers = new["spec"]["ephemeralContainers"].clone();
            *new = old.clone();
            new["spec"]["ephemeralContainers"] = containers;
        }
        "resize" => *new = resized(old, new),
        _ => {}
    }
    if subresource.is_empty() && &*resource.store == "core/namespaces" {
        copy(old, new, "spec");
    }
    count(resource, subresource, old, new);
}

/// What no client changes: identity and deletion.
fn keep_metadata(old: &Value, new: &mut Value) {
    let kept = [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
    ];
    let meta = metadata(new);
    for key in kept {
        match &old["metadata"][key] {
            Value::Null => drop(meta.remove(key)),
            value => drop(meta.insert(key.into(), value.clone())),
        }
    }
    for key in ["name", "namespace", "generateName"] {
        if let Value::String(text) = &old["metadata"][key] {
            meta.insert(key.into(), text.as_str().into());
        }
    }
}

fn keep_all_but_status(resource: &Resource, old: &Value, new: &mut Value) {
    let keys: Vec<String> = old
        .as_object()
        .into_iter()
        .chain(new.as_object())
        .flat_map(|map| map.keys().cloned())
        .collect();
    for key in keys
        .iter()
        .filter(|key| !matches!(key.as_str(), "status" | "metadata" | "apiVersion" | "kind"))
    {
        copy(old, new, key);
    }
    if resource.custom.is_some() {
        let managed = new["metadata"]["managedFields"].clone();
        new["metadata"] = old["metadata"].clone();
        new["metadata"]["managedFields"] = managed;
    } else if matches!(resource.gvk.group.as_str(), "apps" | "batch") {
        let labels = old["metadata"]["labels"].clone();
        set_or_remove(metadata(new), "labels", labels);
    }
}

/// Only container resources may change.
fn resized(old: &Value, new: &Value) -> Value {
    let mut result = old.clone();
    for list in ["containers", "initContainers"] {
        let wanted = new["spec"][list].as_array().cloned().unwrap_or_default();
        for container in result["spec"][list].as_array_mut().into_iter().flatten() {
            if let Some(found) = wanted.iter().find(|other| other["name"] == container["name"]) {
                container["resources"] = found["resources"].clone();
                container["resizePolicy"] = found["resizePolicy"].clone();
            }
        }
    }
    result
}

/// Raises the generation when anything but metadata and status changed.
fn count(resource: &Resource, subresource: &str, old: &Value, new: &mut Value) {
    if !counts_generation(resource) || matches!(subresource, "status" | "approval") {
        return;
    }
    let changed = |key: &String| !matches!(key.as_str(), "metadata" | "status") && old[key] != new[key];
    let keys = old
        .as_object()
        .into_iter()
        .chain(new.as_object())
        .flat_map(|map| map.keys());
    if keys.cloned().collect::<Vec<_>>().iter().any(changed) {
        let next = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        metadata(new).insert("generation".into(), next.into());
    }
}

fn copy(from: &Value, to: &mut Value, key: &str) {
    let value = from[key].clone();
    if let Some(map) = to.as_object_mut() {
        set_or_remove(map, key, value);
    }
}

fn set_or_remove(map: &mut serde_json::Map<String, Value>, key: &str, value: Value) {
    match value {
        Value::Null => drop(map.remove(key)),
        value => drop(map.insert(key.into(), value)),
    }
}

/// What depends on the fields that admission may have changed.
pub fn after_admission(resource: &Resource, object: &mut Value) {
    if &*resource.store == "core/pods" {
        object["status"]["qosClass"] = qos(object).into();
    }
}
