//! Keeps labels, annotations and taints of a Node in step with its Machine.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::{Api, ResourceExt};
use mainstay_capi::{
    Machine, NODE_CLUSTER_NAME_ANNOTATION, NODE_CLUSTER_NAMESPACE_ANNOTATION, NODE_MACHINE_ANNOTATION,
};
use mainstay_control::{Error, write};
use serde_json::{Map, Value, json};

use crate::{Context, context::NodeView, rules::machine::label_reaches_node};

/// Annotation that remembers which labels came from the Machine, so that removed ones are removed here too.
const SYNCED_ANNOTATION: &str = "cluster.x-k8s.io/labels-from-machine";

/// Annotation of the newest incarnation; the API server's node authorizer reads it.
const INCARNATION_ANNOTATION: &str = "mainstay.dev/incarnation";

/// Writes what differs. `incarnation` is the newest that was given out: from the moment it stands on the Node the
/// API server refuses certificates of older ones, so a twin that was cut off cannot come back.
pub async fn sync(ctx: &Context, machine: &Machine, node: &NodeView, incarnation: i64) -> Result<(), Error> {
    let Some(patch) = difference(machine, node, incarnation) else {
        return Ok(());
    };
    let Some(access) = ctx.clusters.access(&super::cluster_key(machine)) else {
        return Ok(());
    };
    let nodes: Api<Node> = Api::all(access.client);
    match write::merge(&nodes, &node.name_any(), patch).await {
        Err(error) if error.is_code(404) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// The merge patch that the Node needs; None when it is in step.
fn difference(machine: &Machine, node: &NodeView, incarnation: i64) -> Option<Value> {
    let wanted: BTreeMap<&String, &String> = machine
        .labels()
        .iter()
        .filter(|(key, _)| label_reaches_node(key))
        .collect();
    let synced = wanted
        .keys()
        .map(|key| key.as_str())
        .collect::<Vec<_>>()
        .join(",");
    let mut labels = Map::new();
    for (key, value) in &wanted {
        if node.labels().get(*key) != Some(*value) {
            labels.insert((*key).clone(), (*value).clone().into());
        }
    }
    let before = node
        .annotations()
        .get(SYNCED_ANNOTATION)
        .map(String::as_str)
        .unwrap_or_default();
    for gone in before
        .split(',')
        .filter(|key| !key.is_empty() && !wanted.contains_key(&key.to_string()))
    {
        labels.insert(gone.to_string(), Value::Null);
    }
    let mut annotations = Map::new();
    let own = [
        (NODE_MACHINE_ANNOTATION, machine.name_any()),
        (NODE_CLUSTER_NAME_ANNOTATION, machine.spec.cluster_name.clone()),
        (
            NODE_CLUSTER_NAMESPACE_ANNOTATION,
            machine.namespace().unwrap_or_default(),
        ),
        (SYNCED_ANNOTATION, synced),
    ];
    for (key, value) in own {
        if node.annotations().get(key) != Some(&value) {
            annotations.insert(key.to_string(), value.into());
        }
    }
    if raised(node, incarnation) {
        annotations.insert(INCARNATION_ANNOTATION.to_string(), incarnation.to_string().into());
    }
    let taints = missing_taints(machine, node);
    if labels.is_empty() && annotations.is_empty() && taints.is_none() {
        return None;
    }
    let mut patch = json!({"metadata": {"labels": labels, "annotations": annotations}});
    if let Some(taints) = taints {
        patch["metadata"]["resourceVersion"] = json!(node.resource_version());
        patch["spec"] = json!({ "taints": taints });
    }
    Some(patch)
}

/// The Node does not yet name this incarnation or a later one: it is only ever raised.
fn raised(node: &NodeView, incarnation: i64) -> bool {
    let known = node
        .annotations()
        .get(INCARNATION_ANNOTATION)
        .and_then(|text| text.parse::<i64>().ok());
    incarnation > known.unwrap_or(0)
}

/// All taints of the Node with those the machine always wants; None when none is missing.
fn missing_taints(machine: &Machine, node: &NodeView) -> Option<Vec<Taint>> {
    let same = |have: &Taint, want: &mainstay_capi::MachineTaint| {
        have.key == want.key
            && have.effect == want.effect
            && have.value.as_deref().unwrap_or("") == want.value
    };
    let missing: Vec<Taint> = machine
        .spec
        .taints
        .iter()
        .filter(|want| want.propagation == "Always" && !node.spec.taints.iter().any(|have| same(have, want)))
        .map(|want| Taint {
            key: want.key.clone(),
            value: Some(want.value.clone()).filter(|value| !value.is_empty()),
            effect: want.effect.clone(),
            time_added: None,
        })
        .collect();
    let replaces = |have: &Taint| {
        missing
            .iter()
            .any(|new| new.key == have.key && new.effect == have.effect)
    };
    let kept = node.spec.taints.iter().filter(|have| !replaces(have)).cloned();
    (!missing.is_empty()).then(|| kept.chain(missing.iter().cloned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_capi::MachineSpec;

    #[test]
    fn only_node_labels_are_copied_and_a_removed_one_is_removed() {
        let mut machine = Machine::new("m", MachineSpec::default());
        machine
            .labels_mut()
            .insert("node-role.kubernetes.io/worker".into(), "".into());
        machine.labels_mut().insert("app".into(), "x".into());
        let mut node = NodeView::default();
        node.annotations_mut()
            .insert(SYNCED_ANNOTATION.into(), "node.cluster.x-k8s.io/old".into());
        let patch = difference(&machine, &node, 0).expect("out of step");
        let labels = &patch["metadata"]["labels"];
        assert_eq!(
            *labels,
            json!({"node-role.kubernetes.io/worker": "", "node.cluster.x-k8s.io/old": null})
        );
    }

    #[test]
    fn an_incarnation_is_raised_and_never_lowered() {
        let machine = Machine::new("m", MachineSpec::default());
        let mut node = NodeView::default();
        let written = |node: &NodeView, incarnation| {
            let patch = difference(&machine, node, incarnation)?;
            patch["metadata"]["annotations"][INCARNATION_ANNOTATION]
                .as_str()
                .map(String::from)
        };
        assert_eq!(written(&node, 2).as_deref(), Some("2"));
        node.annotations_mut()
            .insert(INCARNATION_ANNOTATION.into(), "2".into());
        assert_eq!(written(&node, 1), None);
        assert_eq!(written(&node, 2), None);
        assert_eq!(written(&node, 3).as_deref(), Some("3"));
    }
}
