//! Scale-up: which group grows by how much so that waiting pods find a place.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstay_placement::Resources;
use mainstay_placement::pack::{Class, open_node, place, suits};
use mainstay_placement::{Snapshot, pack};

use crate::balance::{Part, share, similar};
use crate::expander::{Choice, choose};
use crate::model::{Decision, Group, Observation, Options, ScaleUpResult, Unhelped};
use crate::state::{Ordered, State};

/// What pods of groups in back-off are told.
const IN_BACKOFF: &str = "in backoff after failed scale-up";
const MAX_SIZE: &str = "max node group size reached";

/// A group that could grow, with what that would do.
struct Candidate {
    group: usize,
    nodes: usize,
    placed: Vec<usize>,
}

/// Gives up machines that never became nodes; their groups rest.
pub fn give_up_late(seen: &mut Observation, state: &mut State, options: &Options, decision: &mut Decision) {
    for group in &mut seen.groups {
        let missing = missing(group, state, options, seen.now);
        let limit = group
            .overrides
            .provision_seconds
            .unwrap_or(options.provision_seconds);
        let late: usize = state
            .ordered
            .iter()
            .filter(|order| order.group == group.id && seen.now - order.at > limit)
            .map(|order| order.count)
            .sum();
        state
            .ordered
            .retain(|order| order.group != group.id || missing > 0 && seen.now - order.at <= limit);
        let lost = late.min(missing);
        if lost > 0 {
            group.target -= lost;
            decision.give_up.insert(group.id.clone(), lost);
            state.failed(&group.id, seen.now, options.backoff_seconds);
        }
    }
}

/// How many machines of a group are wanted but not yet nodes (nodes that go do not count).
fn missing(group: &Group, state: &State, options: &Options, now: i64) -> usize {
    let stays = |name: &&Arc<str>| !is_going(name, state, options, now);
    let there = group.nodes.iter().filter(stays).count();
    group.target.saturating_sub(there)
}

/// How many nodes of a group are under way: machines that are not yet nodes, and nodes that are still starting.
pub fn upcoming(group: &Group, seen: &Observation, state: &State, options: &Options) -> usize {
    let usable = |name: &&Arc<str>| {
        !is_going(name, state, options, seen.now) && !seen.is_starting(group, name, options)
    };
    let there = group.nodes.iter().filter(usable).count();
    group.target.saturating_sub(there)
}

fn is_going(name: &str, state: &State, options: &Options, now: i64) -> bool {
    let since = state.deleting_since.get(name);
    since.is_some_and(|since| now - since < options.deletion_retry_seconds)
}

/// Puts waiting pods on nodes that are there or under way, in `cluster`; gives those left over.
pub fn place_waiting(
    cluster: &mut Snapshot,
    seen: &Observation,
    state: &State,
    options: &Options,
) -> Vec<Class> {
    // A node that is still starting stands in the cluster as a copy of its group's template, as one under way does.
    let starting = |name: &str| {
        let own = |group: &&Group| group.nodes.contains(name);
        let group = seen.groups.iter().find(own);
        group.is_some_and(|group| seen.is_starting(group, name, options))
    };
    let usable = |at: &usize| {
        let info = &cluster.nodes()[*at].info;
        info.ready && !state.deleting_since.contains_key(&*info.name) && !starting(&info.name)
    };
    // From the end: the first nodes, which are the first candidates to go, stay as empty as they are.
    let mut positions: Vec<usize> = (0..cluster.nodes().len()).rev().filter(usable).collect();
    for group in &seen.groups {
        for number in 0..upcoming(group, seen, state, options) {
            positions.push(open_node(cluster, &group.template, number));
        }
    }
    let wanted = |class: &&Class| {
        class.pod.shape.priority >= options.expendable_priority && !class.pod.eviction.is_daemon()
    };
    let mut classes: Vec<&Class> = seen.pending.iter().filter(wanted).collect();
    classes.sort_by_key(|class| std::cmp::Reverse(class.pod.shape.priority));
    let mut left = Vec::new();
    for class in classes {
        let count = class.count - place(cluster, &class.pod, class.count, &positions);
        if count > 0 {
            left.push(Class {
                pod: class.pod.clone(),
                count,
            });
        }
    }
    left
}

