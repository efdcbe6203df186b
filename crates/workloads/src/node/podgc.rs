//! Pod garbage: pods whose node is gone, pods that were deleted before they had a node, and too many ended pods.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kube::api::DeleteParams;
use kube::core::ApiResource;
use mainstay_control::error::found;
use mainstay_control::{Error, ObjectKey};
use serde_json::json;

use crate::context::{Context, api_of};
use crate::kinds::{Condition, Pod};
use crate::owner::{is_ended, oldest_first};
use crate::pods::set_condition;

/// How long a node must be missing before its pods are: caches of nodes and pods are not one.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Ended pods that are kept; the oldest beyond go (upstream's default).
const ENDED_LIMIT: usize = 12_500;
/// Pods removed in one pass.
const PER_PASS: usize = 500;

/// Which nodes pods name that are not there, and since when.
#[derive(Default)]
pub(super) struct Orphans {
    missing: HashMap<String, Duration>,
}

impl Orphans {
    /// Removes what is garbage now; failures are tried again by the next pass.
    pub(super) async fn pass(&mut self, context: &Context) {
        let pods = context.caches.pods.list();
        let nodes: HashSet<String> = context
            .caches
            .nodes
            .list()
            .iter()
            .filter_map(|node| node.metadata.name.clone())
            .collect();
        let garbage = self.plan(&pods, &nodes, context.clock.monotonic());
        for pod in garbage.into_iter().take(PER_PASS) {
            if let Err(error) = remove(context, &pod).await {
                let problem = mainstay_base::error::chain(&error);
                tracing::warn!(pod = %ObjectKey::of(&*pod), problem, "orphaned pod not removed, trying again");
            }
        }
    }

    fn plan(&mut self, pods: &[Arc<Pod>], nodes: &HashSet<String>, now: Duration) -> Vec<Arc<Pod>> {
        let named: HashSet<&String> = pods
            .iter()
            .filter_map(|pod| pod.spec.node_name.as_ref())
            .collect();
        self.missing
            .retain(|node, _| named.contains(node) && !nodes.contains(node));
        for node in named.into_iter().filter(|node| !nodes.contains(*node)) {
            self.missing.entry(node.clone()).or_insert(now);
        }
        let lost = |node: &String| {
            self.missing
                .get(node)
                .is_some_and(|since| now.saturating_sub(*since) >= QUARANTINE)
        };
        let garbage = |pod: &&Arc<Pod>| match &pod.spec.node_name {
            Some(node) => lost(node),
            None => pod.metadata.deletion_timestamp.is_some(),
        };
        let mut garbage: Vec<_> = pods.iter().filter(garbage).cloned().collect();
        let mut ended: Vec<_> = pods
            .iter()
            .filter(|pod| is_ended(pod) && pod.metadata.deletion_timestamp.is_none())
            .cloned()
            .collect();
        let excess = ended.len().saturating_sub(ENDED_LIMIT);
        oldest_first(&mut ended);
        garbage.extend(ended.into_iter().take(excess));
        garbage
    }
}

/// Marks a pod as failed, since nobody else will, and deletes it without grace.
async fn remove(context: &Context, pod: &Pod) -> Result<(), Error> {
    let key = ObjectKey::of(pod);
    if !is_ended(pod) {
        let mut conditions = pod.status.conditions.clone();
        let disruption = Condition {
            kind: "DisruptionTarget".into(),
            status: "True".into(),
            reason: Some("DeletionByPodGC".into()),
            message: Some("PodGC: node no longer exists".into()),
            ..Condition::default()
        };
        set_condition(&mut conditions, disruption, context.clock.now());
        let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"phase": "Failed", "conditions": conditions}});
        context.patch::<Pod>(&key, Some("status"), patch).await?;
    }
    let api = api_of(&context.client, &key.namespace, &ApiResource::erase::<Pod>(&()));
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    found(api.delete(&key.name, &params).await)
        .map(drop)
        .map_err(Error::api(|| format!("delete pod {key}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn pods_of_a_missing_node_go_after_the_quarantine() {
        let pods: Vec<Arc<Pod>> = vec![
            Arc::new(pod("a").on("gone").into()),
            Arc::new(pod("b").on("here").into()),
            Arc::new(pod("c").deleting().into()),
        ];
        let nodes = HashSet::from(["here".to_string()]);
        let mut orphans = Orphans::default();
        let mut names = |second: u64| -> Vec<_> {
            let garbage = orphans.plan(&pods, &nodes, Duration::from_secs(second));
            garbage
                .iter()
                .filter_map(|pod| pod.metadata.name.clone())
                .collect()
        };
        assert_eq!(names(0), ["c"]);
        assert_eq!(names(40), ["a", "c"]);
    }
}
