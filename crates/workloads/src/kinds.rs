//! The projections that the controllers share: of each kind only the fields that some controller decides on.

use std::collections::BTreeMap;

use mainstay_control::projection;
use mainstay_semantics::node_affinity::NodeSelector;
use mainstay_semantics::selector::LabelSelector;
use mainstay_semantics::toleration::{Taint, Toleration};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A condition as all kinds have it; unset fields are not written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<jiff::Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<jiff::Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_probe_time: Option<jiff::Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_time: Option<jiff::Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// Finds a condition by type.
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

/// Tells whether a condition is "True".
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    condition(conditions, kind).is_some_and(|condition| condition.status == "True")
}

projection! {
    /// A pod.
    pub struct Pod = "" "v1" "Pod" "pods" namespaced {
        pub spec: PodSpec,
        pub status: PodStatus,
    }
}

/// See [`Pod`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    pub node_name: Option<String>,
    pub tolerations: Vec<Toleration>,
    pub restart_policy: Option<String>,
    pub hostname: Option<String>,
    pub subdomain: Option<String>,
    pub containers: Vec<Container>,
    pub affinity: Value,
}

/// A container's named ports.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Container {
    pub name: String,
    pub ports: Vec<ContainerPort>,
}

/// A named port that a Service may target.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    pub name: Option<String>,
    pub container_port: i32,
    pub protocol: Option<String>,
}

/// See [`Pod`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    pub phase: Option<String>,
    pub reason: Option<String>,
    pub conditions: Vec<Condition>,
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
    pub container_statuses: Vec<ContainerStatus>,
}

/// One of a pod's addresses.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PodIp {
    pub ip: String,
}

/// A container's restarts.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    pub restart_count: i32,
}

projection! {
    /// A ReplicaSet.
    pub struct ReplicaSet = "apps" "v1" "ReplicaSet" "replicasets" namespaced {
        pub spec: ReplicaSetSpec,
        pub status: ReplicaSetStatus,
    }
}

/// See [`ReplicaSet`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetSpec {
    pub replicas: Option<i32>,
    pub min_ready_seconds: i32,
    pub selector: LabelSelector,
    pub template: Value,
}

/// See [`ReplicaSet`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetStatus {
    pub replicas: i32,
    pub fully_labeled_replicas: i32,
    pub ready_replicas: i32,
    pub available_replicas: i32,
    pub terminating_replicas: i32,
    pub observed_generation: i64,
    pub conditions: Vec<Condition>,
}

projection! {
    /// A Deployment.
    pub struct Deployment = "apps" "v1" "Deployment" "deployments" namespaced {
        pub spec: DeploymentSpec,
        pub status: DeploymentStatus,
    }
}

/// See [`Deployment`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentSpec {
    pub replicas: Option<i32>,
    pub min_ready_seconds: i32,
    pub selector: LabelSelector,
    pub template: Value,
    pub strategy: Strategy,
    pub revision_history_limit: Option<i32>,
    pub paused: bool,
    pub progress_deadline_seconds: Option<i32>,
}

/// How pods are replaced.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Strategy {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub rolling_update: RollingUpdate,
}

/// Budgets of a rolling update; `null` takes Kubernetes' default of 25 %.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RollingUpdate {
    pub max_surge: Value,
    pub max_unavailable: Value,
    pub partition: Option<i32>,
}

/// See [`Deployment`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStatus {
    pub replicas: i32,
    pub updated_replicas: i32,
    pub ready_replicas: i32,
    pub available_replicas: i32,
    pub unavailable_replicas: i32,
    pub terminating_replicas: i32,
    pub observed_generation: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i32>,
    pub conditions: Vec<Condition>,
}

projection! {
    /// A Job.
    pub struct Job = "batch" "v1" "Job" "jobs" namespaced {
        pub spec: JobSpec,
        pub status: JobStatus,
    }
}

/// See [`Job`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobSpec {
    pub parallelism: Option<i32>,
    pub completions: Option<i32>,
    pub backoff_limit: Option<i32>,
    pub active_deadline_seconds: Option<i64>,
    pub ttl_seconds_after_finished: Option<i64>,
    pub completion_mode: Option<String>,
    pub suspend: bool,
    pub selector: LabelSelector,
    pub template: Value,
}

/// See [`Job`]. Lists and counts that another controller wrote survive in `other`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobStatus {
    pub active: i32,
    pub ready: i32,
    pub succeeded: i32,
    pub failed: i32,
    pub terminating: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<jiff::Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<jiff::Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_indexes: Option<String>,
    pub uncounted_terminated_pods: Uncounted,
    pub conditions: Vec<Condition>,
}

/// Pods that ended and still hold the Job's finalizer, by uid.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Uncounted {
    pub succeeded: Vec<String>,
    pub failed: Vec<String>,
}

