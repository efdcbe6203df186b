//! Scores: among the nodes that take a pod, which is best. Weights are those of upstream's default profile.

use mainstay_semantics::node_affinity::preference;
use mainstay_semantics::toleration::{Effect, tolerated};

use crate::interpod::PodWishes;
use crate::node::Node;
use crate::pod::Shape;
use crate::snapshot::Snapshot;
use crate::spread::SpreadRules;

/// The best score of one plugin on one node.
const MAX: f64 = 100.0;
const MIB: f64 = 1024.0 * 1024.0;
/// An image below this size is not worth staying near; above the second one more does not count.
const IMAGE_MIN_BYTES: f64 = 23.0 * MIB;
const IMAGE_MAX_BYTES: f64 = 1000.0 * MIB;

/// How free resources are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// Empty nodes first.
    #[default]
    LeastAllocated,
    /// Full nodes first.
    MostAllocated,
}

/// The weight of each score; 0 switches one off.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// Free resources.
    pub resources: i64,
    /// How `resources` judges.
    pub strategy: Strategy,
    /// Equal shares of cpu and memory.
    pub balanced: i64,
    /// Few `PreferNoSchedule` taints.
    pub taints: i64,
    /// Preferred node affinity.
    pub node_affinity: i64,
    /// Preferred spread.
    pub spread: i64,
    /// Preferred affinity between pods.
    pub pod_affinity: i64,
    /// What a required affinity of an existing pod is worth.
    pub hard_pod_affinity: i64,
    /// Images already on the node.
    pub images: i64,
}

impl Default for Weights {
    fn default() -> Self {
        Weights {
            resources: 1,
            strategy: Strategy::LeastAllocated,
            balanced: 1,
            taints: 3,
            node_affinity: 2,
            spread: 2,
            pod_affinity: 2,
            hard_pod_affinity: 1,
            images: 1,
        }
    }
}

/// Computes the score of each node (same order), 0 to 100 times the sum of the weights.
pub fn scores(shape: &Shape, snapshot: &Snapshot, nodes: &[&Node], weights: &Weights) -> Vec<f64> {
    let mut totals: Vec<f64> = nodes
        .iter()
        .map(|node| local_score(shape, node, weights, nodes.len()))
        .collect();
    let mut add = |weight: i64, raw: Vec<f64>, normalize: fn(&mut [f64])| {
        let mut raw = raw;
        normalize(&mut raw);
        totals
            .iter_mut()
            .zip(raw)
            .for_each(|(total, score)| *total += weight as f64 * score);
    };
    if weights.taints > 0 && nodes.iter().any(|node| !node.info.taints.is_empty()) {
        add(
            weights.taints,
            nodes.iter().map(|node| soft_taints(shape, node)).collect(),
            fewest_best,
        );
    }
    if weights.node_affinity > 0 && shape.node_affinity.is_some() {
        let wish = |node: &&Node| {
            preference(shape.node_affinity.as_ref(), &node.info.name, &node.info.labels) as f64
        };
        add(weights.node_affinity, nodes.iter().map(wish).collect(), most_best);
    }
    if weights.spread > 0 && !shape.spread_wished.is_empty() {
        let rules = SpreadRules::wished(shape, snapshot);
        let crowd = |node: &&Node| rules.crowd(&node.info).unwrap_or(f64::MAX);
        add(
            weights.spread,
            nodes.iter().map(crowd).collect(),
            least_crowded_best,
        );
    }
    if weights.pod_affinity > 0 {
        let wishes = PodWishes::new(shape, snapshot, weights.hard_pod_affinity);
        if !wishes.is_empty() {
            add(
                weights.pod_affinity,
                nodes
                    .iter()
                    .map(|node| wishes.weight(&node.info) as f64)
                    .collect(),
                span,
            );
        }
    }
    totals
}

/// The scores that need no look at other nodes.
fn local_score(shape: &Shape, node: &Node, weights: &Weights, nodes: usize) -> f64 {
    let all = &node.info.allocatable;
    let share = |used: i64, more: i64, all: i64| {
        if all <= 0 {
            1.0
        } else {
            ((used + more) as f64 / all as f64).min(1.0)
        }
    };
    let cpu = share(node.scored.0, shape.scored.0, all.cpu_milli);
    let memory = share(node.scored.1, shape.scored.1, all.memory_bytes);
    let full = (cpu + memory) / 2.0;
    let room = match weights.strategy {
        Strategy::LeastAllocated => 1.0 - full,
        Strategy::MostAllocated => full,
    };
    let balance = 1.0 - (cpu - memory).abs() / 2.0;
    MAX * (weights.resources as f64 * room + weights.balanced as f64 * balance)
        + weights.images as f64 * image_score(shape, node, nodes)
}

fn image_score(shape: &Shape, node: &Node, nodes: usize) -> f64 {
    if node.info.images.is_empty() || nodes < 2 {
        return 0.0;
    }
    let size = |image: &String| node.info.images.get(image).copied().unwrap_or(0) as f64;
    let present: f64 = shape.images.iter().map(size).sum();
    let top = IMAGE_MAX_BYTES * shape.images.len() as f64;
    MAX * (present.clamp(IMAGE_MIN_BYTES, top.max(IMAGE_MIN_BYTES)) - IMAGE_MIN_BYTES)
        / (top - IMAGE_MIN_BYTES).max(1.0)
}

fn soft_taints(shape: &Shape, node: &Node) -> f64 {
    let soft = node
        .info
        .taints
        .iter()
        .filter(|taint| taint.effect == Effect::PreferNoSchedule);
    soft.filter(|taint| !tolerated(&shape.tolerations, taint)).count() as f64
}

fn most_best(raw: &mut [f64]) {
    let top = raw.iter().copied().fold(0.0, f64::max);
    raw.iter_mut()
        .for_each(|score| *score = if top > 0.0 { *score / top * MAX } else { 0.0 });
}

fn fewest_best(raw: &mut [f64]) {
    let top = raw.iter().copied().fold(0.0, f64::max);
    raw.iter_mut()
        .for_each(|score| *score = if top > 0.0 { MAX - *score / top * MAX } else { MAX });
}

fn least_crowded_best(raw: &mut [f64]) {
    let known = |score: &&f64| **score < f64::MAX;
    let top = raw.iter().filter(known).copied().fold(0.0, f64::max);
    let least = raw.iter().filter(known).copied().fold(f64::MAX, f64::min);
    for score in raw {
        *score = match *score {
            f64::MAX => 0.0,
            _ if top == 0.0 => MAX,
            crowd => MAX * (top + least - crowd) / top,
        };
    }
}

fn span(raw: &mut [f64]) {
    let top = raw.iter().copied().fold(f64::MIN, f64::max);
    let least = raw.iter().copied().fold(f64::MAX, f64::min);
    let width = top - least;
    raw.iter_mut().for_each(|score| {
        *score = if width > 0.0 {
            MAX * (*score - least) / width
        } else {
            0.0
        }
    });
}