/// Decides which groups grow.
pub fn scale_up(
    seen: &mut Observation,
    state: &mut State,
    options: &Options,
    cluster: &mut Snapshot,
    decision: &mut Decision,
) {
    let mut left = place_waiting(cluster, seen, state, options);
    if left.is_empty() {
        return;
    }
    decision.scale_up = ScaleUpResult::NoOptionsAvailable;
    loop {
        let skipped: Vec<Option<String>> = seen
            .groups
            .iter()
            .map(|group| skip_reason(group, seen, state, options))
            .collect();
        let fits = fitting(seen, &left, cluster, &skipped);
        let candidates = candidates(seen, &left, &fits, cluster, options);
        let Some(chosen) = pick(seen, &left, &candidates, options, cluster.nodes().len()) else {
            break explain(seen, &left, &skipped, &fits, decision);
        };
        let candidate = &candidates[chosen];
        let grown = grow(seen, candidate, &skipped, &fits, options, cluster);
        if grown.is_empty() {
            break explain(seen, &left, &skipped, &fits, decision);
        }
        order(seen, state, &grown, decision);
        decision.pods_helped += candidate.placed.iter().sum::<usize>();
        if !options.all_groups_at_once {
            decision.pods_waiting_for_next = untouched(&left, candidate, &fits);
            break;
        }
        take_placed(&mut left, candidate);
        if left.is_empty() {
            break;
        }
    }
}

/// Per class and group: why a new node would not take the pod; empty when it would.
type Fits = Vec<Vec<Vec<String>>>;

fn fitting(seen: &Observation, left: &[Class], cluster: &Snapshot, skipped: &[Option<String>]) -> Fits {
    let reasons = |class: &Class, group: &Group| -> Vec<String> {
        let reasons = suits(&group.template, &class.pod.shape, cluster);
        reasons.into_iter().map(|reason| reason.to_string()).collect()
    };
    let row = |class: &Class| {
        let pairs = seen.groups.iter().zip(skipped);
        pairs
            .map(|(group, skip)| {
                if skip.is_some() {
                    vec![String::new()]
                } else {
                    reasons(class, group)
                }
            })
            .collect()
    };
    left.iter().map(row).collect()
}

fn candidates(
    seen: &Observation,
    left: &[Class],
    fits: &Fits,
    cluster: &Snapshot,
    options: &Options,
) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for (at, group) in seen.groups.iter().enumerate() {
        let matching: Vec<usize> = (0..left.len())
            .filter(|class| fits[*class][at].is_empty())
            .collect();
        if matching.is_empty() {
            continue;
        }
        let classes: Vec<Class> = matching.iter().map(|class| left[*class].clone()).collect();
        let most = options.max_nodes_per_scale_up.min(room(seen, at, fits, options));
        let packing = pack::pack(&group.template, &classes, cluster, most);
        if packing.nodes == 0 {
            continue;
        }
        let mut placed = vec![0; left.len()];
        matching
            .iter()
            .zip(packing.placed)
            .for_each(|(class, count)| placed[*class] = count);
        candidates.push(Candidate {
            group: at,
            nodes: packing.nodes,
            placed,
        });
    }
    candidates
}

/// How many nodes a group, with those it shares growth with, may still get.
fn room(seen: &Observation, at: usize, fits: &Fits, options: &Options) -> usize {
    let free = |group: &Group| group.max.saturating_sub(group.target);
    let others = partners(seen, at, fits, options);
    free(&seen.groups[at])
        + others
            .into_iter()
            .map(|other| free(&seen.groups[other]))
            .sum::<usize>()
}

/// Groups like this one that take the same pods.
fn partners(seen: &Observation, at: usize, fits: &Fits, options: &Options) -> Vec<usize> {
    if !options.balance_similar_groups {
        return Vec::new();
    }
    let same = |other: &usize| {
        let takes = |group: usize| fits.iter().map(move |class| class[group].is_empty());
        *other != at
            && similar(
                &seen.groups[at].template,
                &seen.groups[*other].template,
                &options.balancing_ignored_labels,
            )
            && takes(at).eq(takes(*other))
    };
    (0..seen.groups.len()).filter(same).collect()
}

fn pick(
    seen: &Observation,
    left: &[Class],
    candidates: &[Candidate],
    options: &Options,
    cluster_nodes: usize,
) -> Option<usize> {
    let requested = |candidate: &Candidate| {
        let mut sum = Resources::default();
        for (class, count) in left.iter().zip(&candidate.placed) {
            sum.add(&class.pod.shape.requests, *count as i64);
        }
        sum
    };
    let choices: Vec<Choice<'_>> = candidates
        .iter()
        .map(|candidate| {
            let group = &seen.groups[candidate.group];
            Choice {
                group: &group.id,
                template: &group.template,
                price_per_hour: group.price_per_hour,
                nodes: candidate.nodes,
                pods: candidate.placed.iter().sum(),
                requested: requested(candidate),
            }
        })
        .collect();
    choose(&options.expanders, &choices, cluster_nodes)
}

