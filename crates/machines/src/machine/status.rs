//! A Machine's status, computed in one place from what was seen.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use mainstay_api::conditions::{self, condition, with_status};
use mainstay_capi::{Address, MachineStatus, NodeRef};
use serde_json::Value;

use super::Seen;
use crate::{
    objects::{flag, text},
    rules::machine::{PhaseFacts, phase},
};

/// Computes the status; conditions of other writers (health check) are kept.
pub fn compute(seen: &Seen, now: Timestamp) -> MachineStatus {
    let old = seen.machine.status.clone().unwrap_or_default();
    let mut status = MachineStatus {
        observed_generation: seen.machine.metadata.generation.unwrap_or(0),
        failure_domain: text(seen.infrastructure.as_ref(), "/status/failureDomain"),
        addresses: addresses(seen),
        ..old.clone()
    };
    let bootstrap = &seen.machine.spec.bootstrap;
    status.initialization.infrastructure_provisioned |= seen.provisioned();
    status.initialization.bootstrap_data_secret_created |= bootstrap.data_secret_name.is_some()
        || flag(
            seen.bootstrap.as_ref(),
            "/status/initialization/dataSecretCreated",
        );
    if let Some(node) = &seen.node {
        status.node_ref = Some(NodeRef {
            name: node.metadata.name.clone().unwrap_or_default(),
        });
        status.node_info.clone_from(&node.status.node_info);
    }
    for new in facts(seen, &status, now) {
        conditions::set(&mut status.conditions, new);
    }
    let ready = conditions::is_true(&status.conditions, "NodeReady")
        && conditions::is_true(&status.conditions, "InfrastructureReady");
    summarize(&mut status.conditions, ready, now);
    status.phase = phase(PhaseFacts {
        bootstrap_ready: status.initialization.bootstrap_data_secret_created,
        infrastructure_provisioned: status.initialization.infrastructure_provisioned,
        provider_id: !seen.machine.spec.provider_id.is_empty(),
        node: status.node_ref.is_some(),
        updating: conditions::is_true(&status.conditions, "Updating"),
        deleting: seen.machine.metadata.deletion_timestamp.is_some(),
    })
    .to_string();
    if status.phase != old.phase {
        status.last_updated = Some(Time(now));
    }
    status
}

fn addresses(seen: &Seen) -> Vec<Address> {
    let listed = seen
        .infrastructure
        .as_ref()
        .and_then(|object| object.data.pointer("/status/addresses"));
    listed
        .and_then(|list| serde_json::from_value(list.clone()).ok())
        .unwrap_or_default()
}

fn facts(seen: &Seen, status: &MachineStatus, now: Timestamp) -> Vec<Condition> {
    let initialization = &status.initialization;
    let bootstrap = match initialization.bootstrap_data_secret_created {
        true => condition("BootstrapConfigReady", true, "Ready", "", now),
        false => condition(
            "BootstrapConfigReady",
            false,
            "NotReady",
            "the bootstrap data is not there yet",
            now,
        ),
    };
    let infrastructure = match (&seen.infrastructure, initialization.infrastructure_provisioned) {
        (None, true) => condition(
            "InfrastructureReady",
            false,
            "Deleted",
            "the infrastructure machine is gone",
            now,
        ),
        (_, true) => condition("InfrastructureReady", true, "Ready", "", now),
        (object, false) => condition(
            "InfrastructureReady",
            false,
            "NotReady",
            why_not(object.as_ref()),
            now,
        ),
    };
    let mut all = vec![bootstrap, infrastructure];
    if seen.nodes_known {
        all.extend(node_facts(seen, status, now));
    }
    all
}

/// What the infrastructure object itself says about not being ready.
fn why_not(object: Option<&kube::api::DynamicObject>) -> String {
    let conditions = object
        .and_then(|o| o.data.pointer("/status/conditions"))
        .and_then(Value::as_array);
    let unready = conditions
        .into_iter()
        .flatten()
        .find(|c| c["status"] != "True" && c["type"] == "Provisioned");
    match unready {
        Some(c) => format!(
            "{}: {}",
            c["reason"].as_str().unwrap_or(""),
            c["message"].as_str().unwrap_or("")
        ),
        None => "the infrastructure machine is not provisioned yet".to_string(),
    }
}

fn node_facts(seen: &Seen, status: &MachineStatus, now: Timestamp) -> Vec<Condition> {
    let Some(node) = &seen.node else {
        let (reason, message) = match &status.node_ref {
            Some(node) => ("NodeDeleted", format!("Node {} no longer exists", node.name)),
            None => ("NodeDoesNotExist", "the machine has not joined yet".to_string()),
        };
        let kinds = ["NodeReady", "NodeHealthy"];
        return kinds
            .map(|kind| condition(kind, false, reason, message.clone(), now))
            .into();
    };
    let ready = node.condition("Ready").cloned().unwrap_or_default();
    let word = if ready.status.is_empty() {
        "Unknown"
    } else {
        &ready.status
    };
    let reason = if word == "True" {
        "NodeReady"
    } else {
        "NodeNotReady"
    };
    let pressure = ["MemoryPressure", "DiskPressure", "PIDPressure"]
        .iter()
        .find(|kind| node.condition(kind).is_some_and(|c| c.status == "True"));
    let healthy = match pressure {
        Some(kind) if word == "True" => with_status(
            "NodeHealthy",
            "False",
            "NodeNotHealthy",
            format!("the Node reports {kind}"),
            now,
        ),
        _ => with_status("NodeHealthy", word, reason, ready.message.clone(), now),
    };
    vec![
        with_status("NodeReady", word, reason, ready.message, now),
        healthy,
    ]
}

/// Ready and Available follow from the other conditions.
fn summarize(all: &mut Vec<Condition>, ready: bool, now: Timestamp) {
    let parts = [
        "BootstrapConfigReady",
        "InfrastructureReady",
        "NodeHealthy",
        "HealthCheckSucceeded",
    ];
    let failing = all
        .iter()
        .find(|c| parts.contains(&c.type_.as_str()) && c.status != "True");
    let new = match failing {
        Some(part) if !ready || part.status == "False" => {
            let message = format!("{}: {}", part.type_, part.message);
            condition("Ready", false, "NotReady", message, now)
        }
        _ if ready => condition("Ready", true, "Ready", "", now),
        _ => condition("Ready", false, "NotReady", "the Node is not ready", now),
    };
    let is_ready = new.status == "True";
    conditions::set(all, new);
    let reason = if is_ready { "Available" } else { "NotAvailable" };
    conditions::set(all, condition("Available", is_ready, reason, "", now));
}
