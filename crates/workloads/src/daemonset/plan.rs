//! The decision: which nodes get a pod, which pods go, and what the status says. Rules:
//! <https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/> and
//! <https://kubernetes.io/docs/tasks/manage-daemon/update-daemon-set/>.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use mainstay_control::Requeue;
use mainstay_semantics::node_affinity::{self, NodeAffinity, NodeSelector};
use mainstay_semantics::toleration::{Effect, Taint, first_untolerated};
use serde_json::{Value, json};

use super::template::tolerations;
use crate::kinds::{DaemonSet, DaemonSetStatus, Node, Pod};
use crate::owner::{is_available, next_available, oldest_first, ready_since, scaled};
use crate::pods::BURST;
use crate::revision::HASH_LABEL;

/// How long a failed pod stays before it is replaced, counted from its creation: a node that refuses it at once would
/// otherwise be asked without end.
const FAILED_REST_SECONDS: i64 = 15;

/// What the decision is made from.
pub(super) struct Seen<'a> {
    pub set: &'a DaemonSet,
    pub pods: &'a [Arc<Pod>],
    pub nodes: &'a [Arc<Node>],
    /// Of the present template.
    pub hash: &'a str,
}

#[derive(Debug)]
pub(super) struct Plan {
    /// Nodes, once for each pod.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    /// Those of `delete` that failed.
    pub failed: Vec<Arc<Pod>>,
    pub status: DaemonSetStatus,
    pub again: Requeue,
}

/// What a node may do with the set's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It gets one.
    Wanted,
    /// It gets none; one that is there stays.
    Kept,
    /// One that is there goes.
    Unwanted,
}

/// The hash of the template that a pod was made from.
pub(super) fn hash(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(HASH_LABEL).map(String::as_str)
}

/// The node that a pod is for: where it is bound, else where its affinity wants it.
fn node_of(pod: &Pod) -> Option<String> {
    if let Some(node) = &pod.spec.node_name {
        return Some(node.clone());
    }
    let terms = &pod.spec.affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let field = &terms["nodeSelectorTerms"][0]["matchFields"][0];
    (field["key"] == "metadata.name")
        .then(|| field["values"][0].as_str().map(String::from))
        .flatten()
}

fn place(set: &DaemonSet, node: &Node) -> Place {
    let spec = &set.spec.template["spec"];
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let elsewhere = spec["nodeName"]
        .as_str()
        .is_some_and(|wanted| !wanted.is_empty() && wanted != name);
    if elsewhere || !wants(spec, name, node) {
        return Place::Unwanted;
    }
    let taints: Vec<Taint> = node.spec.taints.iter().map(|taint| taint.taint.clone()).collect();
    let tolerations = tolerations(spec);
    let hit = |effects: &[Effect]| first_untolerated(&taints, &tolerations, effects).is_some();
    match (hit(&[Effect::NoExecute]), hit(&[Effect::NoSchedule])) {
        (true, _) => Place::Unwanted,
        (false, true) => Place::Kept,
        (false, false) => Place::Wanted,
    }
}

/// Whether the template's selector and required affinity fit the node.
fn wants(spec: &Value, name: &str, node: &Node) -> bool {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let selector: BTreeMap<String, String> =
        serde_json::from_value(spec["nodeSelector"].clone()).unwrap_or_default();
    let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let required: Option<NodeSelector> = serde_json::from_value(required.clone()).unwrap_or_default();
    let affinity = NodeAffinity {
        required,
        ..NodeAffinity::default()
    };
    node_affinity::fits(&selector, Some(&affinity), name, labels)
}

/// The pods of one node, oldest first.
type OnNode = Vec<Arc<Pod>>;

pub(super) fn plan(seen: &Seen<'_>, now: Timestamp) -> Plan {
    let mut by_node: BTreeMap<String, OnNode> = BTreeMap::new();
    let mut plan = Plan {
        create: Vec::new(),
        delete: Vec::new(),
        failed: Vec::new(),
        status: DaemonSetStatus::default(),
        again: Requeue::Never,
    };
    for pod in seen.pods {
        if let Some(node) = node_of(pod) {
            by_node.entry(node).or_default().push(pod.clone());
        }
    }
    by_node.values_mut().for_each(|pods| oldest_first(pods));
    let surge = budget(seen).surge > 0;
    for node in seen.nodes {
        let name = node.metadata.name.clone().unwrap_or_default();
        let pods = by_node.get(&name).map_or(&[][..], Vec::as_slice);
        settle_node(seen, &mut plan, place(seen.set, node), &name, pods, surge, now);
    }
    // Pods for nodes that are gone are cleared away by whoever clears nodes' pods; only those not bound are ours.
    let gone = |name: &String| {
        !seen
            .nodes
            .iter()
            .any(|node| node.metadata.name.as_ref() == Some(name))
    };
    for (_, pods) in by_node.iter().filter(|(name, _)| gone(name)) {
        let unbound = pods.iter().filter(|pod| pod.spec.node_name.is_none());
        plan.delete.extend(unbound.cloned());
    }
    if plan.create.is_empty() && plan.delete.is_empty() {
        replace_old(seen, &mut plan, &by_node, now);
    }
    plan.create.truncate(BURST);
    plan.status = status(seen, &by_node, now);
    let next = next_available(seen.pods, seen.set.spec.min_ready_seconds, now);
    plan.again = earlier(plan.again, next);
    plan
}

