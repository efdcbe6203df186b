//! A pod's status from what the runtime shows: container states, phase, conditions. Pure but for `message_of`.

use std::collections::HashMap;
use std::io::Read;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions::{self, Verdict};
use super::pull::Waiting;
use crate::plan::{ContainerView, PodView, ProbeVerdict, State, is_sidecar};
use crate::resize::Resources;
use crate::{podspec, qos};

/// Most bytes of a termination message.
const MESSAGE_LIMIT: u64 = 4096;

/// Why the node ended or refused a pod.
#[derive(Debug, Clone, Copy)]
pub struct Failure<'a> {
    /// CamelCase reason.
    pub reason: &'a str,
    /// Details.
    pub message: &'a str,
    /// Message of the condition that the node took the pod's place away.
    pub disruption: Option<&'a str>,
}

/// Everything a status is made from.
pub struct Input<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// What the runtime shows.
    pub view: &'a PodView,
    /// What probes say.
    pub verdict: &'a dyn Fn(&ContainerView, &Container) -> ProbeVerdict,
    /// Why containers wait, by name.
    pub waiting: &'a HashMap<String, Waiting>,
    /// Termination messages, by container id.
    pub messages: &'a HashMap<String, String>,
    /// The runtime's name, as in `containerd://`.
    pub runtime: &'a str,
    /// Addresses of the node.
    pub host_ips: &'a [String],
    /// Nothing will be started any more.
    pub ended: bool,
    /// Why the node ended or refused the pod.
    pub failure: Option<Failure<'a>>,
    /// What the runtime was last told of each container's resources.
    pub actual: &'a Resources,
    /// Conditions about a change of resources.
    pub resize: Vec<Verdict>,
    /// The status before, for times that stay.
    pub before: &'a PodStatus,
    /// Now.
    pub now: Timestamp,
}

fn time(nanos: i64) -> Option<Time> {
    if nanos <= 0 {
        return None;
    }
    // Seconds are what the API keeps.
    Timestamp::from_second(nanos / 1_000_000_000).ok().map(Time)
}

fn terminated(input: &Input<'_>, seen: &ContainerView) -> ContainerStateTerminated {
    let reason = match (seen.reason.as_str(), seen.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (said, _) => said,
    };
    let message = input
        .messages
        .get(&seen.id)
        .cloned()
        .or_else(|| Some(seen.message.clone()))
        .filter(|m| !m.is_empty());
    ContainerStateTerminated {
        container_id: Some(format!("{}://{}", input.runtime, seen.id)),
        exit_code: seen.exit_code,
        reason: Some(reason.to_owned()),
        message,
        started_at: time(seen.started_at),
        finished_at: time(seen.finished_at),
        signal: None,
    }
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message,
        }),
        ..Default::default()
    }
}

fn ended_state(input: &Input<'_>, seen: &ContainerView) -> ContainerState {
    ContainerState {
        terminated: Some(terminated(input, seen)),
        ..Default::default()
    }
}

/// The state and the last state of a container.
fn states(
    input: &Input<'_>,
    container: &Container,
    default_reason: &str,
) -> (ContainerState, Option<ContainerState>) {
    let mut own = input.view.containers.iter().filter(|c| c.name == container.name);
    let latest = own.next();
    let older = own
        .find(|c| c.state == State::Exited)
        .map(|c| ended_state(input, c));
    let held = input
        .waiting
        .get(&container.name)
        .map(|w| waiting(w.reason, Some(w.message.clone())));
    match latest {
        None if input.ended => (lost(input, container), older),
        None => (held.unwrap_or_else(|| waiting(default_reason, None)), older),
        Some(seen) => match seen.state {
            State::Running => {
                let running = ContainerStateRunning {
                    started_at: time(seen.started_at),
                };
                let state = ContainerState {
                    running: Some(running),
                    ..Default::default()
                };
                (state, older)
            }
            State::Exited => match held.filter(|_| !input.ended) {
                Some(held) => (held, Some(ended_state(input, seen))),
                None => (ended_state(input, seen), older),
            },
            State::Created | State::Unknown => (held.unwrap_or_else(|| waiting(default_reason, None)), older),
        },
    }
}

