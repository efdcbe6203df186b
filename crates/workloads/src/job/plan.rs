//! The decision: which pods are counted, created or deleted, and whether the Job is over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mainstay_control::{EventKind, Requeue};

use super::{FINALIZER, INDEX, ending, indexes};
use crate::kinds::{Condition, Job, JobStatus, Pod, is_true};
use crate::owner::{is_active, is_ended, ready_since};
use crate::pods::{BURST, set_condition, whole_seconds};

/// Kubernetes' default of `backoffLimit`.
const BACKOFF_LIMIT: i32 = 6;
/// The pause after the first failure; each further one doubles it.
const FIRST_PAUSE_SECONDS: i64 = 10;
const LONGEST_PAUSE_SECONDS: i64 = 600;

/// What the decision is made from.
pub(crate) struct Seen {
    pub job: Arc<Job>,
    pub pods: Vec<Arc<Pod>>,
}

#[derive(Debug)]
pub(crate) struct Plan {
    /// Written before anything else happens.
    pub status: JobStatus,
    /// Counted pods, to be let go.
    pub release: Vec<Arc<Pod>>,
    pub delete: Vec<Arc<Pod>>,
    /// Pods to create, by index if they have one.
    pub create: Vec<Option<i32>>,
    pub event: Option<(EventKind, &'static str, String)>,
    /// The Job outlived its time to live.
    pub remove: bool,
    pub again: Requeue,
}

/// Whether a pod still waits to be counted.
pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata
        .finalizers
        .iter()
        .flatten()
        .any(|name| name == FINALIZER)
}

fn succeeded(pod: &Pod) -> bool {
    pod.status.phase.as_deref() == Some("Succeeded")
}

/// Ended for the Job: really, or on its way out.
fn counts(pod: &Pod) -> bool {
    is_ended(pod) || pod.metadata.deletion_timestamp.is_some()
}

fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

fn is_indexed(job: &Job) -> bool {
    job.spec.completion_mode.as_deref() == Some("Indexed")
}

pub(crate) fn plan(seen: &Seen, now: Timestamp) -> Plan {
    let job = &seen.job;
    let active: Vec<_> = seen.pods.iter().filter(|pod| is_active(pod)).cloned().collect();
    let mut plan = Plan {
        status: job.status.clone(),
        release: Vec::new(),
        delete: Vec::new(),
        create: Vec::new(),
        event: None,
        remove: false,
        again: Requeue::Never,
    };
    count(seen, &active, &mut plan, now);
    if is_over(&job.status) {
        plan.delete = active;
        expire(job, &mut plan, now);
    } else if job.metadata.deletion_timestamp.is_none() {
        decide(seen, active, &mut plan, now);
    }
    plan
}

fn is_over(status: &JobStatus) -> bool {
    is_true(&status.conditions, "Complete") || is_true(&status.conditions, "Failed")
}

/// Counts each ended pod exactly once: first its uid is written down, then it is let go, then the number grows.
fn count(seen: &Seen, active: &[Arc<Pod>], plan: &mut Plan, now: Timestamp) {
    let status = &mut plan.status;
    let held = |uid: &String| {
        let pod = seen
            .pods
            .iter()
            .find(|pod| pod.metadata.uid.as_ref() == Some(uid));
        pod.is_some_and(|pod| is_tracked(pod))
    };
    for (list, total) in [
        (
            &mut status.uncounted_terminated_pods.succeeded,
            &mut status.succeeded,
        ),
        (&mut status.uncounted_terminated_pods.failed, &mut status.failed),
    ] {
        let before = list.len();
        list.retain(held);
        *total += (before - list.len()) as i32;
    }
    let mut completed = indexes::parse(status.completed_indexes.as_deref().unwrap_or_default());
    for pod in seen.pods.iter().filter(|pod| is_tracked(pod) && counts(pod)) {
        let Some(uid) = pod.metadata.uid.clone() else {
            continue;
        };
        let lists = &mut status.uncounted_terminated_pods;
        let list = if succeeded(pod) {
            &mut lists.succeeded
        } else {
            &mut lists.failed
        };
        if !list.contains(&uid) {
            list.push(uid);
        }
        if let Some(index) = index_of(pod).filter(|_| succeeded(pod)) {
            completed.insert(index);
        }
        plan.release.push(pod.clone());
    }
    if is_indexed(&seen.job) {
        status.completed_indexes = Some(indexes::print(&completed)).filter(|text| !text.is_empty());
    }
    status.active = active.len() as i32;
    status.ready = active.iter().filter(|pod| ready_since(pod).is_some()).count() as i32;
    let leaving = |pod: &&Arc<Pod>| pod.metadata.deletion_timestamp.is_some() && !is_ended(pod);
    status.terminating = seen.pods.iter().filter(leaving).count() as i32;
    if status.start_time.is_none() && !seen.job.spec.suspend {
        status.start_time = Some(whole_seconds(now));
    }
}

