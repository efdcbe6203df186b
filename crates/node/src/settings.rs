//! What one run of the agent is given: who it is, where it keeps things, what it may count on.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::config::{KubeletConfiguration, NodeConfig};
use crate::facts::Overrides;

/// Folders of one agent.
#[derive(Debug, Clone)]
pub struct Dirs {
    /// Pods' volumes and the agent's certificates (`/var/lib/kubelet`).
    pub root: PathBuf,
    /// Symbolic links to container logs by name (`/var/log/containers`).
    pub container_links: PathBuf,
    /// Where the cgroup hierarchies are mounted (`/sys/fs/cgroup`).
    pub cgroups: PathBuf,
    /// The runtime's network configurations (`/etc/cni/net.d`); `None`: somebody else's business.
    pub cni: Option<PathBuf>,
}

impl Default for Dirs {
    fn default() -> Self {
        Dirs {
            root: "/var/lib/kubelet".into(),
            container_links: "/var/log/containers".into(),
            cgroups: "/sys/fs/cgroup".into(),
            cni: Some("/etc/cni/net.d".into()),
        }
    }
}

/// Everything the agent is told at start.
#[derive(Clone)]
pub struct Settings {
    /// The join file.
    pub join: NodeConfig,
    /// The kubelet's configuration.
    pub kubelet: KubeletConfiguration,
    /// Folders.
    pub dirs: Dirs,
    /// Facts of the machine that differ from what the kernel says (a machine inside a machine).
    pub overrides: Overrides,
    /// `nodeInfo.kubeletVersion`.
    pub version: String,
    /// Speaks to the API server in place of the client made from the join file (tests, hosted agents).
    pub client: Option<kube::Client>,
    /// Cancelled when the machine goes down: pods end in their order, then the agent.
    pub going_down: CancellationToken,
}

impl Settings {
    /// Makes settings with default folders.
    pub fn new(join: NodeConfig, mut kubelet: KubeletConfiguration, version: impl Into<String>) -> Self {
        // A configuration that names a cluster DNS of its own wins.
        if let Some(network) = &join.network
            && kubelet.cluster_dns.is_empty()
        {
            kubelet.cluster_dns = vec![network.cluster_dns.clone()];
            kubelet.cluster_domain.clone_from(&network.cluster_domain);
        }
        Settings {
            join,
            kubelet,
            dirs: Dirs::default(),
            overrides: Overrides::default(),
            version: version.into(),
            client: None,
            going_down: CancellationToken::new(),
        }
    }

    /// The node's name.
    pub fn node_name(&self) -> &str {
        &self.join.node_name
    }
}
