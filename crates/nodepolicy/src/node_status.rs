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
use crate::cri::runtime_v1 as v1;

/// Most names of one image in the status.
const IMAGE_NAMES: usize = 5;

/// Resources of device plug-ins.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    /// All devices, by resource.
    pub capacity: Amounts,
    /// Healthy devices.
    pub allocatable: Amounts,
    /// Resources whose plug-in has gone for good.
    pub removed: Vec<String>,
}

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
    /// What device plug-ins offer.
    pub devices: Devices,
    /// Why the node cannot run pods; empty: it can.
    pub not_ready: Vec<String>,
    /// What the node lacks without being unable to run pods.
    pub warnings: Vec<String>,
    /// Little memory is left.
    pub memory_pressure: bool,
    /// Little disk space is left.
    pub disk_pressure: bool,
    /// Few process ids are left.
    pub pid_pressure: bool,
}

/// One pressure condition: type; reason, message and event when it is there and when not.
struct Pressure {
    kind: &'static str,
    bad: (&'static str, &'static str, &'static str),
    good: (&'static str, &'static str, &'static str),
}

const MEMORY: Pressure = Pressure {
    kind: "MemoryPressure",
    bad: (
        "KubeletHasInsufficientMemory",
        "kubelet has insufficient memory available",
        "NodeHasInsufficientMemory",
    ),
    good: (
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
        "NodeHasSufficientMemory",
    ),
};
const DISK: Pressure = Pressure {
    kind: "DiskPressure",
    bad: (
        "KubeletHasDiskPressure",
        "kubelet has disk pressure",
        "NodeHasDiskPressure",
    ),
    good: (
        "KubeletHasNoDiskPressure",
        "kubelet has no disk pressure",
        "NodeHasNoDiskPressure",
    ),
};
const PID: Pressure = Pressure {
    kind: "PIDPressure",
    bad: (
        "KubeletHasInsufficientPID",
        "kubelet has insufficient PID available",
        "NodeHasInsufficientPID",
    ),
    good: (
        "KubeletHasSufficientPID",
        "kubelet has sufficient PID available",
        "NodeHasSufficientPID",
    ),
};

/// Resources without which a node is not ready.
const REQUIRED: &[&str] = &["cpu", "memory", "pods", "ephemeral-storage"];

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

/// A pressure condition; its reason and message stay while its status does.
fn pressure(of: &Pressure, is: bool, before: &NodeStatus) -> NodeCondition {
    let (reason, message, _) = if is { of.bad } else { of.good };
    let new = condition(of.kind, is, reason, message);
    match same_condition(&new, before) {
        Some(old) => NodeCondition {
            reason: old.reason.clone(),
            message: old.message.clone(),
            ..new
        },
        None => new,
    }
}

fn ready(seen: &Seen, capacity: &BTreeMap<String, Quantity>) -> NodeCondition {
    let missing: Vec<&str> = REQUIRED
        .iter()
        .copied()
        .filter(|name| !capacity.contains_key(*name))
        .collect();
    let mut errors = seen.not_ready.clone();
    if !missing.is_empty() {
        errors.push(format!(
            "missing node capacity for resources: {}",
            missing.join(", ")
        ));
    }
    let mut ready = match errors.as_slice() {
        [] => condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
        errors => condition("Ready", false, "KubeletNotReady", &not_ready_message(errors)),
    };
    if !seen.warnings.is_empty() {
        let message = ready.message.unwrap_or_default();
        let warnings = not_ready_message(&seen.warnings);
        ready.message = Some(format!("{message}. WARNING: {warnings}"));
    }
    ready
}

fn conditions(seen: &Seen, capacity: &BTreeMap<String, Quantity>, before: &NodeStatus) -> Vec<NodeCondition> {
    vec![
        pressure(&MEMORY, seen.memory_pressure, before),
        pressure(&DISK, seen.disk_pressure, before),
        pressure(&PID, seen.pid_pressure, before),
        ready(seen, capacity),
    ]
}

/// The condition before, if it had the same status.
fn same_condition<'s>(new: &NodeCondition, before: &'s NodeStatus) -> Option<&'s NodeCondition> {
    let mut old = before.conditions.iter().flatten();
    old.find(|c| c.type_ == new.type_ && c.status == new.status)
}

/// Gives a condition its times: the transition time of the one before stays while the status does.
fn dated(mut new: NodeCondition, before: &NodeStatus, now: Timestamp) -> NodeCondition {
    let since = same_condition(&new, before).and_then(|c| c.last_transition_time.clone());
    new.last_heartbeat_time = Some(Time(now));
    new.last_transition_time = since.or(Some(Time(now)));
    new
}

/// Reasons of the events that a change of conditions is worth; a first Ready condition is worth none.
pub fn transitions(before: &NodeStatus, after: &NodeStatus) -> Vec<&'static str> {
    let new = after.conditions.iter().flatten();
    let changed = new.filter(|c| same_condition(c, before).is_none());
    changed
        .filter_map(|c| {
            let bad = c.status == "True";
            if c.type_ == "Ready" {
                let was_there = before.conditions.iter().flatten().any(|old| old.type_ == "Ready");
                return was_there.then_some(if bad { "NodeReady" } else { "NodeNotReady" });
            }
            let of = [&MEMORY, &DISK, &PID].into_iter().find(|p| p.kind == c.type_)?;
            Some(if bad { of.bad.2 } else { of.good.2 })
        })
        .collect()
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

/// Adds what others put into the capacity (extended resources by PATCH): it stays, and allocatable follows. Devices
/// are counted last; those whose plug-in has gone are zero, not absent: they remain the node's.
fn resources(seen: &Seen, before: &NodeStatus) -> (BTreeMap<String, Quantity>, BTreeMap<String, Quantity>) {
    let mut capacity = before.capacity.clone().unwrap_or_default();
    capacity.extend(quantities(&seen.capacity));
    capacity.extend(quantities(&seen.devices.capacity));
    let zero = |name: &String| (name.clone(), Quantity("0".to_owned()));
    capacity.extend(seen.devices.removed.iter().map(zero));
    let mut allocatable = capacity.clone();
    allocatable.extend(quantities(&seen.allocatable));
    allocatable.extend(quantities(&seen.devices.allocatable));
    (capacity, allocatable)
}

/// The images of the runtime in the form and order of a Node's status: the largest first, at most `limit` of them (-1:
/// all), each by its first names.
pub fn images(mut images: Vec<v1::Image>, limit: i64) -> Vec<ContainerImage> {
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let listed = images.into_iter().take(limit);
    listed
        .map(|image| {
            let names = image.repo_digests.into_iter().chain(image.repo_tags);
            ContainerImage {
                names: Some(names.take(IMAGE_NAMES).collect()),
                size_bytes: Some(image.size as i64),
            }
        })
        .collect()
}

/// Computes the status to write. Conditions of other writers are not in it: a strategic merge leaves them.
pub fn build(seen: &Seen, before: &NodeStatus, now: Timestamp) -> NodeStatus {
    let (capacity, allocatable) = resources(seen, before);
    let conditions = conditions(seen, &capacity, before).into_iter();
    NodeStatus {
        addresses: Some(seen.addresses.clone()),
        conditions: Some(conditions.map(|c| dated(c, before, now)).collect()),
        capacity: Some(capacity),
        allocatable: Some(allocatable),
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
