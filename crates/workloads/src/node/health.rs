//! The decision about one node: its conditions after silence, and the taints its conditions ask for. Rules:
//! <https://kubernetes.io/docs/concepts/architecture/nodes/> and
//! <https://kubernetes.io/docs/reference/labels-annotations-taints/>.

use std::time::Duration;

use jiff::Timestamp;
use mainstay_semantics::toleration::{Effect, Taint};

use super::Health;
use crate::kinds::{Condition, Node, NodeTaint, condition};
use crate::pods::{set_condition, whole_seconds};

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions besides Ready that a node reports, and the taint while they are True.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// Conditions that only the node itself writes: silence makes them Unknown.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// When a node last gave a sign of life, by our clock.
#[derive(Debug, Clone)]
pub(super) struct Heartbeat {
    renewed: Option<Timestamp>,
    reported: Option<Timestamp>,
    at: Duration,
}

impl Heartbeat {
    pub(super) fn new(at: Duration) -> Self {
        Heartbeat {
            renewed: None,
            reported: None,
            at,
        }
    }

    pub(super) fn see(&mut self, renewed: Option<Timestamp>, reported: Option<Timestamp>, at: Duration) {
        if renewed != self.renewed || reported != self.reported {
            *self = Heartbeat {
                renewed,
                reported,
                at,
            };
        }
    }

    pub(super) fn silence(&self, now: Duration) -> Duration {
        now.saturating_sub(self.at)
    }
}

/// The heartbeat time inside the node's own status.
pub(super) fn reported(node: &Node) -> Option<Timestamp> {
    condition(&node.status.conditions, "Ready")?.last_heartbeat_time
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Write these conditions: the node fell silent.
    Conditions(Vec<Condition>),
    /// Write these taints.
    Taints(Vec<NodeTaint>),
    /// Take the node's pods out of their Services.
    PodsNotReady,
}

/// How a node stands for eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    Ready,
    NotReady,
    Unknown,
}

pub(super) fn readiness(conditions: &[Condition]) -> Readiness {
    match condition(conditions, "Ready").map(|ready| ready.status.as_str()) {
        Some("True") => Readiness::Ready,
        Some("False") => Readiness::NotReady,
        _ => Readiness::Unknown,
    }
}

pub(super) fn plan(node: &Node, silence: Duration, health: &Health, now: Timestamp) -> Vec<Step> {
    if node.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let conditions = after_silence(node, silence, health, now);
    let before = readiness(&node.status.conditions);
    let mut steps = Vec::new();
    if conditions != node.status.conditions {
        steps.push(Step::Conditions(conditions.clone()));
    }
    let taints = taints(node, &conditions, now);
    if taints != node.spec.taints {
        steps.push(Step::Taints(taints));
    }
    if readiness(&conditions) != Readiness::Ready && (before == Readiness::Ready || has_condition(node)) {
        steps.push(Step::PodsNotReady);
    }
    steps
}

fn has_condition(node: &Node) -> bool {
    condition(&node.status.conditions, "Ready").is_some()
}