/// Caps the growth by the cluster's limits and shares it among similar groups.
fn grow(
    seen: &Observation,
    candidate: &Candidate,
    skipped: &[Option<String>],
    fits: &Fits,
    options: &Options,
    cluster: &Snapshot,
) -> BTreeMap<String, usize> {
    let group = &seen.groups[candidate.group];
    let nodes = candidate.nodes.min(limit(group, options, cluster));
    let partners = partners(seen, candidate.group, fits, options);
    let part = |at: usize| {
        let group = &seen.groups[at];
        Part {
            group: group.id.clone(),
            size: group.target,
            max: group.max,
        }
    };
    let mut parts = vec![part(candidate.group)];
    parts.extend(partners.into_iter().filter(|at| skipped[*at].is_none()).map(part));
    share(&parts, nodes)
}

/// How many nodes like the group's the cluster's limits allow.
fn limit(group: &Group, options: &Options, cluster: &Snapshot) -> usize {
    let mut most = usize::MAX;
    if options.max_nodes_total > 0 {
        most = options.max_nodes_total.saturating_sub(cluster.nodes().len());
    }
    let capacity = &group.template.info.capacity;
    let mut within = |limit: Option<i64>, used: i64, each: i64| {
        if let Some(limit) = limit.filter(|_| each > 0) {
            most = most.min(usize::try_from((limit - used).max(0) / each).unwrap_or(0));
        }
    };
    let used = |amount: fn(&Resources) -> i64| {
        cluster
            .nodes()
            .iter()
            .map(|node| amount(&node.info.capacity))
            .sum()
    };
    within(
        options.max_cpu_milli,
        used(|amounts| amounts.cpu_milli),
        capacity.cpu_milli,
    );
    within(
        options.max_memory_bytes,
        used(|amounts| amounts.memory_bytes),
        capacity.memory_bytes,
    );
    most
}

fn skip_reason(group: &Group, seen: &Observation, state: &State, options: &Options) -> Option<String> {
    if state.rests(&group.id, seen.now) {
        return Some(IN_BACKOFF.to_owned());
    }
    if group.target >= group.max {
        return Some(MAX_SIZE.to_owned());
    }
    if let Some(reason) = &group.not_ready {
        return Some(reason.clone());
    }
    exceeded(group, seen, options)
        .map(|resource| format!("exceeded quota: \"cluster-wide\", resources: {resource}"))
}

/// The first limit of the whole cluster that one more node of the group would break.
fn exceeded(group: &Group, seen: &Observation, options: &Options) -> Option<&'static str> {
    let capacity = &group.template.info.capacity;
    let total = |amount: fn(&Resources) -> i64| -> i64 {
        let under_way = |group: &Group| {
            let missing = group.target.saturating_sub(group.nodes.len()) as i64;
            missing * amount(&group.template.info.capacity)
        };
        let there: i64 = seen
            .snapshot
            .nodes()
            .iter()
            .map(|node| amount(&node.info.capacity))
            .sum();
        there + seen.groups.iter().map(under_way).sum::<i64>()
    };
    if options
        .max_cpu_milli
        .is_some_and(|max| total(|amounts| amounts.cpu_milli) + capacity.cpu_milli > max)
    {
        return Some("cpu");
    }
    let memory = |max: i64| total(|amounts| amounts.memory_bytes) + capacity.memory_bytes > max;
    if options.max_memory_bytes.is_some_and(memory) {
        return Some("memory");
    }
    let nodes: usize = seen.snapshot.nodes().len()
        + seen
            .groups
            .iter()
            .map(|group| group.target.saturating_sub(group.nodes.len()))
            .sum::<usize>();
    (options.max_nodes_total > 0 && nodes >= options.max_nodes_total).then_some("nodes")
}

fn order(
    seen: &mut Observation,
    state: &mut State,
    grown: &BTreeMap<String, usize>,
    decision: &mut Decision,
) {
    for group in &mut seen.groups {
        let Some(count) = grown.get(&group.id) else {
            continue;
        };
        group.target += count;
        *decision.increase.entry(group.id.clone()).or_default() += count;
        state.ordered.push(Ordered {
            group: group.id.clone(),
            count: *count,
            at: seen.now,
        });
    }
    state.last_scale_up = Some(seen.now);
    decision.scale_up = ScaleUpResult::Successful;
}

/// Counts pods that another group would have taken and that the chosen one did nothing for.
fn untouched(left: &[Class], candidate: &Candidate, fits: &Fits) -> usize {
    let rows = left.iter().zip(&candidate.placed).zip(fits);
    let waits = |((_, placed), fit): &((&Class, &usize), &Vec<Vec<String>>)| {
        **placed == 0 && fit.iter().any(Vec::is_empty)
    };
    rows.filter(waits).map(|((class, _), _)| class.count).sum()
}

