//! Taint eviction: deletes pods that do not tolerate their node's NoExecute taints, or no longer.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mainstay_control::{Controller, Error, EventKind, ObjectKey, Requeue, events};
use mainstay_semantics::toleration::{Effect, Stay, stay};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::kinds::{Condition, Node, Pod};
use crate::owner::is_ended;
use crate::pods::set_condition;

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Stays,
    Later(Duration),
    Now,
}

/// Starts the controller.
pub(super) fn start(context: Arc<Context>) -> JoinHandle<()> {
    let caches = &context.caches;
    let pods = caches.pods.clone();
    Controller::new("tainteviction")
        .wake_on(&caches.pods, |change| vec![change.key.clone()])
        .wake_on(&caches.nodes, move |change| {
            let taints = |side: &Option<Arc<Node>>| {
                side.as_ref()
                    .map(|node| node.spec.taints.clone())
                    .unwrap_or_default()
            };
            if taints(&change.old) == taints(&change.new) {
                return Vec::new();
            }
            let there = |pod: &Pod| pod.spec.node_name.as_deref() == Some(&change.key.name);
            pods.select(there)
                .iter()
                .map(|pod| ObjectKey::of(&**pod))
                .collect()
        })
        .run(context.stop.clone(), move |key| reconcile(context.clone(), key))
}

fn plan(pod: &Pod, node: &Node, now: Timestamp) -> Verdict {
    if is_ended(pod) || pod.metadata.deletion_timestamp.is_some() {
        return Verdict::Stays;
    }
    let evicting = node
        .spec
        .taints
        .iter()
        .filter(|held| held.taint.effect == Effect::NoExecute);
    let since = evicting.filter_map(|held| held.time_added).min().unwrap_or(now);
    let taints: Vec<_> = node.spec.taints.iter().map(|held| held.taint.clone()).collect();
    match stay(&taints, &pod.spec.tolerations) {
        Stay::Forever => Verdict::Stays,
        Stay::Evict => Verdict::Now,
        Stay::Seconds(seconds) => {
            let left = since.as_second() + i64::try_from(seconds).unwrap_or(i64::MAX / 2) - now.as_second();
            if left <= 0 {
                Verdict::Now
            } else {
                Verdict::Later(Duration::from_secs(left.unsigned_abs()))
            }
        }
    }
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let Some(pod) = context.caches.pods.get(&key) else {
        return Ok(Requeue::Never);
    };
    let node = pod
        .spec
        .node_name
        .as_ref()
        .and_then(|node| context.caches.nodes.get(&ObjectKey::cluster(node.clone())));
    let Some(node) = node else {
        return Ok(Requeue::Never);
    };
    match plan(&pod, &node, context.clock.now()) {
        Verdict::Stays => Ok(Requeue::Never),
        Verdict::Later(wait) => Ok(Requeue::After(wait)),
        Verdict::Now => evict(&context, &pod, &key).await.map(|()| Requeue::Never),
    }
}

async fn evict(context: &Context, pod: &Pod, key: &ObjectKey) -> Result<(), Error> {
    let message = format!("Marking for deletion Pod {key}");
    context.events.record(
        events::reference(pod),
        EventKind::Normal,
        "TaintManagerEviction",
        message,
    );
    let mut conditions = pod.status.conditions.clone();
    let disruption = Condition {
        kind: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("DeletionByTaintManager".into()),
        message: Some("Taint manager: deleting due to NoExecute taint".into()),
        ..Condition::default()
    };
    set_condition(&mut conditions, disruption, context.clock.now());
    let version = &pod.metadata.resource_version;
    let patch = json!({"metadata": {"resourceVersion": version}, "status": {"conditions": conditions}});
    context.patch::<Pod>(key, Some("status"), patch).await?;
    context.delete::<Pod>(key, pod.metadata.uid.as_deref()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, decoded, pod};
    use serde_json::Value;

    fn verdict(tolerations: Value) -> Verdict {
        let node = decoded(json!({"metadata": {"name": "n1"}, "spec": {"taints": [
            {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": at(900).to_string()}]}}));
        plan(
            &pod("a").on("n1").set("/spec/tolerations", tolerations).into(),
            &node,
            at(1000),
        )
    }

    #[test]
    fn toleration_seconds_count_from_the_taint() {
        let tolerating = |seconds: Value| json!([{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]);
        assert_eq!(verdict(json!([])), Verdict::Now);
        assert_eq!(
            verdict(tolerating(json!(300))),
            Verdict::Later(Duration::from_secs(200))
        );
        assert_eq!(verdict(tolerating(json!(60))), Verdict::Now);
        assert_eq!(verdict(tolerating(Value::Null)), Verdict::Stays);
    }
}