/// Deletes a finished Job when its time to live is over.
fn expire(job: &Job, plan: &mut Plan, now: Timestamp) {
    let Some(ttl) = job.spec.ttl_seconds_after_finished else {
        return;
    };
    let over = |condition: &&Condition| {
        condition.status == "True" && ["Complete", "Failed"].contains(&condition.kind.as_str())
    };
    let ended = job
        .status
        .conditions
        .iter()
        .find(over)
        .and_then(|condition| condition.last_transition_time);
    let left = ended.unwrap_or(now).as_second() + ttl - now.as_second();
    if left <= 0 {
        plan.remove = job.metadata.deletion_timestamp.is_none();
    } else {
        plan.again = Requeue::After(Duration::from_secs(left.unsigned_abs()));
    }
}

fn decide(seen: &Seen, active: Vec<Arc<Pod>>, plan: &mut Plan, now: Timestamp) {
    let job = &seen.job;
    let done = plan.status.succeeded + plan.status.uncounted_terminated_pods.succeeded.len() as i32;
    let lost = plan.status.failed + plan.status.uncounted_terminated_pods.failed.len() as i32;
    let enough = match job.spec.completions {
        Some(completions) => done >= completions,
        None => done > 0 && active.is_empty(),
    };
    let ending = decided(&plan.status)
        .or_else(|| failure(job, &active, lost, &plan.status, now))
        .or(enough.then_some(&COMPLETIONS));
    if let Some(ending) = ending {
        plan.delete = active;
        return end(plan, ending, now);
    }
    suspended(job, plan, now);
    if job.spec.suspend {
        plan.delete = active;
        return;
    }
    deadline(job, plan, now);
    replenish(seen, active, done, lost, plan, now);
}

fn failure(
    job: &Job,
    active: &[Arc<Pod>],
    lost: i32,
    status: &JobStatus,
    now: Timestamp,
) -> Option<&'static Ending> {
    let limit = job.spec.backoff_limit.unwrap_or(BACKOFF_LIMIT);
    let in_place = job.spec.template["spec"]["restartPolicy"] == "OnFailure";
    let restarts = active
        .iter()
        .flat_map(|pod| &pod.status.container_statuses)
        .map(|container| container.restart_count)
        .sum::<i32>();
    if lost > limit || (in_place && restarts > limit.max(0) && restarts > 0) {
        return Some(&BACKOFF);
    }
    let seconds = job.spec.active_deadline_seconds?;
    let late = now.as_second() - status.start_time?.as_second() >= seconds && !job.spec.suspend;
    late.then_some(&DEADLINE)
}

/// Why a Job ends.
struct Ending {
    failed: bool,
    reason: &'static str,
    message: &'static str,
}

