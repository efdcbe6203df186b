//! The cells of pods, whose status column tells the most telling state of all containers.

use super::cells::{elapsed, parse_time, text_at};
use serde_json::Value;

fn list<'a>(pod: &'a Value, pointer: &str) -> &'a [Value] {
    pod.pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn is_sidecar(pod: &Value, name: &Value) -> bool {
    list(pod, "/spec/initContainers")
        .iter()
        .any(|container| &container["name"] == name && container["restartPolicy"] == "Always")
}

pub(super) fn ready(pod: &Value, _now: jiff::Timestamp) -> Value {
    let sidecars = list(pod, "/status/initContainerStatuses")
        .iter()
        .filter(|status| is_sidecar(pod, &status["name"]) && status["ready"] == true);
    let running = list(pod, "/status/containerStatuses")
        .iter()
        .filter(|status| status["ready"] == true && status["state"].get("running").is_some());
    let total = list(pod, "/spec/containers").len()
        + list(pod, "/spec/initContainers")
            .iter()
            .filter(|container| container["restartPolicy"] == "Always")
            .count();
    format!("{}/{total}", sidecars.count() + running.count()).into()
}

pub(super) fn status(pod: &Value, _now: jiff::Timestamp) -> Value {
    let phase = text_at(pod, "/status/phase");
    let mut reason = match text_at(pod, "/status/reason") {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    let gated =
        |condition: &&Value| condition["type"] == "PodScheduled" && condition["reason"] == "SchedulingGated";
    if list(pod, "/status/conditions")
        .iter()
        .any(|condition| gated(&condition))
    {
        reason = "SchedulingGated".to_owned();
    }
    match initializing(pod) {
        Some(state) => reason = state,
        None => {
            if let Some(state) = containers(pod, &reason) {
                reason = state;
            }
        }
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        if text_at(pod, "/status/reason") == "NodeLost" {
            reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            reason = "Terminating".to_owned();
        }
    }
    reason.into()
}

/// `Init:...` while an init container holds the pod up.
fn initializing(pod: &Value) -> Option<String> {
    let total = list(pod, "/spec/initContainers").len();
    for (index, status) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
        let state = &status["state"];
        if state["terminated"]["exitCode"] == 0
            || (is_sidecar(pod, &status["name"]) && status["started"] == true)
        {
            continue;
        }
        if let Some(terminated) = state.get("terminated") {
            return Some(format!("Init:{}", terminated_reason(terminated)));
        }
        let waiting = text_at(state, "/waiting/reason");
        if !waiting.is_empty() && waiting != "PodInitializing" {
            return Some(format!("Init:{waiting}"));
        }
        return Some(format!("Init:{index}/{total}"));
    }
    None
}

fn terminated_reason(terminated: &Value) -> String {
    match terminated["reason"].as_str().unwrap_or_default() {
        "" => match terminated["signal"].as_i64().unwrap_or_default() {
            0 => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or_default()),
            signal => format!("Signal:{signal}"),
        },
        reason => reason.to_owned(),
    }
}

fn containers(pod: &Value, reason: &str) -> Option<String> {
    let mut found = None;
    let mut running = false;
    for status in list(pod, "/status/containerStatuses").iter().rev() {
        let state = &status["state"];
        let waiting = text_at(state, "/waiting/reason");
        if !waiting.is_empty() {
            found = Some(waiting.to_owned());
        } else if let Some(terminated) = state.get("terminated") {
            found = Some(terminated_reason(terminated));
        } else if status["ready"] == true && state.get("running").is_some() {
            running = true;
        }
    }
    // A pod with both finished and running containers is running.
    if found.as_deref().unwrap_or(reason) == "Completed" && running {
        let ready = list(pod, "/status/conditions")
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        return Some(if ready { "Running" } else { "NotReady" }.to_owned());
    }
    found
}

pub(super) fn restarts(pod: &Value, now: jiff::Timestamp) -> Value {
    let sidecars = list(pod, "/status/initContainerStatuses")
        .iter()
        .filter(|status| is_sidecar(pod, &status["name"]));
    let statuses: Vec<&Value> = if initializing(pod).is_some() {
        list(pod, "/status/initContainerStatuses").iter().collect()
    } else {
        sidecars.chain(list(pod, "/status/containerStatuses")).collect()
    };
    let count: i64 = statuses
        .iter()
        .filter_map(|status| status["restartCount"].as_i64())
        .sum();
    let last = statuses
        .iter()
        .filter_map(|status| parse_time(status.pointer("/lastState/terminated/finishedAt")))
        .max();
    match last.filter(|_| count > 0) {
        Some(last) => format!("{count} ({} ago)", elapsed(last, now)).into(),
        None => count.to_string().into(),
    }
}

pub(super) fn readiness_gates(pod: &Value, _now: jiff::Timestamp) -> Value {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let open = gates.iter().filter(|gate| {
        list(pod, "/status/conditions")
            .iter()
            .any(|condition| condition["type"] == gate["conditionType"] && condition["status"] == "True")
    });
    format!("{}/{}", open.count(), gates.len()).into()
}