/// The state of a container that never ran or of which nothing is left, once the pod has ended.
fn lost(input: &Input<'_>, container: &Container) -> ContainerState {
    let all = [
        &input.before.container_statuses,
        &input.before.init_container_statuses,
    ];
    let old = all
        .into_iter()
        .flatten()
        .flatten()
        .find(|s| s.name == container.name);
    let old = old.and_then(|s| s.state.clone()).unwrap_or_default();
    if old.terminated.is_some() || input.failure.is_some() && old.running.is_none() {
        return old;
    }
    if old.running.is_none() {
        return waiting("ContainerCreating", None);
    }
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// What a container has: by the runtime's account, else what the runtime was told last.
fn resources(
    input: &Input<'_>,
    container: &Container,
    latest: Option<&ContainerView>,
) -> Option<ResourceRequirements> {
    let told = input.actual.get(&container.name);
    let told = told.or(container.resources.as_ref())?;
    let reported = latest.and_then(|c| c.reported);
    Some(reported.map_or_else(|| told.clone(), |reported| reported.over(told)))
}

fn container_status(
    input: &Input<'_>,
    container: &Container,
    default_reason: &str,
    is_init: bool,
) -> ContainerStatus {
    let latest = input.view.latest(&container.name);
    let (state, last_state) = states(input, container, default_reason);
    let verdict = latest
        .filter(|c| c.state == State::Running)
        .map(|c| (input.verdict)(c, container));
    let plain_init = is_init && !is_sidecar(container);
    let finished_well = state.terminated.as_ref().is_some_and(|t| t.exit_code == 0);
    let ready = match plain_init {
        true => finished_well,
        false => verdict.is_some_and(|v| v.ready),
    };
    ContainerStatus {
        name: container.name.clone(),
        image: latest.map_or_else(
            || container.image.clone().unwrap_or_default(),
            |c| c.image.clone(),
        ),
        image_id: latest.map(|c| c.image_ref.clone()).unwrap_or_default(),
        container_id: latest.map(|c| format!("{}://{}", input.runtime, c.id)),
        ready,
        started: Some(verdict.is_some_and(|v| v.started)),
        restart_count: latest.map_or(0, |c| c.attempt as i32),
        state: Some(state),
        last_state: Some(last_state.unwrap_or_default()),
        resources: resources(input, container, latest).filter(|_| verdict.is_some()),
        allocated_resources: container
            .resources
            .as_ref()
            .and_then(|r| r.requests.clone())
            .filter(|_| verdict.is_some()),
        ..Default::default()
    }
}

/// How far a pod has come, beside its containers' states.
#[derive(Debug, Clone, Copy, Default)]
pub struct Begun {
    /// An app container has run: init containers are over for good.
    pub initialized: bool,
    /// Nothing will be started any more.
    pub ended: bool,
}

/// Where init containers stand.
#[derive(Default)]
struct InitState {
    failed: bool,
    pending: bool,
    sidecar_runs: bool,
}

fn last_exit(status: &ContainerStatus) -> Option<i32> {
    let last = status.last_state.as_ref()?.terminated.as_ref()?;
    Some(last.exit_code)
}

fn exit(status: &ContainerStatus) -> Option<i32> {
    let state = status.state.as_ref()?.terminated.as_ref()?;
    Some(state.exit_code)
}

fn init_state(spec: &PodSpec, inits: &[ContainerStatus], initialized: bool) -> InitState {
    let never = spec.restart_policy.as_deref() == Some("Never");
    let mut found = InitState::default();
    for container in spec.init_containers.iter().flatten() {
        let status = inits.iter().find(|s| s.name == container.name);
        let Some(status) = status else {
            found.pending = true;
            continue;
        };
        let running = status.state.as_ref().is_some_and(|s| s.running.is_some());
        if is_sidecar(container) {
            let begun = match running {
                true => status.started == Some(true) || initialized,
                false => exit(status).is_some() || last_exit(status).is_some(),
            };
            found.pending |= !begun;
            found.sidecar_runs |= running;
            continue;
        }
        match (running, exit(status).or(last_exit(status))) {
            (true, _) | (false, None) => found.pending = true,
            (false, Some(0)) => {}
            (false, Some(_)) if never => found.failed = true,
            (false, Some(_)) => found.pending |= !initialized,
        }
    }
    found
}

/// The phase for the given statuses; containers without a status count as unknown.
pub fn phase(
    spec: &PodSpec,
    inits: &[ContainerStatus],
    apps: &[ContainerStatus],
    begun: Begun,
) -> &'static str {
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let init = init_state(spec, inits, begun.initialized);
    let (mut unknown, mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0, 0);
    let mut restarts = policy == "Always" || init.sidecar_runs;
    for container in &spec.containers {
        let Some(status) = apps.iter().find(|s| s.name == container.name) else {
            unknown += 1;
            continue;
        };
        let state = status.state.clone().unwrap_or_default();
        if state.running.is_some() {
            running += 1;
        } else if let Some(code) = exit(status) {
            stopped += 1;
            succeeded += usize::from(code == 0);
            restarts |= policy == "OnFailure" && code != 0;
        } else if state.waiting.is_some() {
            match last_exit(status) {
                Some(code) => {
                    stopped += 1;
                    restarts |= policy == "OnFailure" && code != 0;
                }
                None => waiting += 1,
            }
        } else {
            unknown += 1;
        }
    }
    if init.failed && policy == "Never" {
        return "Failed";
    }
    if init.pending || waiting > 0 {
        return "Pending";
    }
    if running > 0 && unknown == 0 {
        return "Running";
    }
    if running == 0 && stopped > 0 && unknown == 0 {
        let all_well = stopped == succeeded;
        return match begun.ended {
            true if all_well => "Succeeded",
            true => "Failed",
            _ if restarts => "Running",
            _ if all_well => "Succeeded",
            _ => "Failed",
        };
    }
    "Pending"
}

