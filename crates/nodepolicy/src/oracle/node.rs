//! Tables about the node: cgroup names and limits, status, conditions, images.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeCondition, NodeStatus, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use mainstay_semantics::qos::Class;
use serde_json::{Value, json};

use super::{amounts, equal, measured, number, on, read, read_or_default, text};
use crate::amount::Amounts;
use crate::cgroup_name::{Naming, parts, path};
use crate::config::KubeletConfiguration;
use crate::cri::runtime_v1 as v1;
use crate::facts::Facts;
use crate::node_cgroups::{self, GroupLimits};
use crate::node_status::{self, Devices, Seen};
use crate::{podspec, reserve};

pub fn cgroup_names(row: &Value, _: &Value) -> Result<(), String> {
    let given: Vec<String> = read(&row["parts"])?;
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    for (naming, key, back) in [
        (Naming::Cgroupfs, "cgroupfs", "parse_back_cgroupfs"),
        (Naming::Systemd, "systemd", "parse_back_systemd"),
    ] {
        let made = path(naming, &given);
        equal(key, parts(naming, &made), read(&row[back])?)?;
        equal(key, made.as_str(), text(row, key))?;
    }
    Ok(())
}

fn same_limits(got: &GroupLimits, row: &Value) -> Result<(), String> {
    equal("shares", got.shares, row["cpu_shares"].as_i64())?;
    equal("memory", got.memory, row["memory"].as_i64())
}

pub fn cgroup_config(row: &Value, _: &Value) -> Result<(), String> {
    let mut resources = measured(&amounts(text(row, "resources")));
    resources.remove("pods");
    let got = node_cgroups::limits(&resources, on(row, "compressible_only"));
    same_limits(&got, row)?;
    equal("pids", got.pids, row["pids_limit"].as_i64())?;
    let pages: BTreeMap<i64, i64> = read_or_default(&row["hugepages"])?;
    equal("hugepages", got.hugepages, pages)
}

pub fn tiers(row: &Value, _: &Value) -> Result<(), String> {
    let pods: Vec<Pod> = read_or_default(&row["pods"])?;
    let allocatable = measured(&amounts(text(row, "allocatable")));
    let percent = number(row, "qos_reserved_memory_percent");
    let got = node_cgroups::tiers(&pods, allocatable.get("memory").copied(), percent);
    let none = GroupLimits::default();
    for class in [Class::Guaranteed, Class::Burstable, Class::BestEffort] {
        let wanted = &row["tiers"][class.as_str()];
        same_limits(got.of(class).unwrap_or(&none), wanted)
            .map_err(|why| format!("{}: {why}", class.as_str()))?;
    }
    Ok(())
}

pub fn images(row: &Value, _: &Value) -> Result<(), String> {
    let on_node = number(row, "images_on_node");
    // The largest has three digests and as many tags; the others are each smaller than the one before.
    let images = (0..on_node).map(|n| v1::Image {
        id: format!("id-{n}"),
        repo_digests: (1..=3).map(|d| format!("r/{n}@sha256:{d}")).collect(),
        repo_tags: ["a", "b", "c"].iter().map(|t| format!("r/{n}:{t}")).collect(),
        size: (1000 - n) as u64,
        ..Default::default()
    });
    let got = node_status::images(images.collect(), number(row, "node_status_max_images"));
    equal("reported", got.len() as i64, number(row, "reported"))?;
    let first = got.into_iter().next().and_then(|i| i.names).unwrap_or_default();
    equal("first_names", first, read_or_default(&row["first_names"])?)
}

fn now() -> jiff::Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap_or_default()
}