projection! {
    /// A node.
    pub struct Node = "" "v1" "Node" "nodes" cluster {
        pub spec: NodeSpec,
        pub status: NodeStatus,
    }
}

/// See [`Node`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    pub unschedulable: bool,
    pub taints: Vec<NodeTaint>,
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
    #[serde(rename = "providerID")]
    pub provider_id: String,
}

/// A taint with the time since when it holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeTaint {
    #[serde(flatten)]
    pub taint: Taint,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_added: Option<jiff::Timestamp>,
}

/// See [`Node`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    pub conditions: Vec<Condition>,
    pub addresses: Vec<NodeAddress>,
}

/// One of a node's addresses.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    #[serde(rename = "type")]
    pub kind: String,
    pub address: String,
}

projection! {
    /// A node's heartbeat.
    pub struct Lease = "coordination.k8s.io" "v1" "Lease" "leases" namespaced {
        pub spec: LeaseSpec,
    }
}

/// See [`Lease`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaseSpec {
    pub renew_time: Option<jiff::Timestamp>,
}

projection! {
    /// A namespace.
    pub struct Namespace = "" "v1" "Namespace" "namespaces" cluster {
        pub spec: NamespaceSpec,
        pub status: NamespaceStatus,
    }
}

/// See [`Namespace`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceSpec {
    pub finalizers: Vec<String>,
}

/// See [`Namespace`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NamespaceStatus {
    pub conditions: Vec<Condition>,
}

projection! {
    /// A ServiceAccount; its name is all that counts.
    pub struct ServiceAccount = "" "v1" "ServiceAccount" "serviceaccounts" namespaced {}
}

projection! {
    /// A ConfigMap with its text.
    pub struct ConfigMap = "" "v1" "ConfigMap" "configmaps" namespaced {
        pub data: BTreeMap<String, String>,
    }
}

projection! {
    /// A Service.
    pub struct Service = "" "v1" "Service" "services" namespaced {
        pub spec: ServiceSpec,
    }
}

/// See [`Service`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    pub selector: Option<BTreeMap<String, String>>,
    pub ports: Vec<ServicePort>,
    pub publish_not_ready_addresses: bool,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    pub ip_families: Vec<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
}

/// A Service's port.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    pub name: Option<String>,
    pub protocol: Option<String>,
    pub port: i32,
    pub target_port: Value,
    pub app_protocol: Option<String>,
}

projection! {
    /// An EndpointSlice as it stands.
    pub struct EndpointSlice = "discovery.k8s.io" "v1" "EndpointSlice" "endpointslices" namespaced {
        pub address_type: String,
        pub endpoints: Option<Vec<Value>>,
        pub ports: Option<Vec<Value>>,
    }
}

projection! {
    /// A certificate request.
    pub struct CertificateSigningRequest = "certificates.k8s.io" "v1" "CertificateSigningRequest"
        "certificatesigningrequests" cluster {
        pub spec: RequestSpec,
        pub status: RequestStatus,
    }
}

/// See [`CertificateSigningRequest`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestSpec {
    pub request: String,
    pub signer_name: String,
    pub usages: Vec<String>,
    pub expiration_seconds: Option<i64>,
}

/// See [`CertificateSigningRequest`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RequestStatus {
    pub certificate: Option<String>,
    pub conditions: Vec<Condition>,
}

projection! {
    /// A ClusterRole.
    pub struct ClusterRole = "rbac.authorization.k8s.io" "v1" "ClusterRole" "clusterroles" cluster {
        pub rules: Option<Vec<Value>>,
        pub aggregation_rule: Option<AggregationRule>,
    }
}

/// See [`ClusterRole`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AggregationRule {
    pub cluster_role_selectors: Vec<LabelSelector>,
}

projection! {
    /// A disruption budget.
    pub struct PodDisruptionBudget = "policy" "v1" "PodDisruptionBudget" "poddisruptionbudgets" namespaced {
        pub spec: BudgetSpec,
        pub status: BudgetStatus,
    }
}

/// See [`PodDisruptionBudget`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetSpec {
    pub min_available: Value,
    pub max_unavailable: Value,
    pub selector: Option<LabelSelector>,
}

/// See [`PodDisruptionBudget`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetStatus {
    pub observed_generation: i64,
    /// Pods whose eviction was granted, with when: they count as gone until they are.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub disrupted_pods: BTreeMap<String, jiff::Timestamp>,
    pub disruptions_allowed: i32,
    pub current_healthy: i32,
    pub desired_healthy: i32,
    pub expected_pods: i32,
    pub conditions: Vec<Condition>,
}

projection! {
    /// A CronJob.
    pub struct CronJob = "batch" "v1" "CronJob" "cronjobs" namespaced {
        pub spec: CronJobSpec,
        pub status: CronJobStatus,
    }
}