fn earlier(one: Requeue, other: Requeue) -> Requeue {
    match (one, other) {
        (Requeue::After(one), Requeue::After(other)) => Requeue::After(one.min(other)),
        (Requeue::Never, other) => other,
        (one, Requeue::Never) => one,
    }
}

/// One node: a missing pod is made, one too many goes, an ended one is replaced.
fn settle_node(
    seen: &Seen<'_>,
    plan: &mut Plan,
    place: Place,
    name: &str,
    pods: &[Arc<Pod>],
    surge: bool,
    now: Timestamp,
) {
    let leaving = |pod: &&Arc<Pod>| pod.metadata.deletion_timestamp.is_some();
    if place == Place::Unwanted {
        plan.delete
            .extend(pods.iter().filter(|pod| !leaving(pod)).cloned());
        return;
    }
    if pods.is_empty() {
        if place == Place::Wanted {
            plan.create.push(name.to_owned());
        }
        return;
    }
    let mut running = Vec::new();
    for pod in pods.iter().filter(|pod| !leaving(pod)) {
        match pod.status.phase.as_deref() {
            Some("Failed") => {
                let created = pod.metadata.creation_timestamp.as_ref();
                let due = created.map_or(0, |time| time.0.as_second()) + FAILED_REST_SECONDS;
                if due <= now.as_second() {
                    plan.failed.push(pod.clone());
                    plan.delete.push(pod.clone());
                } else {
                    let left = Duration::from_secs((due - now.as_second()).unsigned_abs());
                    plan.again = earlier(plan.again, Requeue::After(left));
                }
            }
            Some("Succeeded") => plan.delete.push(pod.clone()),
            _ => running.push(pod.clone()),
        }
    }
    // While one surges there are two: one of each template.
    let mut kept: Vec<bool> = Vec::new();
    for pod in running {
        let new = hash(&pod) == Some(seen.hash);
        let full = if surge {
            kept.contains(&new)
        } else {
            !kept.is_empty()
        };
        if full {
            plan.delete.push(pod);
        } else {
            kept.push(new);
        }
    }
}

/// How many may be missing, and how many may be twice, during an update.
struct Budget {
    unavailable: i32,
    surge: i32,
}

fn budget(seen: &Seen<'_>) -> Budget {
    let wanted = seen
        .nodes
        .iter()
        .filter(|node| place(seen.set, node) == Place::Wanted)
        .count() as i32;
    let rolling = &seen.set.spec.update_strategy.rolling_update;
    let or = |value: &Value, default: i64| {
        let fallback = json!(default);
        scaled(if value.is_null() { &fallback } else { value }, wanted, true).unwrap_or(0)
    };
    let surge = or(&rolling.max_surge, 0);
    let unavailable = or(&rolling.max_unavailable, i64::from(surge == 0));
    Budget {
        unavailable: if unavailable == 0 && surge == 0 {
            1
        } else {
            unavailable
        },
        surge,
    }
}

/// The rolling update: pods of an older template go as the budget allows; those that serve nobody go first.
fn replace_old(seen: &Seen<'_>, plan: &mut Plan, by_node: &BTreeMap<String, OnNode>, now: Timestamp) {
    if seen.set.spec.update_strategy.kind.as_deref() == Some("OnDelete") {
        return;
    }
    let budget = budget(seen);
    let available = |pod: &Arc<Pod>| is_available(pod, seen.set.spec.min_ready_seconds, now);
    let (mut missing, mut surging) = (0, 0);
    let (mut useless, mut candidates, mut doubles) = (Vec::new(), Vec::new(), Vec::new());
    for node in seen
        .nodes
        .iter()
        .filter(|node| place(seen.set, node) == Place::Wanted)
    {
        let name = node.metadata.name.clone().unwrap_or_default();
        let pods = by_node.get(&name).map_or(&[][..], Vec::as_slice);
        let mut staying = pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let new = staying.clone().find(|pod| hash(pod) == Some(seen.hash));
        let old = staying.find(|pod| hash(pod) != Some(seen.hash));
        match (old, new) {
            (None, Some(new)) => missing += i32::from(!available(new)),
            (None, None) => missing += 1,
            (Some(old), None) if !available(old) => useless.push((name, old.clone())),
            (Some(old), None) => candidates.push((name, old.clone())),
            (Some(old), Some(new)) if available(new) => doubles.push(old.clone()),
            (Some(_), Some(_)) => surging += 1,
        }
    }
    plan.delete.extend(doubles);
    if budget.surge > 0 {
        let room = usize::try_from(budget.surge - surging).unwrap_or(0);
        plan.create.extend(
            useless
                .into_iter()
                .chain(candidates)
                .map(|(name, _)| name)
                .take(room),
        );
        return;
    }
    let room = usize::try_from(budget.unavailable - missing - useless.len() as i32).unwrap_or(0);
    plan.delete.extend(useless.into_iter().map(|(_, pod)| pod));
    plan.delete
        .extend(candidates.into_iter().take(room).map(|(_, pod)| pod));
}

