//! Preemption: which pods of lower priority to remove so that a pod fits, hurting as little as possible.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::decide::{Misfit, availability};
use crate::disruption::Budgets;
use crate::filter::Filter;
use crate::node::Node;
use crate::pod::{Pod, Shape};
use crate::reason::Reason;
use crate::snapshot::Snapshot;
use crate::volume::VolumeRules;

/// Nodes tried before the best so far is taken.
const CANDIDATES_MIN: usize = 100;

/// A way to make room.
#[derive(Debug, Clone, PartialEq)]
pub struct Victims {
    /// The node's position in the snapshot.
    pub node: usize,
    /// The pods to remove, highest priority first.
    pub pods: Vec<Arc<Pod>>,
    /// How many of them a disruption budget protects.
    pub violations: usize,
}

/// Why preemption found nothing; `Display`-ready text after `preemption: `.
#[derive(Debug, Clone, PartialEq)]
pub struct NoVictims(pub String);

/// Finds the pods to remove.
///
/// # Errors
/// [`NoVictims`] with the text upstream appends to the event.
pub fn preempt(
    shape: &Shape,
    snapshot: &Snapshot,
    misfit: &Misfit,
    volumes: &VolumeRules,
    budgets: &Budgets,
) -> Result<Victims, NoVictims> {
    if !shape.may_preempt {
        return Err(NoVictims(
            "not eligible due to preemptionPolicy=Never.".to_owned(),
        ));
    }
    let mut best: Option<Victims> = None;
    let mut tried = 0;
    for (at, reasons) in misfit.reasons.iter().enumerate() {
        if !reasons.iter().all(Reason::preemption_may_help) || tried >= CANDIDATES_MIN {
            continue;
        }
        let Some(victims) = on_node(shape, snapshot, at, volumes, budgets) else {
            continue;
        };
        tried += 1;
        if best.as_ref().is_none_or(|so_far| cost(&victims) < cost(so_far)) {
            best = Some(victims);
        }
    }
    best.ok_or_else(|| NoVictims(nothing_found(misfit)))
}

fn nothing_found(misfit: &Misfit) -> String {
    let mut counts = BTreeMap::new();
    for reasons in &misfit.reasons {
        let helped = reasons.iter().all(Reason::preemption_may_help);
        let text = if helped {
            "No preemption victims found for incoming pod"
        } else {
            "Preemption is not helpful for scheduling"
        };
        *counts.entry(text.to_owned()).or_default() += 1;
    }
    availability(misfit.reasons.len(), &counts)
}

/// Smaller is better: violations, highest priority, sum of priorities, number, and then the most recently
/// started of the important pods.
fn cost(victims: &Victims) -> (usize, i32, i64, usize, i64) {
    let highest = victims
        .pods
        .iter()
        .map(|pod| pod.shape.priority)
        .max()
        .unwrap_or(i32::MIN);
    let sum = victims
        .pods
        .iter()
        .map(|pod| i64::from(pod.shape.priority) + i64::from(i32::MAX))
        .sum();
    let important = victims.pods.iter().filter(|pod| pod.shape.priority == highest);
    let earliest = important.map(|pod| pod.since).min().unwrap_or(0);
    (victims.violations, highest, sum, victims.pods.len(), -earliest)
}

/// Removes every pod of lower priority, then puts back as many as fit: protected ones first, then by
/// priority and age.
fn on_node(
    shape: &Shape,
    snapshot: &Snapshot,
    at: usize,
    volumes: &VolumeRules,
    budgets: &Budgets,
) -> Option<Victims> {
    let mut fork = snapshot.clone();
    let lower = |pod: &&Arc<Pod>| pod.shape.priority < shape.priority;
    let mut removed: Vec<Arc<Pod>> = fork.nodes()[at].pods.iter().filter(lower).cloned().collect();
    if removed.is_empty() {
        return None;
    }
    removed.iter().for_each(|pod| drop(fork.remove_pod(at, &pod.uid)));
    if !fits(shape, &fork, &fork.nodes()[at], volumes) {
        return None;
    }
    removed.sort_by_key(|pod| (-i64::from(pod.shape.priority), pod.since));
    let (protected, free) = budgets.split(removed);
    let mut pods = Vec::new();
    let mut violations = 0;
    for (pod, is_protected) in protected
        .into_iter()
        .map(|pod| (pod, true))
        .chain(free.into_iter().map(|pod| (pod, false)))
    {
        fork.add_pod(at, pod.clone());
        if !fits(shape, &fork, &fork.nodes()[at], volumes) {
            fork.remove_pod(at, &pod.uid);
            violations += usize::from(is_protected);
            pods.push(pod);
        }
    }
    pods.sort_by_key(|pod| (-i64::from(pod.shape.priority), pod.since));
    Some(Victims {
        node: at,
        pods,
        violations,
    })
}

fn fits(shape: &Shape, snapshot: &Snapshot, node: &Node, volumes: &VolumeRules) -> bool {
    Filter::new(shape, snapshot).with_volumes(volumes).passes(node)
}
