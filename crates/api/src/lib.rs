//! The kinds of group `mainstay.dev/v1alpha1`: Rust types, schemas and their CustomResourceDefinitions.
//! Pure data; the rules that act on it live in `machines`, `fleet`, `repair` and `tenancy`.

pub mod bootstrap;
pub mod cluster;
pub mod common;
pub mod compute;
pub mod conditions;
mod definitions;
pub mod duration;
pub mod host;
pub mod image;
pub mod join;
pub mod place;
pub mod pool;
pub mod repair;
pub mod tenant;

pub use bootstrap::{
    NodeConfig, NodeConfigSpec, NodeConfigStatus, NodeConfigTemplate, NodeConfigTemplateSpec,
};
pub use cluster::{
    ClusterDeployment, ClusterDeploymentSpec, ClusterDeploymentStatus, HostedControlPlane,
    HostedControlPlaneSpec, HostedControlPlaneStatus, HostedControlPlaneTemplate,
    HostedControlPlaneTemplateSpec,
};
pub use common::{Endpoint, Free, NameRef, ObjectRef, Probe};
pub use compute::{
    ComputeCluster, ComputeClusterSpec, ComputeClusterStatus, ComputeNode, ComputeNodeSpec,
    ComputeNodeStatus, ComputeNodeTemplate, ComputeNodeTemplateSpec,
};
pub use definitions::crds;
pub use duration::GoDuration;
pub use host::{Host, HostSpec, HostState, HostStatus, PowerState};
pub use image::{OSImage, OSImageSpec, OSImageStatus};
pub use join::NodeJoin;
pub use place::{DataCenter, DataCenterSpec, Rack, RackSpec, Region, RegionSpec, Zone, ZoneSpec};
pub use pool::{NodePool, NodePoolSpec, NodePoolStatus, NodeSettings, UpdatePolicy};
pub use repair::{
    BreakFixTicket, BreakFixTicketSpec, BreakFixTicketStatus, Repair, RepairPolicy, RepairPolicySpec,
    RepairSpec, RepairStatus,
};
pub use tenant::{Tenant, TenantSpec, TenantStatus};

/// The API group of every kind in this crate.
pub const GROUP: &str = "mainstay.dev";
/// The served and stored version of every kind in this crate.
pub const VERSION: &str = "v1alpha1";
/// Group and version as they stand in `apiVersion`.
pub const API_VERSION: &str = "mainstay.dev/v1alpha1";
/// Label that names the NodePool an object belongs to.
pub const POOL_LABEL: &str = "mainstay.dev/pool";
/// Label on hosts and nodes that names the SKU.
pub const SKU_LABEL: &str = "mainstay.dev/sku";
/// Finalizer of every controller of this product that must undo something outside the API.
pub const FINALIZER: &str = "mainstay.dev/cleanup";
/// Annotation with which a person stops all automatic action on an object (any value).
pub const PAUSED_ANNOTATION: &str = "mainstay.dev/paused";
