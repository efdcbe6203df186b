//! One planning step of a MachineDeployment: how many machines each of its sets should have now.
//!
//! Invariants: never more than replicas + surge machines (deleting ones count), never fewer available than
//! replicas − unavailable by own action, and a new set that does not become available stops the rollout.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::amount::{NotAnAmount, Round, resolve};

/// Resolved limits of a rolling update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Machines above the wanted number.
    pub surge: i32,
    /// Machines that may be missing, as given (at least 1 when there is no surge).
    pub unavailable: i32,
    /// The same, never more than the wanted number.
    pub effective_unavailable: i32,
    /// Most machines at any time.
    pub max_total: i32,
    /// Fewest available machines by own action.
    pub min_available: i32,
}

/// Resolves surge and unavailable; absent values are 1 and 0.
pub fn limits(
    replicas: i32,
    surge: Option<&IntOrString>,
    unavailable: Option<&IntOrString>,
) -> Result<Limits, NotAnAmount> {
    let surge = surge.map_or(Ok(1), |amount| resolve(amount, replicas, Round::Up))?;
    let given = unavailable.map_or(Ok(0), |amount| resolve(amount, replicas, Round::Down))?;
    let unavailable = if surge == 0 && given == 0 { 1 } else { given };
    let effective = if replicas == 0 {
        0
    } else {
        unavailable.min(replicas)
    };
    Ok(Limits {
        surge,
        unavailable,
        effective_unavailable: effective,
        max_total: replicas + surge,
        min_available: (replicas - effective).max(0),
    })
}

/// What is known of one MachineSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetCounts {
    /// Name.
    pub name: String,
    /// Creation time: older sets shrink first.
    pub created: Timestamp,
    /// Wanted machines.
    pub spec: i32,
    /// Machines there are, deleting ones included.
    pub status: i32,
    /// Available machines.
    pub available: i32,
}

/// Wanted machines by set name.
pub type Targets = BTreeMap<String, i32>;

/// Machines of all sets; a set counts with the greater of wanted and present.
fn total<'a>(sets: impl Iterator<Item = &'a SetCounts>) -> i32 {
    sets.map(|set| set.spec.max(set.status)).sum()
}

fn unchanged(new: &SetCounts, olds: &[SetCounts]) -> Targets {
    olds.iter()
        .chain([new])
        .map(|set| (set.name.clone(), set.spec))
        .collect()
}

/// How many machines the new set should have: up to the wanted number while the total allows it; a smaller
/// wanted number takes effect at once.
fn grown(replicas: i32, max_total: i32, new: &SetCounts, olds: &[SetCounts]) -> i32 {
    let room = max_total - total(olds.iter().chain([new]));
    new.spec.min(replicas) + room.min(replicas - new.spec).max(0)
}

/// Plans one step of a rolling update.
pub fn rolling_step(replicas: i32, limits: &Limits, new: &SetCounts, olds: &[SetCounts]) -> Targets {
    let mut targets = unchanged(new, olds);
    targets.insert(new.name.clone(), grown(replicas, limits.max_total, new, olds));
    if olds.iter().any(|set| set.spec > 0) {
        shrink_old(limits, new, olds, &mut targets);
        break_deadlock(new, olds, &mut targets);
    }
    targets
}

/// What may still be taken from the old sets.
struct Room {
    /// Machines that may go.
    machines: i32,
    /// Machines that are available in the worst case so far.
    available: i32,
    /// Fewest that must stay available.
    min_available: i32,
}

fn shrink_old(limits: &Limits, new: &SetCounts, olds: &[SetCounts], targets: &mut Targets) {
    let all = || olds.iter().chain([new]);
    let going: i32 = all()
        .map(|set| (set.status - set.spec.min(targets[&set.name])).max(0))
        .sum();
    let wanted: i32 = all().map(|set| set.spec).sum();
    let new_unavailable = (new.spec - new.available).max(0);
    let mut room = Room {
        machines: wanted - going - limits.min_available - new_unavailable,
        available: all().map(|set| set.available).sum(),
        min_available: limits.min_available,
    };
    let mut oldest_first: Vec<&SetCounts> = olds.iter().collect();
    oldest_first.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    for unavailable_only in [true, false] {
        for set in &oldest_first {
            let target = targets.get_mut(&set.name).expect("every set has a target");
            *target -= take(set, *target, unavailable_only, &mut room);
        }
    }
}

/// How many machines to take from one set. Which ones go is the set's decision, so each is assumed to be an
/// available one as long as the set has any.
fn take(set: &SetCounts, target: i32, unavailable_only: bool, room: &mut Room) -> i32 {
    let most = if unavailable_only {
        (target - set.available).max(0)
    } else {
        target
    };
    let mut taken = most.min(room.machines);
    if taken <= 0 {
        return 0;
    }
    let lost = |taken: i32| (set.status - (target - taken)).max(0);
    let missing = room.min_available - (room.available - lost(taken));
    if lost(taken) > 0 && set.available > 0 && missing > 0 {
        taken = (taken - missing).max(0);
    }
    room.available -= lost(taken).min(set.available);
    room.machines -= taken;
    taken
}

/// When nothing moves although the new set is fine, an unavailable old machine blocks: one goes.
fn break_deadlock(new: &SetCounts, olds: &[SetCounts], targets: &mut Targets) {
    let moving = olds
        .iter()
        .chain([new])
        .any(|set| targets[&set.name] != set.spec || set.spec != set.status);
    if moving || new.available != new.spec {
        return;
    }
    if let Some(stuck) = olds.iter().find(|set| set.spec > 0 && set.available < set.spec) {
        *targets.get_mut(&stuck.name).expect("every set has a target") -= 1;
    }
}

/// Plans one step of strategy OnDelete: lost machines come back in the new set, surplus goes from the oldest.
pub fn on_delete_step(replicas: i32, new: &SetCounts, olds: &[SetCounts]) -> Targets {
    let mut targets = unchanged(new, olds);
    let wanted_new = grown(replicas, replicas, new, olds);
    targets.insert(new.name.clone(), wanted_new);
    let kept = |set: &SetCounts| set.spec.min(set.status);
    let mut surplus = wanted_new + olds.iter().map(kept).sum::<i32>() - replicas;
    let mut oldest_first: Vec<&SetCounts> = olds.iter().collect();
    oldest_first.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    for set in oldest_first {
        let taken = surplus.clamp(0, kept(set));
        surplus -= taken;
        let target = if taken > 0 { set.spec - taken } else { kept(set) };
        targets.insert(set.name.clone(), target);
    }
    targets
}