fn conditions(
    input: &Input<'_>,
    spec: &PodSpec,
    inits: &[ContainerStatus],
    apps: &[ContainerStatus],
    phase: &str,
) -> Vec<PodCondition> {
    let all: Vec<&ContainerStatus> = inits.iter().chain(apps).collect();
    let all = Some(all.as_slice());
    let before = input.before.conditions.as_deref().unwrap_or_default();
    let sandbox = Verdict {
        status: input.view.ready_sandbox().is_some() && !input.ended,
        ..Verdict::holds("PodReadyToStartContainers", None)
    };
    let mut verdicts = vec![
        sandbox,
        conditions::initialized(spec, all, phase, before),
        conditions::ready(spec, all, phase, before),
        conditions::containers_ready("ContainersReady", spec, all, phase),
        Verdict::holds("PodScheduled", None),
    ];
    if let Some(message) = input.failure.and_then(|f| f.disruption) {
        verdicts.push(Verdict {
            message: Some(message.to_owned()),
            ..Verdict::holds("DisruptionTarget", Some("TerminationByKubelet"))
        });
    }
    verdicts.extend(input.resize.iter().cloned());
    verdicts.into_iter().map(|v| dated(v, input)).collect()
}

fn dated(verdict: Verdict, input: &Input<'_>) -> PodCondition {
    let status = if verdict.status { "True" } else { "False" };
    let old = input
        .before
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == verdict.kind && c.status == status);
    let since = old.and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: verdict.kind.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.map(str::to_owned),
        message: verdict.message,
        last_transition_time: since.or_else(|| time(input.now.as_second() * 1_000_000_000)),
        observed_generation: input.pod.metadata.generation,
        ..Default::default()
    }
}

/// Computes the status.
pub fn build(input: &Input<'_>) -> PodStatus {
    let empty = PodSpec::default();
    let spec = input.pod.spec.as_ref().unwrap_or(&empty);
    let init_specs = spec.init_containers.as_deref().unwrap_or_default();
    let default_reason = if init_specs.is_empty() {
        "ContainerCreating"
    } else {
        "PodInitializing"
    };
    let statuses = |specs: &[Container], is_init: bool| -> Vec<ContainerStatus> {
        let made = specs.iter();
        made.map(|c| container_status(input, c, default_reason, is_init))
            .collect()
    };
    let (inits, apps) = (statuses(init_specs, true), statuses(&spec.containers, false));
    let phase = match input.failure {
        Some(_) => "Failed",
        None => reported_phase(input, spec, &inits, &apps),
    };
    let conditions = self::conditions(input, spec, &inits, &apps, phase);
    let ips = pod_ips(input);
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        reason: input.failure.map(|f| f.reason.to_owned()),
        message: input.failure.map(|f| f.message.to_owned()),
        host_ip: input.host_ips.first().cloned(),
        host_ips: Some(
            input
                .host_ips
                .iter()
                .map(|ip| HostIP { ip: ip.clone() })
                .collect(),
        ),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: input
            .before
            .start_time
            .clone()
            .or_else(|| time(input.now.as_second() * 1_000_000_000)),
        init_container_statuses: (!inits.is_empty()).then_some(inits),
        container_statuses: Some(apps),
        ephemeral_container_statuses: ephemeral(input, spec),
        qos_class: Some(qos::class(input.pod).as_str().to_owned()),
        observed_generation: input.pod.metadata.generation,
        ..Default::default()
    }
}

