//! The pod for one node: bound to it by affinity, and tolerating what a daemon must live with.
//! Rules: <https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/#taints-and-tolerations>.

use mainstay_semantics::toleration::Toleration;
use serde_json::{Value, json};

use crate::kinds::DaemonSet;
use crate::pods;
use crate::revision::HASH_LABEL;

/// Taints that every daemon tolerates: key and effect.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// What daemons on the node's own network tolerate besides.
const NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

fn added(spec: &Value) -> Vec<Value> {
    let network = (spec["hostNetwork"] == true).then_some(NETWORK);
    let all = TOLERATED.into_iter().chain(network);
    all.map(|(key, effect)| json!({"key": key, "operator": "Exists", "effect": effect}))
        .collect()
}

/// The template's tolerations with those that every daemon has.
pub(super) fn tolerations(spec: &Value) -> Vec<Toleration> {
    let own = spec["tolerations"].as_array().into_iter().flatten().cloned();
    own.chain(added(spec))
        .filter_map(|toleration| serde_json::from_value(toleration).ok())
        .collect()
}

/// The pod object for a node.
pub(super) fn pod(set: &DaemonSet, node: &str, hash: &str) -> Value {
    let prefix = format!("{}-", set.metadata.name.as_deref().unwrap_or_default());
    let mut pod = pods::from_template(set, &set.spec.template, &prefix);
    pod["metadata"]["labels"][HASH_LABEL] = hash.into();
    let annotation = set
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get("deprecated.daemonset.template.generation"));
    if let Some(generation) = annotation {
        pod["metadata"]["labels"]["pod-template-generation"] = generation.clone().into();
    }
    // The required terms have been judged for this node; the scheduler sees only where the pod belongs.
    pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}],
    });
    let mut tolerations = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    for new in added(&pod["spec"]) {
        if !tolerations.contains(&new) {
            tolerations.push(new);
        }
    }
    pod["spec"]["tolerations"] = tolerations.into();
    pod
}
