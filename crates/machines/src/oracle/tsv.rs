//! The tab-separated tables: how a row becomes a call of a rule.

use mainstay_capi::{ContractRef, MachineFields, TriggerIf};

use super::table::TsvCheck;
use crate::rules::{
    amount::{Round, parse, resolve},
    control_plane::{EtcdChange, RetryLimits, certificate_rollout_needed, etcd_change_is_safe, retry},
    deletion::{Gate, still_wanted},
    health::short_circuit,
    machine::{PhaseFacts, label_reaches_node, phase},
    rollout::limits,
    template::differences,
    version::{UpgradePlan, Version, check_plan, kubeadm_skew_ok, kubelet_skew_ok, plan_upgrade},
};

/// File name and check of each table.
pub const TABLES: &[(&str, TsvCheck)] = &[
    ("md_fenceposts.tsv", fenceposts),
    ("md_template_change.tsv", template_change),
    ("mhc_short_circuit.tsv", mhc_short_circuit),
    ("ms_remediation_max_in_flight.tsv", max_in_flight),
    ("ms_preflight_version_skew.tsv", version_skew),
    ("machine_phase.tsv", machine_phase),
    ("machine_label_to_node_sync.tsv", label_sync),
    ("machine_drain_and_detach_gate.tsv", drain_gate),
    ("kcp_etcd_quorum.tsv", etcd_quorum),
    ("kcp_retry_limits.tsv", retry_limits),
    ("kcp_rollout_before_cert_expiry.tsv", certificates),
    ("topology_chained_upgrade.tsv", chained_upgrade),
    ("topology_upgrade_plan_validation.tsv", plan_validation),
];

type Row = Result<(String, String), String>;

fn number(cell: &str) -> Result<i32, String> {
    cell.parse().map_err(|_| format!("{cell:?} is not a number"))
}

/// -1 stands for unset.
fn optional(cell: &str) -> Result<Option<i64>, String> {
    let number: i64 = cell.parse().map_err(|_| format!("{cell:?} is not a number"))?;
    Ok((number >= 0).then_some(number))
}

fn fenceposts(row: &[&str]) -> Row {
    let (surge, unavailable) = (parse(row[1]), parse(row[2]));
    let got = limits(number(row[0])?, Some(&surge), Some(&unavailable)).map_err(|e| e.to_string())?;
    let numbers = [
        got.surge,
        got.unavailable,
        got.effective_unavailable,
        got.max_total,
        got.min_available,
    ];
    Ok((numbers.map(|n| n.to_string()).join(" "), row[3..8].join(" ")))
}

fn template_change(row: &[&str]) -> Row {
    let reference = |kind: &str, name: &str| ContractRef {
        api_group: "bootstrap.cluster.x-k8s.io".into(),
        kind: kind.into(),
        name: name.into(),
    };
    let mut have = MachineFields {
        version: "v1.35.2".into(),
        ..Default::default()
    };
    have.bootstrap.config_ref = reference("KubeadmConfigTemplate", "a");
    let mut want = have.clone();
    match row[0] {
        "template.metadata.labels" => {}
        "spec.version patch" => want.version = "v1.35.3".into(),
        "spec.version minor" => want.version = "v1.36.0".into(),
        "spec.version same without v" => want.version = "1.35.2".into(),
        "spec.bootstrap.configRef.name" => want.bootstrap.config_ref.name = "b".into(),
        "spec.readinessGates" => want.readiness_gates.push(Default::default()),
        "spec.deletion.nodeDrainTimeoutSeconds" => want.deletion.node_drain_timeout_seconds = Some(5),
        "spec.deletion.nodeDeletionTimeoutSeconds" => want.deletion.node_deletion_timeout_seconds = Some(5),
        "spec.taints" => want.taints.push(Default::default()),
        other => return Err(format!("unknown change {other}")),
    }
    let found = differences(&have, &want);
    let needed = !found.is_empty();
    Ok((
        format!("{needed} {needed} {}", found.join("; ")),
        format!("{} {} {}", row[1], row[2], row[3]),
    ))
}

fn mhc_short_circuit(row: &[&str]) -> Row {
    let trigger = match row[2] {
        "(unset)" => TriggerIf::default(),
        range if range.starts_with('[') => TriggerIf {
            unhealthy_in_range: range.into(),
            ..Default::default()
        },
        amount => TriggerIf {
            unhealthy_less_than_or_equal_to: Some(parse(amount)),
            ..Default::default()
        },
    };
    let got = short_circuit(number(row[0])?, number(row[1])?, &trigger).map_err(|e| e.to_string())?;
    Ok((format!("{} {}", got.allowed, got.remaining), row[3..5].join(" ")))
}

