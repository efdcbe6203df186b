//! What to do next for one pod, and what its phase is: pure functions of its spec and of what the runtime shows.

use k8s_openapi::api::core::v1::{Container, PodSpec};

/// The state of a container in the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Made but not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime does not know.
    #[default]
    Unknown,
}

/// One container as the runtime shows it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ContainerView {
    /// The runtime's id.
    pub id: String,
    /// Name in the spec.
    pub name: String,
    /// The sandbox it is in.
    pub sandbox_id: String,
    /// How many of this name came before.
    pub attempt: u32,
    /// State.
    pub state: State,
    /// Exit code, once exited.
    pub exit_code: i32,
    /// The runtime's reason (`Completed`, `Error`, `OOMKilled`).
    pub reason: String,
    /// The runtime's message.
    pub message: String,
    /// Nanoseconds since the epoch; 0 when not yet.
    pub created_at: i64,
    /// Nanoseconds since the epoch; 0 when not yet.
    pub started_at: i64,
    /// Nanoseconds since the epoch; 0 when not yet.
    pub finished_at: i64,
    /// Image as given.
    pub image: String,
    /// Image as resolved (digest reference).
    pub image_ref: String,
    /// Hash of the spec it was made from.
    pub hash: String,
    /// Its log file.
    pub log_path: String,
    /// Grace that the pod had when it was made, for orphans.
    pub grace_seconds: Option<i64>,
    /// Where on the host its termination message is.
    pub message_path: Option<String>,
    /// Whether the end of its log is the message when there is none.
    pub message_from_log: bool,
}

/// One sandbox as the runtime shows it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SandboxView {
    /// The runtime's id.
    pub id: String,
    /// Whether it can hold containers.
    pub ready: bool,
    /// How many came before.
    pub attempt: u32,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Addresses; none for the host's network.
    pub ips: Vec<String>,
}

/// Everything the runtime shows of one pod; newest first in both lists.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PodView {
    /// Sandboxes.
    pub sandboxes: Vec<SandboxView>,
    /// Containers of all sandboxes.
    pub containers: Vec<ContainerView>,
}

impl PodView {
    /// The newest container of a name.
    pub fn latest(&self, name: &str) -> Option<&ContainerView> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// Containers that run.
    pub fn running(&self) -> impl Iterator<Item = &ContainerView> {
        self.containers.iter().filter(|c| c.state == State::Running)
    }

    /// The sandbox in use.
    pub fn ready_sandbox(&self) -> Option<&SandboxView> {
        self.sandboxes.first().filter(|s| s.ready)
    }
}

/// What probes say about a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProbeVerdict {
    /// The liveness probe failed for good.
    pub liveness_failed: bool,
    /// The startup probe failed for good.
    pub startup_failed: bool,
    /// The startup probe succeeded or there is none.
    pub started: bool,
    /// The readiness probe succeeded or there is none.
    pub ready: bool,
}

/// Why a running container is killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// The container.
    pub id: String,
    /// Name in the spec.
    pub name: String,
    /// The message of the Killing event.
    pub message: String,
    /// Whether a probe is the cause (its own grace period applies).
    pub by_probe: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Actions {
    /// Stop everything that is left of the pod first.
    pub kill_pod: bool,
    /// Make a sandbox with this attempt number.
    pub create_sandbox: Option<u32>,
    /// Init containers (by index) to start, in this order.
    pub init_to_start: Vec<usize>,
    /// App containers (by index) to start.
    pub to_start: Vec<usize>,
    /// Ephemeral containers (by index) to start.
    pub ephemeral_to_start: Vec<usize>,
    /// Containers to kill.
    pub kill: Vec<Kill>,
}

impl Actions {
    /// Tells whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Actions::default()
    }
}

/// Whether an init container keeps running beside the app containers.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Identifies the part of a container's spec whose change needs a new container.
pub fn spec_hash(container: &Container) -> String {
    let text = format!("{}\n{}", container.name, container.image.as_deref().unwrap_or(""));
    format!("{:08x}", crc(text.as_bytes()))
}

fn crc(bytes: &[u8]) -> u32 {
    // FNV-1a: names the spec, guards nothing.
    bytes.iter().fold(0x811c_9dc5, |hash, b| {
        (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193)
    })
}

fn restart_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// Whether an ended (or never started) container is to be started (again).
fn wants_start(spec: &PodSpec, seen: Option<&ContainerView>) -> bool {
    match seen {
        None => true,
        Some(c) => match (c.state, restart_policy(spec)) {
            (State::Running, _) => false,
            (State::Created | State::Unknown, _) => true,
            (State::Exited, "Always") => true,
            (State::Exited, "OnFailure") => c.exit_code != 0,
            (State::Exited, _) => false,
        },
    }
}

