//! NodePool: so many machines of one kind for one cluster. Has the scale subresource.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::{
    apis::meta::v1::{Condition, LabelSelector},
    util::intstr::IntOrString,
};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    common::{Free, NameRef, NodeTaint, Probe},
    host::ImageCommit,
};

/// What a pool should be.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "NodePool",
    namespaced,
    status = "NodePoolStatus"
)]
#[kube(
    category = "mainstay",
    shortname = "np",
    derive = "PartialEq",
    derive = "Default"
)]
#[kube(scale(
    spec_replicas_path = ".spec.replicas",
    status_replicas_path = ".status.replicas",
    label_selector_path = ".status.selector"
))]
#[kube(printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterName"))]
#[kube(printcolumn(name = "Desired", type_ = "integer", json_path = ".spec.replicas"))]
#[kube(printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"))]
#[kube(printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"))]
#[kube(printcolumn(name = "UpToDate", type_ = "integer", json_path = ".status.upToDateReplicas"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
pub struct NodePoolSpec {
    /// The Cluster; a ClusterDeployment fills it in for its pools.
    #[serde(default)]
    pub cluster_name: String,
    /// Wanted machines. With an autoscaling range the autoscaler writes it through /scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub replicas: Option<i32>,
    /// Range for the autoscaler; absent means fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// Which hosts may be used, by their labels (`mainstay.dev/sku` is always there).
    #[serde(default)]
    pub sku_selector: LabelSelector,
    /// The provider that makes the machines.
    #[serde(default = "local")]
    pub provider: String,
    /// The OSImage.
    #[serde(default)]
    pub image_ref: NameRef,
    /// Kubernetes version of the nodes; empty means the cluster's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// How machines spread.
    #[serde(default)]
    pub failure_domains: FailureDomains,
    /// Settings of the nodes.
    #[serde(default)]
    pub node: NodeSettings,
    /// Probe of every machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,
    /// How changes reach the machines.
    #[serde(default)]
    pub update: Update,
    /// The RepairPolicy; absent means `default` if that exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair_policy_ref: Option<NameRef>,
    /// How machines are deleted.
    #[serde(default)]
    pub deletion: Deletion,
}

fn local() -> String {
    "local".to_string()
}

/// The autoscaler's range.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Autoscaling {
    /// Fewest machines.
    #[schemars(range(min = 0))]
    pub min: i32,
    /// Most machines.
    #[schemars(range(min = 0))]
    pub max: i32,
}

/// Spread over failure domains.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FailureDomains {
    /// `rack` (default) or `zone`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub spread: String,
    /// Allowed zones; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<String>,
}

/// Settings that every node of a pool starts with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSettings {
    /// Node labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Node taints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<NodeTaint>,
    /// Fields of KubeletConfiguration.
    #[serde(default, skip_serializing_if = "Free::is_empty")]
    pub kubelet_configuration: Free,
    /// Kernel settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    /// Huge pages by size.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hugepages: BTreeMap<String, u32>,
    /// nftables rules of the host firewall.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub firewall: Vec<String>,
    /// `enforcing`, `permissive` or `disabled`; empty means the image's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selinux: String,
}

/// What an image change may do to a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpdatePolicy {
    /// Only an A/B update in place; anything else halts.
    InPlaceOnly,
    /// In place where possible, else replacement.
    PreferInPlace,
    /// New machines replace the old ones.
    #[default]
    Replace,
}

/// How a change is rolled out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Update {
    /// In place or by replacement.
    #[serde(default)]
    pub policy: UpdatePolicy,
    /// Batches, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waves: Vec<Wave>,
    /// Machines that may be missing (number or percentage); default 1 when `maxSurge` is 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<IntOrString>,
    /// Machines above `replicas` (number or percentage); default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_surge: Option<IntOrString>,
    /// Stops the rollout where it is.
    #[serde(default)]
    pub pause: bool,
    /// Times of the week at which machines may be disrupted; empty means always.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<String>,
}

/// One batch of a rollout; exactly one field is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Wave {
    /// So many machines first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<u32>,
    /// One failure domain of this kind at a time (`rack`, `zone`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// This share of the pool at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
}

/// Limits while a machine is deleted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deletion {
    /// After this the drain is given up; absent waits for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_drain_timeout_seconds: Option<i64>,
}

/// What a pool is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodePoolStatus {
    /// Machines there are.
    pub replicas: i32,
    /// Machines whose Node is ready.
    pub ready_replicas: i32,
    /// Machines with the wanted template.
    pub up_to_date_replicas: i32,
    /// Label selector of the machines, for /scale.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// The commit that new machines get.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageCommit>,
    /// What one new machine has; scale from zero needs it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub capacity: BTreeMap<String, String>,
    /// The rollout under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Generation this status was computed from.
    pub observed_generation: i64,
    /// Conditions: Ready, Valid, RollingOut.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Progress of a rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Rollout {
    /// Current wave, from 1.
    pub wave: u32,
    /// Number of waves.
    pub of: u32,
    /// What stops it; empty means nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub blocked_by: String,
}
