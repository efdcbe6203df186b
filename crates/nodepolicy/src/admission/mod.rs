//! Whether the node takes a pod that was bound to it: the last check, by what is really there.

pub mod predicates;
pub mod preempt;
pub mod sysctl;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use mainstay_semantics::qos::Class;
use mainstay_semantics::toleration::{Effect, Taint, Toleration, tolerated};

use crate::eviction::thresholds::Condition;
use crate::{podspec, qos};
use predicates::{Misfit, NodeView, misfits, unsupported};

/// Why a pod is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// CamelCase reason.
    pub reason: String,
    /// Details.
    pub message: String,
}

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It runs, after the pods with these UIDs have made room.
    Admit {
        /// UIDs.
        after: Vec<String>,
    },
    /// It does not run here.
    Refuse {
        /// Why.
        refusal: Refusal,
        /// Whether a fresh look at the Node's labels could change that.
        ask_again: bool,
    },
}

impl From<Refusal> for Decision {
    fn from(refusal: Refusal) -> Self {
        Decision::Refuse {
            refusal,
            ask_again: false,
        }
    }
}

/// Refuses what makes a pressure worse: everything but critical pods under disk or pid pressure, only BestEffort pods
/// that do not tolerate it under memory pressure alone.
pub fn under_pressure(conditions: &BTreeSet<Condition>, pod: &Pod) -> Option<Refusal> {
    if conditions.is_empty() || podspec::is_critical(pod) {
        return None;
    }
    let memory_alone = conditions.iter().eq([&Condition::Memory]);
    if memory_alone && (qos::class(pod) != Class::BestEffort || tolerates_memory_pressure(pod)) {
        return None;
    }
    let names: Vec<&str> = conditions.iter().map(|c| c.as_str()).collect();
    Some(Refusal {
        reason: "Evicted".to_owned(),
        message: format!("The node had condition: [{}]. ", names.join(" ")),
    })
}

fn tolerates_memory_pressure(pod: &Pod) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/memory-pressure".to_owned(),
        value: String::new(),
        effect: Effect::NoSchedule,
    };
    let given = pod.spec.as_ref().and_then(|s| s.tolerations.as_ref());
    let read = serde_json::to_value(given).and_then(serde_json::from_value::<Option<Vec<Toleration>>>);
    tolerated(&read.ok().flatten().unwrap_or_default(), &taint)
}

/// Decides by what is on the node: fits, fits once others have gone, or not. `node` is missing while nothing at all is
/// known of it.
pub fn place(node: Option<&NodeView>, pod: &Pod, others: &[&Pod]) -> Decision {
    let Some(node) = node else {
        return Decision::from(Refusal {
            reason: "InvalidNodeInfo".to_owned(),
            message: "Kubelet cannot get node info.".to_owned(),
        });
    };
    if let Some(refusal) = unsupported(node, pod) {
        return refusal.into();
    }
    let found = misfits(node, pod, others);
    let ask_again = !found.is_empty() && found.iter().all(Misfit::is_affinity);
    match preempt::recover(pod, others, found) {
        Err(why) => Decision::from(Refusal {
            reason: "UnexpectedAdmissionError".to_owned(),
            message: format!("Unexpected error while attempting to recover from admission failure: {why}"),
        }),
        Ok(recovery) => match recovery.remaining.first() {
            Some(misfit) => Decision::Refuse {
                refusal: misfit.refusal(),
                ask_again,
            },
            None => Decision::Admit {
                after: recovery
                    .victims
                    .iter()
                    .map(|p| podspec::uid(p).to_owned())
                    .collect(),
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn memory_pressure_alone_keeps_best_effort_pods_away_unless_they_tolerate_it() {
        let pod = |requests: &str, tolerations: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"tolerations": tolerations,
                "containers": [{"name": "a", "resources": {"requests": serde_json::from_str::<serde_json::Value>(requests).expect("JSON")}}]}}))
            .expect("valid")
        };
        let tolerates = json!([{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]);
        let memory = BTreeSet::from([Condition::Memory]);
        let disk = BTreeSet::from([Condition::Disk]);
        let refused = [
            under_pressure(&memory, &pod("{}", json!([]))).is_some(),
            under_pressure(&memory, &pod("{}", tolerates.clone())).is_some(),
            under_pressure(&memory, &pod(r#"{"cpu": "1"}"#, json!([]))).is_some(),
            under_pressure(&disk, &pod(r#"{"cpu": "1"}"#, tolerates)).is_some(),
        ];
        assert_eq!(refused, [true, false, false, true]);
    }
}
