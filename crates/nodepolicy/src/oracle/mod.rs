//! Runs tables of inputs and expected answers (folder `kubelet`) through the functions of this crate.

mod admission;
mod cpus;
mod eviction;
mod node;
mod pods;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;

use crate::amount::{self, Amounts};
use crate::config::KubeletConfiguration;
use crate::cri::logs::read;
use crate::podspec::env::{Sources, expand, field, resource_field};
use crate::{qos, reserve};

/// Checks one row beside the context of its table.
pub type Check = fn(&Value, &Value) -> Result<(), String>;

/// What a row is read beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// Nothing.
    None,
    /// The first row of the table, which expects nothing.
    FirstRow,
    /// Another table, whole.
    Table(&'static str),
}

/// A table: its name, the context of its rows, and the check of a row.
pub type Table = (&'static str, Context, Check);

/// The tables that this crate answers.
pub const TABLES: &[Table] = &[
    ("admission", Context::None, admission::admission),
    ("allocatable", Context::None, allocatable),
    ("cgroup_names", Context::None, node::cgroup_names),
    ("cpu_conversion", Context::None, cpu_conversion),
    ("cpu_shares_to_weight", Context::None, shares_to_weight),
    ("cpumanager_static", Context::None, cpus::static_policy),
    ("cri_logs", Context::FirstRow, cri_logs),
    (
        "critical_pod_preemption",
        Context::FirstRow,
        admission::preemption,
    ),
    ("downward_field_path", Context::FirstRow, downward_field),
    ("downward_resource_field", Context::FirstRow, downward_resource),
    ("env_expansion", Context::FirstRow, env_expansion),
    (
        "eviction_containerfs_thresholds",
        Context::None,
        eviction::containerfs,
    ),
    ("eviction_percent_of_capacity", Context::None, percent_of_capacity),
    (
        "eviction_rank",
        Context::Table("eviction_pod_sets"),
        eviction::rank_order,
    ),
    (
        "eviction_synchronize",
        Context::Table("eviction_pod_sets"),
        eviction::passes,
    ),
    ("eviction_threshold_parse", Context::None, eviction::thresholds),
    (
        "extended_resources_status",
        Context::None,
        node::extended_resources,
    ),
    ("image_pull_backoff", Context::None, pods::image_pull_backoff),
    ("node_cgroup_config", Context::None, node::cgroup_config),
    ("node_images", Context::None, node::images),
    (
        "node_pressure_conditions",
        Context::None,
        node::pressure_conditions,
    ),
    ("node_ready_condition", Context::None, node::ready_condition),
    ("node_shutdown_groups", Context::None, cpus::shutdown_groups),
    ("pod_actions", Context::None, pods::pod_actions),
    ("pod_cgroup_config", Context::None, pod_cgroup),
    ("pod_conditions", Context::None, pods::pod_conditions),
    ("pod_hostname_truncate", Context::None, pods::hostname),
    ("pod_phase", Context::None, pods::pod_phase),
    ("qos_cgroup_config", Context::None, node::tiers),
    ("restart_backoff", Context::None, pods::restart_backoff),
    ("sysctl_admission", Context::None, admission::sysctls),
    ("sysctl_patterns", Context::None, admission::sysctl_patterns),
    ("termination_grace", Context::None, pods::termination_grace),
];

/// The outcome of one table: rows that passed, and a text for each that did not.
pub type Outcome = (usize, Vec<String>);

fn rows_of(name: &str, read: &impl Fn(&str) -> std::io::Result<String>) -> Result<Vec<Value>, String> {
    let text = read(name).map_err(|error| format!("{name}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{name}: {error}"))
}

/// Runs one table; `read` gives the JSON text of a table by its name.
pub fn run(table: &Table, read: impl Fn(&str) -> std::io::Result<String>) -> Outcome {
    let (name, context, check) = table;
    let known = rows_of(name, &read).and_then(|rows| {
        let context = match context {
            Context::None => Value::Null,
            Context::FirstRow => rows.first().cloned().unwrap_or_default(),
            Context::Table(other) => Value::Array(rows_of(other, &read)?),
        };
        Ok((rows, context))
    });
    let (rows, beside) = match known {
        Ok(known) => known,
        Err(problem) => return (0, vec![problem]),
    };
    let (mut passed, mut failed) = (0, Vec::new());
    let skipped = usize::from(*context == Context::FirstRow);
    for (at, row) in rows.iter().enumerate().skip(skipped) {
        match check(row, &beside) {
            Ok(()) => passed += 1,
            Err(problem) => failed.push(format!("row {at}: {problem}")),
        }
    }
    (passed, failed)
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Result<(), String> {
    if got == wanted {
        Ok(())
    } else {
        Err(format!("{what}: expected {wanted:?}, got {got:?}"))
    }
}

/// Compares without regard to order.
fn same_set(what: &str, mut got: Vec<String>, mut wanted: Vec<String>) -> Result<(), String> {
    got.sort();
    wanted.sort();
    equal(what, got, wanted)
}

fn on(row: &Value, key: &str) -> bool {
    row[key].as_bool() == Some(true)
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, String> {
    serde_json::from_value(value.clone()).map_err(|error| error.to_string())
}

/// A list or map that may be null.
fn read_or_default<T: serde::de::DeserializeOwned + Default>(value: &Value) -> Result<T, String> {
    Ok(read::<Option<T>>(value)?.unwrap_or_default())
}

fn text<'v>(row: &'v Value, key: &str) -> &'v str {
    row[key].as_str().unwrap_or_default()
}

fn number(row: &Value, key: &str) -> i64 {
    row[key].as_i64().unwrap_or_default()
}

/// Reads `cpu=4,memory=1Gi`.
fn amounts(list: &str) -> BTreeMap<String, String> {
    let pairs = list.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn measured(list: &BTreeMap<String, String>) -> Amounts {
    list.iter()
        .map(|(name, value)| (name.clone(), amount::of(name, &Quantity(value.clone()))))
        .collect()
}

fn allocatable(row: &Value, _: &Value) -> Result<(), String> {
    let capacity = measured(&amounts(text(row, "capacity")));
    let hard: BTreeMap<String, String> =
        serde_json::from_value(row["eviction_hard"].clone()).unwrap_or_default();
    let config = KubeletConfiguration {
        kube_reserved: amounts(text(row, "kube_reserved")),
        system_reserved: amounts(text(row, "system_reserved")),
        ..Default::default()
    };
    let wanted: BTreeMap<String, String> =
        serde_json::from_value(row["node_allocatable"].clone()).unwrap_or_default();
    equal(
        "allocatable",
        reserve::allocatable(&capacity, &config, &hard),
        measured(&wanted),
    )
}

fn cpu_conversion(row: &Value, _: &Value) -> Result<(), String> {
    let milli = number(row, "milli_cpu");
    let shares = qos::shares(milli);
    equal("shares", shares, number(row, "cpu_shares"))?;
    equal("weight", qos::weight(shares), number(row, "cpu_weight_new"))?;
    for (key, period) in [
        ("quota_100ms", 100_000),
        ("quota_50ms", 50_000),
        ("quota_10ms", 10_000),
        ("quota_1ms", 1000),
    ] {
        equal(key, qos::quota(milli, period), number(row, key))?;
    }
    Ok(())
}

fn shares_to_weight(row: &Value, _: &Value) -> Result<(), String> {
    equal(
        "weight",
        qos::weight(number(row, "cpu_shares")),
        number(row, "cpu_weight"),
    )
}

fn env_expansion(row: &Value, context: &Value) -> Result<(), String> {
    let value = |name: &str| context["context"][name].as_str().map(str::to_owned);
    equal(
        "text",
        expand(text(row, "in"), value),
        text(row, "out").to_owned(),
    )
}

fn pod_of(value: &Value) -> Result<Pod, String> {
    serde_json::from_value(value.clone()).map_err(|error| error.to_string())
}

fn verdict(row: &Value, got: Result<String, String>) -> Result<(), String> {
    let wanted = match row["err"].as_str().filter(|e| !e.is_empty()) {
        Some(error) => Err(error.to_owned()),
        None => Ok(text(row, "value").to_owned()),
    };
    equal("value", got, wanted)
}

fn downward_field(row: &Value, context: &Value) -> Result<(), String> {
    verdict(row, field(&pod_of(&context["pod"])?, text(row, "path")))
}

fn downward_resource(row: &Value, context: &Value) -> Result<(), String> {
    let pod = pod_of(&context["pod"])?;
    let allocatable: BTreeMap<String, String> =
        serde_json::from_value(context["node_allocatable"].clone()).unwrap_or_default();
    let sources = Sources {
        allocatable: measured(&allocatable),
        ..Default::default()
    };
    let selector = ResourceFieldSelector {
        container_name: Some(text(row, "container").to_owned()),
        divisor: Some(Quantity(text(row, "divisor").to_owned())),
        resource: text(row, "resource").to_owned(),
    };
    let spec = pod.spec.as_ref().ok_or("no spec")?;
    verdict(
        row,
        resource_field(&pod, &spec.containers[0], &selector, &sources),
    )
}

fn percent_of_capacity(row: &Value, _: &Value) -> Result<(), String> {
    let capacity = amount::value(text(row, "capacity")).unwrap_or_default();
    equal(
        "threshold",
        reserve::threshold(text(row, "percent"), capacity),
        row["threshold_bytes"].as_i64(),
    )
}

fn pod_cgroup(row: &Value, _: &Value) -> Result<(), String> {
    let pod = pod_of(&row["pod"])?;
    let spec = pod.spec.as_ref().ok_or("no spec")?;
    let quota_on = row["cpu_cfs_quota_enabled"].as_bool() == Some(true);
    let got = qos::pod_cgroup(spec, qos::class(&pod), quota_on, 100_000);
    equal("shares", got.shares, number(row, "cpu_shares"))?;
    equal(
        "quota",
        got.quota_us,
        row["cpu_quota"].as_i64().filter(|q| *q > 0),
    )?;
    equal("memory", got.memory, row["memory"].as_i64())
}

/// The table prints whole seconds; the case's name has the half.
fn since(case: &str, options: &Value) -> Option<jiff::Timestamp> {
    let given: jiff::Timestamp = options["sinceTime"].as_str()?.parse().ok()?;
    let half = Duration::from_millis(if case.ends_with(".5") { 500 } else { 0 });
    given.checked_add(half).ok()
}

fn cri_logs(row: &Value, context: &Value) -> Result<(), String> {
    let raw = text(&context["files"], text(row, "file")).as_bytes();
    let options = &row["options"];
    let size = |key: &str| options[key].as_u64().map(|n| n as usize);
    let asked = |stream: &str| read::Options {
        tail: size("tailLines"),
        limit_bytes: size("limitBytes"),
        timestamps: options["timestamps"].as_bool() == Some(true),
        since: since(text(row, "case"), options),
        stream: Some(stream.to_owned()),
        follow: false,
    };
    if row["err"].as_str().is_some_and(|e| !e.is_empty()) {
        return Err("the kubelet fails the whole request here; ours skips the line".to_owned());
    }
    let both = read::split(
        raw,
        &read::Options {
            stream: None,
            ..asked("")
        },
    );
    let streams: HashMap<&str, Vec<u8>> = both;
    for stream in ["stdout", "stderr"] {
        let got = streams.get(stream).cloned().unwrap_or_default();
        equal(
            stream,
            String::from_utf8_lossy(&got).into_owned(),
            text(row, stream).to_owned(),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_every_table_is_answered() {
        let mut problems = Vec::new();
        for table in TABLES {
            let (passed, failed) = run(table, |name| {
                Ok(mainstay_base::testdata::read(&format!(
                    "oracle/kubelet/{name}.json"
                )))
            });
            println!("{}: {passed} passed, {} failed", table.0, failed.len());
            problems.extend(failed.into_iter().map(|f| format!("{}: {f}", table.0)));
        }
        assert!(
            problems.is_empty(),
            "{} rows:\n{}",
            problems.len(),
            problems.join("\n")
        );
    }
}
