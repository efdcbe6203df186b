//! Cluster, Machine, MachineSet, MachineDeployment, MachinePool, MachineHealthCheck, KubeadmControlPlane, KubeadmConfig.

use k8s_openapi::{
    api::core::v1::NodeSystemInfo,
    apimachinery::pkg::{
        apis::meta::v1::{Condition, LabelSelector, Time},
        util::intstr::IntOrString,
    },
};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::shared::*;

/// A cluster as Cluster API sees it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "cluster.x-k8s.io",
    version = "v1beta2",
    kind = "Cluster",
    namespaced,
    status = "ClusterStatus"
)]
#[kube(
    shortname = "cl",
    category = "cluster-api",
    derive = "PartialEq",
    derive = "Default"
)]
#[kube(printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterSpec {
    /// Stops all controllers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Address ranges.
    pub cluster_network: ClusterNetwork,
    /// Where the API server is reached.
    #[serde(skip_serializing_if = "ApiEndpoint::is_empty")]
    pub control_plane_endpoint: ApiEndpoint,
    /// The control plane object.
    #[serde(skip_serializing_if = "ContractRef::is_empty")]
    pub control_plane_ref: ContractRef,
    /// The infrastructure object.
    #[serde(skip_serializing_if = "ContractRef::is_empty")]
    pub infrastructure_ref: ContractRef,
}

/// Address ranges of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterNetwork {
    /// Pod ranges.
    pub pods: NetworkRanges,
    /// Service ranges.
    pub services: NetworkRanges,
    /// DNS domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_domain: String,
}

/// Some CIDRs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkRanges {
    /// CIDRs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cidr_blocks: Vec<String>,
}

/// What a Cluster is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterStatus {
    /// Contract flags.
    pub initialization: ClusterInitialization,
    /// `Pending`, `Provisioning`, `Provisioned`, `Deleting`, `Failed`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Generation seen.
    pub observed_generation: i64,
}

/// Initialization flags of a Cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterInitialization {
    /// Infrastructure is there.
    pub infrastructure_provisioned: bool,
    /// The API server has answered once.
    pub control_plane_initialized: bool,
}

/// One machine.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "cluster.x-k8s.io",
    version = "v1beta2",
    kind = "Machine",
    namespaced,
    status = "MachineStatus"
)]
#[kube(
    shortname = "ma",
    category = "cluster-api",
    derive = "PartialEq",
    derive = "Default"
)]
#[kube(printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterName"))]
#[kube(printcolumn(name = "Node Name", type_ = "string", json_path = ".status.nodeRef.name"))]
#[kube(printcolumn(
    name = "Ready",
    type_ = "string",
    json_path = ".status.conditions[?(@.type==\"Ready\")].status"
))]
#[kube(printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[kube(printcolumn(name = "Version", type_ = "string", json_path = ".spec.version"))]
#[serde(transparent)]
pub struct MachineSpec(pub MachineFields);

impl std::ops::Deref for MachineSpec {
    type Target = MachineFields;

    fn deref(&self) -> &MachineFields {
        &self.0
    }
}

/// What a Machine is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineStatus {
    /// Contract flags.
    pub initialization: MachineInitialization,
    /// The Node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_ref: Option<NodeRef>,
    /// Facts of the Node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_info: Option<NodeSystemInfo>,
    /// Addresses of the infrastructure machine.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// Failure domain it is in.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub failure_domain: String,
    /// `Pending`, `Provisioning`, `Provisioned`, `Running`, `Updating`, `Deleting`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// Progress of the deletion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion: Option<MachineDeletionStatus>,
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// When the phase changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_updated: Option<Time>,
    /// Generation seen.
    pub observed_generation: i64,
}

/// Initialization flags of a Machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineInitialization {
    /// Infrastructure is there.
    pub infrastructure_provisioned: bool,
    /// The bootstrap Secret is there.
    pub bootstrap_data_secret_created: bool,
}

/// Since when parts of the deletion run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineDeletionStatus {
    /// Begin of the drain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_drain_start_time: Option<Time>,
    /// Begin of the wait for volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_for_node_volume_detach_start_time: Option<Time>,
}