fn take_placed(left: &mut Vec<Class>, candidate: &Candidate) {
    left.iter_mut()
        .zip(&candidate.placed)
        .for_each(|(class, count)| class.count -= count);
    left.retain(|class| class.count > 0);
}

fn explain(
    seen: &Observation,
    left: &[Class],
    skipped: &[Option<String>],
    fits: &Fits,
    decision: &mut Decision,
) {
    for (class, row) in left.iter().zip(fits) {
        let mut unhelped = Unhelped {
            class: Some(class.clone()),
            ..Unhelped::default()
        };
        for ((group, skip), reasons) in seen.groups.iter().zip(skipped).zip(row) {
            match skip {
                Some(reason) => drop(unhelped.skipped.insert(group.id.clone(), reason.clone())),
                None => drop(unhelped.rejected.insert(group.id.clone(), reasons.clone())),
            }
        }
        decision.unhelped.push(unhelped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_placement::drain::AllPresent;
    use mainstay_placement::{Eviction, Node, NodeInfo, Pod, Shape};
    use serde_json::json;

    const NOW: i64 = 10_000;

    fn node(name: &str, taints: serde_json::Value) -> NodeInfo {
        let spec = serde_json::from_value(json!({"taints": taints})).expect("a spec");
        let status = json!({"capacity": {"cpu": "2", "memory": "4Gi", "pods": "10"},
            "conditions": [{"type": "Ready", "status": "True"}]});
        let status = serde_json::from_value(status).expect("a status");
        NodeInfo::new(name, BTreeMap::new(), &spec, &status)
    }

    fn waiting(cpu: &str, count: usize) -> Class {
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        let spec = serde_json::from_value(spec).expect("a spec");
        let pod = Pod {
            uid: "p".into(),
            name: "p".into(),
            shape: Arc::new(Shape::new("default", &BTreeMap::new(), &spec)),
            eviction: Arc::new(Eviction::default()),
            since: 0,
            deleted_at: None,
        };
        Class {
            pod: Arc::new(pod),
            count,
        }
    }

    /// Two machines wanted, one node there: it reports ready but still has the taint of its start.
    fn seen(not_usable: &[(&str, i64)], pending: Class) -> Observation {
        let mut snapshot = Snapshot::new();
        let fresh = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
        snapshot.set_node(Arc::new(node("n1", fresh)));
        let group = Group {
            id: "a".into(),
            min: 1,
            max: 4,
            target: 2,
            template: Node::new(Arc::new(node("a", json!([])))),
            nodes: [Arc::from("n1")].into(),
            ..Group::default()
        };
        Observation {
            now: NOW,
            groups: vec![group],
            snapshot,
            not_usable: not_usable
                .iter()
                .map(|(name, made)| (Arc::from(*name), *made))
                .collect(),
            kept_nodes: Default::default(),
            pending: vec![pending],
            budgets: Default::default(),
            owners: Arc::new(AllPresent),
        }
    }

    #[test]
    fn pods_that_fit_on_machines_under_way_and_nodes_that_start_make_nothing_grow() {
        let rows = [
            (
                "one starts, one is under way",
                &[("n1", NOW - 20)][..],
                2,
                "NotNeeded {}",
            ),
            (
                "they are not enough",
                &[("n1", NOW - 20)][..],
                3,
                r#"Successful {"a": 1}"#,
            ),
            (
                "it has been starting for too long",
                &[("n1", NOW - 1000)][..],
                2,
                r#"Successful {"a": 1}"#,
            ),
            (
                "its taint has another reason",
                &[][..],
                2,
                r#"Successful {"a": 1}"#,
            ),
        ];
        for (about, not_usable, pods, expected) in rows {
            let mut seen = seen(not_usable, waiting("1500m", pods));
            let (mut state, options) = (State::default(), Options::default());
            let decision = crate::run_once(&mut seen, &mut state, &options);
            let text = format!("{} {:?}", decision.scale_up.as_str(), decision.increase);
            assert_eq!(text, expected, "{about}");
        }
    }

    #[test]
    fn a_node_that_starts_is_no_candidate_to_go() {
        let mut seen = seen(&[("n1", NOW - 20)], waiting("1", 1));
        let (mut state, options) = (State::default(), Options::default());
        let decision = crate::run_once(&mut seen, &mut state, &options);
        assert_eq!(decision.scale_down.as_str(), "NoCandidates");
        assert!(state.unneeded_since.is_empty(), "{state:?}");
    }
}