/// Computes what to do next. `verdict` tells what probes say about a running container.
pub fn plan(spec: &PodSpec, view: &PodView, verdict: impl Fn(&ContainerView) -> ProbeVerdict) -> Actions {
    let newest = view.sandboxes.first();
    let usable = newest.filter(|s| s.ready && (host_network(spec) || !s.ips.is_empty()));
    let several_ready = view.sandboxes.iter().filter(|s| s.ready).count() > 1;
    match usable.filter(|_| !several_ready) {
        Some(sandbox) => plan_inside(spec, view, sandbox, verdict),
        None => plan_sandbox(spec, view, newest.map_or(0, |s| s.attempt + 1)),
    }
}

fn host_network(spec: &PodSpec) -> bool {
    spec.host_network == Some(true)
}

/// A sandbox is missing: make one unless nothing would ever run in it.
fn plan_sandbox(spec: &PodSpec, view: &PodView, attempt: u32) -> Actions {
    let ran_before = attempt != 0 && !view.containers.is_empty();
    if ran_before && restart_policy(spec) == "Never" {
        return Actions {
            kill_pod: true,
            ..Default::default()
        };
    }
    let ended_well = |c: &Container| {
        restart_policy(spec) == "OnFailure"
            && view
                .latest(&c.name)
                .is_some_and(|v| v.state == State::Exited && v.exit_code == 0)
    };
    let to_start: Vec<usize> = (0..spec.containers.len())
        .filter(|i| !ended_well(&spec.containers[*i]))
        .collect();
    if to_start.is_empty() {
        return Actions {
            kill_pod: true,
            ..Default::default()
        };
    }
    let has_init = spec.init_containers.as_ref().is_some_and(|i| !i.is_empty());
    Actions {
        kill_pod: !view.sandboxes.is_empty(),
        create_sandbox: Some(attempt),
        init_to_start: if has_init { vec![0] } else { Vec::new() },
        to_start: if has_init { Vec::new() } else { to_start },
        ..Default::default()
    }
}

fn plan_inside(
    spec: &PodSpec,
    view: &PodView,
    sandbox: &SandboxView,
    verdict: impl Fn(&ContainerView) -> ProbeVerdict,
) -> Actions {
    let mut actions = Actions::default();
    let here = |name: &str| view.latest(name).filter(|c| c.sandbox_id == sandbox.id);
    for (index, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        if here(&container.name).is_none() {
            actions.ephemeral_to_start.push(index);
        }
    }
    if !plan_init(spec, view, &here, &verdict, &mut actions) {
        return actions;
    }
    let mut kept = 0;
    for (index, container) in spec.containers.iter().enumerate() {
        // An exit in an earlier sandbox still decides whether OnFailure and Never start it again.
        match view.latest(&container.name).filter(|c| c.state == State::Running) {
            None => {
                if wants_start(spec, view.latest(&container.name)) {
                    actions.to_start.push(index);
                }
            }
            Some(running) => match kill_reason(spec, container, running, verdict(running)) {
                None => kept += 1,
                Some((kill, restart)) => {
                    actions.kill.push(kill);
                    if restart {
                        actions.to_start.push(index);
                    }
                }
            },
        }
    }
    if kept == 0 && actions.to_start.is_empty() {
        actions.kill_pod = true;
        actions.init_to_start.clear();
        actions.ephemeral_to_start.clear();
    }
    actions
}

/// Why a running container must go, and whether it comes back.
fn kill_reason(
    spec: &PodSpec,
    container: &Container,
    running: &ContainerView,
    verdict: ProbeVerdict,
) -> Option<(Kill, bool)> {
    let never = restart_policy(spec) == "Never" && !is_sidecar(container);
    let (message, by_probe, restart) = if running.hash != spec_hash(container) && !running.hash.is_empty() {
        (
            format!("Container {} definition changed", container.name),
            false,
            true,
        )
    } else if verdict.liveness_failed {
        (
            format!("Container {} failed liveness probe", container.name),
            true,
            !never,
        )
    } else if verdict.startup_failed {
        (
            format!("Container {} failed startup probe", container.name),
            true,
            !never,
        )
    } else {
        return None;
    };
    let message = if restart {
        format!("{message}, will be restarted")
    } else {
        message
    };
    Some((
        Kill {
            id: running.id.clone(),
            name: container.name.clone(),
            message,
            by_probe,
        },
        restart,
    ))
}

