//! What one run of the agent is given: who it is, where it keeps things, what it may count on.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::api::Credentials;
use crate::config::{KubeletConfiguration, NodeConfig};
use crate::facts::Overrides;

/// Folders of one agent.
#[derive(Debug, Clone)]
pub struct Dirs {
    /// Pods' volumes and the agent's certificates (`/var/lib/kubelet`).
    pub root: PathBuf,
    /// Symbolic links to container logs by name (`/var/log/containers`).
    pub container_links: PathBuf,
    /// Where certificates are kept; `None`: `pki` below the root.
    pub certificates: Option<PathBuf>,
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
            certificates: None,
            cgroups: "/sys/fs/cgroup".into(),
            cni: Some("/etc/cni/net.d".into()),
        }
    }
}

impl Dirs {
    /// Where certificates are kept.
    pub fn certificates(&self) -> PathBuf {
        let own = || self.root.join("pki");
        self.certificates.clone().unwrap_or_else(own)
    }
}

/// How the node shows who it is where the join file does not say it.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Shown while the agent keeps no certificate of its own.
    pub given: Option<Credentials>,
    /// Shown when the first certificate is asked for, in the place of the join file's token.
    pub first: Option<Credentials>,
    /// A kubeconfig that is made, if it is missing, as soon as there is a certificate: it refers to the kept one.
    pub kubeconfig: Option<PathBuf>,
}

/// Everything the agent is told at start.
#[derive(Clone)]
pub struct Settings {
    /// The join file.
    pub join: NodeConfig,
    /// Credentials beside it.
    pub access: Access,
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
            access: Access::default(),
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
