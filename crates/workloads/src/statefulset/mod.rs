//! StatefulSet: pods with numbers, names and claims that stay. Watches StatefulSets, their pods and revisions; alone writes
//! `status`, claims pods, makes the claims of its templates and the set's ControllerRevisions. Claims outlive the pods and
//! the set (`persistentVolumeClaimRetentionPolicy` is not followed).

mod plan;
mod template;

use std::collections::BTreeSet;
use std::sync::Arc;

use mainstay_control::{Cache, Controller, Error, EventKind, ObjectKey, Requeue, events};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::kinds::{ControllerRevision, PersistentVolumeClaim, Pod, StatefulSet};
use crate::{owner, pods, revision};
use plan::{Seen, Step, plan};

/// Starts the controller.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    let caches = &context.caches;
    let sets = caches.stateful_sets.clone();
    Controller::new("statefulset")
        .wake_on(&caches.stateful_sets, |change| vec![change.key.clone()])
        .wake_on(&caches.pods, move |change| {
            let keys = owner::wakes::<StatefulSet, Pod>(change);
            if keys.is_empty() && owner::controller_of(&change.any().metadata).is_none() {
                return parent(&sets, change.any());
            }
            keys
        })
        .wake_on(&caches.revisions, owner::wakes::<StatefulSet, ControllerRevision>)
        .run(context.stop.clone(), move |key| reconcile(context.clone(), key))
}

/// The set whose pod this would be by its name.
fn parent(sets: &Cache<StatefulSet>, pod: &Pod) -> Vec<ObjectKey> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let Some((set, _)) = name.rsplit_once('-') else {
        return Vec::new();
    };
    let key = ObjectKey::namespaced(pod.metadata.namespace.clone().unwrap_or_default(), set);
    sets.get(&key).map(|_| key).into_iter().collect()
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let Some(set) = context.caches.stateful_sets.get(&key) else {
        return Ok(Requeue::Never);
    };
    let selector = set.spec.selector.selector().map_err(|error| Error::Invalid {
        object: format!("StatefulSet {key}"),
        problem: format!("spec.selector: {error}"),
    })?;
    let mut pods = pods::claim(&context, &*set, &selector).await?;
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(Requeue::Never);
    }
    pods.retain(|pod| template::ordinal(&key.name, pod).is_some());
    let mut used: BTreeSet<String> = pods
        .iter()
        .filter_map(|pod| plan::revision(pod).map(String::from))
        .collect();
    used.insert(set.status.current_revision.clone());
    let held = revision::held(&context, &*set);
    let limit = set.spec.revision_history_limit;
    let (update, steps) = revision::plan(&*set, &set.spec.template, &held, &used, limit);
    revision::apply(&context, &key.namespace, steps).await?;
    let current = Some(set.status.current_revision.as_str())
        .filter(|name| held.iter().any(|one| one.metadata.name.as_deref() == Some(*name)))
        .unwrap_or(&update.name);
    let plan = plan(
        &Seen {
            set: &set,
            pods: &pods,
            current,
            update: &update.name,
        },
        context.clock.now(),
    );
    let mut outcome = Ok(());
    for step in &plan.steps {
        outcome = apply(&context, &set, &held, step).await;
        if outcome.is_err() {
            break;
        }
    }
    if plan.status != set.status {
        context
            .patch::<StatefulSet>(&key, Some("status"), json!({"status": plan.status}))
            .await?;
    }
    outcome.map(|()| plan.again)
}

async fn apply(
    context: &Context,
    set: &Arc<StatefulSet>,
    held: &[Arc<ControllerRevision>],
    step: &Step,
) -> Result<(), Error> {
    match step {
        Step::Delete(pod) => pods::delete(context, &**set, std::slice::from_ref(pod)).await,
        Step::Create { ordinal, revision } => {
            let old = held
                .iter()
                .find(|one| one.metadata.name.as_deref() == Some(revision.as_str()))
                .map(|one| one.data["spec"]["template"].clone());
            let body = old.unwrap_or_else(|| set.spec.template.clone());
            for claim in template::claims(set, *ordinal) {
                make_claim(context, set, claim).await?;
            }
            let pod = template::pod(set, &body, *ordinal, revision);
            pods::create(context, &**set, vec![pod]).await
        }
    }
}

/// Makes a claim unless it is there: an earlier pod of this number may have left it.
async fn make_claim(context: &Context, set: &StatefulSet, claim: Value) -> Result<(), Error> {
    let namespace = set.metadata.namespace.clone().unwrap_or_default();
    let name = claim["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    match context.create::<PersistentVolumeClaim>(&namespace, claim).await {
        Ok(_) => {
            let message = format!("Created claim: {name}");
            context.events.record(
                events::reference(set),
                EventKind::Normal,
                "SuccessfulCreate",
                message,
            );
            Ok(())
        }
        Err(error) if error.is_code(409) => Ok(()),
        Err(error) => Err(error),
    }
}
