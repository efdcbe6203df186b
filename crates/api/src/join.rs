//! The join document: what a machine gets to become a node (Secret `<machine>-bootstrap`, key `value`).

use std::collections::BTreeMap;

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
    /// When the token ends.
    pub expires_at: Timestamp,
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

/// Makes the URI that a node's client certificate carries as subject alternative name.
pub fn identity_uri(cluster_uid: &str, node: &str, incarnation: i64) -> String {
    format!("mainstay://{cluster_uid}/{node}/{incarnation}")
}