/// Plans init containers and sidecars; returns whether app containers may start.
fn plan_init<'v>(
    spec: &PodSpec,
    view: &'v PodView,
    here: &impl Fn(&str) -> Option<&'v ContainerView>,
    verdict: &impl Fn(&ContainerView) -> ProbeVerdict,
    actions: &mut Actions,
) -> bool {
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let initialized = spec
        .containers
        .iter()
        .any(|c| here(&c.name).is_some_and(|v| v.state != State::Created));
    for (index, container) in inits.iter().enumerate() {
        let seen = here(&container.name);
        if is_sidecar(container) {
            match seen.filter(|c| c.state == State::Running) {
                None => {
                    actions.init_to_start.push(index);
                    if !initialized {
                        return false;
                    }
                }
                Some(running) => {
                    let verdict = verdict(running);
                    if let Some((kill, _)) = kill_reason(spec, container, running, verdict) {
                        actions.kill.push(kill);
                        actions.init_to_start.push(index);
                    }
                    if !verdict.started && !initialized {
                        return false;
                    }
                }
            }
            continue;
        }
        if initialized {
            continue;
        }
        match seen {
            Some(c) if c.state == State::Running => return false,
            Some(c) if c.state == State::Exited && c.exit_code == 0 => {}
            Some(c) if c.state == State::Exited && restart_policy(spec) == "Never" => {
                actions.kill_pod = true;
                return false;
            }
            _ => {
                actions.init_to_start.push(index);
                return false;
            }
        }
    }
    let _ = view;
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(policy: &str, init: serde_json::Value) -> PodSpec {
        serde_json::from_value(json!({
            "restartPolicy": policy, "initContainers": init,
            "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]
        }))
        .expect("a valid spec")
    }

    fn seen(name: &str, state: State, exit_code: i32) -> ContainerView {
        ContainerView {
            id: format!("id-{name}"),
            name: name.into(),
            sandbox_id: "s".into(),
            state,
            exit_code,
            ..Default::default()
        }
    }

    fn view(containers: Vec<ContainerView>) -> PodView {
        let sandbox = SandboxView {
            id: "s".into(),
            ready: true,
            ips: vec!["10.0.0.1".into()],
            ..Default::default()
        };
        PodView {
            sandboxes: vec![sandbox],
            containers,
        }
    }

    fn fine(_: &ContainerView) -> ProbeVerdict {
        ProbeVerdict {
            started: true,
            ready: true,
            ..Default::default()
        }
    }

    #[test]
    fn a_new_pod_gets_a_sandbox_and_everything() {
        let actions = plan(&spec("Always", json!([])), &PodView::default(), fine);
        assert_eq!(
            (actions.create_sandbox, actions.to_start, actions.kill_pod),
            (Some(0), vec![0, 1], false)
        );
    }

    #[test]
    fn app_containers_wait_for_init_containers() {
        let init =
            json!([{"name": "i", "image": "i"}, {"name": "s", "image": "i", "restartPolicy": "Always"}]);
        let spec = spec("Always", init);
        let steps: Vec<(Vec<usize>, Vec<usize>)> = [
            vec![],
            vec![seen("i", State::Running, 0)],
            vec![seen("i", State::Exited, 0)],
            vec![seen("i", State::Exited, 0), seen("s", State::Running, 0)],
        ]
        .map(|c| plan(&spec, &view(c), fine))
        .map(|a| (a.init_to_start, a.to_start))
        .into();
        assert_eq!(
            steps,
            [
                (vec![0], vec![]),
                (vec![], vec![]),
                (vec![1], vec![]),
                (vec![], vec![0, 1])
            ]
        );
    }

    #[test]
    fn restart_policy_decides_about_ended_containers() {
        let ended = || vec![seen("a", State::Exited, 0), seen("b", State::Exited, 1)];
        let starts =
            ["Always", "OnFailure", "Never"].map(|p| plan(&spec(p, json!([])), &view(ended()), fine));
        assert_eq!(
            starts.each_ref().map(|a| (a.to_start.clone(), a.kill_pod)),
            [(vec![0, 1], false), (vec![1], false), (vec![], true)]
        );
    }

    #[test]
    fn a_failed_liveness_probe_kills_and_restarts_unless_never() {
        let running = || vec![seen("a", State::Running, 0), seen("b", State::Running, 0)];
        let sick = |c: &ContainerView| ProbeVerdict {
            liveness_failed: c.name == "a",
            started: true,
            ..Default::default()
        };
        let always = plan(&spec("Always", json!([])), &view(running()), sick);
        assert_eq!(
            (always.kill[0].message.as_str(), always.to_start),
            ("Container a failed liveness probe, will be restarted", vec![0])
        );
        let never = plan(&spec("Never", json!([])), &view(running()), sick);
        assert_eq!(never.to_start, Vec::<usize>::new());
    }
}