fn status(seen: &Seen<'_>, by_node: &BTreeMap<String, OnNode>, now: Timestamp) -> DaemonSetStatus {
    let mut status = DaemonSetStatus {
        observed_generation: seen.set.metadata.generation.unwrap_or(0),
        collision_count: seen.set.status.collision_count,
        conditions: seen.set.status.conditions.clone(),
        ..DaemonSetStatus::default()
    };
    for node in seen.nodes {
        let name = node.metadata.name.clone().unwrap_or_default();
        let pods = by_node.get(&name).map_or(&[][..], Vec::as_slice);
        if place(seen.set, node) != Place::Wanted {
            status.number_misscheduled += i32::from(!pods.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        // The oldest pod that is not on its way out speaks for the node.
        let speaker = pods
            .iter()
            .find(|pod| pod.metadata.deletion_timestamp.is_none())
            .or(pods.first());
        let Some(pod) = speaker else { continue };
        status.current_number_scheduled += 1;
        status.number_ready += i32::from(ready_since(pod).is_some());
        status.number_available += i32::from(is_available(pod, seen.set.spec.min_ready_seconds, now));
        status.updated_number_scheduled += i32::from(hash(pod) == Some(seen.hash));
    }
    status.number_unavailable = status.desired_number_scheduled - status.number_available;
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, decoded};
    use expect_test::{Expect, expect};

    fn set(extra: Value) -> DaemonSet {
        let mut spec = json!({"selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"nodeSelector": {"disk": "ssd"}}}});
        for (name, value) in extra.as_object().into_iter().flatten() {
            spec[name] = value.clone();
        }
        decoded(
            json!({"metadata": {"name": "agent", "namespace": "default", "uid": "u", "generation": 1}, "spec": spec}),
        )
    }

    fn node(name: &str, label: &str, taint: Value) -> Arc<Node> {
        Arc::new(decoded(json!({
            "metadata": {"name": name, "labels": {"disk": label}}, "spec": {"taints": taint.as_array().cloned().unwrap_or_default()},
        })))
    }

    fn ssd(name: &str) -> Arc<Node> {
        node(name, "ssd", json!([]))
    }

    /// A pod of the set; `state` is its phase, or `Ready`.
    fn pod(name: &str, node: &str, hash: &str, state: &str) -> Arc<Pod> {
        let conditions = match state {
            "Ready" => json!([{"type": "Ready", "status": "True", "lastTransitionTime": at(1).to_string()}]),
            _ => json!([]),
        };
        let phase = if state == "Ready" { "Running" } else { state };
        Arc::new(decoded(json!({
            "metadata": {"name": name, "namespace": "default", "labels": {HASH_LABEL: hash}, "creationTimestamp": at(0).to_string()},
            "spec": {"nodeName": node}, "status": {"phase": phase, "conditions": conditions},
        })))
    }

    fn check(set: &DaemonSet, nodes: &[Arc<Node>], pods: &[Arc<Pod>], expected: Expect) {
        let seen = Seen {
            set,
            pods,
            nodes,
            hash: "new",
        };
        let plan = plan(&seen, at(100));
        let deleted: Vec<_> = plan
            .delete
            .iter()
            .map(|pod| pod.metadata.name.clone().unwrap_or_default())
            .collect();
        let status = &plan.status;
        let text = format!(
            "create on [{}], delete [{}]; desired {} current {} misscheduled {} ready {} updated {} unavailable {}",
            plan.create.join(", "),
            deleted.join(", "),
            status.desired_number_scheduled,
            status.current_number_scheduled,
            status.number_misscheduled,
            status.number_ready,
            status.updated_number_scheduled,
            status.number_unavailable,
        );
        expected.assert_eq(&text);
    }

    #[test]
    fn every_fitting_node_gets_one_pod_and_no_other() {
        let taint = json!([{"key": "own", "value": "x", "effect": "NoSchedule"}]);
        let nodes = [
            ssd("a"),
            ssd("b"),
            node("c", "disk", json!([])),
            node("d", "ssd", taint.clone()),
            node("e", "ssd", taint),
        ];
        let pods = [
            pod("p1", "a", "new", "Ready"),
            pod("p2", "a", "new", "Ready"),
            pod("p3", "c", "new", "Ready"),
            pod("p4", "d", "new", "Ready"),
        ];
        check(
            &set(json!({})),
            &nodes,
            &pods,
            expect![
                "create on [b], delete [p2, p3]; desired 2 current 1 misscheduled 2 ready 1 updated 1 unavailable 1"
            ],
        );
    }

    #[test]
    fn a_node_that_throws_pods_out_loses_its_own_and_lost_nodes_keep_theirs() {
        let nodes = [
            node("a", "ssd", json!([{"key": "out", "effect": "NoExecute"}])),
            node(
                "b",
                "ssd",
                json!([{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]),
            ),
        ];
        let pods = [pod("p1", "a", "new", "Ready"), pod("p2", "b", "new", "Ready")];
        check(
            &set(json!({})),
            &nodes,
            &pods,
            expect![
                "create on [], delete [p1]; desired 1 current 1 misscheduled 1 ready 1 updated 1 unavailable 0"
            ],
        );
    }

    #[test]
    fn ended_pods_are_replaced() {
        let pods = [
            pod("p1", "a", "new", "Failed"),
            pod("p2", "b", "new", "Succeeded"),
        ];
        check(
            &set(json!({})),
            &[ssd("a"), ssd("b")],
            &pods,
            expect![
                "create on [], delete [p1, p2]; desired 2 current 2 misscheduled 0 ready 0 updated 2 unavailable 2"
            ],
        );
    }

    #[test]
    fn an_update_takes_useless_pods_first_and_then_as_many_as_may_be_missing() {
        let nodes = [ssd("a"), ssd("b"), ssd("c")];
        let old = [
            pod("p1", "a", "old", "Ready"),
            pod("p2", "b", "old", "Ready"),
            pod("p3", "c", "old", "Ready"),
        ];
        check(
            &set(json!({})),
            &nodes,
            &old,
            expect![
                "create on [], delete [p1]; desired 3 current 3 misscheduled 0 ready 3 updated 0 unavailable 0"
            ],
        );
        let useless = [
            pod("p1", "a", "new", "Ready"),
            pod("p2", "b", "old", "Pending"),
            pod("p3", "c", "old", "Ready"),
        ];
        check(
            &set(json!({})),
            &nodes,
            &useless,
            expect![
                "create on [], delete [p2]; desired 3 current 3 misscheduled 0 ready 2 updated 1 unavailable 1"
            ],
        );
        let slow = [
            pod("p1", "a", "new", "Pending"),
            pod("p2", "b", "old", "Ready"),
            pod("p3", "c", "old", "Ready"),
        ];
        check(
            &set(json!({})),
            &nodes,
            &slow,
            expect![
                "create on [], delete []; desired 3 current 3 misscheduled 0 ready 2 updated 1 unavailable 1"
            ],
        );
        check(
            &set(json!({"updateStrategy": {"type": "OnDelete"}})),
            &nodes,
            &old,
            expect![
                "create on [], delete []; desired 3 current 3 misscheduled 0 ready 3 updated 0 unavailable 0"
            ],
        );
    }

    #[test]
    fn a_surging_update_makes_the_new_pod_before_the_old_one_goes() {
        let nodes = [ssd("a"), ssd("b")];
        let surging = set(json!({"updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}));
        let old = [pod("p1", "a", "old", "Ready"), pod("p2", "b", "old", "Ready")];
        check(
            &surging,
            &nodes,
            &old,
            expect![
                "create on [a], delete []; desired 2 current 2 misscheduled 0 ready 2 updated 0 unavailable 0"
            ],
        );
        let both = [
            pod("p1", "a", "old", "Ready"),
            pod("p3", "a", "new", "Ready"),
            pod("p2", "b", "old", "Ready"),
        ];
        check(
            &surging,
            &nodes,
            &both,
            expect![
                "create on [b], delete [p1]; desired 2 current 2 misscheduled 0 ready 2 updated 0 unavailable 0"
            ],
        );
    }

    #[test]
    fn the_pod_names_its_node_and_tolerates_what_daemons_must() {
        let pod = super::super::template::pod(&set(json!({})), "a", "new");
        let decoded: Pod = decoded(pod.clone());
        assert_eq!(node_of(&decoded).as_deref(), Some("a"));
        assert_eq!(hash(&decoded), Some("new"));
        assert_eq!(pod["spec"]["tolerations"].as_array().map(Vec::len), Some(6));
    }
}
