//! Whether the node takes a pod that was bound to it: the last check, by what is really there.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::amount::Amounts;
use crate::context::Shared;
use crate::pressure::Pressure;
use crate::{podspec, qos, reserve};

/// Why a pod is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// CamelCase reason.
    pub reason: String,
    /// Details.
    pub message: String,
}

/// The order in which resources are named; others follow by name.
const ORDER: &[&str] = &["pods", "cpu", "memory", "ephemeral-storage"];

/// The first resource that does not suffice.
pub fn insufficient(wanted: &Amounts, used: &Amounts, allocatable: &Amounts) -> Option<Refusal> {
    let mut names: Vec<&String> = wanted.keys().collect();
    names.sort_by_key(|n| {
        (
            ORDER.iter().position(|o| o == n).unwrap_or(ORDER.len()),
            (*n).clone(),
        )
    });
    for name in names {
        let requested = wanted[name];
        // What the node does not know at all is ignored, as the kubelet does.
        let Some(capacity) = allocatable.get(name).filter(|_| requested > 0) else {
            continue;
        };
        let used = used.get(name).copied().unwrap_or(0);
        if used + requested > *capacity {
            return Some(Refusal {
                reason: format!("OutOf{name}"),
                message: format!(
                    "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
                ),
            });
        }
    }
    None
}

fn amounts(pod: &Pod) -> Amounts {
    let mut amounts = qos::pod_requests(pod);
    amounts.insert("pods".to_owned(), 1);
    amounts
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Host ports of a pod: (port, protocol).
fn host_ports(pod: &Pod) -> Vec<(i32, String)> {
    let containers = pod.spec.iter().flat_map(|s| &s.containers);
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            Some((
                p.host_port.filter(|h| *h > 0)?,
                p.protocol.clone().unwrap_or_else(|| "TCP".into()),
            ))
        })
        .collect()
}

/// Refuses what makes a pressure worse: everything but critical pods under disk or pid pressure, only BestEffort pods
/// that do not tolerate it under memory pressure alone.
fn under_pressure(pressure: Pressure, pod: &Pod) -> Option<Refusal> {
    let spec = pod.spec.as_ref()?;
    let critical = podspec::is_static(pod) || spec.priority.is_some_and(|p| p >= 2_000_000_000);
    if critical || pressure == Pressure::default() {
        return None;
    }
    let memory_alone = !pressure.disk && !pressure.pid;
    let best_effort = qos::class(pod) == mainstay_semantics::qos::Class::BestEffort;
    let key = "node.kubernetes.io/memory-pressure";
    let tolerated = spec.tolerations.iter().flatten().any(|t| {
        let effect = t.effect.as_deref().unwrap_or("");
        let all = t.key.is_none() && t.operator.as_deref() == Some("Exists");
        (all || t.key.as_deref() == Some(key)) && matches!(effect, "" | "NoSchedule")
    });
    if memory_alone && (!best_effort || tolerated) {
        return None;
    }
    let names = [
        (pressure.disk, "DiskPressure"),
        (pressure.memory, "MemoryPressure"),
        (pressure.pid, "PIDPressure"),
    ];
    let names: Vec<&str> = names.iter().filter(|(is, _)| *is).map(|(_, n)| *n).collect();
    Some(Refusal {
        reason: "Evicted".to_owned(),
        message: format!("The node had condition: [{}]. ", names.join(" ")),
    })
}

/// Tells why the node does not take `pod` beside `others`; `None` when it does.
pub fn refuse(shared: &Shared, pod: &Pod, others: &[Arc<Pod>]) -> Option<Refusal> {
    if let Some(refusal) = under_pressure(shared.pressure.get(), pod) {
        return Some(refusal);
    }
    let kubelet = &shared.settings.kubelet;
    let bytes = crate::disk::filesystem(&shared.settings.dirs.root).map_or(0, |f| f.capacity_bytes);
    let capacity = reserve::capacity(&shared.facts, kubelet, bytes as i64);
    let allocatable = reserve::allocatable(&capacity, kubelet, &kubelet.hard_thresholds());
    let active: Vec<&Arc<Pod>> = others
        .iter()
        .filter(|p| !is_over(p) && podspec::uid(p) != podspec::uid(pod))
        .collect();
    let mut used = Amounts::new();
    for other in &active {
        for (name, amount) in amounts(other) {
            *used.entry(name).or_default() += amount;
        }
    }
    if let Some(refusal) = insufficient(&amounts(pod), &used, &allocatable) {
        return Some(refusal);
    }
    let wanted = host_ports(pod);
    let taken = active
        .iter()
        .any(|p| host_ports(p).iter().any(|port| wanted.contains(port)));
    taken.then(|| Refusal {
        reason: "NodePorts".to_owned(),
        message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_missing_resource_is_named_with_its_numbers() {
        let amounts = |cpu: i64, memory: i64| Amounts::from([("cpu".into(), cpu), ("memory".into(), memory)]);
        let refusal =
            insufficient(&amounts(10_000, 1), &amounts(200, 0), &amounts(4000, 0)).expect("too much");
        assert_eq!(
            (refusal.reason.as_str(), refusal.message.as_str()),
            (
                "OutOfcpu",
                "Node didn't have enough resource: cpu, requested: 10000, used: 200, capacity: 4000"
            )
        );
    }
}
