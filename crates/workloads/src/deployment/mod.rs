//! Deployment: rolls pods from one template to the next through ReplicaSets. Watches Deployments, their ReplicaSets
//! and pods; alone writes Deployment status and revision annotations, and the ReplicaSets' replicas and annotations.

mod plan;
mod progress;
mod rollout;
mod sets;

use std::sync::Arc;

use mainstay_control::{Controller, Error, EventKind, ObjectKey, Requeue, events};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::kinds::{Deployment, ReplicaSet};
use crate::owner;
use plan::{Seen, Step, plan};

/// Starts the controller.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    let caches = &context.caches;
    let sets = caches.replica_sets.clone();
    Controller::new("deployment")
        .wake_on(&caches.deployments, |change| vec![change.key.clone()])
        .wake_on(&caches.replica_sets, owner::wakes::<Deployment, ReplicaSet>)
        .wake_on(&caches.pods, move |change| {
            // Only the end of a pod matters here (Recreate waits for it); counts come with the ReplicaSet's status.
            let gone = change.new.is_none() || change.new.as_ref().is_some_and(|pod| owner::is_ended(pod));
            let set = owner::owner_key::<ReplicaSet>(&change.any().metadata).filter(|_| gone);
            let set = set.and_then(|key| sets.get(&key));
            set.and_then(|set| owner::owner_key::<Deployment>(&set.metadata))
                .into_iter()
                .collect()
        })
        .run(context.stop.clone(), move |key| reconcile(context.clone(), key))
}

async fn claim(
    context: &Context,
    deployment: &Deployment,
    key: &ObjectKey,
) -> Result<Vec<Arc<ReplicaSet>>, Error> {
    let selector = deployment
        .spec
        .selector
        .selector()
        .map_err(|error| Error::Invalid {
            object: format!("Deployment {key}"),
            problem: format!("spec.selector: {error}"),
        })?;
    let namespace = &deployment.metadata.namespace;
    let mut ours = Vec::new();
    for set in context
        .caches
        .replica_sets
        .select(|set| set.metadata.namespace == *namespace)
    {
        let decision = owner::claim(&deployment.metadata, &selector, &set.metadata);
        if matches!(decision, owner::Claim::Adopt | owner::Claim::Release) {
            let patch = owner::claim_patch(deployment, &set.metadata, decision == owner::Claim::Adopt);
            context
                .patch::<ReplicaSet>(&ObjectKey::of(&*set), None, patch)
                .await?;
        }
        if decision == owner::Claim::Own {
            ours.push(set);
        }
    }
    owner::oldest_first(&mut ours);
    Ok(ours)
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let Some(deployment) = context.caches.deployments.get(&key) else {
        return Ok(Requeue::Never);
    };
    let sets = claim(&context, &deployment, &key).await?;
    let uids: Vec<_> = sets.iter().filter_map(|set| set.metadata.uid.clone()).collect();
    let of_ours = |pod: &crate::kinds::Pod| {
        owner::controller_of(&pod.metadata).is_some_and(|owner| uids.contains(&owner.uid))
    };
    let seen = Seen {
        pods: context.caches.pods.select(of_ours),
        deployment,
        sets,
    };
    let plan = plan(&seen, context.clock.now());
    let mut status = plan.status;
    for step in &plan.steps {
        if !apply(&context, &seen, step).await? {
            // The name is taken by a set of another template: the next hash differs.
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
            break;
        }
    }
    if status != seen.deployment.status {
        context
            .patch::<Deployment>(&key, Some("status"), json!({"status": status}))
            .await?;
    }
    Ok(plan.again)
}

/// Carries a step out; `false` = a created set's name was taken by something else.
async fn apply(context: &Context, seen: &Seen, step: &Step) -> Result<bool, Error> {
    let deployment = &seen.deployment;
    match step {
        Step::Annotate(annotations) => {
            let patch = json!({"metadata": {"annotations": annotations}});
            context
                .patch::<Deployment>(&ObjectKey::of(&**deployment), None, patch)
                .await?;
        }
        Step::Create { object, replicas } => return create(context, deployment, object, *replicas).await,
        Step::Update {
            set,
            replicas,
            annotations,
        } => update(context, seen, set, *replicas, annotations).await?,
        Step::Remove(set) => {
            context
                .delete::<ReplicaSet>(&ObjectKey::of(&**set), set.metadata.uid.as_deref())
                .await?;
        }
    }
    Ok(true)
}

async fn create(
    context: &Context,
    deployment: &Deployment,
    object: &Value,
    replicas: i32,
) -> Result<bool, Error> {
    let namespace = deployment.metadata.namespace.clone().unwrap_or_default();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let key = ObjectKey::namespaced(&*namespace, name);
    match context.create::<ReplicaSet>(&namespace, object.clone()).await {
        Ok(_) => {}
        Err(error) if error.is_code(409) => {
            context
                .caches
                .replica_sets
                .settle(|sets| sets.get(&key).is_some())
                .await;
            let there = context.caches.replica_sets.get(&key);
            let ours = there.is_some_and(|set| {
                owner::owner_key::<Deployment>(&set.metadata) == Some(ObjectKey::of(deployment))
                    && sets::same_template(&set.spec.template, &deployment.spec.template)
            });
            return Ok(ours);
        }
        Err(error) => return Err(error),
    }
    context
        .caches
        .replica_sets
        .settle(|sets| sets.get(&key).is_some())
        .await;
    scaled_event(context, deployment, name, 0, replicas);
    Ok(true)
}

async fn update(
    context: &Context,
    seen: &Seen,
    set: &Arc<ReplicaSet>,
    replicas: Option<i32>,
    annotations: &Value,
) -> Result<(), Error> {
    let key = ObjectKey::of(&**set);
    let mut patch =
        json!({"metadata": {"resourceVersion": set.metadata.resource_version, "annotations": annotations}});
    if let Some(replicas) = replicas {
        patch["spec"] = json!({"replicas": replicas});
    }
    context.patch::<ReplicaSet>(&key, None, patch).await?;
    let version = set.metadata.resource_version.clone();
    let newer = |now: Arc<ReplicaSet>| now.metadata.resource_version != version;
    context
        .caches
        .replica_sets
        .settle(|sets| sets.get(&key).is_none_or(newer))
        .await;
    if let Some(replicas) = replicas {
        scaled_event(
            context,
            &seen.deployment,
            &key.name,
            sets::replicas(set),
            replicas,
        );
    }
    Ok(())
}

fn scaled_event(context: &Context, deployment: &Deployment, set: &str, from: i32, to: i32) {
    let way = if to > from { "up" } else { "down" };
    let message = format!("Scaled {way} replica set {set} from {from} to {to}");
    context.events.record(
        events::reference(deployment),
        EventKind::Normal,
        "ScalingReplicaSet",
        message,
    );
}
