//! Whether the node takes a pod that was bound to it: the rules of crate `nodepolicy` on what is really there.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use k8s_openapi::api::core::v1::Pod;
pub use mainstay_nodepolicy::admission::{Decision, Refusal, place, predicates, sysctl, under_pressure};
use mainstay_nodepolicy::eviction::thresholds::Condition;
use mainstay_nodepolicy::resize::Pending;

use crate::context::Shared;
use crate::pressure::Pressure;
use crate::{node_view, podspec};

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
    if let Err(refusal) = allot(shared, pod) {
        give_back(shared, pod);
        return refusal.into();
    }
    let mut decision = place(Some(&node_view::view(shared)), pod, others);
    if shared.shutting_down.load(Ordering::Relaxed) && matches!(decision, Decision::Admit { .. }) {
        decision = mainstay_nodepolicy::shutdown::refusal().into();
    }
    if matches!(decision, Decision::Refuse { .. }) {
        give_back(shared, pod);
    }
    decision
}

/// Gives a pod processors and devices, near each other where the configuration wants that.
fn allot(shared: &Shared, pod: &Pod) -> Result<(), Refusal> {
    shared.cpus.giving(|cpus| {
        shared
            .devices
            .giving(|devices| shared.numa.allot(pod, &mut [cpus, devices]))
    })
}

/// Why a running pod cannot have the resources that its spec asks for now.
pub fn resize(shared: &Shared, pod: &Pod, others: &[&Pod]) -> Option<Pending> {
    let given = shared.allocations.of(podspec::uid(pod)).given;
    let never = mainstay_nodepolicy::resize::infeasible(pod, &given, shared.cpus.is_static());
    never.or_else(|| {
        let misfits = predicates::misfits(&node_view::view(shared), pod, others);
        misfits
            .first()
            .map(|misfit| Pending::Deferred(misfit.refusal().message))
    })
}

fn give_back(shared: &Shared, pod: &Pod) {
    shared.cpus.release(podspec::uid(pod));
    shared.devices.release(podspec::uid(pod));
}

/// Gives a pod that already runs the processors and devices that it had or should have; what cannot be is only told.
pub fn adopt(shared: &Shared, pod: &Pod) {
    if let Err(refusal) = shared.cpus.admit(pod) {
        tracing::warn!(
            pod = podspec::name(pod),
            why = refusal.message,
            "a running pod keeps no processors of its own"
        );
    }
    if let Err(refusal) = shared.devices.admit(pod) {
        tracing::warn!(why = refusal.message, "a running pod's devices cannot be counted");
    }
}