fn after_silence(node: &Node, silence: Duration, health: &Health, now: Timestamp) -> Vec<Condition> {
    let mut conditions = node.status.conditions.clone();
    let grace = if has_condition(node) {
        health.grace
    } else {
        health.startup_grace
    };
    if silence <= grace {
        return conditions;
    }
    for kind in REPORTED {
        let known = condition(&conditions, kind).cloned();
        if known.as_ref().is_some_and(|known| known.status == "Unknown") {
            continue;
        }
        let (reason, message) = match known {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        let unknown = Condition {
            kind: kind.into(),
            status: "Unknown".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: known.and_then(|known| known.last_heartbeat_time),
            ..Condition::default()
        };
        set_condition(&mut conditions, unknown, now);
    }
    conditions
}

/// The taints the node shall have: others' stay as they are, ours follow the conditions.
fn taints(node: &Node, conditions: &[Condition], now: Timestamp) -> Vec<NodeTaint> {
    let wanted = wanted(node, conditions);
    let ours = |taint: &Taint| {
        let keys = PRESSURES
            .iter()
            .map(|(_, key)| *key)
            .chain([NOT_READY, UNREACHABLE]);
        keys.into_iter().any(|key| key == taint.key)
            || (taint.key == UNSCHEDULABLE && taint.effect == Effect::NoSchedule)
    };
    let mut taints: Vec<NodeTaint> = node
        .spec
        .taints
        .iter()
        .filter(|held| !ours(&held.taint) || wanted.contains(&held.taint))
        .cloned()
        .collect();
    for taint in wanted {
        if !taints.iter().any(|held| held.taint == taint) {
            taints.push(NodeTaint {
                taint,
                time_added: Some(whole_seconds(now)),
            });
        }
    }
    taints
}

fn wanted(node: &Node, conditions: &[Condition]) -> Vec<Taint> {
    let taint = |key: &str, effect| Taint {
        key: key.into(),
        value: String::new(),
        effect,
    };
    let both = |key| vec![taint(key, Effect::NoSchedule), taint(key, Effect::NoExecute)];
    let mut wanted = match readiness(conditions) {
        Readiness::Ready => Vec::new(),
        Readiness::NotReady => both(NOT_READY),
        // A node that has not reported yet is not lost: it only takes no pods.
        Readiness::Unknown if condition(conditions, "Ready").is_none() => {
            vec![taint(NOT_READY, Effect::NoSchedule)]
        }
        Readiness::Unknown => both(UNREACHABLE),
    };
    let pressed = PRESSURES
        .iter()
        .filter(|(kind, _)| crate::kinds::is_true(conditions, kind));
    wanted.extend(pressed.map(|(_, key)| taint(key, Effect::NoSchedule)));
    if node.spec.unschedulable {
        wanted.push(taint(UNSCHEDULABLE, Effect::NoSchedule));
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, decoded};
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn check(node: Value, silence: u64, expected: Expect) {
        let node: Node = decoded(node);
        let steps = plan(&node, Duration::from_secs(silence), &Health::default(), at(1000));
        let text = |step: &Step| match step {
            Step::PodsNotReady => "pods not ready".to_string(),
            Step::Conditions(conditions) => {
                let unknown = conditions
                    .iter()
                    .filter(|condition| condition.status == "Unknown");
                format!(
                    "unknown {}",
                    unknown
                        .map(|condition| condition.kind.as_str())
                        .collect::<Vec<_>>()
                        .join(" ")
                )
            }
            Step::Taints(taints) => {
                let one = |held: &NodeTaint| {
                    format!(
                        "{}:{:?}",
                        held.taint.key.rsplit('/').next().unwrap_or_default(),
                        held.taint.effect
                    )
                };
                format!("taints {}", taints.iter().map(one).collect::<Vec<_>>().join(" "))
            }
        };
        expected.assert_eq(&steps.iter().map(text).collect::<Vec<_>>().join("; "));
    }

    fn node(ready: &str, more: Value, taints: Value) -> Value {
        let mut conditions = vec![json!({"type": "Ready", "status": ready})];
        conditions.extend(more.as_array().cloned().unwrap_or_default());
        json!({"metadata": {"name": "n1"}, "spec": {"taints": taints}, "status": {"conditions": conditions}})
    }

    #[test]
    fn a_healthy_node_is_left_alone() {
        check(node("True", json!([]), json!([])), 40, expect![""]);
    }

    #[test]
    fn silence_makes_all_reported_conditions_unknown_and_taints() {
        check(
            node(
                "True",
                json!([{"type": "DiskPressure", "status": "False"}]),
                json!([]),
            ),
            41,
            expect![
                "unknown Ready MemoryPressure DiskPressure PIDPressure; taints unreachable:NoSchedule unreachable:NoExecute; pods not ready"
            ],
        );
    }

    #[test]
    fn recovery_takes_our_taints_away_and_leaves_others() {
        let taints =
            json!([{"key": UNREACHABLE, "effect": "NoExecute"}, {"key": "mine", "effect": "NoSchedule"}]);
        check(
            node("True", json!([]), taints),
            1,
            expect!["taints mine:NoSchedule"],
        );
    }

    #[test]
    fn pressure_and_cordon_become_taints() {
        let mut pressed = node(
            "True",
            json!([{"type": "MemoryPressure", "status": "True"}]),
            json!([]),
        );
        pressed["spec"]["unschedulable"] = true.into();
        check(
            pressed,
            1,
            expect!["taints memory-pressure:NoSchedule unschedulable:NoSchedule"],
        );
    }

    #[test]
    fn a_node_that_never_reported_takes_no_pods_and_gets_more_time() {
        let silent = json!({"metadata": {"name": "n1"}, "spec": {}, "status": {}});
        check(silent.clone(), 50, expect!["taints not-ready:NoSchedule"]);
        check(
            silent,
            61,
            expect![
                "unknown Ready MemoryPressure DiskPressure PIDPressure; taints unreachable:NoSchedule unreachable:NoExecute"
            ],
        );
    }
}
