//! NodeConfig: the bootstrap provider of Cluster API; its Secret holds the join document.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pool::NodeSettings;

/// Settings with which one machine joins.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "mainstay.dev", version = "v1alpha1", kind = "NodeConfig", namespaced)]
#[kube(status = "NodeConfigStatus", category = "mainstay", category = "cluster-api")]
#[kube(derive = "PartialEq", derive = "Default")]
#[kube(printcolumn(name = "Secret", type_ = "string", json_path = ".status.dataSecretName"))]
#[kube(printcolumn(name = "Expires", type_ = "date", json_path = ".status.expiresAt"))]
pub struct NodeConfigSpec {
    /// Settings of the node.
    #[serde(default)]
    pub node: NodeSettings,
}

/// What was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeConfigStatus {
    /// Cluster API contract.
    pub initialization: BootstrapInitialization,
    /// Secret with keys `value` and `format`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub data_secret_name: String,
    /// Incarnation the Secret was made for.
    pub incarnation: i64,
    /// When its token ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// Conditions: Ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The Cluster API contract's initialization block of bootstrap providers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BootstrapInitialization {
    /// The Secret is there.
    pub data_secret_created: bool,
}

/// What NodeConfigs of a MachineDeployment are made from.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "NodeConfigTemplate",
    namespaced
)]
#[kube(
    category = "mainstay",
    category = "cluster-api",
    derive = "PartialEq",
    derive = "Default"
)]
pub struct NodeConfigTemplateSpec {
    /// The template.
    pub template: NodeConfigTemplateResource,
}

/// The wrapped spec of a NodeConfigTemplate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeConfigTemplateResource {
    /// Spec of each NodeConfig.
    pub spec: NodeConfigSpec,
}
