//! The join file: what a new machine is given so that it becomes a node of its cluster.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ConfigError, KubeletConfiguration, read};

/// What a machine needs to join a cluster, made by the machine controller (Secret `<machine>-bootstrap`).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeConfig {
    /// The cluster's UID; part of the identity in the client certificate. Empty on upstream Kubernetes.
    #[serde(rename = "clusterUID")]
    pub cluster_uid: String,
    /// URLs of the cluster's API servers, tried in order.
    pub api_servers: Vec<String>,
    /// PEM certificates that the API servers' certificates chain to.
    pub ca_bundle: String,
    /// The token with which the node asks for its client certificate; unused once it has one.
    pub bootstrap_token: String,
    /// The Node object's name.
    pub node_name: String,
    /// `mainstay://<provider>/<namespace>/<computenode>`.
    #[serde(rename = "providerID")]
    pub provider_id: String,
    /// Raised each time the machine is provisioned anew; certificates of older ones are refused.
    pub incarnation: u64,
    /// Labels of the new Node object.
    pub labels: BTreeMap<String, String>,
    /// Taints of the new Node object.
    pub taints: Vec<k8s_openapi::api::core::v1::Taint>,
    /// An embedded `KubeletConfiguration`, for an agent that is given no file.
    pub kubelet_configuration: serde_json::Value,
    /// Kernel settings that must hold before the node is ready.
    pub sysctls: BTreeMap<String, String>,
    /// The cluster's network, which this node then makes its part of: routes out, Services, names. Absent on clusters
    /// where add-ons do that.
    pub network: Option<ClusterNetwork>,
    /// RFC 3339 time after which the token is refused.
    pub expires_at: Option<String>,
}

/// What a node must know of its cluster's network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterNetwork {
    /// Ranges of all pods.
    pub pod_ranges: Vec<String>,
    /// Ranges of Services.
    pub service_ranges: Vec<String>,
    /// The address at which this node answers names.
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: String,
    /// Domain of cluster names.
    pub cluster_domain: String,
}

impl NodeConfig {
    /// Reads a join file (JSON or YAML).
    ///
    /// # Errors
    /// When it cannot be read or parsed, or lacks the node's name.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read(path)?)
    }

    /// Parses a join document (JSON or YAML).
    ///
    /// # Errors
    /// When it cannot be parsed or lacks the node's name.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: NodeConfig = serde_yaml_ng::from_str(text).map_err(|source| ConfigError::Parse {
            what: "the join file".to_owned(),
            source,
        })?;
        if config.node_name.is_empty() {
            return Err(ConfigError::Refused {
                field: "nodeName".to_owned(),
                why: "must be set".to_owned(),
            });
        }
        Ok(config)
    }

    /// The `KubeletConfiguration` of this join file, or the defaults, with warnings about its fields.
    ///
    /// # Errors
    /// See [`KubeletConfiguration::from_value`].
    pub fn kubelet(&self) -> Result<(KubeletConfiguration, Vec<String>), ConfigError> {
        match &self.kubelet_configuration {
            serde_json::Value::Null => KubeletConfiguration::from_value(serde_json::json!({})),
            value => KubeletConfiguration::from_value(value.clone()),
        }
    }

    /// The identity that the certificate carries besides its name: cluster, machine, incarnation.
    pub fn identity_uri(&self) -> Option<String> {
        let identity =
            || mainstay_pki::NodeIdentity::new(&self.cluster_uid, &self.node_name, self.incarnation);
        (!self.cluster_uid.is_empty()).then(|| identity().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_file_names_its_identity() {
        let text = r#"{"clusterUID": "c1", "nodeName": "n1", "incarnation": 3, "apiServers": ["https://10.0.0.1:6443"]}"#;
        let config = NodeConfig::parse(text).expect("a valid file");
        assert_eq!(config.identity_uri().as_deref(), Some("mainstay://c1/n1/3"));
    }

    #[test]
    fn a_join_file_without_a_name_is_refused() {
        let error = NodeConfig::parse("{}").expect_err("no name");
        assert_eq!(error.to_string(), "nodeName: must be set");
    }
}
