//! ComputeNode and ComputeCluster: the infrastructure side of the Cluster API contract.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    common::{Endpoint, MachineAddress, NameRef, Probe},
    host::{HostTask, ImageCommit, PowerState},
};

/// One provisioned machine (an infraMachine of Cluster API).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "ComputeNode",
    namespaced
)]
#[kube(
    status = "ComputeNodeStatus",
    category = "mainstay",
    category = "cluster-api",
    shortname = "cn"
)]
#[kube(derive = "PartialEq", derive = "Default")]
#[kube(printcolumn(name = "Host", type_ = "string", json_path = ".spec.hostRef.name"))]
#[kube(printcolumn(name = "Domain", type_ = "string", json_path = ".spec.failureDomain"))]
#[kube(printcolumn(
    name = "Provisioned",
    type_ = "boolean",
    json_path = ".status.initialization.provisioned"
))]
#[kube(printcolumn(name = "Incarnation", type_ = "integer", json_path = ".spec.incarnation"))]
#[kube(printcolumn(name = "Step", type_ = "string", json_path = ".status.task.step"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
pub struct ComputeNodeSpec {
    /// `mainstay://<provider>/<namespace>/<name>`, set by the provision controller.
    #[serde(default, rename = "providerID", skip_serializing_if = "String::is_empty")]
    pub provider_id: String,
    /// The provider.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub provider: String,
    /// The host, set once by the provision controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_ref: Option<NameRef>,
    /// Which hosts may be used.
    #[serde(default)]
    pub sku_selector: LabelSelector,
    /// Allowed zones; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// The OSImage the machine is installed from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_ref: Option<NameRef>,
    /// The commit the machine should run; fixed at provisioning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageCommit>,
    /// Raised by a reprovision request; certificates of lower incarnations are refused.
    #[serde(default)]
    pub incarnation: i64,
    /// `zone/rack`, set with the host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failure_domain: String,
    /// How the machine is probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,
    /// Wanted power; `Off` holds a machine for maintenance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_state: Option<PowerState>,
    /// A restart asked for by the repair ladder or a person: done once per id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartRequest>,
}

/// Asks for one restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RestartRequest {
    /// Any text; a new text asks for a new restart.
    pub id: String,
}

/// What the machine is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ComputeNodeStatus {
    /// Cluster API contract: the machine exists.
    pub initialization: Initialization,
    /// Addresses of the machine.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<MachineAddress>,
    /// The rack, for Machine.status.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub failure_domain: String,
    /// Boot id as last read.
    #[serde(rename = "bootID", skip_serializing_if = "String::is_empty")]
    pub boot_id: String,
    /// Incarnation that runs.
    pub incarnation: i64,
    /// What is installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSlots>,
    /// The provider task under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<HostTask>,
    /// The restart request that was carried out last.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub restarted: String,
    /// When the last restart, provisioning or reprovisioning ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provisioned_at: Option<Time>,
    /// Conditions: Ready, Provisioned, ComputeNodeProbePassed, ComputeNodeApplicationsReachable, ImageUpToDate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The Cluster API contract's initialization block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Initialization {
    /// The infrastructure is there.
    pub provisioned: bool,
}

/// The two system slots of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageSlots {
    /// Commit that runs.
    pub booted: String,
    /// Commit written to the idle slot.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub staged: String,
    /// Commit to fall back to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub previous: String,
    /// Boots left before falling back.
    pub tries_left: u32,
    /// Why the last update fell back.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_failure: String,
}

/// What ComputeNodes of a MachineDeployment are made from.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "ComputeNodeTemplate",
    namespaced
)]
#[kube(
    status = "ComputeNodeTemplateStatus",
    category = "mainstay",
    category = "cluster-api"
)]
#[kube(derive = "PartialEq", derive = "Default")]
pub struct ComputeNodeTemplateSpec {
    /// The template.
    pub template: ComputeNodeTemplateResource,
}

/// The wrapped spec of a ComputeNodeTemplate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ComputeNodeTemplateResource {
    /// Spec of each ComputeNode.
    pub spec: ComputeNodeSpec,
}

/// What scale from zero needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ComputeNodeTemplateStatus {
    /// Capacity of one machine.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub capacity: BTreeMap<String, String>,
}

/// The infrastructure of one cluster (an infraCluster of Cluster API).
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "ComputeCluster",
    namespaced
)]
#[kube(
    status = "ComputeClusterStatus",
    category = "mainstay",
    category = "cluster-api"
)]
#[kube(derive = "PartialEq", derive = "Default")]
#[kube(printcolumn(
    name = "Endpoint",
    type_ = "string",
    json_path = ".spec.controlPlaneEndpoint.host"
))]
#[kube(printcolumn(
    name = "Provisioned",
    type_ = "boolean",
    json_path = ".status.initialization.provisioned"
))]
#[serde(rename_all = "camelCase")]
pub struct ComputeClusterSpec {
    /// Where the API server is reached; filled in by the control plane when it is hosted.
    #[serde(default)]
    pub control_plane_endpoint: Endpoint,
    /// `production`, `staging`, `test` or `office`; networks of one environment must not overlap.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub environment: String,
}

/// What the cluster's infrastructure is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ComputeClusterStatus {
    /// Cluster API contract: the infrastructure is there.
    pub initialization: Initialization,
    /// Racks, as Cluster API's flat list of failure domains.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failure_domains: Vec<FailureDomain>,
    /// Conditions: Ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// One failure domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureDomain {
    /// Name (`zone/rack`).
    pub name: String,
    /// May hold control-plane machines.
    #[serde(default)]
    pub control_plane: bool,
    /// Zone, rack.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}
