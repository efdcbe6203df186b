//! The fields of management objects that the autoscaler reads.

use std::collections::BTreeMap;

use mainstay_placement::input::PodSpec;
use mainstay_semantics::pod::ResourceList;
use mainstay_semantics::toleration::Taint;
use serde::Deserialize;

mainstay_control::projection! {
    /// A NodePool.
    pub struct PoolView = "mainstay.dev" "v1alpha1" "NodePool" "nodepools" namespaced {
        /// The spec.
        pub spec: PoolSpec,
        /// The status.
        pub status: PoolStatus,
    }
}

mainstay_control::projection! {
    /// A MachineDeployment.
    pub struct DeploymentView = "cluster.x-k8s.io" "v1beta2" "MachineDeployment" "machinedeployments" namespaced {
        /// The spec.
        pub spec: DeploymentSpec,
    }
}

mainstay_control::projection! {
    /// A Machine.
    pub struct MachineView = "cluster.x-k8s.io" "v1beta2" "Machine" "machines" namespaced {
        /// The spec.
        pub spec: MachineSpec,
        /// The status.
        pub status: MachineStatus,
    }
}

mainstay_control::projection! {
    /// A DaemonSet of the workload cluster.
    pub struct DaemonView = "apps" "v1" "DaemonSet" "daemonsets" namespaced {
        /// The spec.
        pub spec: DaemonSpec,
    }
}

/// A NodePool's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolSpec {
    /// The cluster.
    pub cluster_name: String,
    /// Wanted machines.
    pub replicas: Option<i32>,
    /// The range; absent means fixed.
    pub autoscaling: Option<Range>,
    /// What nodes start with.
    pub node: PoolNode,
}

/// A range of sizes.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Range {
    /// The fewest.
    pub min: i32,
    /// The most.
    pub max: i32,
}

/// What a pool's nodes start with.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PoolNode {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
}

/// A NodePool's status.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PoolStatus {
    /// What a new machine has.
    pub capacity: ResourceList,
}

/// A MachineDeployment's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentSpec {
    /// The cluster.
    pub cluster_name: String,
    /// Wanted machines.
    pub replicas: Option<i32>,
    /// Paused.
    pub paused: Option<bool>,
}

/// A Machine's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineSpec {
    /// The cluster.
    pub cluster_name: String,
    /// The provider's name of the machine.
    #[serde(rename = "providerID")]
    pub provider_id: String,
}

/// A Machine's status.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineStatus {
    /// The Node.
    pub node_ref: Option<NodeRef>,
}

/// A reference to a Node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NodeRef {
    /// Its name.
    pub name: String,
}

/// A DaemonSet's spec.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct DaemonSpec {
    /// What its pods are made from.
    pub template: DaemonTemplate,
}

/// A DaemonSet's pod template.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct DaemonTemplate {
    /// The pod's spec.
    pub spec: PodSpec,
}
