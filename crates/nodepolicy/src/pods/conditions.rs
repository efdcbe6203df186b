//! A pod's conditions from its containers' statuses. Pure.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, PodCondition, PodSpec};

use crate::plan::is_sidecar;

/// Conditions that only the node reports, with `PodScheduled`, on which it agrees with the scheduler.
pub const OF_NODE: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "ContainersReady",
    "Ready",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
];

/// A condition without its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The condition's type.
    pub kind: &'static str,
    /// Whether it holds.
    pub status: bool,
    /// CamelCase reason.
    pub reason: Option<&'static str>,
    /// Details.
    pub message: Option<String>,
}

impl Verdict {
    /// A condition that does not hold.
    pub fn fails(kind: &'static str, reason: &'static str, message: Option<String>) -> Self {
        Verdict {
            kind,
            status: false,
            reason: Some(reason),
            message,
        }
    }

    /// A condition that holds.
    pub fn holds(kind: &'static str, reason: Option<&'static str>) -> Self {
        Verdict {
            kind,
            status: true,
            reason,
            message: None,
        }
    }
}

fn status_of<'s>(statuses: &[&'s ContainerStatus], name: &str) -> Option<&'s ContainerStatus> {
    statuses.iter().find(|s| s.name == name).copied()
}

/// Names without a status, and names with a status that is not good.
#[derive(Default)]
struct Missing<'n> {
    unknown: Vec<&'n str>,
    wrong: Vec<&'n str>,
}

impl<'n> Missing<'n> {
    fn among(
        containers: impl Iterator<Item = &'n Container>,
        statuses: &[&ContainerStatus],
        good: impl Fn(&Container, &ContainerStatus) -> bool,
    ) -> Self {
        let mut missing = Missing::default();
        for container in containers {
            match status_of(statuses, &container.name) {
                None => missing.unknown.push(&container.name),
                Some(status) if !good(container, status) => missing.wrong.push(&container.name),
                Some(_) => {}
            }
        }
        missing
    }

    fn message(&self, what: &str) -> Option<String> {
        let lists = [("unknown", &self.unknown), (what, &self.wrong)];
        let named = lists.iter().filter(|(_, names)| !names.is_empty());
        let texts: Vec<String> = named
            .map(|(what, names)| format!("containers with {what} status: [{}]", names.join(" ")))
            .collect();
        (!texts.is_empty()).then(|| texts.join(", "))
    }
}

/// `Initialized`; `None` for the statuses: nothing is known of any container.
pub fn initialized(
    spec: &PodSpec,
    statuses: Option<&[&ContainerStatus]>,
    phase: &str,
    before: &[PodCondition],
) -> Verdict {
    const KIND: &str = "Initialized";
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let Some(statuses) = statuses.or(inits.is_empty().then_some(&[])) else {
        return Verdict::fails(KIND, "UnknownContainerStatuses", None);
    };
    let missing = Missing::among(inits.iter(), statuses, |container, status| {
        match is_sidecar(container) {
            true => status.started == Some(true),
            false => status.ready,
        }
    });
    if phase == "Succeeded" && missing.unknown.is_empty() {
        return Verdict::holds(KIND, Some("PodCompleted"));
    }
    let begun = spec.containers.iter().any(|c| {
        let state = status_of(statuses, &c.name).and_then(|s| s.state.as_ref());
        state.is_some_and(|s| s.running.is_some() || s.terminated.is_some())
    });
    let was = before.iter().any(|c| c.type_ == KIND && c.status == "True");
    match missing.message("incomplete") {
        Some(message) if !begun && !was => Verdict::fails(KIND, "ContainersNotInitialized", Some(message)),
        _ => Verdict::holds(KIND, None),
    }
}

/// `ContainersReady` (or, as `kind`, a condition that follows it).
pub fn containers_ready(
    kind: &'static str,
    spec: &PodSpec,
    statuses: Option<&[&ContainerStatus]>,
    phase: &str,
) -> Verdict {
    let Some(statuses) = statuses else {
        return Verdict::fails(kind, "UnknownContainerStatuses", None);
    };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
    let missing = Missing::among(sidecars.chain(&spec.containers), statuses, |_, s| s.ready);
    match phase {
        "Succeeded" if missing.unknown.is_empty() => return Verdict::fails(kind, "PodCompleted", None),
        "Failed" => return Verdict::fails(kind, "PodFailed", None),
        _ => {}
    }
    match missing.message("unready") {
        Some(message) => Verdict::fails(kind, "ContainersNotReady", Some(message)),
        None => Verdict::holds(kind, None),
    }
}

fn unmet_gates(spec: &PodSpec, conditions: &[PodCondition]) -> Vec<String> {
    let unmet = |name: &str| match conditions.iter().find(|c| c.type_ == name) {
        None => Some(format!(
            "corresponding condition of pod readiness gate {name:?} does not exist."
        )),
        Some(c) if c.status != "True" => Some(format!(
            "the status of pod readiness gate {name:?} is not \"True\", but {}",
            c.status
        )),
        Some(_) => None,
    };
    let gates = spec.readiness_gates.iter().flatten();
    gates.filter_map(|g| unmet(&g.condition_type)).collect()
}

/// `Ready`: all containers, and every readiness gate among the conditions that others set.
pub fn ready(
    spec: &PodSpec,
    statuses: Option<&[&ContainerStatus]>,
    phase: &str,
    conditions: &[PodCondition],
) -> Verdict {
    let all = containers_ready("Ready", spec, statuses, phase);
    let unmet = unmet_gates(spec, conditions);
    match all.status && !unmet.is_empty() {
        true => Verdict::fails("Ready", "ReadinessGatesNotReady", Some(unmet.join(", "))),
        false => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_missing_is_named() {
        let spec: PodSpec = serde_json::from_value(
            json!({"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}),
        )
        .expect("valid");
        let status = ContainerStatus {
            name: "a".into(),
            ..Default::default()
        };
        let ready = containers_ready("ContainersReady", &spec, Some(&[&status]), "Pending");
        assert_eq!(
            ready.message.as_deref(),
            Some("containers with unknown status: [b], containers with unready status: [a]")
        );
        let initialized = initialized(&spec, Some(&[&status]), "Pending", &[]);
        assert_eq!(
            initialized.message.as_deref(),
            Some("containers with unknown status: [i]")
        );
    }
}