/// See [`CronJob`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CronJobSpec {
    pub schedule: String,
    pub time_zone: Option<String>,
    pub starting_deadline_seconds: Option<i64>,
    pub concurrency_policy: Option<String>,
    pub suspend: bool,
    pub job_template: Value,
    pub successful_jobs_history_limit: Option<i32>,
    pub failed_jobs_history_limit: Option<i32>,
}

/// See [`CronJob`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CronJobStatus {
    pub active: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<jiff::Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_successful_time: Option<jiff::Timestamp>,
}

projection! {
    /// A StatefulSet.
    pub struct StatefulSet = "apps" "v1" "StatefulSet" "statefulsets" namespaced {
        pub spec: StatefulSetSpec,
        pub status: StatefulSetStatus,
    }
}

/// See [`StatefulSet`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatefulSetSpec {
    pub replicas: Option<i32>,
    pub service_name: Option<String>,
    pub selector: LabelSelector,
    pub template: Value,
    pub min_ready_seconds: i32,
    pub pod_management_policy: Option<String>,
    pub update_strategy: Strategy,
    pub volume_claim_templates: Vec<Value>,
    pub revision_history_limit: Option<i32>,
    pub ordinals: Ordinals,
}

/// Where a StatefulSet's numbers begin.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Ordinals {
    pub start: i32,
}

/// See [`StatefulSet`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatefulSetStatus {
    pub replicas: i32,
    pub ready_replicas: i32,
    pub available_replicas: i32,
    pub current_replicas: i32,
    pub updated_replicas: i32,
    pub current_revision: String,
    pub update_revision: String,
    pub observed_generation: i64,
    pub collision_count: i32,
}

projection! {
    /// A DaemonSet.
    pub struct DaemonSet = "apps" "v1" "DaemonSet" "daemonsets" namespaced {
        pub spec: DaemonSetSpec,
        pub status: DaemonSetStatus,
    }
}

/// See [`DaemonSet`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonSetSpec {
    pub selector: LabelSelector,
    pub template: Value,
    pub min_ready_seconds: i32,
    pub update_strategy: Strategy,
    pub revision_history_limit: Option<i32>,
}

/// See [`DaemonSet`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonSetStatus {
    pub current_number_scheduled: i32,
    pub number_misscheduled: i32,
    pub desired_number_scheduled: i32,
    pub number_ready: i32,
    pub observed_generation: i64,
    pub updated_number_scheduled: i32,
    pub number_available: i32,
    pub number_unavailable: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

projection! {
    /// One state of a template, numbered.
    pub struct ControllerRevision = "apps" "v1" "ControllerRevision" "controllerrevisions" namespaced {
        pub data: Value,
        pub revision: i64,
    }
}

projection! {
    /// A claim of storage.
    pub struct PersistentVolumeClaim = "" "v1" "PersistentVolumeClaim" "persistentvolumeclaims" namespaced {
        pub spec: ClaimSpec,
        pub status: ClaimStatus,
    }
}

/// See [`PersistentVolumeClaim`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSpec {
    pub access_modes: Vec<String>,
    pub selector: Option<LabelSelector>,
    pub resources: ClaimResources,
    pub volume_name: Option<String>,
    pub storage_class_name: Option<String>,
    pub volume_mode: Option<String>,
}

/// What a claim asks for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ClaimResources {
    pub requests: BTreeMap<String, String>,
}

/// See [`PersistentVolumeClaim`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClaimStatus {
    pub phase: String,
}

projection! {
    /// The older form of a Service's endpoints.
    pub struct Endpoints = "" "v1" "Endpoints" "endpoints" namespaced {
        pub subsets: Vec<Value>,
    }
}

projection! {
    /// A piece of storage.
    pub struct PersistentVolume = "" "v1" "PersistentVolume" "persistentvolumes" cluster {
        pub spec: VolumeSpec,
        pub status: VolumeStatus,
    }
}

/// See [`PersistentVolume`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeSpec {
    pub capacity: BTreeMap<String, String>,
    pub access_modes: Vec<String>,
    pub claim_ref: Option<ClaimReference>,
    pub storage_class_name: Option<String>,
    pub volume_mode: Option<String>,
    pub node_affinity: VolumeAffinity,
}

/// The claim that a volume is kept for; without a uid whichever comes by this name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ClaimReference {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// Where a volume can be reached.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct VolumeAffinity {
    pub required: Option<NodeSelector>,
}

/// See [`PersistentVolume`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct VolumeStatus {
    pub phase: String,
}

projection! {
    /// A kind of storage.
    pub struct StorageClass = "storage.k8s.io" "v1" "StorageClass" "storageclasses" cluster {
        pub provisioner: String,
        pub volume_binding_mode: String,
    }
}

projection! {
    /// Limits of a namespace.
    pub struct ResourceQuota = "" "v1" "ResourceQuota" "resourcequotas" namespaced {
        pub spec: Value,
        pub status: Value,
    }
}
