//! What every part of the agent shares.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::Notify;

use mainstay_base::clock::SharedClock;
use mainstay_nodepolicy::admission::sysctl::AllowList;

use crate::api::ApiHandle;
use crate::cgroups::CgroupTree;
use crate::cpus::Cpus;
use crate::cri::Cri;
use crate::devices::DevicePlugins;
use crate::events::Events;
use crate::facts::Facts;
use crate::fetch::Fetcher;
use crate::own_node::OwnNode;
use crate::pods::allocations::Allocations;
use crate::pods::turn::Turns;
use crate::podspec::runtime_config::NodeSide;
use crate::pressure::PressureCell;
use crate::probes::AllProbed;
use crate::runtime_health::RuntimeHealth;
use crate::settings::Settings;
use crate::tally::Tally;
use crate::verdicts::Verdicts;

/// What every part of the agent shares.
pub struct Shared {
    /// What the agent was told.
    pub settings: Settings,
    /// Time.
    pub clock: SharedClock,
    /// The container runtime.
    pub cri: Cri,
    /// The API server.
    pub api: ApiHandle,
    /// What the machine is.
    pub facts: Facts,
    /// How the runtime does.
    pub health: RuntimeHealth,
    /// Asks for a look at the node's status before its turn.
    pub status_wanted: Notify,
    /// Events about pods and the node.
    pub events: Events,
    /// ConfigMaps, Secrets, tokens and Services.
    pub fetch: Fetcher,
    /// The cgroup tree; `None` when it is switched off.
    pub cgroups: Option<CgroupTree>,
    /// What goes from the node into every sandbox and container.
    pub node_side: NodeSide,
    /// What the agent counts of its own work.
    pub tally: Arc<Tally>,
    /// How often probes ended how.
    pub probed: AllProbed,
    /// What probes found.
    pub verdicts: Verdicts,
    /// What the node lacks.
    pub pressure: PressureCell,
    /// The API server's object of this node.
    pub own_node: OwnNode,
    /// The sysctls that pods may set.
    pub sysctls: AllowList,
    /// The machine goes down: no pod is taken any more.
    pub shutting_down: AtomicBool,
    /// Device plug-ins and who has which device.
    pub devices: Arc<DevicePlugins>,
    /// Turns to start sandboxes and containers.
    pub starts: Turns,
    /// Turns to pull an image; `None`: nobody waits.
    pub pulls: Option<tokio::sync::Semaphore>,
    /// What pods were given.
    pub allocations: Allocations,
    /// How near to each other processors and devices of a pod must be.
    pub numa: mainstay_nodepolicy::numa::Manager,
    /// Who has which processors.
    pub cpus: Cpus,
    /// The node's addresses.
    pub host_ips: Vec<String>,
}

impl Shared {
    /// The current time in nanoseconds since the epoch, as the runtime counts.
    pub fn now_nanos(&self) -> i64 {
        i64::try_from(self.clock.now().as_nanosecond()).unwrap_or(i64::MAX)
    }
}
