//! Scale-down: which nodes are not needed, whether their pods fit elsewhere, and which of them go now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mainstay_placement::drain::{DrainContext, is_empty, move_pods, plan};
use mainstay_placement::{Budgets, Node, Resources, Snapshot};

use crate::model::{Decision, Observation, Options, Removal, ScaleDownResult, ScaleUpResult, Staying, Stays};
use crate::state::State;

/// A node that could go.
struct Unneeded {
    name: Arc<str>,
    group: usize,
    moving: Vec<Arc<mainstay_placement::Pod>>,
    waiting: bool,
    empty: bool,
}

/// Decides which nodes go. `cluster` already holds the waiting pods where they will run.
pub fn scale_down(
    seen: &mut Observation,
    state: &mut State,
    options: &Options,
    mut cluster: Snapshot,
    decision: &mut Decision,
) {
    if !options.scale_down {
        return;
    }
    let group_of = group_of_nodes(seen);
    state.unremovable_until.retain(|_, until| *until > seen.now);
    let candidates = candidates(seen, options, &group_of);
    let eligible = eligible(seen, state, options, &group_of, &candidates, &cluster, decision);
    let unneeded = simulate(seen, state, options, &group_of, &mut cluster, eligible, decision);
    remember(state, &unneeded, seen.now);
    if in_cooldown(seen, state, options, decision) {
        decision.scale_down = ScaleDownResult::InCooldown;
        return;
    }
    decision.scale_down = ScaleDownResult::NoNodeDeleted;
    if candidates.is_empty() {
        decision.scale_down = ScaleDownResult::NoCandidates;
    }
    let ripe = ripe(seen, state, options, unneeded, decision);
    start(seen, state, options, ripe, decision);
}

fn group_of_nodes(seen: &Observation) -> BTreeMap<Arc<str>, usize> {
    let pairs = seen.groups.iter().enumerate();
    pairs
        .flat_map(|(at, group)| group.nodes.iter().map(move |name| (name.clone(), at)))
        .collect()
}

/// Nodes of groups that may shrink, in the snapshot's order; one that is still starting was just asked for.
fn candidates(seen: &Observation, options: &Options, group_of: &BTreeMap<Arc<str>, usize>) -> Vec<Arc<str>> {
    let may_shrink = |name: &Arc<str>| {
        let group = group_of.get(name).map(|at| &seen.groups[*at]);
        group.is_some_and(|group| group.target > group.min && !seen.is_starting(group, name, options))
    };
    seen.snapshot
        .nodes()
        .iter()
        .map(|node| node.info.name.clone())
        .filter(may_shrink)
        .collect()
}

/// Drops candidates that cannot go whatever their pods; says why.
fn eligible(
    seen: &Observation,
    state: &State,
    options: &Options,
    group_of: &BTreeMap<Arc<str>, usize>,
    candidates: &[Arc<str>],
    cluster: &Snapshot,
    decision: &mut Decision,
) -> Vec<Arc<str>> {
    let mut eligible = Vec::new();
    for name in candidates {
        let Some(node) = cluster.node(name) else { continue };
        let own = seen.groups[group_of[name]].overrides.utilization_threshold;
        let threshold = own.unwrap_or(options.utilization_threshold);
        let busy = || (utilization(node, options) > threshold).then_some(Stays::NotUnderutilized);
        match obvious(seen, state, options, node).or_else(busy) {
            Some(reason) => stay(decision, name, reason),
            None => eligible.push(name.clone()),
        }
    }
    // Empty nodes first, then those that were unneeded before; otherwise the order stays.
    eligible.sort_by_key(|name| {
        let empty = cluster.node(name).is_some_and(|node| is_empty(node));
        (!empty, !state.unneeded_since.contains_key(&**name))
    });
    eligible
}

fn obvious(seen: &Observation, state: &State, options: &Options, node: &Node) -> Option<Stays> {
    let name = &node.info.name;
    let going = state.deleting_since.get(&**name);
    if going.is_some_and(|since| seen.now - since < options.deletion_retry_seconds) {
        return Some(Stays::CurrentlyBeingDeleted);
    }
    // A node that has become empty meanwhile needs no second thought.
    if state.unremovable_until.contains_key(&**name) && !is_empty(node) {
        return Some(Stays::RecentlyUnremovable);
    }
    seen.kept_nodes
        .contains(name)
        .then_some(Stays::ScaleDownDisabledAnnotation)
}

