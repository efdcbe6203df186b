//! The join document: what a machine gets to become a node (Secret `<machine>-bootstrap`, key `value`).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::common::{Free, NodeTaint};

/// The value of the Secret's `format` key.
pub const FORMAT: &str = "mainstay";
/// How long a bootstrap token lives, in seconds.
pub const TOKEN_LIFETIME_SECONDS: i64 = 15 * 60;
/// Prefix of a node's user name in client certificates.
pub const NODE_USER_PREFIX: &str = "system:node:";
/// Group of every node.
pub const NODE_GROUP: &str = "system:nodes";
/// Group of machines that hold a bootstrap token.
pub const BOOTSTRAP_GROUP: &str = "system:bootstrappers:mainstay";

/// Everything a machine needs to join its cluster once. Holds a secret (`bootstrap_token`): never log it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeJoin {
    /// UID of the Cluster object; a node never joins another cluster by accident.
    #[serde(rename = "clusterUID")]
    pub cluster_uid: String,
    /// URLs of the API server, tried in order.
    pub api_servers: Vec<String>,
    /// PEM certificates that the API server's certificate must chain to.
    pub ca_bundle: String,
    /// `id.secret` token: 15 minutes, one machine, may only create and read its CSR.
    pub bootstrap_token: String,
    /// The Node's name, and the certificate's `system:node:` name.
    pub node_name: String,
    /// `mainstay://<provider>/<namespace>/<computenode>`.
    #[serde(rename = "providerID")]
    pub provider_id: String,
    /// Raised at each reprovision; certificates of older incarnations are refused.
    pub incarnation: i64,
    /// Labels for the Node.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Taints for the Node at registration.
    #[serde(default)]
    pub taints: Vec<NodeTaint>,
    /// Overrides for the kubelet configuration (the fields of KubeletConfiguration).
    #[serde(default)]
    pub kubelet_configuration: Free,
    /// Settings verified before the node turns Ready.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// The cluster's network, where nodes make it themselves; none where add-ons do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NodeNetwork>,
    /// When the token ends.
    pub expires_at: Timestamp,
}

/// What a node must know of its cluster's network to translate Services and answer names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeNetwork {
    /// Ranges of all pods: packets to them keep their sender's address.
    pub pod_ranges: Vec<String>,
    /// Ranges of Services.
    pub service_ranges: Vec<String>,
    /// The address at which every node answers names.
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: String,
    /// Domain of cluster names.
    pub cluster_domain: String,
}

/// The address of the cluster's DNS: the tenth of the Service range, as kubeadm chooses. None for a range without it.
pub fn dns_address(services: &str) -> Option<Ipv4Addr> {
    let (network, prefix) = services.split_once('/')?;
    let network: Ipv4Addr = network.parse().ok()?;
    let fits = prefix.parse::<u32>().is_ok_and(|prefix| prefix <= 28);
    fits.then(|| Ipv4Addr::from(u32::from(network).wrapping_add(10)))
}

impl std::fmt::Debug for NodeJoin {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("NodeJoin")
            .field("node_name", &self.node_name)
            .field("provider_id", &self.provider_id)
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

/// Makes the providerID of a ComputeNode.
pub fn provider_id(provider: &str, namespace: &str, compute_node: &str) -> String {
    format!("mainstay://{provider}/{namespace}/{compute_node}")
}

/// Reads namespace and ComputeNode of a providerID; none for machines of other makers.
pub fn parse_provider_id(provider_id: &str) -> Option<(&str, &str)> {
    let mut parts = provider_id.strip_prefix("mainstay://")?.split('/').skip(1);
    let found = (parts.next()?, parts.next()?);
    parts.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_answered_at_the_tenth_address() {
        assert_eq!(dns_address("10.96.0.0/12"), Some(Ipv4Addr::new(10, 96, 0, 10)));
        assert_eq!(dns_address("10.96.0.0/29"), None);
        assert_eq!(dns_address("fd00::/108"), None);
    }
}
