//! The decision: which ReplicaSet is created, resized, annotated or forgotten next, and what the status says.

use std::sync::Arc;

use jiff::Timestamp;
use mainstay_control::Requeue;
use serde_json::{Value, json};

use super::rollout::{self, Budget, Target};
use super::{progress, sets};
use crate::kinds::{Deployment, DeploymentStatus, Pod, ReplicaSet};
use crate::owner::is_ended;

/// Kubernetes' default of `revisionHistoryLimit`.
const HISTORY_LIMIT: i32 = 10;

/// What the decision is made from.
pub(crate) struct Seen {
    pub deployment: Arc<Deployment>,
    /// The Deployment's sets, oldest first.
    pub sets: Vec<Arc<ReplicaSet>>,
    /// The pods of those sets.
    pub pods: Vec<Arc<Pod>>,
}

#[derive(Debug)]
pub(crate) enum Step {
    /// Merge annotations into the Deployment.
    Annotate(Value),
    /// Create the set of the current template.
    Create { object: Value, replicas: i32 },
    /// Merge annotations into a set and maybe resize it.
    Update {
        set: Arc<ReplicaSet>,
        replicas: Option<i32>,
        annotations: Value,
    },
    /// Delete a set that the history no longer needs.
    Remove(Arc<ReplicaSet>),
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub steps: Vec<Step>,
    pub status: DeploymentStatus,
    pub again: Requeue,
}

pub(crate) fn plan(seen: &Seen, now: Timestamp) -> Plan {
    let deployment = &seen.deployment;
    let new = sets::current(deployment, &seen.sets);
    let old: Vec<_> = seen
        .sets
        .iter()
        .filter(|set| new.is_none_or(|new| !Arc::ptr_eq(new, set)))
        .cloned()
        .collect();
    let mut status = progress::counts(deployment, new, &seen.sets);
    let budget = Budget::of(deployment);
    progress::available(budget, &mut status, now);
    if deployment.metadata.deletion_timestamp.is_some() {
        return Plan {
            steps: Vec::new(),
            status,
            again: Requeue::Never,
        };
    }
    let steps = if deployment.spec.paused || rollout::was_scaled(deployment, &seen.sets) {
        resize(deployment, rollout::proportional(deployment, new, &seen.sets))
    } else {
        roll(seen, budget, new, &old, &status)
    };
    let created = steps.iter().find_map(|step| match step {
        Step::Create { object, .. } => object["metadata"]["name"].as_str(),
        _ => None,
    });
    let again = progress::progressing(deployment, new, created, &mut status, now);
    Plan { again, steps, status }
}

fn resize(deployment: &Deployment, targets: Vec<Target>) -> Vec<Step> {
    let annotations = sets::scale_annotations(deployment, Budget::of(deployment).surge);
    let step = |(set, size): Target| Step::Update {
        replicas: Some(size),
        annotations: annotations.clone(),
        set,
    };
    targets.into_iter().map(step).collect()
}

fn roll(
    seen: &Seen,
    budget: Budget,
    new: Option<&Arc<ReplicaSet>>,
    old: &[Arc<ReplicaSet>],
    status: &DeploymentStatus,
) -> Vec<Step> {
    let deployment = &seen.deployment;
    let number = old.iter().map(|set| sets::revision(set)).max().unwrap_or(0) + 1;
    let number = new.map_or(number, |new| number.max(sets::revision(new)));
    let recreate = rollout::is_recreate(deployment);
    let mut steps = Vec::new();
    let annotated = deployment
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(sets::REVISION));
    if annotated != Some(&number.to_string()) {
        steps.push(Step::Annotate(json!({sets::REVISION: number.to_string()})));
    }
    if recreate && sets::total(old) > 0 {
        steps.extend(resize(
            deployment,
            old.iter()
                .filter(|set| sets::replicas(set) > 0)
                .map(|set| (set.clone(), 0))
                .collect(),
        ));
        return steps;
    }
    let Some(new) = new else {
        if !(recreate && old_pods_run(seen)) {
            let replicas = rollout::new_set(budget, sets::total(old), 0);
            let object = sets::object(deployment, replicas, number, budget.surge);
            steps.push(Step::Create { object, replicas });
        }
        return steps;
    };
    if let Some(annotations) = sets::copied_annotations(deployment, Some(new), number) {
        // The set changes now; its size follows when that has been seen.
        steps.push(Step::Update {
            set: new.clone(),
            replicas: None,
            annotations,
        });
        return steps;
    }
    if !(recreate && old_pods_run(seen)) {
        steps.extend(resize(deployment, rollout::rolling(budget, new, old)));
    }
    if progress::is_complete(deployment, status) {
        steps.extend(forget(deployment, old));
    }
    steps
}

/// Whether pods of another template still run: Recreate waits for their end.
fn old_pods_run(seen: &Seen) -> bool {
    let current = sets::current(&seen.deployment, &seen.sets).and_then(|set| set.metadata.uid.as_ref());
    let of_old = |pod: &&Arc<Pod>| {
        let owner = crate::owner::controller_of(&pod.metadata);
        owner.is_some_and(|owner| Some(&owner.uid) != current) && !is_ended(pod)
    };
    seen.pods.iter().any(|pod| of_old(&pod))
}

/// Sets beyond the history limit, oldest revision first; only those that are empty and known to be.
fn forget(deployment: &Deployment, old: &[Arc<ReplicaSet>]) -> Vec<Step> {
    let limit = deployment.spec.revision_history_limit.unwrap_or(HISTORY_LIMIT);
    let empty = |set: &&Arc<ReplicaSet>| {
        sets::replicas(set) == 0 && set.status.replicas == 0 && set.metadata.deletion_timestamp.is_none()
    };
    let mut old: Vec<_> = old.iter().filter(empty).cloned().collect();
    old.sort_by_key(|set| sets::revision(set));
    let excess = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    old.into_iter().take(excess).map(Step::Remove).collect()
}

#[cfg(test)]
mod tests;
