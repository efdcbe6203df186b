//! ClusterDeployment (a whole cluster in one object) and HostedControlPlane (a control plane run in process).

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    common::{Endpoint, NameRef},
    pool::NodePoolSpec,
};

/// A whole cluster.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "ClusterDeployment",
    namespaced
)]
#[kube(status = "ClusterDeploymentStatus", category = "mainstay", shortname = "cd")]
#[kube(derive = "PartialEq", derive = "Default")]
#[kube(printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"))]
#[kube(printcolumn(name = "Version", type_ = "string", json_path = ".status.version"))]
#[kube(printcolumn(
    name = "Endpoint",
    type_ = "string",
    json_path = ".status.controlPlaneEndpoint.host"
))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
pub struct ClusterDeploymentSpec {
    /// Kubernetes version (`v1.36.3`).
    pub version: String,
    /// Where the control plane runs.
    #[serde(default)]
    pub control_plane: ControlPlane,
    /// Address ranges.
    #[serde(default)]
    pub network: Network,
    /// The pools; each becomes NodePool `<cluster>-<name>`.
    #[serde(default)]
    pub node_pools: Vec<PoolTemplate>,
    /// Add-ons by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addons: Vec<NameRef>,
    /// Order of updates.
    #[serde(default)]
    pub update: ClusterUpdate,
    /// The Tenant the cluster belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_ref: Option<NameRef>,
    /// What happens to the machines when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Where the control plane runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ControlPlaneType {
    /// In the management process.
    #[default]
    Hosted,
    /// On machines of its own, with etcd.
    Machines,
    /// Upstream Kubernetes by kubeadm.
    Kubeadm,
}

/// The control plane of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ControlPlane {
    /// Where it runs.
    #[serde(default, rename = "type")]
    pub kind: ControlPlaneType,
    /// Members.
    #[serde(default = "one")]
    pub replicas: i32,
    /// `rack` or `zone`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub spread: String,
}

fn one() -> i32 {
    1
}

/// The network plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Network {
    /// Pod addresses.
    #[serde(default = "pods")]
    pub pods: String,
    /// Service addresses.
    #[serde(default = "services")]
    pub services: String,
    /// `office`, `test`, `staging` or `production`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub environment: String,
    /// `bridge` (built in) or the name of a CNI add-on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub provider: String,
}

fn pods() -> String {
    "10.244.0.0/16".to_string()
}

fn services() -> String {
    "10.96.0.0/12".to_string()
}

impl Default for Network {
    fn default() -> Self {
        Network {
            pods: pods(),
            services: services(),
            environment: String::new(),
            provider: String::new(),
        }
    }
}

impl Network {
    /// Reads the pod range; None when it is not a CIDR.
    pub fn pod_range(&self) -> Option<IpNet> {
        self.pods.parse().ok()
    }

    /// Reads the service range; None when it is not a CIDR.
    pub fn service_range(&self) -> Option<IpNet> {
        self.services.parse().ok()
    }
}

/// One pool of a ClusterDeployment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolTemplate {
    /// Name within the cluster.
    pub name: String,
    /// The NodePool.
    pub template: PoolTemplateResource,
}

/// The wrapped spec of a pool template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolTemplateResource {
    /// Spec of the NodePool; its `clusterName` is overwritten.
    pub spec: NodePoolSpec,
}

/// Order of updates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterUpdate {
    /// `ControlPlaneFirst`.
    #[serde(default = "control_plane_first")]
    pub order: String,
    /// Stops the remaining pools when one fails.
    #[serde(default = "yes")]
    pub halt_on_failure: bool,
}

impl Default for ClusterUpdate {
    fn default() -> Self {
        ClusterUpdate {
            order: control_plane_first(),
            halt_on_failure: true,
        }
    }
}

fn control_plane_first() -> String {
    "ControlPlaneFirst".to_string()
}

fn yes() -> bool {
    true
}

/// What deletion does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Machines are wiped and released.
    #[default]
    Delete,
    /// Machines keep running.
    Orphan,
}

/// What the cluster is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterDeploymentStatus {
    /// `Invalid`, `Pending`, `ProvisioningControlPlane`, `ProvisioningNodes`, `Ready`, `Updating`, `Deleting`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// Where the API server is reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane_endpoint: Option<Endpoint>,
    /// Secret with the admin kubeconfig (key `value`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig_secret_ref: Option<NameRef>,
    /// Version that the control plane serves.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The plan made last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanSummary>,
    /// Counts per pool.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<PoolCount>,
    /// Generation this status was computed from.
    pub observed_generation: i64,
    /// Conditions: Ready, Valid, ControlPlaneReady, PoolsReady.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Which plan was carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanSummary {
    /// Digest of the printed plan.
    pub digest: String,
    /// Generation it was made from.
    pub generation: i64,
    /// Number of steps.
    pub steps: u32,
}

/// Machines of one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolCount {
    /// Name within the cluster.
    pub name: String,
    /// Ready machines.
    pub ready: i32,
    /// Wanted machines.
    pub wanted: i32,
}

/// A control plane that the management process runs (Cluster API's control-plane contract).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "HostedControlPlane",
    namespaced
)]
#[kube(
    status = "HostedControlPlaneStatus",
    category = "mainstay",
    category = "cluster-api",
    shortname = "hcp"
)]
#[kube(derive = "PartialEq", derive = "Default")]
#[kube(printcolumn(name = "Version", type_ = "string", json_path = ".status.version"))]
#[kube(printcolumn(
    name = "Initialized",
    type_ = "boolean",
    json_path = ".status.initialization.controlPlaneInitialized"
))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
pub struct HostedControlPlaneSpec {
    /// Kubernetes version.
    pub version: String,
    /// Where it is reached; kept for the life of the control plane.
    #[serde(default)]
    pub control_plane_endpoint: Endpoint,
    /// Address ranges.
    #[serde(default)]
    pub network: Network,
}

/// What the control plane is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HostedControlPlaneStatus {
    /// Cluster API contract: the API server has answered once.
    pub initialization: ControlPlaneInitialization,
    /// Members that serve (0 or 1).
    pub replicas: i32,
    /// Members that are ready.
    pub ready_replicas: i32,
    /// Version that serves.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// True: no Node objects stand for its members.
    pub external_managed_control_plane: bool,
    /// Conditions: Ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The Cluster API contract's initialization block of control planes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ControlPlaneInitialization {
    /// The API server accepts requests.
    pub control_plane_initialized: bool,
}

/// What HostedControlPlanes of a ClusterClass are made from.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "HostedControlPlaneTemplate",
    namespaced
)]
#[kube(
    category = "mainstay",
    category = "cluster-api",
    derive = "PartialEq",
    derive = "Default"
)]
pub struct HostedControlPlaneTemplateSpec {
    /// The template.
    pub template: HostedControlPlaneTemplateResource,
}

/// The wrapped spec of a HostedControlPlaneTemplate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostedControlPlaneTemplateResource {
    /// Spec of each HostedControlPlane.
    pub spec: HostedControlPlaneSpec,
}