fn utilization(node: &Node, options: &Options) -> f64 {
    if !options.ignore_daemons_in_utilization {
        return node.utilization();
    }
    let mut without = node.clone();
    for pod in node.pods.iter().filter(|pod| pod.eviction.is_daemon()) {
        without.free.add(&pod.shape.requests, 1);
    }
    without.utilization()
}

fn stay(decision: &mut Decision, name: &Arc<str>, reason: Stays) {
    decision
        .staying
        .insert(name.clone(), Staying { reason, pod: None });
}

/// Drains one node after the other in thought; each move is kept, so later nodes see it.
fn simulate(
    seen: &Observation,
    state: &mut State,
    options: &Options,
    group_of: &BTreeMap<Arc<str>, usize>,
    cluster: &mut Snapshot,
    eligible: Vec<Arc<str>>,
    decision: &mut Decision,
) -> Vec<Unneeded> {
    let real = seen.snapshot.nodes().len();
    let mut gone: BTreeSet<usize> = BTreeSet::new();
    let limit = state.unneeded_since.len() + 2 * options.max_deletions;
    let mut budgets = seen.budgets.clone();
    let mut unneeded = Vec::new();
    let mut hint = 0;
    for name in eligible {
        if unneeded.len() >= limit {
            break;
        }
        let Some(at) = cluster.position(&name) else {
            continue;
        };
        let context = DrainContext {
            rules: &options.drain,
            budgets: &budgets,
            owners: &*seen.owners,
            now: seen.now,
        };
        let drain = match plan(&cluster.nodes()[at], &context) {
            Ok(drain) => drain,
            Err((pod, block)) => {
                let staying = Staying {
                    reason: Stays::BlockedByPod,
                    pod: Some((pod.key(), block.as_str())),
                };
                decision.staying.insert(name.clone(), staying);
                state
                    .unremovable_until
                    .insert(name.to_string(), seen.now + options.recheck_seconds);
                continue;
            }
        };
        let usable = destinations(cluster, state, &gone, real);
        if let Err(pod) = move_pods(cluster, at, &drain.moving, &|at| usable[at], &mut hint) {
            let staying = Staying {
                reason: Stays::NoPlaceToMovePods,
                pod: Some((pod.key(), "")),
            };
            decision.staying.insert(name.clone(), staying);
            state
                .unremovable_until
                .insert(name.to_string(), seen.now + options.recheck_seconds);
            continue;
        }
        gone.insert(at);
        take_all(&mut budgets, &drain.moving);
        unneeded.push(Unneeded {
            group: group_of[&name],
            name,
            empty: drain.moving.is_empty(),
            waiting: drain.waiting.is_some(),
            moving: drain.moving,
        });
    }
    unneeded
}

fn take_all(budgets: &mut Budgets, pods: &[Arc<mainstay_placement::Pod>]) {
    pods.iter().for_each(|pod| budgets.take(&pod.shape));
}

/// Where moved pods may go: real nodes that are ready and do not go themselves.
fn destinations(cluster: &Snapshot, state: &State, gone: &BTreeSet<usize>, real: usize) -> Vec<bool> {
    let usable = |(at, node): (usize, &Arc<Node>)| {
        at < real
            && node.info.ready
            && !gone.contains(&at)
            && !state.deleting_since.contains_key(&*node.info.name)
    };
    cluster.nodes().iter().enumerate().map(usable).collect()
}

fn remember(state: &mut State, unneeded: &[Unneeded], now: i64) {
    let before = std::mem::take(&mut state.unneeded_since);
    for node in unneeded {
        let since = before.get(&*node.name).copied().unwrap_or(now);
        state.unneeded_since.insert(node.name.to_string(), since);
    }
}

