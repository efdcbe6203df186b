//! Shapes that several Cluster API kinds share.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::{apis::meta::v1::Time, util::intstr::IntOrString};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// References an object of a kind that follows a Cluster API contract (the version is looked up).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ContractRef {
    /// API group.
    pub api_group: String,
    /// Kind.
    pub kind: String,
    /// Name, in the same namespace.
    pub name: String,
}

impl ContractRef {
    /// Tells whether nothing is referenced.
    pub fn is_empty(&self) -> bool {
        self.name.is_empty()
    }
}

/// Labels and annotations of a template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TemplateMeta {
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What machines of a set are made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MachineTemplate {
    /// Labels and annotations.
    pub metadata: TemplateMeta,
    /// Spec of each Machine.
    pub spec: MachineFields,
}

/// Spec of a Machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineFields {
    /// The Cluster.
    pub cluster_name: String,
    /// How it joins.
    pub bootstrap: Bootstrap,
    /// The infrastructure machine (in templates: the infrastructure template).
    pub infrastructure_ref: ContractRef,
    /// Kubernetes version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Set from the infrastructure machine.
    #[serde(rename = "providerID", skip_serializing_if = "String::is_empty")]
    pub provider_id: String,
    /// Wanted failure domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub failure_domain: String,
    /// Seconds of readiness after which a machine is available.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_ready_seconds: Option<i32>,
    /// Further conditions that Ready depends on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub readiness_gates: Vec<ReadinessGate>,
    /// Taints for the Node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<MachineTaint>,
    /// Limits during deletion.
    #[serde(skip_serializing_if = "MachineDeletion::is_empty")]
    pub deletion: MachineDeletion,
}

/// How a machine joins: a bootstrap object or a ready Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Bootstrap {
    /// The bootstrap object (in templates: the bootstrap template).
    #[serde(skip_serializing_if = "ContractRef::is_empty")]
    pub config_ref: ContractRef,
    /// The Secret; set from the bootstrap object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_secret_name: Option<String>,
}

/// A condition that Ready depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadinessGate {
    /// Condition type.
    pub condition_type: String,
    /// `Positive` (default) or `Negative`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub polarity: String,
}

/// A taint that is set on the Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MachineTaint {
    /// Key.
    pub key: String,
    /// Value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Effect.
    pub effect: String,
    /// `Always` or `OnInitialization`.
    pub propagation: String,
}

/// Limits while a machine is deleted, in seconds; absent or 0 waits for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineDeletion {
    /// Drain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_drain_timeout_seconds: Option<i64>,
    /// Volume detach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_volume_detach_timeout_seconds: Option<i64>,
    /// Deletion of the Node object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_deletion_timeout_seconds: Option<i64>,
}

impl MachineDeletion {
    /// Tells whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == MachineDeletion::default()
    }
}

/// Which machines go first when a set shrinks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DeletionOrder {
    /// `Random` (default), `Newest` or `Oldest`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub order: String,
}

/// How changes reach machines.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Rollout {
    /// Machines of sets created before this time are replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Time>,
    /// Rolling or on delete.
    pub strategy: Strategy,
}

/// The rollout strategy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Strategy {
    /// `RollingUpdate` (default) or `OnDelete`.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its numbers.
    pub rolling_update: RollingUpdate,
}

/// How many machines may be extra or missing; defaults are 1 and 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RollingUpdate {
    /// Extra machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_surge: Option<IntOrString>,
    /// Missing machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
}

/// Host and port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ApiEndpoint {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: i32,
}

impl ApiEndpoint {
    /// Tells whether it is unknown.
    pub fn is_empty(&self) -> bool {
        self.host.is_empty()
    }
}

/// An address of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Address {
    /// `InternalIP`, `Hostname`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub address: String,
}

/// The Node of a Machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NodeRef {
    /// Its name.
    pub name: String,
}