/// A status with one condition as it was an hour before.
fn before(kind: &str, status: &str) -> Result<NodeStatus, String> {
    if status.is_empty() {
        return Ok(NodeStatus::default());
    }
    let condition = json!({"type": kind, "status": status, "reason": "old", "message": "old",
        "lastTransitionTime": "2026-01-02T02:04:05Z", "lastHeartbeatTime": "2026-01-02T02:04:05Z"});
    read(&json!({"conditions": [condition], "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}}))
}

fn same_node_condition(kind: &str, seen: &Seen, row: &Value) -> Result<(), String> {
    let before = before(kind, text(row, "previous_status"))?;
    let after = node_status::build(seen, &before, now());
    let conditions: Vec<NodeCondition> = after.conditions.clone().unwrap_or_default();
    let got = conditions
        .into_iter()
        .find(|c| c.type_ == kind)
        .ok_or("no condition")?;
    let mut wanted: NodeCondition = read(&row["condition"])?;
    // The table does not say how long ago the condition before was set; it is an hour everywhere.
    if kind == "Ready" && text(row, "previous_status") == wanted.status {
        wanted.last_transition_time = got.last_transition_time.clone();
    }
    equal(kind, got, wanted)?;
    let events: Vec<String> = node_status::transitions(&before, &after)
        .into_iter()
        .filter(|event| event_is_about(kind, event))
        .map(|event| format!("Normal {event}"))
        .collect();
    equal("events", events, read_or_default(&row["events"])?)
}

fn event_is_about(kind: &str, event: &str) -> bool {
    match kind {
        "Ready" => matches!(event, "NodeReady" | "NodeNotReady"),
        kind => event.contains(kind.trim_end_matches("Pressure")),
    }
}

pub fn pressure_conditions(row: &Value, _: &Value) -> Result<(), String> {
    let kind = text(row, "type");
    let seen = Seen {
        memory_pressure: kind == "MemoryPressure" && on(row, "pressure"),
        disk_pressure: kind == "DiskPressure" && on(row, "pressure"),
        pid_pressure: kind == "PIDPressure" && on(row, "pressure"),
        ..Default::default()
    };
    same_node_condition(kind, &seen, row)
}

pub fn ready_condition(row: &Value, _: &Value) -> Result<(), String> {
    let errors = [
        "runtime_error",
        "network_error",
        "storage_error",
        "shutdown_error",
    ];
    let given = |key: &str| Some(text(row, key).to_owned()).filter(|t| !t.is_empty());
    let seen = Seen {
        capacity: measured(&amounts(text(row, "capacity"))),
        not_ready: errors.into_iter().filter_map(given).collect(),
        warnings: given("soft_requirements").into_iter().collect(),
        ..Default::default()
    };
    same_node_condition("Ready", &seen, row)
}

/// Reads `4 cores, 3981672Ki, ephemeral-storage 20463184Ki, reservation memory=100Mi`.
fn machine(text: &str) -> (Facts, Option<i64>, KubeletConfiguration) {
    let (mut facts, mut disk, mut config) = (Facts::default(), None, KubeletConfiguration::default());
    let bytes = |text: &str| crate::amount::value(text);
    for part in text.split(", ") {
        match part.rsplit_once(' ') {
            Some((count, "cores")) => facts.cpus = count.parse().unwrap_or(0),
            Some(("ephemeral-storage", size)) => disk = bytes(size),
            Some(("reservation", list)) => config.kube_reserved = amounts(list),
            _ => facts.memory_bytes = bytes(part).unwrap_or(0),
        }
    }
    (facts, disk, config)
}

fn quantities(map: &Value) -> Result<BTreeMap<String, Quantity>, String> {
    read_or_default(map)
}

pub fn extended_resources(row: &Value, _: &Value) -> Result<(), String> {
    let (mut facts, mut disk, mut config) = machine(text(row, "machine"));
    if !text(row, "machine_info_err").is_empty() {
        (facts, disk) = (Facts::default(), None);
    }
    config.max_pods = number(row, "max_pods");
    config.pods_per_core = number(row, "pods_per_core");
    let capacity = reserve::capacity(&facts, &config, disk);
    let devices = |key: &str| -> Result<Amounts, String> {
        let given: BTreeMap<String, String> = read_or_default(&row[key])?;
        Ok(measured(&given))
    };
    let seen = Seen {
        allocatable: reserve::allocatable(&capacity, &config, &BTreeMap::new()),
        capacity,
        devices: Devices {
            capacity: devices("device_capacity")?,
            allocatable: devices("device_allocatable")?,
            removed: read_or_default(&row["device_removed"])?,
        },
        ..Default::default()
    };
    let before: NodeStatus = read(&row["status_before"])?;
    let after = node_status::build(&seen, &before, now());
    equal(
        "capacity",
        after.capacity.unwrap_or_default(),
        quantities(&row["capacity_after"])?,
    )?;
    equal(
        "allocatable",
        after.allocatable.unwrap_or_default(),
        quantities(&row["allocatable_after"])?,
    )
}

/// The name of a pod, for tables that name pods.
pub fn name_of(pod: &Pod) -> String {
    podspec::name(pod).to_owned()
}
