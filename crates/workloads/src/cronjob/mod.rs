//! CronJob: starts Jobs by the clock and keeps a history of them. Watches CronJobs and their Jobs; alone writes
//! `status`.

mod schedule;

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use mainstay_control::{Controller, Error, EventKind, ObjectKey, Requeue, events};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::kinds::{CronJob, CronJobStatus, Job, is_true};
use crate::owner;
use schedule::Schedule;

/// Kubernetes' defaults of the two history limits.
const SUCCESSFUL_KEPT: i32 = 3;
const FAILED_KEPT: i32 = 1;

/// Starts the controller.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    let caches = &context.caches;
    Controller::new("cronjob")
        .wake_on(&caches.cron_jobs, |change| vec![change.key.clone()])
        .wake_on(&caches.jobs, owner::wakes::<CronJob, Job>)
        .run(context.stop.clone(), move |key| reconcile(context.clone(), key))
}

#[derive(Debug)]
struct Plan {
    status: CronJobStatus,
    delete: Vec<Arc<Job>>,
    start: Option<Timestamp>,
    again: Requeue,
}

fn is_over(job: &Job) -> bool {
    ended(job, "Complete") || ended(job, "Failed")
}

fn ended(job: &Job, how: &str) -> bool {
    is_true(&job.status.conditions, how)
}

fn plan(cron: &CronJob, jobs: &[Arc<Job>], schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Plan {
    let spec = &cron.spec;
    let running: Vec<_> = jobs.iter().filter(|job| !is_over(job)).cloned().collect();
    let mut plan = Plan {
        status: cron.status.clone(),
        delete: old_history(cron, jobs),
        start: None,
        again: Requeue::Never,
    };
    plan.status.active = running.iter().map(|job| reference(job)).collect();
    let finished = jobs.iter().filter_map(|job| job.status.completion_time).max();
    plan.status.last_successful_time = finished.max(cron.status.last_successful_time);
    if spec.suspend || cron.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    if let Some(next) = schedule.next(now, zone) {
        let wait = Duration::try_from(next.duration_since(now)).unwrap_or_default();
        plan.again = Requeue::After(wait + Duration::from_millis(100));
    }
    let created = cron
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(now, |time| time.0);
    let mut since = cron.status.last_schedule_time.unwrap_or(created);
    if let Some(seconds) = spec.starting_deadline_seconds {
        since = since.max(now - SignedDuration::from_secs(seconds));
    }
    let (Some(due), _) = schedule.newest(since, now, zone) else {
        return plan;
    };
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !running.is_empty() => return plan,
        Some("Replace") => plan.delete.extend(running),
        _ => {}
    }
    plan.start = Some(due);
    plan.status.last_schedule_time = Some(due);
    plan
}

fn reference(job: &Job) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "name": job.metadata.name, "namespace": job.metadata.namespace, "uid": job.metadata.uid})
}

/// Ended Jobs beyond the limits, oldest first.
fn old_history(cron: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let limits = [
        (
            "Complete",
            cron.spec.successful_jobs_history_limit.unwrap_or(SUCCESSFUL_KEPT),
        ),
        (
            "Failed",
            cron.spec.failed_jobs_history_limit.unwrap_or(FAILED_KEPT),
        ),
    ];
    let mut old = Vec::new();
    for (how, limit) in limits {
        let mut ended: Vec<_> = jobs.iter().filter(|job| ended(job, how)).cloned().collect();
        owner::oldest_first(&mut ended);
        let excess = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.extend(ended.into_iter().take(excess));
    }
    old
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let Some(cron) = context.caches.cron_jobs.get(&key) else {
        return Ok(Requeue::Never);
    };
    let invalid = |problem: String| Error::Invalid {
        object: format!("CronJob {key}"),
        problem,
    };
    let schedule =
        Schedule::parse(&cron.spec.schedule).map_err(|why| invalid(format!("spec.schedule: {why}")))?;
    let zone = match cron.spec.time_zone.as_deref() {
        None => TimeZone::UTC,
        Some(name) => TimeZone::get(name).map_err(|why| invalid(format!("spec.timeZone: {why}")))?,
    };
    let jobs = context.caches.jobs.select(|job| {
        owner::controller_of(&job.metadata)
            .is_some_and(|owner| Some(&owner.uid) == cron.metadata.uid.as_ref())
    });
    let mut plan = plan(&cron, &jobs, &schedule, &zone, context.clock.now());
    for job in &plan.delete {
        context
            .delete::<Job>(&ObjectKey::of(&**job), job.metadata.uid.as_deref())
            .await?;
    }
    if let Some(due) = plan.start {
        plan.status
            .active
            .extend(create(&context, &cron, &key, due).await?);
    }
    if plan.status != cron.status {
        let version = &cron.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version}, "status": plan.status});
        context.patch::<CronJob>(&key, Some("status"), patch).await?;
    }
    Ok(plan.again)
}

