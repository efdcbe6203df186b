//! Whether the node takes a pod that was bound to it: the rules of crate `nodepolicy` on what is really there.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use k8s_openapi::api::core::v1::Pod;
pub use mainstay_nodepolicy::admission::{Decision, Refusal, place, predicates, sysctl, under_pressure};

use crate::context::Shared;
use crate::eviction::thresholds::Condition;
use crate::podspec;
use crate::pressure::Pressure;

fn conditions(pressure: Pressure) -> BTreeSet<Condition> {
    let all = [
        (pressure.memory, Condition::Memory),
        (pressure.disk, Condition::Disk),
        (pressure.pid, Condition::Pid),
    ];
    all.into_iter().filter(|(is, _)| *is).map(|(_, c)| c).collect()
}

/// Decides whether the node takes `pod` beside `others`.
pub fn decide(shared: &Shared, pod: &Pod, others: &[&Pod]) -> Decision {
    let refusal =
        under_pressure(&conditions(shared.pressure.get()), pod).or_else(|| shared.sysctls.refuse(pod));
    if let Some(refusal) = refusal {
        return refusal.into();
    }
    let given = shared.cpus.admit(pod).and_then(|()| shared.devices.admit(pod));
    if let Err(refusal) = given {
        give_back(shared, pod);
        return refusal.into();
    }
    let mut decision = place(Some(&shared.own_node.view(shared)), pod, others);
    if shared.shutting_down.load(Ordering::Relaxed) && matches!(decision, Decision::Admit { .. }) {
        decision = crate::shutdown::refusal().into();
    }
    if matches!(decision, Decision::Refuse { .. }) {
        give_back(shared, pod);
    }
    decision
}

fn give_back(shared: &Shared, pod: &Pod) {
    shared.cpus.release(podspec::uid(pod));
    shared.devices.release(podspec::uid(pod));
}
