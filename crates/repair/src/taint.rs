//! Conditions → taints on workload nodes: new pods avoid a node with a known problem, and come back after it.

use k8s_openapi::api::core::v1::Taint;
use mainstay_machines::context::NodeView;

/// Prefix of the taints of this controller; it never touches others.
pub const PREFIX: &str = "problem.mainstay.dev/";

/// Condition types that other controllers turn into taints, or that say nothing about trouble.
const NOT_OURS: [&str; 5] = [
    "Ready",
    "MemoryPressure",
    "DiskPressure",
    "PIDPressure",
    "NetworkUnavailable",
];

/// The taint of a condition type: `KernelDeadlock` becomes `problem.mainstay.dev/kernel-deadlock`.
pub fn key(condition: &str) -> String {
    let mut name = String::new();
    for letter in condition.chars() {
        if letter.is_ascii_uppercase() && name.chars().last().is_some_and(|last| last.is_ascii_lowercase()) {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    format!("{PREFIX}{name}")
}

/// All taints the node should have; None when it has them. A condition with status Unknown changes nothing.
pub fn wanted(node: &NodeView) -> Option<Vec<Taint>> {
    let mut taints = node.spec.taints.clone();
    for condition in &node.status.conditions {
        if NOT_OURS.contains(&condition.kind.as_str()) || condition.kind.contains('/') {
            continue;
        }
        let key = key(&condition.kind);
        let there = taints.iter().any(|taint| taint.key == key);
        match (condition.status.as_str(), there) {
            ("True", false) => {
                taints.push(Taint {
                    key,
                    effect: "NoSchedule".into(),
                    value: None,
                    time_added: None,
                });
            }
            ("False", true) => taints.retain(|taint| taint.key != key),
            _ => {}
        }
    }
    // A condition that was removed altogether no longer speaks for its taint.
    let known: Vec<String> = node.status.conditions.iter().map(|c| key(&c.kind)).collect();
    taints.retain(|taint| !taint.key.starts_with(PREFIX) || known.contains(&taint.key));
    (taints != node.spec.taints).then_some(taints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_machines::context::NodeViewCondition;

    fn node(conditions: &[(&str, &str)], taints: &[&str]) -> NodeView {
        let mut node = NodeView::default();
        let condition = |(kind, status): &(&str, &str)| NodeViewCondition {
            kind: (*kind).into(),
            status: (*status).into(),
            ..Default::default()
        };
        node.status.conditions = conditions.iter().map(condition).collect();
        node.spec.taints = taints
            .iter()
            .map(|key| Taint {
                key: (*key).into(),
                effect: "NoSchedule".into(),
                ..Default::default()
            })
            .collect();
        node
    }

    fn keys(node: &NodeView) -> Option<Vec<String>> {
        wanted(node).map(|taints| taints.into_iter().map(|taint| taint.key).collect())
    }

    #[test]
    fn a_problem_taints_and_its_end_untaints() {
        let deadlock = "problem.mainstay.dev/kernel-deadlock";
        assert_eq!(
            keys(&node(&[("KernelDeadlock", "True")], &["own"])),
            Some(vec!["own".into(), deadlock.into()])
        );
        assert_eq!(keys(&node(&[("KernelDeadlock", "True")], &[deadlock])), None);
        assert_eq!(keys(&node(&[("KernelDeadlock", "Unknown")], &[deadlock])), None);
        assert_eq!(
            keys(&node(&[("KernelDeadlock", "False")], &["own", deadlock])),
            Some(vec!["own".into()])
        );
        assert_eq!(keys(&node(&[("Ready", "True")], &[deadlock])), Some(vec![]));
    }
}
