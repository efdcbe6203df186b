//! Job: runs pods until enough have succeeded. Watches Jobs and their pods; alone writes `status` and the finalizer
//! on the pods, which keeps an ended pod from vanishing before it has been counted.

mod indexes;
mod plan;

use std::sync::Arc;

use mainstay_control::{Controller, Error, EventKind, ObjectKey, Requeue, events};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::kinds::{Job, JobStatus, Pod};
use crate::{owner, pods};
use plan::{Plan, Seen, plan};

/// Held by a Job's pods until they are counted.
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// The annotation and label with an indexed pod's number.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// Starts the controller.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    let caches = &context.caches;
    Controller::new("job")
        .wake_on(&caches.jobs, |change| vec![change.key.clone()])
        .wake_on(&caches.pods, owner::wakes::<Job, Pod>)
        .run(context.stop.clone(), move |key| reconcile(context.clone(), key))
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let Some(job) = context.caches.jobs.get(&key) else {
        return orphans(&context, &key).await;
    };
    let ours = |pod: &Pod| {
        owner::controller_of(&pod.metadata).is_some_and(|owner| Some(&owner.uid) == job.metadata.uid.as_ref())
    };
    let pods = context.caches.pods.select(ours);
    let seen = Seen { job, pods };
    let plan = plan(&seen, context.clock.now());
    if plan.status != seen.job.status {
        write_status(&context, &seen.job, &plan.status).await?;
    }
    apply(&context, &seen, &plan).await?;
    Ok(plan.again)
}

/// Frees the pods of a Job that is gone: nobody counts them any more.
async fn orphans(context: &Context, key: &ObjectKey) -> Result<Requeue, Error> {
    for pod in context
        .caches
        .pods
        .select(|pod| owner::owner_key::<Job>(&pod.metadata).as_ref() == Some(key))
    {
        if plan::is_tracked(&pod) {
            release(context, &pod).await?;
        }
    }
    Ok(Requeue::Never)
}

async fn write_status(context: &Context, job: &Job, status: &JobStatus) -> Result<(), Error> {
    let key = ObjectKey::of(job);
    let version = job.metadata.resource_version.clone();
    let patch = json!({"metadata": {"resourceVersion": version}, "status": status});
    context.patch::<Job>(&key, Some("status"), patch).await?;
    let newer = |now: Arc<Job>| now.metadata.resource_version != version;
    context
        .caches
        .jobs
        .settle(|jobs| jobs.get(&key).is_none_or(newer))
        .await;
    Ok(())
}

async fn release(context: &Context, pod: &Pod) -> Result<(), Error> {
    let finalizers = pod
        .metadata
        .finalizers
        .iter()
        .flatten()
        .filter(|name| *name != FINALIZER);
    let finalizers: Vec<_> = finalizers.collect();
    let patch = json!({"metadata": {"uid": pod.metadata.uid, "finalizers": finalizers}});
    let key = ObjectKey::of(pod);
    context.patch::<Pod>(&key, None, patch).await?;
    let freed = |now: Arc<Pod>| !plan::is_tracked(&now) || now.metadata.uid != pod.metadata.uid;
    context
        .caches
        .pods
        .settle(|pods| pods.get(&key).is_none_or(freed))
        .await;
    Ok(())
}

async fn apply(context: &Context, seen: &Seen, plan: &Plan) -> Result<(), Error> {
    let job = &*seen.job;
    for pod in &plan.release {
        release(context, pod).await?;
    }
    if !plan.delete.is_empty() {
        pods::delete(context, job, &plan.delete).await?;
    }
    let objects: Vec<Value> = plan.create.iter().map(|index| object(job, *index)).collect();
    if !objects.is_empty() {
        pods::create(context, job, objects).await?;
    }
    if let Some((kind, reason, message)) = &plan.event {
        context
            .events
            .record(events::reference(job), *kind, reason, message.clone());
    }
    if plan.remove {
        context
            .delete::<Job>(&ObjectKey::of(job), job.metadata.uid.as_deref())
            .await?;
    }
    Ok(())
}

/// A pod of the Job, numbered or not.
fn object(job: &Job, index: Option<i32>) -> Value {
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let prefix = index.map_or(format!("{name}-"), |index| format!("{name}-{index}-"));
    let mut pod = pods::from_template(job, &job.spec.template, &prefix);
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    for (label, value) in [("job-name", name), ("controller-uid", uid)] {
        pod["metadata"]["labels"][label] = value.into();
        pod["metadata"]["labels"][format!("batch.kubernetes.io/{label}")] = value.into();
    }
    match pod["metadata"]["finalizers"].as_array_mut() {
        Some(finalizers) => finalizers.push(FINALIZER.into()),
        None => pod["metadata"]["finalizers"] = json!([FINALIZER]),
    }
    if let Some(index) = index {
        number(&mut pod, name, index);
    }
    pod
}

fn number(pod: &mut Value, job: &str, index: i32) {
    pod["metadata"]["labels"][INDEX] = index.to_string().into();
    pod["metadata"]["annotations"][INDEX] = index.to_string().into();
    pod["spec"]["hostname"] = format!("{job}-{index}").into();
    let source = json!({"fieldRef": {"fieldPath": format!("metadata.labels['{INDEX}']")}});
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            let variable = json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": source});
            match container["env"].as_array_mut() {
                Some(env) => env.push(variable),
                None => container["env"] = json!([variable]),
            }
        }
    }
}

/// What kind of event the end of a Job is.
pub(super) fn ending(failed: bool) -> EventKind {
    if failed {
        EventKind::Warning
    } else {
        EventKind::Normal
    }
}
