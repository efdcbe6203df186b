//! What a Deployment's ReplicaSets are called, look like and remember.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kinds::{Deployment, ReplicaSet};
use crate::owner;

/// The label that tells a Deployment's sets apart.
pub(super) const HASH_LABEL: &str = "pod-template-hash";
/// The annotation that numbers rollouts.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier numbers of a set that a rollback made current again.
pub(super) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of the Deployment that say nothing about its sets.
const NOT_COPIED: [&str; 5] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
];
/// Kubernetes' letters for hashes in names.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
/// History entries beyond this length are forgotten, oldest first.
const HISTORY_BYTES: usize = 2000;

/// The replicas a set shall have.
pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// The sum of what sets shall have.
pub(super) fn total<'a>(sets: impl IntoIterator<Item = &'a Arc<ReplicaSet>>) -> i32 {
    sets.into_iter().map(|set| replicas(set)).sum()
}

fn annotation<'a>(set: &'a ReplicaSet, name: &str) -> Option<&'a str> {
    set.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// A set's number; 0 = none yet.
pub(super) fn revision(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// The Deployment's replicas when the set was last scaled.
pub(super) fn desired(set: &ReplicaSet) -> Option<i32> {
    annotation(set, DESIRED)?.parse().ok()
}

/// The most pods that were allowed when the set was last scaled.
pub(super) fn most(set: &ReplicaSet) -> Option<i32> {
    annotation(set, MAX)?.parse().ok()
}

/// Whether two templates are the same but for the hash label.
pub(super) fn same_template(one: &Value, other: &Value) -> bool {
    without_hash(one) == without_hash(other)
}

fn without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template
        .pointer_mut("/metadata/labels")
        .and_then(Value::as_object_mut)
    {
        labels.remove(HASH_LABEL);
    }
    if let Some(meta) = template["metadata"].as_object_mut() {
        meta.retain(|name, value| name != "creationTimestamp" && *value != json!({}));
    }
    template
}

/// The set of the current template: the oldest that has it.
pub(super) fn current<'a>(
    deployment: &Deployment,
    sets: &'a [Arc<ReplicaSet>],
) -> Option<&'a Arc<ReplicaSet>> {
    sets.iter()
        .find(|set| same_template(&set.spec.template, &deployment.spec.template))
}

/// The hash in names: FNV-1a of the template and the collision count. The value differs from upstream's, which hashes
/// Go's memory layout; only its stability matters.
fn hash(template: &Value, collisions: Option<i32>) -> String {
    let mut text = without_hash(template).to_string();
    if let Some(collisions) = collisions {
        text.push_str(&collisions.to_string());
    }
    let mixed = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    mixed
        .to_string()
        .bytes()
        .map(|digit| ALPHABET[usize::from(digit) % ALPHABET.len()] as char)
        .collect()
}

/// The annotations that every scaled set carries.
pub(super) fn scale_annotations(deployment: &Deployment, surge: i32) -> Value {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    json!({DESIRED: wanted.to_string(), MAX: (wanted + surge).to_string()})
}

/// What the set of the current template shall be annotated with; `None` = all is there.
pub(super) fn copied_annotations(
    deployment: &Deployment,
    set: Option<&ReplicaSet>,
    number: i64,
) -> Option<Value> {
    let mut wanted = serde_json::Map::new();
    let own = deployment.metadata.annotations.iter().flatten();
    for (name, value) in own.filter(|(name, _)| !NOT_COPIED.contains(&name.as_str())) {
        wanted.insert(name.clone(), value.clone().into());
    }
    let old = set.map_or(0, revision);
    if old < number {
        wanted.insert(REVISION.into(), number.to_string().into());
        if let Some(set) = set.filter(|_| old > 0) {
            let mut history = annotation(set, REVISION_HISTORY)
                .map(|past| format!("{past},{old}"))
                .unwrap_or(old.to_string());
            while history.len() > HISTORY_BYTES {
                history = history
                    .split_once(',')
                    .map(|(_, rest)| rest.to_string())
                    .unwrap_or_default();
            }
            wanted.insert(REVISION_HISTORY.into(), history.into());
        }
    }
    let differs = wanted
        .iter()
        .any(|(name, value)| set.and_then(|set| annotation(set, name)) != value.as_str());
    differs.then_some(Value::Object(wanted))
}

/// The ReplicaSet for the current template.
pub(super) fn object(deployment: &Deployment, replicas: i32, number: i64, surge: i32) -> Value {
    let hash = hash(&deployment.spec.template, deployment.status.collision_count);
    let name = format!(
        "{}-{hash}",
        deployment.metadata.name.as_deref().unwrap_or_default()
    );
    let mut template = deployment.spec.template.clone();
    template["metadata"]["labels"][HASH_LABEL] = hash.clone().into();
    let mut selector = json!(deployment.spec.selector);
    selector["matchLabels"][HASH_LABEL] = hash.into();
    let mut annotations = copied_annotations(deployment, None, number).unwrap_or(json!({}));
    let scale = scale_annotations(deployment, surge);
    for (name, value) in scale.as_object().into_iter().flatten() {
        annotations[name] = value.clone();
    }
    json!({
        "metadata": {
            "name": name, "namespace": deployment.metadata.namespace,
            "labels": template["metadata"]["labels"], "annotations": annotations,
            "ownerReferences": [owner::reference(deployment)],
        },
        "spec": {
            "replicas": replicas, "minReadySeconds": deployment.spec.min_ready_seconds,
            "selector": selector, "template": template,
        },
    })
}
