//! What to do next for one pod: a pure function of its spec and of what the runtime shows.
//!
//! The rules are the kubelet's: init containers are looked at from the last one backwards, since older ones may have
//! been removed from the runtime; a sandbox that is not the only ready one is replaced with everything in it.

mod init;
mod view;

#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{Container, PodSpec};

pub use view::{ContainerView, PodView, ProbeVerdict, SandboxView, State};

/// Why a container is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its spec changed.
    Definition,
    /// The liveness probe failed for good.
    Liveness,
    /// The startup probe failed for good.
    Startup,
    /// Nobody knows whether it runs, so it must not before another one starts.
    Unknown,
}

/// A container to kill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// The container.
    pub id: String,
    /// Name in the spec.
    pub name: String,
    /// The message of the Killing event.
    pub message: String,
    /// Why.
    pub cause: Cause,
}

impl Kill {
    /// Whether a probe is the cause (its own grace period applies).
    pub fn by_probe(&self) -> bool {
        matches!(self.cause, Cause::Liveness | Cause::Startup)
    }
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

    fn kill(&mut self, seen: &ContainerView, cause: Cause, message: String) {
        self.kill.push(Kill {
            id: seen.id.clone(),
            name: seen.name.clone(),
            message,
            cause,
        });
    }
}

/// Whether an init container keeps running beside the app containers.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Identifies the part of a container's spec whose change needs a new container.
pub fn spec_hash(container: &Container) -> String {
    let text = format!("{}\n{}", container.name, container.image.as_deref().unwrap_or(""));
    format!("{:08x}", fnv(text.as_bytes()))
}

fn fnv(bytes: &[u8]) -> u32 {
    // FNV-1a: names the spec, guards nothing.
    bytes.iter().fold(0x811c_9dc5, |hash, b| {
        (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193)
    })
}

fn definition_changed(container: &Container, seen: &ContainerView) -> bool {
    !seen.hash.is_empty() && seen.hash != spec_hash(container)
}

/// The restart policy of one container: its own, else the pod's.
fn policy<'s>(spec: &'s PodSpec, container: &'s Container) -> &'s str {
    let own = container.restart_policy.as_deref();
    own.or(spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether a rule of the container says that this exit code restarts it.
fn rule_restarts(container: &Container, exit_code: i32) -> bool {
    let rules = container.restart_policy_rules.iter().flatten();
    let matched = rules.filter_map(|rule| {
        let codes = rule.exit_codes.as_ref()?;
        let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
        let matches = match codes.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        matches.then_some(rule.action.as_str())
    });
    let first = matched.into_iter().next();
    container.restart_policy.is_some() && matches!(first, Some("Restart" | "RestartAllContainers"))
}

/// Whether a container that ended with this code starts again.
fn starts_again(spec: &PodSpec, container: &Container, exit_code: i32) -> bool {
    rule_restarts(container, exit_code)
        || match policy(spec, container) {
            "Never" => false,
            "OnFailure" => exit_code != 0,
            _ => true,
        }
}

/// Whether a container that does not run is to be started (again).
fn wants_start(spec: &PodSpec, container: &Container, seen: Option<&ContainerView>) -> bool {
    match seen {
        None => true,
        Some(c) => match c.state {
            State::Running => false,
            State::Created | State::Unknown => true,
            State::Exited => starts_again(spec, container, c.exit_code),
        },
    }
}

/// Computes what to do next. `verdict` tells what probes say about a running container.
pub fn plan(spec: &PodSpec, view: &PodView, verdict: impl Fn(&ContainerView) -> ProbeVerdict) -> Actions {
    let newest = view.sandboxes.first();
    let host_network = spec.host_network == Some(true);
    let usable = newest.filter(|s| s.ready && (host_network || !s.ips.is_empty()));
    let several_ready = view.sandboxes.iter().filter(|s| s.ready).count() > 1;
    match usable.filter(|_| !several_ready) {
        Some(sandbox) => plan_inside(spec, view, sandbox, verdict),
        None => plan_sandbox(spec, view, newest.map_or(0, |s| s.attempt + 1)),
    }
}

/// A sandbox is missing: make one unless nothing would ever run in it.
fn plan_sandbox(spec: &PodSpec, view: &PodView, attempt: u32) -> Actions {
    let over = Actions {
        kill_pod: true,
        ..Default::default()
    };
    let never = spec.restart_policy.as_deref() == Some("Never");
    if never && attempt != 0 && !view.containers.is_empty() {
        return over;
    }
    let ended_well = |c: &Container| {
        let latest = view.latest(&c.name);
        policy(spec, c) == "OnFailure" && latest.is_some_and(|v| v.state == State::Exited && v.exit_code == 0)
    };
    let to_start: Vec<usize> = (0..spec.containers.len())
        .filter(|i| !ended_well(&spec.containers[*i]))
        .collect();
    let mut begun = spec.containers.iter().filter_map(|c| view.latest(&c.name));
    if to_start.is_empty() && begun.any(|v| v.state != State::Unknown) {
        return over;
    }
    let has_init = spec.init_containers.as_ref().is_some_and(|i| !i.is_empty());
    Actions {
        create_sandbox: Some(attempt),
        init_to_start: if has_init { vec![0] } else { Vec::new() },
        to_start: if has_init { Vec::new() } else { to_start },
        ..over
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
    // An app container that is there now proves that init containers are over, though they may be gone.
    let begun = spec.containers.iter().any(|c| {
        let latest = view.latest(&c.name);
        latest.is_some_and(|v| matches!(v.state, State::Created | State::Running))
    });
    if !init::plan(spec, &here, begun, &verdict, &mut actions) {
        return actions;
    }
    let mut kept = 0;
    for (index, container) in spec.containers.iter().enumerate() {
        // An exit in an earlier sandbox still decides whether OnFailure and Never start it again.
        let seen = view.latest(&container.name);
        match seen.filter(|c| c.state == State::Running) {
            Some(running) => {
                let kept_it = keep_or_kill(spec, index, running, verdict(running), &mut actions);
                kept += usize::from(kept_it);
            }
            None if wants_start(spec, container, seen) => {
                actions.to_start.push(index);
                if let Some(lost) = seen.filter(|c| c.state == State::Unknown) {
                    actions.kill(lost, Cause::Unknown, unknown_message("Container"));
                }
            }
            None => {}
        }
    }
    if kept == 0 && actions.to_start.is_empty() {
        actions.kill_pod = true;
        actions.init_to_start.clear();
    }
    actions
}

fn unknown_message(what: &str) -> String {
    format!("{what} is in \"unknown\" state, try killing it before restart")
}

/// Plans the end of a running app container if there is a reason for it; tells whether it stays.
fn keep_or_kill(
    spec: &PodSpec,
    index: usize,
    running: &ContainerView,
    verdict: ProbeVerdict,
    actions: &mut Actions,
) -> bool {
    let container = &spec.containers[index];
    let name = &container.name;
    let again = policy(spec, container) != "Never";
    let (cause, message, restart) = if definition_changed(container, running) {
        (
            Cause::Definition,
            format!("Container {name} definition changed"),
            true,
        )
    } else if verdict.liveness_failed {
        (
            Cause::Liveness,
            format!("Container {name} failed liveness probe"),
            again,
        )
    } else if verdict.startup_failed {
        (
            Cause::Startup,
            format!("Container {name} failed startup probe"),
            again,
        )
    } else {
        return true;
    };
    if restart {
        actions.to_start.push(index);
        actions.kill(running, cause, format!("{message}, will be restarted"));
    } else {
        actions.kill(running, cause, message);
    }
    false
}
