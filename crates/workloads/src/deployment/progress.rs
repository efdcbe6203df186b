//! What a Deployment's status says: counts, and the conditions Available and Progressing.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mainstay_control::Requeue;

use super::rollout::Budget;
use super::sets::total;
use crate::kinds::{Condition, Deployment, DeploymentStatus, ReplicaSet, condition};
use crate::pods::{set_condition, whole_seconds};

/// Kubernetes' default of `progressDeadlineSeconds`.
const DEADLINE_SECONDS: i32 = 600;
/// The deadline's value that means "none".
const NO_DEADLINE: i32 = i32::MAX;

pub(super) fn counts(
    deployment: &Deployment,
    new: Option<&Arc<ReplicaSet>>,
    sets: &[Arc<ReplicaSet>],
) -> DeploymentStatus {
    let sum = |of: fn(&ReplicaSet) -> i32| sets.iter().map(|set| of(set)).sum::<i32>();
    let available = sum(|set| set.status.available_replicas);
    DeploymentStatus {
        replicas: sum(|set| set.status.replicas),
        updated_replicas: new.map_or(0, |set| set.status.replicas),
        ready_replicas: sum(|set| set.status.ready_replicas),
        available_replicas: available,
        unavailable_replicas: (total(sets) - available).max(0),
        terminating_replicas: sum(|set| set.status.terminating_replicas),
        observed_generation: deployment.metadata.generation.unwrap_or(0),
        collision_count: deployment.status.collision_count,
        conditions: deployment.status.conditions.clone(),
    }
}

pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    [
        status.updated_replicas,
        status.replicas,
        status.available_replicas,
    ] == [wanted; 3]
        && status.observed_generation >= deployment.metadata.generation.unwrap_or(0)
}

fn of(kind: &str, status: &str, reason: &str, message: String, now: Timestamp) -> Condition {
    Condition {
        kind: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(whole_seconds(now)),
        ..Condition::default()
    }
}

pub(super) fn available(budget: Budget, status: &mut DeploymentStatus, now: Timestamp) {
    let enough = status.available_replicas >= budget.wanted - budget.unavailable;
    let new = if enough {
        of(
            "Available",
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.".into(),
            now,
        )
    } else {
        let message = "Deployment does not have minimum availability.";
        of(
            "Available",
            "False",
            "MinimumReplicasUnavailable",
            message.into(),
            now,
        )
    };
    set_condition(&mut status.conditions, new, now);
}

/// Sets Progressing and tells when the deadline has to be looked at again.
pub(super) fn progressing(
    deployment: &Deployment,
    new: Option<&Arc<ReplicaSet>>,
    created: Option<&str>,
    status: &mut DeploymentStatus,
    now: Timestamp,
) -> Requeue {
    let deadline = deployment
        .spec
        .progress_deadline_seconds
        .unwrap_or(DEADLINE_SECONDS);
    if deadline == NO_DEADLINE {
        return Requeue::Never;
    }
    let known = condition(&deployment.status.conditions, "Progressing").cloned();
    let set = new
        .and_then(|set| set.metadata.name.as_deref())
        .or(created)
        .unwrap_or_default();
    let about = |what: &str| format!("ReplicaSet \"{set}\" {what}");
    let was_complete = known
        .as_ref()
        .is_some_and(|known| known.reason.as_deref() == Some("NewReplicaSetAvailable"));
    let next = if deployment.spec.paused {
        of(
            "Progressing",
            "Unknown",
            "DeploymentPaused",
            "Deployment is paused".into(),
            now,
        )
    } else if created.is_some() {
        let message = format!("Created new replica set \"{set}\"");
        of("Progressing", "True", "NewReplicaSetCreated", message, now)
    } else if is_complete(deployment, status) {
        of(
            "Progressing",
            "True",
            "NewReplicaSetAvailable",
            about("has successfully progressed."),
            now,
        )
    } else if moved(&deployment.status, status) || known.is_none() {
        of(
            "Progressing",
            "True",
            "ReplicaSetUpdated",
            about("is progressing."),
            now,
        )
    } else if !was_complete && overdue(known.as_ref(), deadline, now) {
        of(
            "Progressing",
            "False",
            "ProgressDeadlineExceeded",
            about("has timed out progressing."),
            now,
        )
    } else {
        return waiting(known.as_ref(), deadline, was_complete, now);
    };
    let ended = next.status != "True" || next.reason.as_deref() == Some("NewReplicaSetAvailable");
    let again = if ended {
        Requeue::Never
    } else {
        after(i64::from(deadline))
    };
    let progressed = next.reason.as_deref() == Some("ReplicaSetUpdated");
    set_condition(&mut status.conditions, next, now);
    if let Some(condition) = status.conditions.last_mut().filter(|_| progressed) {
        condition.last_update_time = Some(whole_seconds(now));
    }
    again
}

/// More updated, fewer old, more ready or more available than before.
fn moved(before: &DeploymentStatus, now: &DeploymentStatus) -> bool {
    now.updated_replicas > before.updated_replicas
        || now.replicas - now.updated_replicas < before.replicas - before.updated_replicas
        || now.ready_replicas > before.ready_replicas
        || now.available_replicas > before.available_replicas
}

fn overdue(known: Option<&Condition>, deadline: i32, now: Timestamp) -> bool {
    let since = known.and_then(|known| known.last_update_time);
    let exceeded = known.is_some_and(|known| known.reason.as_deref() == Some("ProgressDeadlineExceeded"));
    exceeded || since.is_some_and(|since| now.as_second() - since.as_second() >= i64::from(deadline))
}

fn waiting(known: Option<&Condition>, deadline: i32, was_complete: bool, now: Timestamp) -> Requeue {
    match known
        .and_then(|known| known.last_update_time)
        .filter(|_| !was_complete)
    {
        Some(since) => after(since.as_second() + i64::from(deadline) - now.as_second()),
        None => Requeue::Never,
    }
}

fn after(seconds: i64) -> Requeue {
    Requeue::After(Duration::from_secs(u64::try_from(seconds).unwrap_or(0) + 1))
}