/// The phase to report: once ended, a pod has failed unless everything went well.
fn reported_phase(
    input: &Input<'_>,
    spec: &PodSpec,
    inits: &[ContainerStatus],
    apps: &[ContainerStatus],
) -> &'static str {
    let initialized = apps.iter().any(|s| {
        let ran = s.state.as_ref().is_some_and(|s| s.running.is_some());
        ran || exit(s).is_some() || last_exit(s).is_some()
    });
    let begun = Begun {
        initialized,
        ended: input.ended,
    };
    match phase(spec, inits, apps, begun) {
        "Succeeded" => "Succeeded",
        _ if input.ended && input.view.running().next().is_none() => "Failed",
        other => other,
    }
}

fn ephemeral(input: &Input<'_>, spec: &PodSpec) -> Option<Vec<ContainerStatus>> {
    let all = spec.ephemeral_containers.as_ref()?;
    let statuses = all.iter().map(|e| {
        let plain = ephemeral_as_container(e);
        container_status(input, &plain, "ContainerCreating", false)
    });
    Some(statuses.collect())
}

/// An ephemeral container in the form of an ordinary one: their fields have the same names.
pub fn ephemeral_as_container(ephemeral: &k8s_openapi::api::core::v1::EphemeralContainer) -> Container {
    serde_json::to_value(ephemeral)
        .and_then(serde_json::from_value)
        .unwrap_or_default()
}

fn pod_ips(input: &Input<'_>) -> Vec<String> {
    if podspec::host_network(input.pod) {
        return input.host_ips.iter().take(1).cloned().collect();
    }
    let newest = input.view.sandboxes.first();
    newest
        .map(|s| s.ips.clone())
        .filter(|ips| !ips.is_empty())
        .unwrap_or_else(|| {
            let before = input.before.pod_ips.iter().flatten();
            before.map(|ip| ip.ip.clone()).collect()
        })
}

/// Reads the termination message of an ended container.
pub fn message_of(seen: &ContainerView) -> Option<String> {
    let file = seen
        .message_path
        .as_ref()
        .and_then(|path| std::fs::File::open(path).ok());
    let mut text = Vec::new();
    if let Some(file) = file {
        let _ = file.take(MESSAGE_LIMIT).read_to_end(&mut text);
    }
    if text.is_empty() && seen.message_from_log && seen.exit_code != 0 {
        text = crate::cri::logs::tail_text(std::path::Path::new(&seen.log_path), 80, 2048);
    }
    Some(String::from_utf8_lossy(&text).into_owned()).filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::SandboxView;
    use serde_json::json;

    fn check(policy: &str, containers: Vec<ContainerView>, ended: bool) -> String {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": policy,
            "containers": [{"name": "a", "image": "i"}]}}),
        )
        .expect("valid");
        let view = PodView {
            sandboxes: vec![SandboxView {
                id: "s".into(),
                ready: true,
                ips: vec!["10.0.0.2".into()],
                ..Default::default()
            }],
            containers,
        };
        let verdict = |_: &ContainerView, _: &Container| ProbeVerdict {
            started: true,
            ready: true,
            ..Default::default()
        };
        let status = build(&Input {
            pod: &pod,
            view: &view,
            verdict: &verdict,
            waiting: &HashMap::new(),
            messages: &HashMap::new(),
            runtime: "containerd",
            host_ips: &[],
            ended,
            failure: None,
            actual: &Resources::new(),
            resize: Vec::new(),
            before: &PodStatus::default(),
            now: Timestamp::UNIX_EPOCH,
        });
        let ready = status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "Ready")
            .map(|c| format!("{} {}", c.status, c.reason.as_deref().unwrap_or("-")));
        format!(
            "{} ready={}",
            status.phase.unwrap_or_default(),
            ready.unwrap_or_default()
        )
    }

    fn seen(state: State, exit_code: i32) -> ContainerView {
        ContainerView {
            id: "c".into(),
            name: "a".into(),
            sandbox_id: "s".into(),
            state,
            exit_code,
            ..Default::default()
        }
    }

    #[test]
    fn phases_follow_states_and_policy() {
        let rows = [
            check("Always", vec![], false),
            check("Always", vec![seen(State::Running, 0)], false),
            check("Always", vec![seen(State::Exited, 1)], false),
            check("Never", vec![seen(State::Exited, 0)], false),
            check("Never", vec![seen(State::Exited, 1)], false),
            check("Always", vec![seen(State::Exited, 143)], true),
        ];
        assert_eq!(
            rows,
            [
                "Pending ready=False ContainersNotReady",
                "Running ready=True -",
                "Running ready=False ContainersNotReady",
                "Succeeded ready=False PodCompleted",
                "Failed ready=False PodFailed",
                "Failed ready=False PodFailed",
            ]
        );
    }
}
