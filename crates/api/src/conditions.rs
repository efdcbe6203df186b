//! Condition types and reasons of this group's kinds, and the one way to set a condition.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Condition types.
pub mod types {
    /// The object does what it is for.
    pub const READY: &str = "Ready";
    /// A machine runs on a host with the wanted image.
    pub const PROVISIONED: &str = "Provisioned";
    /// The liveness probe of a ComputeNode succeeds.
    pub const PROBE_PASSED: &str = "ComputeNodeProbePassed";
    /// At least one formerly ready endpoint on the node still answers.
    pub const APPLICATIONS_REACHABLE: &str = "ComputeNodeApplicationsReachable";
    /// The machine runs the image its pool asks for.
    pub const IMAGE_UP_TO_DATE: &str = "ImageUpToDate";
    /// The object's own fields are consistent with each other and with the inventory.
    pub const VALID: &str = "Valid";
    /// The control plane serves its API.
    pub const CONTROL_PLANE_READY: &str = "ControlPlaneReady";
    /// All pools have the machines they ask for.
    pub const POOLS_READY: &str = "PoolsReady";
    /// An image was composed and can be installed.
    pub const COMPOSED: &str = "Composed";
    /// A rollout is under way.
    pub const ROLLING_OUT: &str = "RollingOut";
}

/// Reasons, CamelCase, next to the types they go with.
pub mod reasons {
    /// Ready, Provisioned: it is so.
    pub const AS_EXPECTED: &str = "AsExpected";
    /// Provisioned: no host fits (SKU, failure domain, state).
    pub const NO_HOST: &str = "NoHostAvailable";
    /// Provisioned: the provider works on it.
    pub const PROVISIONING: &str = "Provisioning";
    /// Provisioned: the machine is being wiped and released.
    pub const DEPROVISIONING: &str = "Deprovisioning";
    /// Provisioned: the bootstrap data is not there yet.
    pub const WAITING_FOR_BOOTSTRAP: &str = "WaitingForBootstrapData";
    /// Provisioned: the image is not composed yet or is unknown.
    pub const WAITING_FOR_IMAGE: &str = "WaitingForImage";
    /// Provisioned: the provider refuses; the message says why.
    pub const PROVIDER_REFUSED: &str = "ProviderRefused";
    /// Provisioned: the hardware is broken; the message is the evidence.
    pub const HARDWARE_BROKEN: &str = "HardwareBroken";
    /// ComputeNodeProbePassed: the last probes failed.
    pub const PROBE_FAILED: &str = "ProbeFailed";
    /// ComputeNodeProbePassed: no probe has run yet.
    pub const NOT_PROBED: &str = "NotProbedYet";
    /// Valid: the message lists the field errors.
    pub const INVALID: &str = "Invalid";
    /// Ready: something this object waits for is not there; the message names it.
    pub const WAITING: &str = "Waiting";
    /// Ready: some machines are missing or not ready.
    pub const MACHINES_NOT_READY: &str = "MachinesNotReady";
    /// Composed: the compose failed; the message is its end.
    pub const COMPOSE_FAILED: &str = "ComposeFailed";
    /// Any: the object or its cluster is paused.
    pub const PAUSED: &str = "Paused";
    /// Any: the object is being deleted.
    pub const DELETING: &str = "Deleting";
    /// ImageUpToDate: the pool asks for another image.
    pub const OUTDATED: &str = "Outdated";
}

/// Makes a condition; the transition time counts only when [`set`] finds the status changed.
pub fn condition(
    kind: &str,
    status: bool,
    reason: &str,
    message: impl Into<String>,
    now: Timestamp,
) -> Condition {
    let status = if status { "True" } else { "False" };
    with_status(kind, status, reason, message, now)
}

/// Makes a condition with any status (`True`, `False`, `Unknown`).
pub fn with_status(
    kind: &str,
    status: &str,
    reason: &str,
    message: impl Into<String>,
    now: Timestamp,
) -> Condition {
    Condition {
        type_: kind.to_string(),
        status: status.to_string(),
        reason: reason.to_string(),
        message: message.into(),
        last_transition_time: Time(now),
        observed_generation: None,
    }
}

/// Puts `new` into `conditions`: keeps the old transition time while the status is the same, keeps the
/// order of the list, and tells whether anything but the time changed.
pub fn set(conditions: &mut Vec<Condition>, mut new: Condition) -> bool {
    let Some(old) = conditions.iter_mut().find(|old| old.type_ == new.type_) else {
        conditions.push(new);
        return true;
    };
    if old.status == new.status {
        new.last_transition_time = old.last_transition_time.clone();
    }
    let changed = *old != new;
    *old = new;
    changed
}

/// Finds a condition by type.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Tells whether the condition is there with status True.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status == "True")
}

/// How the names of condition types end that are named after a good state.
const GOOD: [&str; 17] = [
    "Ready",
    "Passed",
    "Reachable",
    "Provisioned",
    "Valid",
    "UpToDate",
    "Available",
    "Initialized",
    "Composed",
    "Healthy",
    "Succeeded",
    "Scheduled",
    "Synced",
    "Allowed",
    "Created",
    "Remediated",
    "ReadyToStartContainers",
];
/// Types that tell of something under way, which is neither good nor bad.
const NEUTRAL: [&str; 8] = [
    "RollingOut",
    "Progressing",
    "Paused",
    "Updating",
    "Deleting",
    "ScalingUp",
    "ScalingDown",
    "Remediating",
];

/// Tells whether a condition says that something is not as it should be. Types named after a good state (`Ready`,
/// `PodScheduled`) are bad unless True; others (`KernelDeadlock`, `MemoryPressure`) are bad when True.
pub fn is_bad(kind: &str, status: &str) -> bool {
    if NEUTRAL.contains(&kind) {
        return false;
    }
    match GOOD.iter().any(|ending| kind.ends_with(ending)) {
        true => status != "True",
        false => status == "True",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_is_told_by_what_a_type_is_named_after() {
        for (kind, status, bad) in [
            ("Ready", "True", false),
            ("Ready", "Unknown", true),
            ("ComputeNodeProbePassed", "False", true),
            ("MemoryPressure", "False", false),
            ("MemoryPressure", "Unknown", false),
            ("KernelDeadlock", "True", true),
            ("KubeletUnhealthy", "True", true),
            ("NetworkUnavailable", "False", false),
            ("PodReadyToStartContainers", "True", false),
            ("RollingOut", "True", false),
            ("Deleting", "False", false),
        ] {
            assert_eq!(is_bad(kind, status), bad, "{kind}={status}");
        }
    }

    #[test]
    fn transition_time_moves_only_when_the_status_changes() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let mut list = vec![condition(types::READY, false, reasons::WAITING, "", at(1))];
        assert!(set(
            &mut list,
            condition(types::READY, false, reasons::NO_HOST, "", at(2))
        ));
        assert_eq!(list[0].last_transition_time.0, at(1));
        assert!(!set(
            &mut list,
            condition(types::READY, false, reasons::NO_HOST, "", at(3))
        ));
        assert!(set(
            &mut list,
            condition(types::READY, true, reasons::AS_EXPECTED, "", at(4))
        ));
        assert_eq!((list.len(), list[0].last_transition_time.0), (1, at(4)));
    }
}
