//! Rollout arithmetic: how many pods each ReplicaSet gets next. Rules:
//! <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#rolling-update-deployment>.

use std::cmp::Reverse;
use std::sync::Arc;

use serde_json::{Value, json};

use super::sets::{desired, most, replicas, total};
use crate::kinds::{Deployment, ReplicaSet};
use crate::owner::{oldest_first, scaled};

/// Surge and unavailability as numbers of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    pub wanted: i32,
    pub surge: i32,
    pub unavailable: i32,
}

impl Budget {
    pub(super) fn of(deployment: &Deployment) -> Budget {
        let wanted = deployment.spec.replicas.unwrap_or(1);
        if is_recreate(deployment) {
            return Budget {
                wanted,
                surge: 0,
                unavailable: 0,
            };
        }
        let quarter = json!("25%");
        let or_quarter = |value: &Value, round_up| {
            scaled(if value.is_null() { &quarter } else { value }, wanted, round_up)
        };
        let rolling = &deployment.spec.strategy.rolling_update;
        let surge = or_quarter(&rolling.max_surge, true).unwrap_or(0);
        let unavailable = or_quarter(&rolling.max_unavailable, false).unwrap_or(0);
        // Both zero would never move: one pod may be missing then.
        let unavailable = if surge == 0 && unavailable == 0 {
            1
        } else {
            unavailable.min(wanted)
        };
        Budget {
            wanted,
            surge,
            unavailable,
        }
    }
}

pub(super) fn is_recreate(deployment: &Deployment) -> bool {
    deployment.spec.strategy.kind.as_deref() == Some("Recreate")
}

/// A set and the replicas it shall have.
pub(super) type Target = (Arc<ReplicaSet>, i32);

/// Replicas of a new set, given what all sets have now.
pub(super) fn new_set(budget: Budget, all: i32, current: i32) -> i32 {
    let room = budget.wanted + budget.surge - all;
    current + room.min(budget.wanted - current).max(0)
}

/// The next step of a rolling update: grow the new set, or else shrink old ones.
pub(super) fn rolling(budget: Budget, new: &Arc<ReplicaSet>, old: &[Arc<ReplicaSet>]) -> Vec<Target> {
    let all = replicas(new) + total(old);
    let size = if replicas(new) > budget.wanted {
        budget.wanted
    } else {
        new_set(budget, all, replicas(new))
    };
    if size != replicas(new) {
        return vec![(new.clone(), size)];
    }
    shrink(budget, new, old)
}

fn shrink(budget: Budget, new: &Arc<ReplicaSet>, old: &[Arc<ReplicaSet>]) -> Vec<Target> {
    let least_available = budget.wanted - budget.unavailable;
    let new_unavailable = replicas(new) - new.status.available_replicas;
    let mut removable = replicas(new) + total(old) - least_available - new_unavailable;
    let mut sizes: Vec<i32> = old.iter().map(|set| replicas(set)).collect();
    for (set, size) in old.iter().zip(&mut sizes) {
        let unhealthy = (*size - set.status.available_replicas).clamp(0, removable.max(0));
        *size -= unhealthy;
        removable -= unhealthy;
    }
    let available =
        new.status.available_replicas + old.iter().map(|set| set.status.available_replicas).sum::<i32>();
    let mut removable = removable.min(available - least_available).max(0);
    for size in &mut sizes {
        let away = (*size).min(removable);
        *size -= away;
        removable -= away;
    }
    changed(old.iter().cloned().zip(sizes).collect())
}

fn changed(targets: Vec<Target>) -> Vec<Target> {
    targets
        .into_iter()
        .filter(|(set, size)| replicas(set) != *size)
        .collect()
}

/// Whether the Deployment was scaled since its sets were: then they are scaled before the rollout goes on.
pub(super) fn was_scaled(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> bool {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    sets.iter()
        .any(|set| replicas(set) > 0 && desired(set).is_some_and(|known| known != wanted))
}

/// Spreads a changed size over the sets in proportion, so that a scaled rollout keeps its risk.
pub(super) fn proportional(
    deployment: &Deployment,
    new: Option<&Arc<ReplicaSet>>,
    sets: &[Arc<ReplicaSet>],
) -> Vec<Target> {
    let budget = Budget::of(deployment);
    let mut active: Vec<_> = sets.iter().filter(|set| replicas(set) > 0).cloned().collect();
    if active.len() <= 1 {
        let one = active.pop().or(new.cloned()).or(sets.last().cloned());
        return changed(one.map(|set| (set, budget.wanted)).into_iter().collect());
    }
    if let Some(new) = new.filter(|new| is_saturated(new, budget.wanted)) {
        let old = active
            .into_iter()
            .filter(|set| set.metadata.uid != new.metadata.uid);
        return old.map(|set| (set, 0)).collect();
    }
    if is_recreate(deployment) {
        return Vec::new();
    }
    let allowed = if budget.wanted > 0 {
        budget.wanted + budget.surge
    } else {
        0
    };
    let to_add = allowed - total(&active);
    oldest_first(&mut active);
    if to_add > 0 {
        active.reverse();
    }
    active.sort_by_key(|set| Reverse(replicas(set)));
    let mut left = to_add;
    let mut targets: Vec<Target> = Vec::new();
    for set in active {
        let share = share(deployment, &set, allowed);
        let share = if to_add > 0 {
            share.clamp(0, left)
        } else {
            share.clamp(left, 0)
        };
        left -= share;
        targets.push((set.clone(), replicas(&set) + share));
    }
    if let Some((_, size)) = targets.first_mut() {
        *size = (*size + left).max(0);
    }
    targets
}

/// What is owed to one set when `allowed` pods are distributed.
fn share(deployment: &Deployment, set: &ReplicaSet, allowed: i32) -> i32 {
    if allowed == 0 {
        return -replicas(set);
    }
    let before = most(set).unwrap_or(deployment.status.replicas).max(1);
    let exact = f64::from(replicas(set)) * f64::from(allowed) / f64::from(before);
    exact.round() as i32 - replicas(set)
}

fn is_saturated(set: &ReplicaSet, wanted: i32) -> bool {
    replicas(set) == wanted && desired(set) == Some(wanted) && set.status.available_replicas == wanted
}
