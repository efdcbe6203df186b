//! Runs tables of inputs and expected answers (folder `kubelet`) through the functions of this crate.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    Pod, PodSpec, ResourceFieldSelector,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

use crate::amount::{self, Amounts};
use crate::config::KubeletConfiguration;
use crate::logs::read;
use crate::pods::{status, terminate};
use crate::podspec::backoff::RestartBackoff;
use crate::podspec::env::{Sources, expand, field, resource_field};
use crate::{qos, reserve};

/// Checks one row; the first row of the table is given as context.
pub type Check = fn(&Value, &Value) -> Result<(), String>;

/// A table: its name, whether its first row is context only, and the check of a row.
pub type Table = (&'static str, bool, Check);

/// The tables that this crate answers.
pub const TABLES: &[Table] = &[
    ("allocatable", false, allocatable),
    ("cpu_conversion", false, cpu_conversion),
    ("cpu_shares_to_weight", false, shares_to_weight),
    ("cri_logs", true, cri_logs),
    ("downward_field_path", true, downward_field),
    ("downward_resource_field", true, downward_resource),
    ("env_expansion", true, env_expansion),
    ("eviction_percent_of_capacity", false, percent_of_capacity),
    ("pod_cgroup_config", false, pod_cgroup),
    ("pod_phase", false, pod_phase),
    ("restart_backoff", false, restart_backoff),
    ("termination_grace", false, termination_grace),
];

/// The outcome of one table: rows that passed, and a text for each that did not.
pub type Outcome = (usize, Vec<String>);

/// Runs one table over its JSON text.
pub fn run(table: &Table, text: &str) -> Outcome {
    let rows: Vec<Value> = match serde_json::from_str(text) {
        Ok(rows) => rows,
        Err(error) => return (0, vec![error.to_string()]),
    };
    let (_, has_context, check) = table;
    let context = rows.first().cloned().unwrap_or_default();
    let (mut passed, mut failed) = (0, Vec::new());
    for (at, row) in rows.iter().enumerate().skip(usize::from(*has_context)) {
        match check(row, &context) {
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

/// A container's status from the tables' word for it.
fn container_status(name: &str, word: &str) -> Option<ContainerStatus> {
    let ended = |exit_code| ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code,
            ..Default::default()
        }),
        ..Default::default()
    };
    let waiting = ContainerState {
        waiting: Some(ContainerStateWaiting::default()),
        ..Default::default()
    };
    let running = ContainerState {
        running: Some(ContainerStateRunning::default()),
        ..Default::default()
    };
    let (state, last) = match word {
        "none" | "" => return None,
        "run" | "run-notstarted" => (running, ContainerState::default()),
        "ok" => (ended(0), ContainerState::default()),
        "err" => (ended(1), ContainerState::default()),
        "wait" => (waiting, ContainerState::default()),
        "wait-lastok" => (waiting, ended(0)),
        "crash" => (waiting, ended(1)),
        _ => (ContainerState::default(), ContainerState::default()),
    };
    Some(ContainerStatus {
        name: name.to_owned(),
        state: Some(state),
        last_state: Some(last),
        started: Some(word == "run"),
        ..Default::default()
    })
}

fn pod_phase(row: &Value, _: &Value) -> Result<(), String> {
    let words: Vec<&str> = row["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut inits = Vec::new();
    let mut init_statuses = Vec::new();
    for (key, name, policy) in [("init", "init", None), ("sidecar", "side", Some("Always"))] {
        if !text(row, key).is_empty() {
            inits.push(json!({"name": name, "restartPolicy": policy}));
            init_statuses.extend(container_status(name, text(row, key)));
        }
    }
    let names: Vec<String> = (0..words.len()).map(|n| format!("c{n}")).collect();
    let containers: Vec<Value> = names.iter().map(|n| json!({"name": n})).collect();
    let spec: PodSpec = serde_json::from_value(
        json!({"restartPolicy": row["restart_policy"], "containers": containers,
        "initContainers": inits}),
    )
    .map_err(|e| e.to_string())?;
    let statuses: Vec<ContainerStatus> = names
        .iter()
        .zip(&words)
        .filter_map(|(name, word)| container_status(name, word))
        .collect();
    let on = |key: &str| row[key].as_bool() == Some(true);
    let begun = status::Begun {
        initialized: on("pod_has_initialized"),
        ended: on("pod_is_terminal") && !on("static_pod"),
    };
    equal(
        "phase",
        status::phase(&spec, &init_statuses, &statuses, begun),
        text(row, "phase"),
    )
}

fn restart_backoff(row: &Value, _: &Value) -> Result<(), String> {
    let runs = row["run_seconds"].as_array().cloned().unwrap_or_default();
    let max = Duration::from_secs(number(row, "max_s") as u64);
    let initial = Duration::from_secs(number(row, "initial_s") as u64);
    let mut backoff = RestartBackoff::starting_at(initial);
    let mut now = 0;
    let mut delays = Vec::new();
    for run in runs.iter().filter_map(Value::as_i64) {
        // A nanosecond later than the last end: two ends never share a time.
        let finished = now + run * 1_000_000_000 + 1;
        let run = Duration::from_secs(run as u64);
        now = finished;
        if let Err((_, left)) = backoff.start("c", finished, run, now, max) {
            now += left.as_nanos() as i64;
            let _ = backoff.start("c", finished, run, now, max);
        }
        delays.push((now - finished) / 1_000_000_000);
    }
    let wanted: Vec<i64> = serde_json::from_value(row["delay_before_restart_s"].clone()).unwrap_or_default();
    equal("delays", delays, wanted)
}

fn termination_grace(row: &Value, _: &Value) -> Result<(), String> {
    let pod = pod_of(
        &json!({"metadata": {"deletionGracePeriodSeconds": row["deletion_grace_seconds"]},
        "spec": {"containers": [], "terminationGracePeriodSeconds": row["spec_grace"]}}),
    )?;
    let (seconds, shortened) =
        terminate::effective_grace(&pod, number(row, "current_grace"), row["override"].as_i64());
    equal("grace", seconds, number(row, "effective"))?;
    equal("shortened", shortened, row["shortened"].as_bool() == Some(true))
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
            let rows = mainstay_base::testdata::read(&format!("oracle/kubelet/{}.json", table.0));
            let (passed, failed) = run(table, &rows);
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
