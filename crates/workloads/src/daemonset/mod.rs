//! DaemonSet: one pod on every node that the template allows. Watches DaemonSets, their pods and revisions, and nodes; alone
//! writes `status`, claims pods and writes the DaemonSet's ControllerRevisions.

mod plan;
mod template;

use std::collections::BTreeSet;
use std::sync::Arc;

use mainstay_control::{Cache, Change, Controller, Error, EventKind, ObjectKey, Requeue, events};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::kinds::{ControllerRevision, DaemonSet, Node, Pod};
use crate::{owner, pods, revision};
use plan::{Seen, plan};

/// Starts the controller.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    let caches = &context.caches;
    let sets = caches.daemon_sets.clone();
    let orphans = caches.daemon_sets.clone();
    Controller::new("daemonset")
        .wake_on(&caches.daemon_sets, |change| vec![change.key.clone()])
        .wake_on(&caches.pods, move |change| {
            let keys = owner::wakes::<DaemonSet, Pod>(change);
            if keys.is_empty() && owner::controller_of(&change.any().metadata).is_none() {
                return beside(&orphans, change.key.namespace.as_str());
            }
            keys
        })
        .wake_on(&caches.revisions, owner::wakes::<DaemonSet, ControllerRevision>)
        .wake_on(&caches.nodes, move |change| {
            if counts(change) {
                sets.list().iter().map(|set| ObjectKey::of(&**set)).collect()
            } else {
                Vec::new()
            }
        })
        .run(context.stop.clone(), move |key| reconcile(context.clone(), key))
}

/// The DaemonSets that might adopt a pod of this namespace.
fn beside(sets: &Cache<DaemonSet>, namespace: &str) -> Vec<ObjectKey> {
    let sets = sets.select(|set| set.metadata.namespace.as_deref() == Some(namespace));
    sets.iter().map(|set| ObjectKey::of(&**set)).collect()
}

/// Whether a change of a node can matter: most are heartbeats.
fn counts(change: &Change<Node>) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else {
        return true;
    };
    old.metadata.labels != new.metadata.labels
        || old.spec.taints != new.spec.taints
        || old.spec.unschedulable != new.spec.unschedulable
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let Some(set) = context.caches.daemon_sets.get(&key) else {
        return Ok(Requeue::Never);
    };
    let selector = set.spec.selector.selector().map_err(|error| Error::Invalid {
        object: format!("DaemonSet {key}"),
        problem: format!("spec.selector: {error}"),
    })?;
    let pods = pods::claim(&context, &*set, &selector).await?;
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(Requeue::Never);
    }
    let used: BTreeSet<String> = pods
        .iter()
        .filter_map(|pod| plan::hash(pod).map(String::from))
        .collect();
    let held = revision::held(&context, &*set);
    let limit = set.spec.revision_history_limit;
    let (current, steps) = revision::plan(&*set, &set.spec.template, &held, &used, limit);
    revision::apply(&context, &key.namespace, steps).await?;
    let nodes = context.caches.nodes.list();
    let plan = plan(
        &Seen {
            set: &set,
            pods: &pods,
            nodes: &nodes,
            hash: &current.hash,
        },
        context.clock.now(),
    );
    for pod in &plan.failed {
        let message = format!(
            "Found failed daemon pod {} on node {}, will try to kill it",
            ObjectKey::of(&**pod),
            pod.spec.node_name.as_deref().unwrap_or_default()
        );
        context.events.record(
            events::reference(&*set),
            EventKind::Warning,
            "FailedDaemonPod",
            message,
        );
    }
    let mut outcome = pods::delete(&context, &*set, &plan.delete).await;
    if outcome.is_ok() {
        let wanted = plan
            .create
            .iter()
            .map(|node| template::pod(&set, node, &current.hash));
        outcome = pods::create(&context, &*set, wanted.collect()).await;
    }
    if plan.status != set.status {
        context
            .patch::<DaemonSet>(&key, Some("status"), json!({"status": plan.status}))
            .await?;
    }
    outcome.map(|()| plan.again)
}