fn in_cooldown(seen: &Observation, state: &State, options: &Options, decision: &Decision) -> bool {
    let within = |at: Option<i64>, delay: i64| at.is_some_and(|at| at + delay > seen.now);
    let own = seen
        .groups
        .iter()
        .filter_map(|group| group.overrides.delay_after_add_seconds)
        .min();
    decision.scale_up == ScaleUpResult::Successful
        || within(
            state.last_scale_up,
            own.unwrap_or(options.delay_after_add_seconds),
        )
        || within(state.last_deletion, options.delay_after_delete_seconds)
        || within(state.last_failure, options.delay_after_failure_seconds)
}

/// Keeps the unneeded nodes that may go now; says why the others stay.
fn ripe(
    seen: &Observation,
    state: &State,
    options: &Options,
    unneeded: Vec<Unneeded>,
    decision: &mut Decision,
) -> Vec<Unneeded> {
    let mut leaving: BTreeMap<usize, usize> = BTreeMap::new();
    let mut total = totals(seen);
    let mut ripe = Vec::new();
    for node in unneeded {
        let Some(seen_node) = seen.snapshot.node(&node.name) else {
            continue;
        };
        let since = state.unneeded_since.get(&*node.name).copied().unwrap_or(seen.now);
        let own = &seen.groups[node.group].overrides;
        let (limit, early) = if seen_node.info.ready {
            (
                own.unneeded_seconds.unwrap_or(options.unneeded_seconds),
                Stays::NotUnneededLongEnough,
            )
        } else {
            (
                own.unready_seconds.unwrap_or(options.unready_seconds),
                Stays::NotUnreadyLongEnough,
            )
        };
        if limit > 0 && seen.now - since <= limit {
            stay(decision, &node.name, early);
            continue;
        }
        let group = &seen.groups[node.group];
        let repeated = state.deleting_since.contains_key(&*node.name);
        let so_far = leaving.get(&node.group).copied().unwrap_or(0);
        if !repeated && group.target <= group.min + so_far {
            stay(decision, &node.name, Stays::NodeGroupMinSizeReached);
            continue;
        }
        if node.waiting {
            stay(decision, &node.name, Stays::BlockedByOnCompletionPod);
            continue;
        }
        let capacity = &seen_node.info.capacity;
        let enough = total.cpu_milli - capacity.cpu_milli >= options.min_cpu_milli
            && total.memory_bytes - capacity.memory_bytes >= options.min_memory_bytes;
        if !enough {
            stay(decision, &node.name, Stays::MinimalResourceLimitExceeded);
            continue;
        }
        total.add(capacity, -1);
        *leaving.entry(node.group).or_default() += usize::from(!repeated);
        ripe.push(node);
    }
    ripe
}

fn totals(seen: &Observation) -> Resources {
    let mut total = Resources::default();
    seen.snapshot
        .nodes()
        .iter()
        .for_each(|node| total.add(&node.info.capacity, 1));
    total
}

/// Starts as many deletions as one pass may: empty nodes first, then drains.
fn start(
    seen: &mut Observation,
    state: &mut State,
    options: &Options,
    ripe: Vec<Unneeded>,
    decision: &mut Decision,
) {
    let (empty, drained): (Vec<Unneeded>, Vec<Unneeded>) = ripe.into_iter().partition(|node| node.empty);
    let drains = options
        .max_drains
        .min(options.max_deletions.saturating_sub(empty.len()));
    let going = empty
        .into_iter()
        .take(options.max_deletions)
        .chain(drained.into_iter().take(drains));
    for node in going {
        let repeated = state
            .deleting_since
            .insert(node.name.to_string(), seen.now)
            .is_some();
        let group = &mut seen.groups[node.group];
        group.target -= usize::from(!repeated);
        let evict = |pod: &Arc<mainstay_placement::Pod>| {
            (pod.shape.namespace.clone(), pod.name.clone(), pod.uid.clone())
        };
        decision.remove.push(Removal {
            node: node.name,
            group: group.id.clone(),
            evict: node.moving.iter().map(evict).collect(),
            repeated,
        });
        state.last_deletion = Some(seen.now);
        decision.scale_down = ScaleDownResult::NodeDeleteStarted;
    }
}
