//! What the runtime and the probes show of one pod.

use crate::pods::reported::Reported;

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
    /// Its limits as the runtime reads them back; `None`: the runtime does not tell.
    pub reported: Option<Reported>,
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