const BACKOFF: Ending = Ending {
    failed: true,
    reason: "BackoffLimitExceeded",
    message: "Job has reached the specified backoff limit",
};
const DEADLINE: Ending = Ending {
    failed: true,
    reason: "DeadlineExceeded",
    message: "Job was active longer than specified deadline",
};
const COMPLETIONS: Ending = Ending {
    failed: false,
    reason: "CompletionsReached",
    message: "Reached expected number of succeeded pods",
};

impl Ending {
    /// The condition that says that the Job will end, and the one that says that it has.
    fn conditions(&self) -> [&'static str; 2] {
        match self.failed {
            true => ["FailureTarget", "Failed"],
            false => ["SuccessCriteriaMet", "Complete"],
        }
    }
}

/// The end that was decided on before: it stays so while the Job's pods go and are counted.
fn decided(status: &JobStatus) -> Option<&'static Ending> {
    [&BACKOFF, &DEADLINE, &COMPLETIONS].into_iter().find(|ending| {
        let target = ending.conditions()[0];
        let mut conditions = status.conditions.iter();
        conditions.any(|one| {
            one.kind == target && one.status == "True" && one.reason.as_deref() == Some(ending.reason)
        })
    })
}

/// Says that the Job will end, and that it has once all of its pods are gone and counted: upstream's server takes the
/// second only then.
fn end(plan: &mut Plan, ending: &Ending, now: Timestamp) {
    let status = &mut plan.status;
    let uncounted = &status.uncounted_terminated_pods;
    let counted = uncounted.succeeded.is_empty() && uncounted.failed.is_empty();
    let is_last = counted && status.active == 0 && status.terminating == 0;
    let [will, has] = ending.conditions();
    for kind in [Some(will), is_last.then_some(has)].into_iter().flatten() {
        if is_true(&status.conditions, kind) {
            continue;
        }
        let condition = Condition {
            kind: kind.into(),
            status: "True".into(),
            reason: Some(ending.reason.into()),
            message: Some(ending.message.into()),
            last_probe_time: Some(whole_seconds(now)),
            ..Condition::default()
        };
        set_condition(&mut status.conditions, condition, now);
    }
    if !is_last {
        return;
    }
    if !ending.failed {
        status.completion_time = Some(whole_seconds(now));
    }
    plan.event = Some(match ending.failed {
        true => (self::ending(true), ending.reason, ending.message.into()),
        false => (self::ending(false), "Completed", "Job completed".into()),
    });
}

fn suspended(job: &Job, plan: &mut Plan, now: Timestamp) {
    let was = is_true(&plan.status.conditions, "Suspended");
    if was == job.spec.suspend {
        return;
    }
    let (status, reason, message) = match job.spec.suspend {
        true => ("True", "JobSuspended", "Job suspended"),
        false => ("False", "JobResumed", "Job resumed"),
    };
    let condition = Condition {
        kind: "Suspended".into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(whole_seconds(now)),
        ..Condition::default()
    };
    set_condition(&mut plan.status.conditions, condition, now);
    plan.status.start_time = (!job.spec.suspend).then(|| whole_seconds(now));
}

fn deadline(job: &Job, plan: &mut Plan, now: Timestamp) {
    if let (Some(seconds), Some(start)) = (job.spec.active_deadline_seconds, plan.status.start_time) {
        let left = start.as_second() + seconds - now.as_second();
        plan.again = Requeue::After(Duration::from_secs(left.max(1).unsigned_abs()));
    }
}

/// Creates what is missing, after a pause if pods failed, and deletes what is too much.
fn replenish(seen: &Seen, active: Vec<Arc<Pod>>, done: i32, lost: i32, plan: &mut Plan, now: Timestamp) {
    let job = &seen.job;
    let parallelism = job.spec.parallelism.unwrap_or(1);
    let wanted = match job.spec.completions {
        Some(completions) => parallelism.min(completions - done),
        None if done > 0 => parallelism.min(active.len() as i32),
        None => parallelism,
    };
    let missing = wanted - active.len() as i32;
    if missing < 0 {
        let mut excess = active;
        excess.sort_by_key(|pod| ready_since(pod).is_some());
        excess.truncate(missing.unsigned_abs() as usize);
        plan.delete = excess;
        return;
    }
    if missing == 0 {
        return;
    }
    if let Some(pause) = pause(seen, lost, now) {
        plan.again = Requeue::After(pause);
        return;
    }
    let count = (missing as usize).min(BURST);
    plan.create = if is_indexed(job) {
        free_indexes(job, &active, &plan.status, count)
    } else {
        vec![None; count]
    };
}