fn max_in_flight(row: &[&str]) -> Row {
    let got = resolve(&parse(row[1]), number(row[0])?, Round::Up).map_err(|e| e.to_string())?;
    Ok((got.to_string(), row[2].to_string()))
}

fn version(cell: &str) -> Result<Version, String> {
    Version::parse(cell).ok_or_else(|| format!("{cell:?} is not a version"))
}

fn versions(cell: &str) -> Result<Vec<Version>, String> {
    cell.split(',')
        .filter(|part| !part.is_empty())
        .map(version)
        .collect()
}

fn version_skew(row: &[&str]) -> Row {
    let (control_plane, set) = (version(row[0])?, version(row[1])?);
    let word = |ok: bool| if ok { "ok" } else { "blocked" };
    let kubelet = word(kubelet_skew_ok(control_plane, set));
    Ok((
        format!("{kubelet} {}", word(kubeadm_skew_ok(control_plane, set))),
        row[2..4].join(" "),
    ))
}

fn machine_phase(row: &[&str]) -> Row {
    let facts = PhaseFacts {
        bootstrap_ready: row[0] == "true",
        infrastructure_provisioned: row[1] == "true",
        provider_id: row[2] == "true",
        node: row[3] == "true",
        updating: row[4] == "true",
        deleting: row[5] == "true",
    };
    Ok((phase(facts).to_string(), row[6].to_string()))
}

fn label_sync(row: &[&str]) -> Row {
    Ok((label_reaches_node(row[0]).to_string(), row[1].to_string()))
}

fn drain_gate(row: &[&str]) -> Row {
    let gate = |annotation: &str| -> Result<Gate, String> {
        Ok(Gate {
            excluded: row[0] == annotation || row[0] == "both",
            pre_terminate_started: row[1] == "true",
            infrastructure_present: row[2] == "present",
            timeout_seconds: optional(row[3])?,
            lasting_seconds: optional(row[4])?,
        })
    };
    let (drain, detach) = (gate("exclude-drain")?, gate("exclude-wait-volume")?);
    Ok((
        format!("{} {}", still_wanted(drain), still_wanted(detach)),
        row[5..7].join(" "),
    ))
}

fn etcd_quorum(row: &[&str]) -> Row {
    let change = match row[3] {
        "add" => EtcdChange::Add,
        "remove-healthy" => EtcdChange::RemoveHealthy,
        "remove-unhealthy" => EtcdChange::RemoveUnhealthy,
        other => return Err(format!("unknown operation {other}")),
    };
    let safe = etcd_change_is_safe(number(row[0])?, number(row[1])?, number(row[2])?, change);
    Ok((safe.to_string(), row[4].to_string()))
}

fn retry_limits(row: &[&str]) -> Row {
    let limits = RetryLimits {
        max_retry: optional(row[0])?.and_then(|max| i32::try_from(max).ok()),
        retry_period_seconds: optional(row[1])?.unwrap_or(0),
        min_healthy_period_seconds: optional(row[2])?,
    };
    let (allowed, count) = retry(limits, optional(row[3])?, number(row[4])?);
    Ok((format!("{allowed} {count}"), row[5..7].join(" ")))
}

fn certificates(row: &[&str]) -> Row {
    let needed = certificate_rollout_needed(i64::from(number(row[0])?), optional(row[1])?);
    Ok((needed.to_string(), row[2].to_string()))
}

fn joined(versions: &[Version]) -> String {
    versions
        .iter()
        .map(Version::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn workers(cell: &str) -> Result<Option<Version>, String> {
    if cell.is_empty() {
        Ok(None)
    } else {
        version(cell).map(Some)
    }
}

fn chained_upgrade(row: &[&str]) -> Row {
    let got = plan_upgrade(
        &versions(row[0])?,
        version(row[1])?,
        workers(row[2])?,
        version(row[3])?,
    );
    let text = match got {
        Ok(plan) => format!("{} {} false", joined(&plan.control_plane), joined(&plan.workers)),
        Err(_) => "  true".to_string(),
    };
    Ok((text, row[4..7].join(" ")))
}

fn plan_validation(row: &[&str]) -> Row {
    let given = UpgradePlan {
        control_plane: versions(row[3])?,
        workers: versions(row[4])?,
    };
    let got = check_plan(version(row[0])?, workers(row[1])?, version(row[2])?, &given);
    let text = match got {
        Ok(plan) => format!("true {}", joined(&plan.workers)),
        Err(_) => "false ".to_string(),
    };
    Ok((text, format!("{} {}", row[5], row.get(6).unwrap_or(&""))))
}
