//! The decision for one pod: filter, score, choose; or say why not.

use std::collections::BTreeMap;

use crate::filter::Filter;
use crate::node::Node;
use crate::pod::Shape;
use crate::reason::Reason;
use crate::score::{Weights, scores};
use crate::snapshot::Snapshot;
use crate::volume::VolumeRules;

/// Below this many nodes every node is looked at.
const SAMPLE_FROM: usize = 100;
/// The smallest share of a big cluster that is looked at, in percent.
const SAMPLE_MIN_PERCENT: usize = 5;

/// What the decision may vary.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Weights of scores.
    pub weights: Weights,
    /// Resources that extenders manage.
    pub ignored_resources: Vec<String>,
    /// The share of nodes to look at in percent; `None` chooses by cluster size as upstream does.
    pub percent_of_nodes: Option<usize>,
}

/// Why no node takes a pod.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Misfit {
    /// Each node's reasons, by position in the snapshot.
    pub reasons: Vec<Vec<Reason>>,
}

impl Misfit {
    /// The text of the event and the condition, without what preemption adds:
    /// `0/3 nodes are available: 3 Insufficient cpu.`
    pub fn text(&self) -> String {
        if self.reasons.is_empty() {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for reason in self.reasons.iter().flatten() {
            *counts.entry(reason.to_string()).or_default() += 1;
        }
        availability(self.reasons.len(), &counts)
    }
}

/// Writes `0/N nodes are available: ...` with the entries sorted as plain texts, as upstream does.
pub fn availability(nodes: usize, counts: &BTreeMap<String, usize>) -> String {
    let mut entries: Vec<String> = counts
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    entries.sort();
    format!("0/{nodes} nodes are available: {}.", entries.join(", "))
}

/// Finds the positions of nodes that take the pod: all of them, or in a big cluster enough to choose
/// from, beginning at `start`. When there is none the reasons of every node are collected.
///
/// # Errors
/// [`Misfit`] when no node takes the pod.
pub fn feasible(
    shape: &Shape,
    snapshot: &Snapshot,
    volumes: &VolumeRules,
    options: &Options,
    start: usize,
) -> Result<Vec<usize>, Misfit> {
    let nodes = snapshot.nodes();
    let filter = Filter::new(shape, snapshot)
        .with_volumes(volumes)
        .ignoring(&options.ignored_resources);
    let wanted = sample(nodes.len(), options.percent_of_nodes);
    let order = (0..nodes.len()).map(|offset| (start + offset) % nodes.len());
    let found: Vec<usize> = order
        .filter(|at| filter.passes(&nodes[*at]))
        .take(wanted)
        .collect();
    if found.is_empty() {
        return Err(Misfit {
            reasons: nodes.iter().map(|node| filter.reasons(node)).collect(),
        });
    }
    Ok(found)
}

/// Chooses the best of the candidates; ties go to the one that comes first. `extra` is added to each
/// candidate's score (extenders).
pub fn best(
    shape: &Shape,
    snapshot: &Snapshot,
    candidates: &[usize],
    extra: &[f64],
    options: &Options,
) -> Option<usize> {
    if let [only] = candidates {
        return Some(*only);
    }
    let nodes: Vec<&Node> = candidates.iter().map(|at| &*snapshot.nodes()[*at]).collect();
    let own = scores(shape, snapshot, &nodes, &options.weights);
    let total = |at: usize| own[at] + extra.get(at).copied().unwrap_or(0.0);
    let mut winner: Option<(usize, f64)> = None;
    for (at, candidate) in candidates.iter().enumerate() {
        if winner.is_none_or(|(_, score)| total(at) > score) {
            winner = Some((*candidate, total(at)));
        }
    }
    winner.map(|(at, _)| at)
}

fn sample(nodes: usize, percent: Option<usize>) -> usize {
    if nodes < SAMPLE_FROM {
        return nodes;
    }
    let percent = percent.unwrap_or_else(|| 50usize.saturating_sub(nodes / 125).max(SAMPLE_MIN_PERCENT));
    (nodes * percent.min(100) / 100).max(SAMPLE_FROM)
}
