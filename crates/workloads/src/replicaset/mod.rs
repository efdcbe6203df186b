//! ReplicaSet: keeps the wanted number of pods. Watches ReplicaSets and their pods; alone writes `status` and claims
//! pods.

mod plan;

use std::sync::Arc;

use mainstay_control::{Controller, Error, ObjectKey, Requeue};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::kinds::{Pod, ReplicaSet};
use crate::{owner, pods};
use plan::{Seen, Step, plan};

/// Starts the controller.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    let caches = &context.caches;
    Controller::new("replicaset")
        .wake_on(&caches.replica_sets, |change| vec![change.key.clone()])
        .wake_on(&caches.pods, {
            let sets = caches.replica_sets.clone();
            move |change| {
                let mut keys = owner::wakes::<ReplicaSet, Pod>(change);
                if keys.is_empty() {
                    keys = matching(&sets, change.any());
                }
                keys
            }
        })
        .run(context.stop.clone(), move |key| reconcile(context.clone(), key))
}

/// The ReplicaSets that could adopt a pod without owner.
fn matching(sets: &mainstay_control::Cache<ReplicaSet>, pod: &Pod) -> Vec<ObjectKey> {
    if owner::controller_of(&pod.metadata).is_some() {
        return Vec::new();
    }
    let empty = Default::default();
    let labels = pod.metadata.labels.as_ref().unwrap_or(&empty);
    let selects = |set: &ReplicaSet| {
        set.metadata.namespace == pod.metadata.namespace
            && set
                .spec
                .selector
                .selector()
                .is_ok_and(|selector| selector.matches(labels))
    };
    sets.select(selects)
        .iter()
        .map(|set| ObjectKey::of(&**set))
        .collect()
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let Some(set) = context.caches.replica_sets.get(&key) else {
        return Ok(Requeue::Never);
    };
    let selector = set.spec.selector.selector().map_err(|error| Error::Invalid {
        object: format!("ReplicaSet {key}"),
        problem: format!("spec.selector: {error}"),
    })?;
    let pods = pods::claim(&context, &*set, &selector).await?;
    let all = context
        .caches
        .pods
        .select(|pod| pod.metadata.namespace == set.metadata.namespace);
    let seen = Seen { set, pods, all };
    let plan = plan(&seen, context.clock.now());
    let outcome = match plan.step {
        Step::Nothing => Ok(()),
        Step::Create(count) => {
            let prefix = format!("{}-", key.name);
            let pod = pods::from_template(&*seen.set, &seen.set.spec.template, &prefix);
            pods::create(&context, &*seen.set, vec![pod; count]).await
        }
        Step::Delete(ref pods) => pods::delete(&context, &*seen.set, pods).await,
    };
    let status = plan.status_after(&outcome, context.clock.now());
    if status != seen.set.status {
        context
            .patch::<ReplicaSet>(&key, Some("status"), json!({"status": status}))
            .await?;
    }
    outcome.map(|()| plan.again)
}
