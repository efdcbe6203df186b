//! resource.k8s.io/v1 (stored) and v1beta1: v1beta1 has the fields of an exact request beside its name, and those of a
//! device in a part called `basic`. v1beta2 differs in nothing but its name.

use serde_json::{Map, Value};

type Entries = Map<String, Value>;

/// What of a v1beta1 request is not about the exact request.
const OF_REQUEST: &[&str] = &["name", "firstAvailable"];
/// What of a v1beta1 device is not in `basic`.
const OF_DEVICE: &[&str] = &["name"];

/// v1 → v1beta1.
pub fn to_beta(object: &mut Value) {
    requests(object, |request| unfold(request, "exactly"));
    devices(object, |device| fold(device, OF_DEVICE, "basic"));
}

/// v1beta1 → v1.
pub fn to_v1(object: &mut Value) {
    requests(object, |request| {
        if request.keys().any(|key| !OF_REQUEST.contains(&key.as_str())) {
            fold(request, OF_REQUEST, "exactly");
        }
    });
    devices(object, |device| unfold(device, "basic"));
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        // Texts and flags of v1beta1 have no unset state.
        spec.retain(|key, value| match key.as_str() {
            "nodeName" => value != "",
            "allNodes" => value != false,
            _ => true,
        });
    }
}

/// The requests of a claim or of a template's claim.
fn requests(object: &mut Value, change: impl Fn(&mut Entries)) {
    let path = match object["kind"].as_str() {
        Some("ResourceClaim") => "/spec/devices/requests",
        Some("ResourceClaimTemplate") => "/spec/spec/devices/requests",
        _ => return,
    };
    each(object, path, change);
}

fn devices(object: &mut Value, change: impl Fn(&mut Entries)) {
    if object["kind"] == "ResourceSlice" {
        each(object, "/spec/devices", change);
    }
}

fn each(object: &mut Value, path: &str, change: impl Fn(&mut Entries)) {
    let items = object.pointer_mut(path).and_then(Value::as_array_mut);
    items
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
        .for_each(change);
}

/// Moves all fields but some into a part of their own.
fn fold(entries: &mut Entries, staying: &[&str], part: &str) {
    let all = std::mem::take(entries);
    let (stay, go): (Entries, Entries) = all
        .into_iter()
        .partition(|(key, _)| staying.contains(&key.as_str()));
    *entries = stay;
    entries.insert(part.into(), go.into());
}

/// Moves the fields of a part up.
fn unfold(entries: &mut Entries, part: &str) {
    if let Some(Value::Object(fields)) = entries.remove(part) {
        entries.extend(fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn requests_and_devices_survive_the_way_there_and_back() {
        let exact = json!({"name": "a", "exactly": {"deviceClassName": "gpu", "count": 2, "allocationMode": "ExactCount"}});
        let either = json!({"name": "b", "firstAvailable": [{"name": "x", "deviceClassName": "gpu"}]});
        let claim = json!({"kind": "ResourceClaim", "spec": {"devices": {"requests": [exact, either]}}});
        let mut beta = claim.clone();
        to_beta(&mut beta);
        let requests = &beta["spec"]["devices"]["requests"];
        assert_eq!(
            requests[0],
            json!({"name": "a", "deviceClassName": "gpu", "count": 2, "allocationMode": "ExactCount"})
        );
        assert_eq!(requests[1], either);
        to_v1(&mut beta);
        assert_eq!(beta, claim);

        let device = json!({"name": "d0", "attributes": {"model": {"string": "m"}}, "capacity": {"memory": {"value": "1Gi"}}});
        let slice = json!({"kind": "ResourceSlice", "spec": {"driver": "d.x", "nodeName": "n", "devices": [device, {"name": "d1"}]}});
        let mut beta = slice.clone();
        to_beta(&mut beta);
        assert_eq!(
            beta["spec"]["devices"][0]["basic"]["attributes"]["model"]["string"],
            "m"
        );
        to_v1(&mut beta);
        assert_eq!(beta, slice);
    }

    #[test]
    fn what_beta_cannot_leave_unset_is_unset_in_v1() {
        let mut slice =
            json!({"kind": "ResourceSlice", "spec": {"nodeName": "", "allNodes": false, "nodeSelector": {}}});
        to_v1(&mut slice);
        assert_eq!(slice["spec"], json!({"nodeSelector": {}}));
    }
}