fn free_indexes(job: &Job, active: &[Arc<Pod>], status: &JobStatus, count: usize) -> Vec<Option<i32>> {
    let taken: BTreeSet<i32> = active.iter().filter_map(|pod| index_of(pod)).collect();
    let completed = indexes::parse(status.completed_indexes.as_deref().unwrap_or_default());
    let free = |index: &i32| !taken.contains(index) && !completed.contains(index);
    (0..job.spec.completions.unwrap_or(0))
        .filter(free)
        .take(count)
        .map(Some)
        .collect()
}

/// How long to wait after the last failure; each failure since the last success doubles it.
fn pause(seen: &Seen, lost: i32, now: Timestamp) -> Option<Duration> {
    let last = seen
        .pods
        .iter()
        .filter(|pod| is_ended(pod) && !succeeded(pod))
        .filter_map(|pod| ended_at(pod))
        .max()?;
    let doublings = u32::try_from(lost - 1).ok()?.min(10);
    let pause = (FIRST_PAUSE_SECONDS << doublings).min(LONGEST_PAUSE_SECONDS);
    let left = last.as_second() + pause - now.as_second();
    (left > 0).then(|| Duration::from_secs(left.unsigned_abs()))
}

fn ended_at(pod: &Pod) -> Option<Timestamp> {
    pod.status
        .conditions
        .iter()
        .filter_map(|condition| condition.last_transition_time)
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, decoded, pod};
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn check(spec: Value, status: Value, pods: Vec<crate::testing::PodBuilder>, expected: Expect) {
        let tracked = |pod: crate::testing::PodBuilder| {
            Arc::new(pod.set("/metadata/finalizers", json!([FINALIZER])).into())
        };
        let job = decoded(json!({"metadata": {"name": "j", "uid": "uid-j"}, "spec": spec, "status": status}));
        let seen = Seen {
            job: Arc::new(job),
            pods: pods.into_iter().map(tracked).collect(),
        };
        let plan = plan(&seen, at(1000));
        let conditions: Vec<_> = plan
            .status
            .conditions
            .iter()
            .map(|condition| condition.kind.as_str())
            .collect();
        let text = format!(
            "create {:?} delete {} release {}; {}+{} ok {}+{} failed {:?}{}; {:?}",
            plan.create,
            plan.delete.len(),
            plan.release.len(),
            plan.status.succeeded,
            plan.status.uncounted_terminated_pods.succeeded.len(),
            plan.status.failed,
            plan.status.uncounted_terminated_pods.failed.len(),
            conditions,
            if plan.remove { " remove" } else { "" },
            plan.again,
        );
        expected.assert_eq(&text);
    }

    #[test]
    fn pods_run_in_parallel_up_to_what_is_left() {
        check(
            json!({"parallelism": 3, "completions": 4}),
            json!({"succeeded": 2}),
            vec![],
            expect!["create [None, None] delete 0 release 0; 2+0 ok 0+0 failed []; Never"],
        );
    }

    #[test]
    fn an_ended_pod_is_written_down_before_it_is_let_go() {
        check(
            json!({"completions": 2}),
            json!({}),
            vec![pod("a").phase("Succeeded")],
            expect!["create [None] delete 0 release 1; 0+1 ok 0+0 failed []; Never"],
        );
        check(
            json!({"completions": 2}),
            json!({"uncountedTerminatedPods": {"succeeded": ["uid-gone"]}}),
            vec![],
            expect!["create [None] delete 0 release 0; 1+0 ok 0+0 failed []; Never"],
        );
    }

    #[test]
    fn enough_successes_complete_the_job() {
        check(
            json!({"completions": 1}),
            json!({}),
            vec![pod("a").phase("Succeeded")],
            expect![[r#"create [] delete 0 release 1; 0+1 ok 0+0 failed ["SuccessCriteriaMet"]; Never"#]],
        );
        let decided = json!({"type": "SuccessCriteriaMet", "status": "True", "reason": "CompletionsReached"});
        check(
            json!({"completions": 1}),
            json!({"conditions": [decided], "uncountedTerminatedPods": {"succeeded": ["uid-gone"]}}),
            vec![],
            expect![[
                r#"create [] delete 0 release 0; 1+0 ok 0+0 failed ["SuccessCriteriaMet", "Complete"]; Never"#
            ]],
        );
    }

    #[test]
    fn failures_are_retried_after_a_pause_and_end_the_job_at_the_limit() {
        let failed = |name: &str| pod(name).ready(995).phase("Failed");
        check(
            json!({"completions": 1, "backoffLimit": 1}),
            json!({}),
            vec![failed("a")],
            expect!["create [] delete 0 release 1; 0+0 ok 0+1 failed []; After(5s)"],
        );
        check(
            json!({"completions": 1, "backoffLimit": 1}),
            json!({"failed": 1}),
            vec![failed("b"), pod("c").ready(1)],
            expect![[r#"create [] delete 1 release 1; 0+0 ok 1+1 failed ["FailureTarget"]; Never"#]],
        );
        let decided = json!({"type": "FailureTarget", "status": "True", "reason": "BackoffLimitExceeded"});
        check(
            json!({"completions": 1, "backoffLimit": 3}),
            json!({"failed": 2, "conditions": [decided]}),
            vec![],
            expect![[
                r#"create [] delete 0 release 0; 0+0 ok 2+0 failed ["FailureTarget", "Failed"]; Never"#
            ]],
        );
    }

    #[test]
    fn the_deadline_fails_the_job() {
        check(
            json!({"completions": 1, "activeDeadlineSeconds": 60}),
            json!({"startTime": at(940).to_string()}),
            vec![pod("a").ready(950)],
            expect![[r#"create [] delete 1 release 0; 0+0 ok 0+0 failed ["FailureTarget"]; Never"#]],
        );
    }

    #[test]
    fn indexed_jobs_fill_the_free_indexes() {
        check(
            json!({"completions": 5, "parallelism": 5, "completionMode": "Indexed"}),
            json!({"succeeded": 2, "completedIndexes": "0,2"}),
            vec![
                pod("a")
                    .ready(1)
                    .set("/metadata/annotations", json!({INDEX: "3"})),
            ],
            expect!["create [Some(1), Some(4)] delete 0 release 0; 2+0 ok 0+0 failed []; Never"],
        );
    }

    #[test]
    fn suspension_stops_the_pods() {
        check(
            json!({"completions": 1, "suspend": true}),
            json!({}),
            vec![pod("a").ready(950)],
            expect![[r#"create [] delete 1 release 0; 0+0 ok 0+0 failed ["Suspended"]; Never"#]],
        );
    }

    #[test]
    fn a_finished_job_goes_after_its_time_to_live() {
        let complete = |since: i64| json!({"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": at(since).to_string()}]});
        let spec = json!({"completions": 1, "ttlSecondsAfterFinished": 100});
        check(
            spec.clone(),
            complete(950),
            vec![],
            expect![[r#"create [] delete 0 release 0; 0+0 ok 0+0 failed ["Complete"]; After(50s)"#]],
        );
        check(
            spec,
            complete(900),
            vec![],
            expect![[r#"create [] delete 0 release 0; 0+0 ok 0+0 failed ["Complete"] remove; Never"#]],
        );
    }
}
