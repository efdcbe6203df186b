//! Cluster API kinds (v1beta2), wire-compatible: the fields this product reads and writes are typed, all
//! others pass through the API server untouched. Writers must patch, never replace, objects of other owners.

pub mod definitions;
pub mod kinds;
pub mod shared;

pub use definitions::crds;
pub use kinds::*;
pub use shared::*;

/// Group of Cluster, Machine, MachineSet, MachineDeployment, MachinePool and MachineHealthCheck.
pub const GROUP: &str = "cluster.x-k8s.io";
/// Served and stored version.
pub const VERSION: &str = "v1beta2";

/// Label with the Cluster's name, on everything that belongs to it.
pub const CLUSTER_NAME_LABEL: &str = "cluster.x-k8s.io/cluster-name";
/// Label with the MachineDeployment's name.
pub const DEPLOYMENT_NAME_LABEL: &str = "cluster.x-k8s.io/deployment-name";
/// Label with the MachineSet's name.
pub const SET_NAME_LABEL: &str = "cluster.x-k8s.io/set-name";
/// Label of control-plane machines.
pub const CONTROL_PLANE_LABEL: &str = "cluster.x-k8s.io/control-plane";
/// Label that tells the MachineSets of one MachineDeployment apart.
pub const TEMPLATE_HASH_LABEL: &str = "machine-template-hash";
/// Annotation: this machine goes first when a MachineSet shrinks.
pub const DELETE_MACHINE_ANNOTATION: &str = "cluster.x-k8s.io/delete-machine";
/// Annotation: this machine is unhealthy, whatever its conditions say.
pub const REMEDIATE_MACHINE_ANNOTATION: &str = "cluster.x-k8s.io/remediate-machine";
/// Annotation: never remediate this machine.
pub const SKIP_REMEDIATION_ANNOTATION: &str = "cluster.x-k8s.io/skip-remediation";
/// Annotation: no controller acts on the object.
pub const PAUSED_ANNOTATION: &str = "cluster.x-k8s.io/paused";
/// Annotation: do not drain before deletion.
pub const EXCLUDE_DRAIN_ANNOTATION: &str = "machine.cluster.x-k8s.io/exclude-node-draining";
/// Annotation: do not wait for volumes before deletion.
pub const EXCLUDE_DETACH_ANNOTATION: &str = "machine.cluster.x-k8s.io/exclude-wait-for-node-volume-detach";
/// Prefix of annotations that hold deletion back before the drain.
pub const PRE_DRAIN_HOOK_PREFIX: &str = "pre-drain.delete.hook.machine.cluster.x-k8s.io";
/// Prefix of annotations that hold deletion back before the infrastructure goes.
pub const PRE_TERMINATE_HOOK_PREFIX: &str = "pre-terminate.delete.hook.machine.cluster.x-k8s.io";
/// Label on pods that overrules drain rules (`skip`, `wait-completed`).
pub const DRAIN_LABEL: &str = "cluster.x-k8s.io/drain";
/// Annotation on Nodes: the Machine's name.
pub const NODE_MACHINE_ANNOTATION: &str = "cluster.x-k8s.io/machine";
/// Annotation on Nodes: the Cluster's name.
pub const NODE_CLUSTER_NAME_ANNOTATION: &str = "cluster.x-k8s.io/cluster-name";
/// Annotation on Nodes: the Cluster's namespace.
pub const NODE_CLUSTER_NAMESPACE_ANNOTATION: &str = "cluster.x-k8s.io/cluster-namespace";
/// Finalizer of Machines.
pub const MACHINE_FINALIZER: &str = "machine.cluster.x-k8s.io";
/// Finalizer of Clusters.
pub const CLUSTER_FINALIZER: &str = "cluster.cluster.x-k8s.io";
/// Type of Secrets that belong to a Cluster.
pub const SECRET_TYPE: &str = "cluster.x-k8s.io/secret";
