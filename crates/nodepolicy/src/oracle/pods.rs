//! Tables about single pods: phases, actions, conditions, back-off, grace.

use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    PodCondition, PodSpec,
};
use serde_json::{Value, json};

use super::{equal, number, on, pod_of, read, read_or_default, same_set, text};
use crate::plan::{self, Cause, ContainerView, PodView, ProbeVerdict, SandboxView, State};
use crate::pods::conditions::{self, Verdict};
use crate::pods::pull::PullBackoff;
use crate::pods::{grace, status};
use crate::podspec::backoff::RestartBackoff;
use crate::podspec::runtime_config::truncated_hostname;

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

pub fn pod_phase(row: &Value, _: &Value) -> Result<(), String> {
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

pub fn restart_backoff(row: &Value, _: &Value) -> Result<(), String> {
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

pub fn termination_grace(row: &Value, _: &Value) -> Result<(), String> {
    let pod = pod_of(
        &json!({"metadata": {"deletionGracePeriodSeconds": row["deletion_grace_seconds"]},
        "spec": {"containers": [], "terminationGracePeriodSeconds": row["spec_grace"]}}),
    )?;
    let (seconds, shortened) =
        grace::effective_grace(&pod, number(row, "current_grace"), row["override"].as_i64());
    equal("grace", seconds, number(row, "effective"))?;
    equal("shortened", shortened, row["shortened"].as_bool() == Some(true))
}

/// Pairs of a name and a word for its state.
fn named_states(row: &Value, key: &str) -> Result<Vec<(String, String)>, String> {
    read_or_default(&row[key])
}

fn sandboxes(row: &Value) -> Vec<SandboxView> {
    let attempt = number(row, "attempt") as u32;
    let made = |id: &str, attempt: u32, ready: bool, ip: bool| SandboxView {
        id: id.to_owned(),
        ready,
        attempt,
        ips: if ip { vec!["10.0.0.1".into()] } else { Vec::new() },
        ..Default::default()
    };
    let before = attempt.saturating_sub(1);
    match text(row, "sandbox") {
        "none" => Vec::new(),
        "notready" => vec![made("s", before, false, true)],
        "two-ready" => vec![made("s", before, true, true), made("r", before, true, true)],
        "ready-no-ip" => vec![made("s", before, true, false)],
        _ => vec![made("s", attempt, true, true)],
    }
}

/// The view of a container in the state of that word; its spec hash differs if the row says so.
fn container_view(name: &str, word: &str, row: &Value) -> Option<ContainerView> {
    let (state, exit_code) = match word {
        "none" => return None,
        "run" => (State::Running, 0),
        "created" => (State::Created, 0),
        "exit0" => (State::Exited, 0),
        "exit1" => (State::Exited, 1),
        _ => (State::Unknown, 0),
    };
    let changed = text(row, "spec_changed") == name;
    Some(ContainerView {
        id: format!("id-{name}"),
        name: name.to_owned(),
        sandbox_id: "s".to_owned(),
        state,
        exit_code,
        hash: if changed {
            "other".to_owned()
        } else {
            String::new()
        },
        ..Default::default()
    })
}

fn actions_of(row: &Value) -> Result<(PodSpec, plan::Actions), String> {
    let inits = named_states(row, "init")?;
    let apps = named_states(row, "containers")?;
    let probes = on(row, "sidecar_has_startup_probe");
    let init_specs = inits.iter().map(|(name, _)| {
        let sidecar = name.starts_with('s');
        let probe = (sidecar && probes).then(|| json!({"exec": {"command": ["true"]}}));
        json!({"name": name, "image": "i", "restartPolicy": sidecar.then_some("Always"), "startupProbe": probe})
    });
    let spec = json!({"restartPolicy": row["restart_policy"], "initContainers": init_specs.collect::<Vec<_>>(),
        "containers": apps.iter().map(|(name, _)| json!({"name": name, "image": "i"})).collect::<Vec<_>>()});
    let spec: PodSpec = read(&spec)?;
    let all = apps.iter().chain(&inits);
    let view = PodView {
        sandboxes: sandboxes(row),
        containers: all
            .filter_map(|(name, word)| container_view(name, word, row))
            .collect(),
    };
    let listed = |key: &str, name: &str| {
        let names: Vec<String> = read_or_default(&row[key]).unwrap_or_default();
        names.iter().any(|n| n == name)
    };
    let verdict = |seen: &ContainerView| ProbeVerdict {
        liveness_failed: listed("liveness_failed", &seen.name),
        startup_failed: listed("startup_failed", &seen.name),
        started: listed("startup_ok", &seen.name) || !probes,
        ready: true,
    };
    let actions = plan::plan(&spec, &view, verdict);
    Ok((spec, actions))
}

pub fn pod_actions(row: &Value, _: &Value) -> Result<(), String> {
    let (spec, actions) = actions_of(row)?;
    let names = |indexes: &[usize], of: &[k8s_openapi::api::core::v1::Container]| -> Vec<String> {
        indexes.iter().map(|i| of[*i].name.clone()).collect()
    };
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    equal("kill_pod", actions.kill_pod, on(row, "kill_pod"))?;
    equal(
        "create_sandbox",
        actions.create_sandbox.is_some(),
        on(row, "create_sandbox"),
    )?;
    if let Some(attempt) = actions.create_sandbox {
        equal("attempt", i64::from(attempt), number(row, "attempt"))?;
    }
    equal(
        "init_to_start",
        names(&actions.init_to_start, inits),
        read_or_default(&row["init_to_start"])?,
    )?;
    equal(
        "containers_to_start",
        names(&actions.to_start, &spec.containers),
        read_or_default(&row["containers_to_start"])?,
    )?;
    let kills = actions.kill.iter().map(|kill| {
        let reason = match kill.cause {
            Cause::Definition => "",
            Cause::Liveness => "LivenessProbe",
            Cause::Startup => "StartupProbe",
            Cause::Unknown => "Unknown",
        };
        format!("{} {reason}: {}", kill.name, kill.message)
    });
    let wanted: Vec<Value> = read_or_default(&row["kill"])?;
    let wanted = wanted.iter().map(|k| {
        format!(
            "{} {}: {}",
            text(k, "Name"),
            text(k, "Reason"),
            text(k, "Message")
        )
    });
    same_set("kill", kills.collect(), wanted.collect())
}

fn same_condition(wanted: &Value, got: &Verdict) -> Result<(), String> {
    let shown = |status: &str, reason: &str, message: &str| format!("{status} {reason}: {message}");
    let status = if got.status { "True" } else { "False" };
    equal(
        got.kind,
        shown(
            status,
            got.reason.unwrap_or_default(),
            got.message.as_deref().unwrap_or_default(),
        ),
        shown(
            text(wanted, "status"),
            text(wanted, "reason"),
            text(wanted, "message"),
        ),
    )
}

pub fn pod_conditions(row: &Value, _: &Value) -> Result<(), String> {
    let pod = pod_of(&row["pod"])?;
    let spec = pod.spec.unwrap_or_default();
    let statuses: Vec<ContainerStatus> = read_or_default(&row["container_statuses"])?;
    let statuses: Vec<&ContainerStatus> = statuses.iter().collect();
    let statuses = (!on(row, "statuses_nil")).then_some(statuses.as_slice());
    let existing: Vec<PodCondition> = read_or_default(&row["existing_conditions"])?;
    let phase = text(row, "phase");
    same_condition(
        &row["initialized"],
        &conditions::initialized(&spec, statuses, phase, &existing),
    )?;
    same_condition(
        &row["containers_ready"],
        &conditions::containers_ready("ContainersReady", &spec, statuses, phase),
    )?;
    same_condition(
        &row["ready"],
        &conditions::ready(&spec, statuses, phase, &existing),
    )
}

pub fn hostname(row: &Value, _: &Value) -> Result<(), String> {
    let wanted = match text(row, "err") {
        "" => Ok(text(row, "out").to_owned()),
        error => Err(error.to_owned()),
    };
    equal("hostname", truncated_hostname("p", text(row, "hostname")), wanted)
}

pub fn image_pull_backoff(row: &Value, _: &Value) -> Result<(), String> {
    let wanted: Vec<u64> = read(&row["pull_attempt_times_s"])?;
    let every = number(row, "sync_every_seconds").max(1) as u64;
    let fails_after = number(row, "pull_fails_after_seconds") as u64;
    let backoff = PullBackoff::default();
    let (mut now, mut attempts) = (0, Vec::new());
    while attempts.len() < wanted.len() {
        if backoff.held_back("i", Duration::from_secs(now)).is_none() {
            attempts.push(now);
            now += fails_after;
            backoff.failed("i", Duration::from_secs(now), String::new());
        }
        now += every;
    }
    equal("attempts", attempts, wanted)
}