/// Equal machines.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "cluster.x-k8s.io",
    version = "v1beta2",
    kind = "MachineSet",
    namespaced
)]
#[kube(status = "MachineSetStatus", shortname = "ms", category = "cluster-api")]
#[kube(derive = "PartialEq", derive = "Default")]
#[kube(scale(
    spec_replicas_path = ".spec.replicas",
    status_replicas_path = ".status.replicas",
    label_selector_path = ".status.selector"
))]
#[kube(printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterName"))]
#[kube(printcolumn(name = "Desired", type_ = "integer", json_path = ".spec.replicas"))]
#[kube(printcolumn(name = "Current", type_ = "integer", json_path = ".status.replicas"))]
#[kube(printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase", default)]
pub struct MachineSetSpec {
    /// The Cluster.
    pub cluster_name: String,
    /// Wanted machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Which machines belong to it.
    pub selector: LabelSelector,
    /// What machines are made from.
    pub template: MachineTemplate,
    /// Which go first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion: Option<DeletionOrder>,
}

/// What a MachineSet is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineSetStatus {
    /// Label selector, for /scale.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// Machines.
    pub replicas: i32,
    /// Ready machines.
    pub ready_replicas: i32,
    /// Machines ready for long enough.
    pub available_replicas: i32,
    /// Machines of the present template.
    pub up_to_date_replicas: i32,
    /// Generation seen.
    pub observed_generation: i64,
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Machines that are rolled when their template changes.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "cluster.x-k8s.io",
    version = "v1beta2",
    kind = "MachineDeployment",
    namespaced
)]
#[kube(
    status = "MachineDeploymentStatus",
    shortname = "md",
    category = "cluster-api"
)]
#[kube(derive = "PartialEq", derive = "Default")]
#[kube(scale(
    spec_replicas_path = ".spec.replicas",
    status_replicas_path = ".status.replicas",
    label_selector_path = ".status.selector"
))]
#[kube(printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterName"))]
#[kube(printcolumn(name = "Desired", type_ = "integer", json_path = ".spec.replicas"))]
#[kube(printcolumn(name = "Current", type_ = "integer", json_path = ".status.replicas"))]
#[kube(printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"))]
#[kube(printcolumn(
    name = "Available",
    type_ = "integer",
    json_path = ".status.availableReplicas"
))]
#[kube(printcolumn(
    name = "Up-to-date",
    type_ = "integer",
    json_path = ".status.upToDateReplicas"
))]
#[kube(printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase", default)]
pub struct MachineDeploymentSpec {
    /// The Cluster.
    pub cluster_name: String,
    /// Wanted machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Which machines belong to it.
    pub selector: LabelSelector,
    /// What machines are made from.
    pub template: MachineTemplate,
    /// How changes reach machines.
    pub rollout: Rollout,
    /// Which machines go first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion: Option<DeletionOrder>,
    /// Limits of remediation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remediation: Option<Remediation>,
    /// Stops rollouts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

/// Limits of remediation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Remediation {
    /// Remediations at once (number or percentage, rounded up); absent means unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<IntOrString>,
}

/// What a MachineDeployment is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineDeploymentStatus {
    /// Label selector, for /scale.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// Machines.
    pub replicas: i32,
    /// Ready machines.
    pub ready_replicas: i32,
    /// Machines ready for long enough.
    pub available_replicas: i32,
    /// Machines of the present template.
    pub up_to_date_replicas: i32,
    /// `ScalingUp`, `ScalingDown`, `Running`, `Failed`, `Unknown`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// Generation seen.
    pub observed_generation: i64,
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Machines that an infrastructure provider keeps as one group. Nothing in this product makes them: the kind is served for
/// providers and tools of others (`clusterctl describe` lists it).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "cluster.x-k8s.io",
    version = "v1beta2",
    kind = "MachinePool",
    namespaced
)]
#[kube(status = "MachinePoolStatus", shortname = "mp", category = "cluster-api")]
#[kube(derive = "PartialEq", derive = "Default")]
#[kube(scale(
    spec_replicas_path = ".spec.replicas",
    status_replicas_path = ".status.replicas"
))]
#[kube(printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterName"))]
#[kube(printcolumn(name = "Desired", type_ = "integer", json_path = ".spec.replicas"))]
#[kube(printcolumn(name = "Current", type_ = "integer", json_path = ".status.replicas"))]
#[kube(printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"))]
#[kube(printcolumn(
    name = "Available",
    type_ = "integer",
    json_path = ".status.availableReplicas"
))]
#[kube(printcolumn(
    name = "Up-to-date",
    type_ = "integer",
    json_path = ".status.upToDateReplicas"
))]
#[kube(printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[kube(printcolumn(name = "Version", type_ = "string", json_path = ".spec.template.spec.version"))]
#[serde(rename_all = "camelCase", default)]
pub struct MachinePoolSpec {
    /// The Cluster.
    pub cluster_name: String,
    /// Wanted machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// What machines are made from.
    pub template: MachineTemplate,
    /// Machines that the infrastructure provider reports.
    #[serde(rename = "providerIDList", skip_serializing_if = "Vec::is_empty")]
    pub provider_id_list: Vec<String>,
    /// Where its machines may be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failure_domains: Vec<String>,
}

