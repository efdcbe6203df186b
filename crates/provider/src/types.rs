//! Plain data of the provider trait. Everything serializes, so that callers can keep it in an object's status.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Names a host: `namespace/name` of its Host object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostId(pub String);

impl HostId {
    /// Makes the id of the Host object `namespace/name`.
    pub fn new(namespace: &str, name: &str) -> Self {
        HostId(format!("{namespace}/{name}"))
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The caller's id of one request. The same id asked twice gives the same task, never two actions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub String);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Size of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sku {
    /// CPU in thousandths of a core.
    pub cpu_millis: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Size of the data filesystem in bytes.
    pub disk_bytes: u64,
    /// How many processes may run.
    pub max_pids: u64,
}

impl Default for Sku {
    /// Two cores, 2 GiB of memory, 8 GiB of disk.
    fn default() -> Self {
        Sku {
            cpu_millis: 2000,
            memory_bytes: 2 << 30,
            disk_bytes: 8 << 30,
            max_pids: 4096,
        }
    }
}

/// What a provider must know of a host before it has seen it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostSpec {
    /// Which host.
    pub id: HostId,
    /// Its size.
    pub sku: Sku,
    /// Provider-specific settings, such as the BMC's address.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// What a host is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hardware {
    /// CPU in thousandths of a core.
    pub cpu_millis: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Disk in bytes.
    pub disk_bytes: u64,
    /// NUMA nodes.
    pub numa_nodes: u32,
    /// MAC addresses, boot interface first.
    pub macs: Vec<String>,
    /// Serial number, as the system UUID of the machine.
    pub serial: String,
}

/// What to put on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProvisionRequest {
    /// The caller's id of this request.
    pub request: RequestId,
    /// Where.
    pub host: HostSpec,
    /// Host name of the machine, as it will register.
    pub machine_name: String,
    /// The image's commit.
    pub commit: String,
    /// Join data (NodeConfig as YAML or JSON); reaches the machine as a file readable by root only.
    pub machine_data: String,
    /// Rises with every provisioning of this ComputeNode; lower ones are refused.
    pub incarnation: u64,
}

/// What to do with the power switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PowerOperation {
    /// Switch on.
    On,
    /// Switch off at once.
    Off,
    /// Ask the operating system to stop, switch off after a limit, switch on.
    Cycle,
    /// Off and on at once.
    Reset,
}

/// Whether the host has power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PowerState {
    /// Running.
    On,
    /// Not running; nothing of the machine executes.
    Off,
    /// The host's controller does not answer: no proof of anything.
    Unknown,
}

/// One boot of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootIdentity {
    /// Changes with every start (what the node reports as `nodeInfo.bootID`).
    pub boot_id: String,
    /// The incarnation that runs.
    pub incarnation: u64,
    /// The commit that runs.
    pub commit: String,
    /// When it started.
    pub started_at: Timestamp,
}

/// What happens to the data of a machine that goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Wipe {
    /// Keep the data filesystem.
    Keep,
    /// Forget the filesystem (make it anew).
    Quick,
    /// Overwrite or discard every block.
    Full,
}

/// What a provider can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// `Off` is proven by reading the power state back.
    pub power_fencing: bool,
    /// The idle image slot can be written while the machine runs.
    pub in_place_update: bool,
    /// The console can be read.
    pub console: bool,
    /// How many provisionings may run at the same time.
    pub parallel_provisionings: u32,
}

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TaskKind {
    /// Provisioning.
    Provision,
    /// A power operation.
    Power(PowerOperation),
    /// Deprovisioning.
    Deprovision,
    /// Writing the idle image slot.
    StageImage,
}

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state")]
pub enum TaskState {
    /// Working.
    Running {
        /// Name of the present step, for people.
        step: String,
    },
    /// Finished well.
    Done,
    /// Finished badly; a new request id tries again.
    Failed {
        /// What went wrong.
        message: String,
        /// The hardware is to blame: this is the evidence for a ticket.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evidence: Option<String>,
    },
}

/// A piece of work on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// Id of the request that made it.
    pub id: RequestId,
    /// On which host.
    pub host: HostId,
    /// What it does.
    pub kind: TaskKind,
    /// How far it is.
    pub state: TaskState,
    /// Since when.
    pub started_at: Timestamp,
    /// Until when it must be over; then it fails.
    pub deadline: Timestamp,
}

impl Task {
    /// Tells whether nothing more will happen.
    pub fn finished(&self) -> bool {
        !matches!(self.state, TaskState::Running { .. })
    }
}

/// The two image slots of a machine and the trial counter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSlots {
    /// The commit that runs, or ran last.
    pub booted: String,
    /// The commit of the next start when it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<String>,
    /// The last commit that was confirmed good before the booted one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// Starts left for an unconfirmed commit; 0 when the booted one is good.
    pub tries_left: u32,
    /// Why the last trial failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
}

/// What stands on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineState {
    /// The machine's host name.
    pub machine_name: String,
    /// Its incarnation.
    pub incarnation: u64,
    /// Its addresses, first the internal one.
    pub addresses: Vec<String>,
    /// Its image slots.
    pub image: ImageSlots,
}
