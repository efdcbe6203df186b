//! The fields of Pods, Nodes and PodDisruptionBudgets that placement reads, as they stand in the API.

use std::collections::BTreeMap;

use mainstay_semantics::node_affinity::NodeAffinity;
use mainstay_semantics::pod::{Container as ContainerResources, PodResources, ResourceList, Resources};
use mainstay_semantics::selector::LabelSelector;
use mainstay_semantics::toleration::{Taint, Toleration};
use serde::Deserialize;

type Labels = BTreeMap<String, String>;

/// A pod's `spec`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Empty while the pod waits for a node.
    pub node_name: String,
    /// Who places the pod.
    pub scheduler_name: String,
    /// Labels a node must have.
    pub node_selector: Labels,
    /// Affinities.
    pub affinity: Affinity,
    /// Taints the pod bears.
    pub tolerations: Vec<Toleration>,
    /// Spread rules.
    pub topology_spread_constraints: Vec<SpreadConstraint>,
    /// The resolved priority.
    pub priority: i32,
    /// The priority's name.
    pub priority_class_name: String,
    /// `Never` or `PreemptLowerPriority`.
    pub preemption_policy: String,
    /// Reasons not to place the pod yet.
    pub scheduling_gates: Vec<Gate>,
    /// App containers.
    pub containers: Vec<Container>,
    /// Init containers.
    pub init_containers: Vec<Container>,
    /// The runtime's overhead.
    pub overhead: ResourceList,
    /// Pod-level resources.
    pub resources: Option<Resources>,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// Claims for devices.
    pub resource_claims: Vec<DeviceClaim>,
    /// How long a pod may take to stop.
    pub termination_grace_period_seconds: Option<i64>,
    /// Host network makes container ports host ports.
    pub host_network: bool,
}

impl PodSpec {
    /// Gives the part that decides requests.
    pub fn pod_resources(&self) -> PodResources {
        let part = |container: &Container| container.resources.clone();
        PodResources {
            containers: self.containers.iter().map(part).collect(),
            init_containers: self.init_containers.iter().map(part).collect(),
            overhead: self.overhead.clone(),
            resources: self.resources.clone(),
        }
    }
}

/// A claim for devices; what it asks for stands in other objects.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct DeviceClaim {
    /// The claim's name within the pod.
    pub name: String,
}

/// A scheduling gate.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Gate {
    /// The gate's name.
    pub name: String,
}

/// A container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Name, resources and restart policy.
    #[serde(flatten)]
    pub resources: ContainerResources,
    /// The image's name.
    pub image: String,
    /// Ports.
    pub ports: Vec<Port>,
}

/// A container's port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    /// The port on the node, 0 for none.
    pub host_port: u16,
    /// The address on the node, empty for all.
    #[serde(rename = "hostIP")]
    pub host_ip: String,
    /// TCP when empty.
    pub protocol: String,
}

/// A volume, as far as placement and eviction care.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    /// The volume's name.
    pub name: String,
    /// Local scratch space.
    pub empty_dir: Option<EmptyDir>,
    /// A folder of the node.
    pub host_path: Option<serde::de::IgnoredAny>,
    /// A claim.
    pub persistent_volume_claim: Option<ClaimSource>,
}

/// An emptyDir.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct EmptyDir {
    /// `Memory` for a tmpfs.
    pub medium: String,
}

/// A reference to a claim.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSource {
    /// The claim's name.
    pub claim_name: String,
}

/// `spec.affinity`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Affinity {
    /// Towards nodes.
    pub node_affinity: Option<NodeAffinity>,
    /// Towards pods.
    pub pod_affinity: PodAffinity,
    /// Away from pods.
    pub pod_anti_affinity: PodAffinity,
}

/// Affinity or anti-affinity between pods.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PodAffinity {
    /// What must hold.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Vec<AffinityTerm>,
    /// What should hold.
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    pub preferred: Vec<WeightedTerm>,
}

/// A wish with a weight.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WeightedTerm {
    /// 1 to 100.
    pub weight: i32,
    /// What is wished for.
    pub pod_affinity_term: AffinityTerm,
}

/// One rule about pods in a topology domain.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AffinityTerm {
    /// Which pods.
    pub label_selector: Option<LabelSelector>,
    /// In which namespaces, by name.
    pub namespaces: Vec<String>,
    /// In which namespaces, by label.
    pub namespace_selector: Option<LabelSelector>,
    /// The node label that makes the domains.
    pub topology_key: String,
    /// Keys whose values must equal the incoming pod's.
    pub match_label_keys: Vec<String>,
    /// Keys whose values must differ from the incoming pod's.
    pub mismatch_label_keys: Vec<String>,
}

/// A topology spread constraint.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SpreadConstraint {
    /// The largest allowed difference between domains.
    pub max_skew: i64,
    /// The node label that makes the domains.
    pub topology_key: String,
    /// `DoNotSchedule` or `ScheduleAnyway`.
    pub when_unsatisfiable: String,
    /// Which pods count.
    pub label_selector: Option<LabelSelector>,
    /// How many domains there should be at least.
    pub min_domains: Option<i64>,
    /// `Honor` (default) or `Ignore` the pod's node affinity when domains are listed.
    pub node_affinity_policy: Option<String>,
    /// `Honor` or `Ignore` (default) taints when domains are listed.
    pub node_taints_policy: Option<String>,
    /// Keys whose values must equal the incoming pod's.
    pub match_label_keys: Vec<String>,
}

/// A pod's `status`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// Pending, Running, Succeeded, Failed.
    pub phase: String,
    /// The node kept for the pod while its victims stop.
    pub nominated_node_name: String,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

/// A condition of any object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// What it is about.
    pub r#type: String,
    /// True, False or Unknown.
    pub status: String,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// When `status` changed.
    pub last_transition_time: String,
}

/// A node's `spec`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// Cordoned.
    pub unschedulable: bool,
    /// Taints.
    pub taints: Vec<Taint>,
    /// The provider's name of the machine.
    #[serde(rename = "providerID")]
    pub provider_id: String,
}

/// A node's `status`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// Everything there is.
    pub capacity: ResourceList,
    /// What pods may use.
    pub allocatable: ResourceList,
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// Images on the node.
    pub images: Vec<Image>,
}

impl NodeStatus {
    /// Tells whether the node reports itself ready.
    pub fn is_ready(&self) -> bool {
        self.conditions
            .iter()
            .any(|condition| condition.r#type == "Ready" && condition.status == "True")
    }
}

/// An image on a node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Image {
    /// Its names.
    pub names: Vec<String>,
    /// Its size.
    pub size_bytes: i64,
}
