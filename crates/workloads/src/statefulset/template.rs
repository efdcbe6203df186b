//! The pod of one number, and its claims.
//! Rules: <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#pod-identity>.

use serde_json::{Value, json};

use crate::kinds::{Pod, StatefulSet};
use crate::pods;
use crate::revision::HASH_LABEL;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The number in a pod's name; none when it is no pod of a set of this name.
pub(super) fn ordinal(set: &str, pod: &Pod) -> Option<i32> {
    let name = pod.metadata.name.as_deref()?;
    let number = name.strip_prefix(set)?.strip_prefix('-')?;
    let plain = number == "0" || !number.starts_with(['0', '+', '-']);
    number.parse().ok().filter(|_| plain)
}

fn name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default())
}

fn claim_name(template: &Value, pod: &str) -> String {
    format!(
        "{}-{pod}",
        template["metadata"]["name"].as_str().unwrap_or_default()
    )
}

/// The claims of a number.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<Value> {
    let pod = name(set, ordinal);
    let of = |template: &Value| {
        let meta = &template["metadata"];
        let mut labels = json!(set.spec.selector.match_labels);
        for (key, value) in meta["labels"].as_object().into_iter().flatten() {
            labels[key] = value.clone();
        }
        let mut metadata = json!({"name": claim_name(template, &pod), "namespace": set.metadata.namespace, "labels": labels});
        if meta["annotations"].is_object() {
            metadata["annotations"] = meta["annotations"].clone();
        }
        json!({"metadata": metadata, "spec": template["spec"]})
    };
    set.spec.volume_claim_templates.iter().map(of).collect()
}

/// The pod object of a number, from a template of the set's history.
pub(super) fn pod(set: &StatefulSet, template: &Value, ordinal: i32, revision: &str) -> Value {
    let name = name(set, ordinal);
    let mut pod = pods::from_template(set, template, &name);
    for (key, value) in [
        (POD_NAME, name.clone()),
        (POD_INDEX, ordinal.to_string()),
        (HASH_LABEL, revision.to_owned()),
    ] {
        pod["metadata"]["labels"][key] = value.into();
    }
    let spec = &mut pod["spec"];
    spec["hostname"] = name.clone().into();
    if let Some(service) = set.spec.service_name.as_ref().filter(|name| !name.is_empty()) {
        spec["subdomain"] = service.clone().into();
    }
    let mut volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
    for template in &set.spec.volume_claim_templates {
        let volume = &template["metadata"]["name"];
        volumes.retain(|other| other["name"] != *volume);
        volumes.push(
            json!({"name": volume, "persistentVolumeClaim": {"claimName": claim_name(template, &name)}}),
        );
    }
    if !volumes.is_empty() {
        spec["volumes"] = volumes.into();
    }
    pod
}