/// What a MachinePool is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MachinePoolStatus {
    /// Contract flags.
    pub initialization: MachineInitialization,
    /// Machines.
    pub replicas: i32,
    /// Ready machines.
    pub ready_replicas: i32,
    /// Machines ready for long enough.
    pub available_replicas: i32,
    /// Machines of the present template.
    pub up_to_date_replicas: i32,
    /// As of a MachineDeployment, and those of a Machine before it runs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// Generation seen.
    pub observed_generation: i64,
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Which machines are unhealthy, and what follows.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "cluster.x-k8s.io",
    version = "v1beta2",
    kind = "MachineHealthCheck",
    namespaced
)]
#[kube(
    status = "MachineHealthCheckStatus",
    shortname = "mhc",
    shortname = "mhcs",
    category = "cluster-api"
)]
#[kube(derive = "PartialEq", derive = "Default")]
#[kube(printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterName"))]
#[kube(printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.expectedMachines"))]
#[kube(printcolumn(name = "Healthy", type_ = "integer", json_path = ".status.currentHealthy"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase", default)]
pub struct MachineHealthCheckSpec {
    /// The Cluster.
    pub cluster_name: String,
    /// Which machines.
    pub selector: LabelSelector,
    /// What is unhealthy.
    pub checks: HealthChecks,
    /// What follows.
    pub remediation: HealthRemediation,
}

/// What is unhealthy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HealthChecks {
    /// A machine must have its Node by then; default 600, 0 disables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_startup_timeout_seconds: Option<i64>,
    /// Node conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unhealthy_node_conditions: Vec<UnhealthyCondition>,
    /// Machine conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unhealthy_machine_conditions: Vec<UnhealthyCondition>,
}

/// A condition that means trouble when it lasts longer than the timeout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UnhealthyCondition {
    /// Condition type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Condition status.
    pub status: String,
    /// How long.
    pub timeout_seconds: i64,
}

/// When remediation is allowed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HealthRemediation {
    /// Limits.
    pub trigger_if: TriggerIf,
}

/// Limits of remediation; the range wins over the number.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TriggerIf {
    /// Number or percentage (rounded down); default 100 %.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unhealthy_less_than_or_equal_to: Option<IntOrString>,
    /// `[low-high]`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub unhealthy_in_range: String,
}

/// What a MachineHealthCheck saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineHealthCheckStatus {
    /// Machines it looks at.
    pub expected_machines: i32,
    /// Healthy ones.
    pub current_healthy: i32,
    /// Further remediations that are allowed.
    pub remediations_allowed: i32,
    /// Names of the machines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// Generation seen.
    pub observed_generation: i64,
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A control plane that kubeadm makes on machines.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "controlplane.cluster.x-k8s.io",
    version = "v1beta2",
    kind = "KubeadmControlPlane"
)]
#[kube(
    namespaced,
    status = "KubeadmControlPlaneStatus",
    shortname = "kcp",
    category = "cluster-api"
)]
#[kube(derive = "PartialEq", derive = "Default")]
#[kube(scale(
    spec_replicas_path = ".spec.replicas",
    status_replicas_path = ".status.replicas",
    label_selector_path = ".status.selector"
))]
#[kube(printcolumn(name = "Desired", type_ = "integer", json_path = ".spec.replicas"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[kube(printcolumn(name = "Version", type_ = "string", json_path = ".spec.version"))]
#[serde(rename_all = "camelCase", default)]
pub struct KubeadmControlPlaneSpec {
    /// Wanted members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Kubernetes version.
    pub version: String,
}

/// What a KubeadmControlPlane is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeadmControlPlaneStatus {
    /// Label selector, for /scale.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// Members.
    pub replicas: i32,
    /// Ready members.
    pub ready_replicas: i32,
    /// Oldest version that runs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Bootstrap data that kubeadm makes.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "bootstrap.cluster.x-k8s.io",
    version = "v1beta2",
    kind = "KubeadmConfig",
    namespaced
)]
#[kube(
    status = "KubeadmConfigStatus",
    category = "cluster-api",
    derive = "PartialEq",
    derive = "Default"
)]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase", default)]
pub struct KubeadmConfigSpec {
    /// `cloud-config` or `ignition`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub format: String,
}

/// What a KubeadmConfig made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeadmConfigStatus {
    /// The Secret.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub data_secret_name: String,
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