/// Creates the Job of one scheduled time. Its name holds the minute, so that no time is run twice.
async fn create(
    context: &Context,
    cron: &CronJob,
    key: &ObjectKey,
    due: Timestamp,
) -> Result<Option<Value>, Error> {
    let name = format!("{}-{}", key.name, due.as_second() / 60);
    let template = &cron.spec.job_template;
    let mut annotations = template["metadata"]["annotations"].clone();
    annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"] = due.to_string().into();
    let object = json!({
        "metadata": {"name": name, "namespace": key.namespace, "labels": template["metadata"]["labels"],
            "annotations": annotations, "ownerReferences": [owner::reference(cron)]},
        "spec": template["spec"],
    });
    let made = match context.create::<Job>(&key.namespace, object).await {
        Err(error) if error.is_code(409) => return Ok(None),
        other => other?,
    };
    context.caches.jobs.settle(|jobs| jobs.get(&made).is_some()).await;
    let message = format!("Created job {name}");
    context.events.record(
        events::reference(cron),
        EventKind::Normal,
        "SuccessfulCreate",
        message,
    );
    Ok(context.caches.jobs.get(&made).map(|job| reference(&job)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, decoded};
    use expect_test::{Expect, expect};

    fn job(name: &str, condition: &str) -> Arc<Job> {
        Arc::new(decoded(
            json!({"metadata": {"name": name, "creationTimestamp": at(0).to_string()},
            "status": {"conditions": [{"type": condition, "status": "True"}]}}),
        ))
    }

    fn check(spec: Value, jobs: Vec<Arc<Job>>, expected: Expect) {
        let cron = decoded(
            json!({"metadata": {"name": "c", "creationTimestamp": at(0).to_string()}, "spec": spec, "status": {}}),
        );
        let schedule = Schedule::parse("*/5 * * * *").expect("a schedule");
        let plan = plan(&cron, &jobs, &schedule, &TimeZone::UTC, at(620));
        let names: Vec<_> = plan
            .delete
            .iter()
            .filter_map(|job| job.metadata.name.clone())
            .collect();
        let start = plan.start.map(|start| start.as_second());
        expected.assert_eq(&format!(
            "start {start:?} delete {names:?} active {} {:?}",
            plan.status.active.len(),
            plan.again
        ));
    }

    #[test]
    fn only_the_newest_missed_time_starts() {
        check(
            json!({}),
            vec![],
            expect!["start Some(600) delete [] active 0 After(280.1s)"],
        );
        check(
            json!({"startingDeadlineSeconds": 10}),
            vec![],
            expect!["start None delete [] active 0 After(280.1s)"],
        );
        check(
            json!({"suspend": true}),
            vec![],
            expect!["start None delete [] active 0 Never"],
        );
    }

    #[test]
    fn concurrency_policies() {
        check(
            json!({"concurrencyPolicy": "Forbid"}),
            vec![job("a", "Running")],
            expect![[r#"start None delete [] active 1 After(280.1s)"#]],
        );
        check(
            json!({"concurrencyPolicy": "Replace"}),
            vec![job("a", "Running")],
            expect![[r#"start Some(600) delete ["a"] active 1 After(280.1s)"#]],
        );
    }

    #[test]
    fn history_is_limited() {
        let jobs = vec![job("a", "Failed"), job("b", "Failed"), job("c", "Complete")];
        check(
            json!({"suspend": true}),
            jobs,
            expect![[r#"start None delete ["a"] active 0 Never"#]],
        );
    }
}
