//! The Node's status as a pure function of what was seen, of the settings and of the status before.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus,
    NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::amount::{self, Amounts};

/// What the agent sees at one moment.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Addresses in order of preference.
    pub addresses: Vec<NodeAddress>,
    /// Machine and software.
    pub info: NodeSystemInfo,
    /// What the machine has.
    pub capacity: Amounts,
    /// What pods may use.
    pub allocatable: Amounts,
    /// Images, largest first.
    pub images: Vec<ContainerImage>,
    /// Port of the serving API.
    pub port: u16,
    /// Why the node cannot run pods; empty: it can.
    pub not_ready: Vec<String>,
    /// Little memory is left.
    pub memory_pressure: bool,
    /// Little disk space is left.
    pub disk_pressure: bool,
    /// Few process ids are left.
    pub pid_pressure: bool,
}

/// One pressure condition: type, reason and message when it is there and when not.
struct Pressure {
    kind: &'static str,
    bad: (&'static str, &'static str),
    good: (&'static str, &'static str),
}

const MEMORY: Pressure = Pressure {
    kind: "MemoryPressure",
    bad: (
        "KubeletHasInsufficientMemory",
        "kubelet has insufficient memory available",
    ),
    good: (
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
    ),
};
const DISK: Pressure = Pressure {
    kind: "DiskPressure",
    bad: ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    good: ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
};
const PID: Pressure = Pressure {
    kind: "PIDPressure",
    bad: (
        "KubeletHasInsufficientPID",
        "kubelet has insufficient PID available",
    ),
    good: ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
};

/// The message of a Ready condition that is False: one error plain, several in brackets without doubles.
pub fn not_ready_message(errors: &[String]) -> String {
    let mut distinct: Vec<&str> = Vec::new();
    for error in errors {
        if !distinct.contains(&error.as_str()) {
            distinct.push(error);
        }
    }
    match distinct.as_slice() {
        [one] => (*one).to_owned(),
        several => format!("[{}]", several.join(", ")),
    }
}

fn condition(kind: &str, status: bool, reason: &str, message: &str) -> NodeCondition {
    NodeCondition {
        type_: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..Default::default()
    }
}

fn pressure(of: &Pressure, is: bool) -> NodeCondition {
    let (reason, message) = if is { of.bad } else { of.good };
    condition(of.kind, is, reason, message)
}

fn conditions(seen: &Seen) -> Vec<NodeCondition> {
    let ready = match seen.not_ready.as_slice() {
        [] => condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
        errors => condition("Ready", false, "KubeletNotReady", &not_ready_message(errors)),
    };
    vec![
        pressure(&MEMORY, seen.memory_pressure),
        pressure(&DISK, seen.disk_pressure),
        pressure(&PID, seen.pid_pressure),
        ready,
    ]
}

/// Gives a condition its times: the transition time of the one before stays while the status does.
fn dated(mut new: NodeCondition, before: &NodeStatus, now: Timestamp) -> NodeCondition {
    let old = before
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == new.type_ && c.status == new.status);
    new.last_heartbeat_time = Some(Time(now));
    new.last_transition_time = old
        .and_then(|c| c.last_transition_time.clone())
        .or(Some(Time(now)));
    new
}

fn quantities(amounts: &Amounts) -> BTreeMap<String, Quantity> {
    amounts
        .iter()
        .map(|(name, amount)| {
            let text = match name.as_str() {
                "memory" | "ephemeral-storage" => amount::kibibytes(*amount),
                n if n.starts_with("hugepages-") => amount::kibibytes(*amount),
                _ => amount::quantity(name, *amount),
            };
            (name.clone(), text)
        })
        .collect()
}

/// Adds what others put into the capacity (extended resources by PATCH): it stays, and allocatable follows.
fn with_foreign(
    own: BTreeMap<String, Quantity>,
    foreign: &BTreeMap<String, Quantity>,
) -> BTreeMap<String, Quantity> {
    let mut all = foreign.clone();
    all.extend(own);
    all
}

/// Computes the status to write. Conditions of other writers are not in it: a strategic merge leaves them.
pub fn build(seen: &Seen, before: &NodeStatus, now: Timestamp) -> NodeStatus {
    let old_capacity = before.capacity.clone().unwrap_or_default();
    NodeStatus {
        addresses: Some(seen.addresses.clone()),
        capacity: Some(with_foreign(quantities(&seen.capacity), &old_capacity)),
        allocatable: Some(with_foreign(quantities(&seen.allocatable), &old_capacity)),
        conditions: Some(
            conditions(seen)
                .into_iter()
                .map(|c| dated(c, before, now))
                .collect(),
        ),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(seen.port),
            }),
        }),
        node_info: Some(seen.info.clone()),
        images: Some(seen.images.clone()),
        ..Default::default()
    }
}

/// Tells whether two statuses differ in more than heartbeats, looking only at what the agent writes.
pub fn differs(new: &NodeStatus, old: &NodeStatus) -> bool {
    let plain = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        let ours = new.conditions.iter().flatten();
        let kinds: Vec<&str> = ours.map(|c| c.type_.as_str()).collect();
        let mut conditions = status.conditions.take().unwrap_or_default();
        conditions.retain(|c| kinds.contains(&c.type_.as_str()));
        conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        (
            conditions,
            status.addresses,
            status.capacity,
            status.allocatable,
            status.daemon_endpoints,
            status.node_info,
            status.images.filter(|i| !i.is_empty()),
        )
    };
    plain(new) != plain(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn a_heartbeat_alone_is_no_change_and_keeps_the_transition_time() {
        let seen = Seen::default();
        let first = build(&seen, &NodeStatus::default(), at(100));
        let second = build(&seen, &first, at(200));
        assert!(!differs(&second, &first));
        let ready = &second.conditions.as_ref().expect("set")[3];
        assert_eq!(ready.last_transition_time, Some(Time(at(100))));
        assert_eq!(ready.last_heartbeat_time, Some(Time(at(200))));
    }

    #[test]
    fn a_patched_extended_resource_stays_and_becomes_allocatable() {
        let mut before = NodeStatus::default();
        let foreign = BTreeMap::from([("example.com/foo".to_owned(), Quantity("4".into()))]);
        before.capacity = Some(foreign);
        let status = build(&Seen::default(), &before, at(1));
        assert_eq!(
            status.allocatable.expect("set")["example.com/foo"],
            Quantity("4".into())
        );
    }

    #[test]
    fn several_reasons_stand_in_brackets_without_doubles() {
        let errors = ["a", "b", "a"].map(str::to_owned);
        assert_eq!(not_ready_message(&errors), "[a, b]");
        assert_eq!(not_ready_message(&errors[..1]), "a");
    }
}
