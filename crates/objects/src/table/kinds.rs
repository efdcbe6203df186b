//! Which columns each built-in kind has.

use super::Cell::{self, Age, Count, Number, Or, Text, With};
use super::{Column, cells as c, pod as p};

const fn column(name: &'static str, kind: &'static str, cell: Cell) -> Column {
    Column {
        name,
        kind,
        format: "",
        priority: 0,
        cell,
    }
}

const fn text(name: &'static str, cell: Cell) -> Column {
    column(name, "string", cell)
}

const fn number(name: &'static str, cell: Cell) -> Column {
    column(name, "integer", cell)
}

const fn wide(name: &'static str, cell: Cell) -> Column {
    Column {
        name,
        kind: "string",
        format: "",
        priority: 1,
        cell,
    }
}

pub(super) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    priority: 0,
    cell: Text("/metadata/name"),
};
pub(super) const AGE: Column = text("Age", Age("/metadata/creationTimestamp"));
const CREATED: Column = text("Created At", Text("/metadata/creationTimestamp"));
const CONTAINERS: Column = wide("Containers", With(c::containers));
const IMAGES: Column = wide("Images", With(c::images));
const SELECTOR: Column = wide("Selector", With(c::selector));

/// Groups, kinds, columns.
type Entry = (
    &'static [&'static str],
    &'static [&'static str],
    &'static [Column],
);

pub(super) const TABLE: &[Entry] = &[
    (
        &[""],
        &["Pod"],
        &[
            NAME,
            text("Ready", With(p::ready)),
            text("Status", With(p::status)),
            text("Restarts", With(p::restarts)),
            AGE,
            wide("IP", Or("/status/podIP", "<none>")),
            wide("Node", Or("/spec/nodeName", "<none>")),
            wide("Nominated Node", Or("/status/nominatedNodeName", "<none>")),
            wide("Readiness Gates", With(p::readiness_gates)),
        ],
    ),
    (
        &[""],
        &["ConfigMap"],
        &[NAME, number("Data", With(c::config_data)), AGE],
    ),
    (
        &[""],
        &["Secret"],
        &[
            NAME,
            text("Type", Text("/type")),
            number("Data", Count("/data")),
            AGE,
        ],
    ),
    (
        &[""],
        &["ServiceAccount"],
        &[NAME, number("Secrets", Count("/secrets")), AGE],
    ),
    (
        &[""],
        &["Namespace"],
        &[NAME, text("Status", Text("/status/phase")), AGE],
    ),
    (
        &[""],
        &["Node"],
        &[
            NAME,
            text("Status", With(c::node_status)),
            text("Roles", With(c::node_roles)),
            AGE,
            text("Version", Text("/status/nodeInfo/kubeletVersion")),
            wide("Internal-IP", With(c::internal_ip)),
            wide("External-IP", With(c::external_ip)),
            wide("OS-Image", Or("/status/nodeInfo/osImage", "<unknown>")),
            wide(
                "Kernel-Version",
                Or("/status/nodeInfo/kernelVersion", "<unknown>"),
            ),
            wide(
                "Container-Runtime",
                Or("/status/nodeInfo/containerRuntimeVersion", "<unknown>"),
            ),
        ],
    ),
    (
        &[""],
        &["Service"],
        &[
            NAME,
            text("Type", Text("/spec/type")),
            text("Cluster-IP", Or("/spec/clusterIP", "<none>")),
            text("External-IP", With(c::external_address)),
            text("Port(s)", With(c::service_ports)),
            AGE,
            SELECTOR,
        ],
    ),
    (
        &[""],
        &["Endpoints"],
        &[NAME, text("Endpoints", With(c::endpoints)), AGE],
    ),
    (
        &["", "events.k8s.io"],
        &["Event"],
        &[
            text("Last Seen", With(c::last_seen)),
            text("Type", Text("/type")),
            text("Reason", Text("/reason")),
            text("Object", With(c::event_object)),
            wide("Subobject", With(c::event_field)),
            wide("Source", With(c::event_source)),
            text("Message", With(c::event_message)),
            wide("First Seen", With(c::first_seen)),
            wide("Count", With(c::event_count)),
            Column {
                name: "Name",
                kind: "string",
                format: "name",
                priority: 1,
                cell: Text("/metadata/name"),
            },
        ],
    ),
    (
        &[""],
        &["ReplicationController"],
        &[
            NAME,
            number("Desired", Number("/spec/replicas")),
            number("Current", Number("/status/replicas")),
            number("Ready", Number("/status/readyReplicas")),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
    ),
    (
        &["apps"],
        &["ReplicaSet"],
        &[
            NAME,
            number("Desired", Number("/spec/replicas")),
            number("Current", Number("/status/replicas")),
            number("Ready", Number("/status/readyReplicas")),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
    ),
    (
        &["apps"],
        &["Deployment"],
        &[
            NAME,
            text("Ready", With(c::ready_of_wanted)),
            text("Up-to-date", Number("/status/updatedReplicas")),
            text("Available", Number("/status/availableReplicas")),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
    ),
    (
        &["apps"],
        &["StatefulSet"],
        &[
            NAME,
            text("Ready", With(c::ready_of_wanted)),
            AGE,
            CONTAINERS,
            IMAGES,
        ],
    ),
    (
        &["apps"],
        &["DaemonSet"],
        &[
            NAME,
            number("Desired", Number("/status/desiredNumberScheduled")),
            number("Current", Number("/status/currentNumberScheduled")),
            number("Ready", Number("/status/numberReady")),
            number("Up-to-date", Number("/status/updatedNumberScheduled")),
            number("Available", Number("/status/numberAvailable")),
            text("Node Selector", With(c::node_selector)),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
    ),
    (
        &["apps"],
        &["ControllerRevision"],
        &[
            NAME,
            text("Controller", With(c::controller)),
            text("Revision", Number("/revision")),
            AGE,
        ],
    ),
    (
        &["batch"],
        &["Job"],
        &[
            NAME,
            text("Status", With(c::job_status)),
            text("Completions", With(c::job_completions)),
            text("Duration", With(c::job_duration)),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
    ),
    (
        &["batch"],
        &["CronJob"],
        &[
            NAME,
            text("Schedule", Text("/spec/schedule")),
            text("Timezone", Or("/spec/timeZone", "<none>")),
            column("Suspend", "boolean", With(c::suspended)),
            number("Active", Count("/status/active")),
            text("Last Schedule", With(c::last_schedule)),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
    ),
    (
        &["autoscaling"],
        &["HorizontalPodAutoscaler"],
        &[
            NAME,
            text("Reference", With(c::scale_target)),
            text("Targets", With(c::scale_metrics)),
            text("MinPods", Or("/spec/minReplicas", "<unset>")),
            number("MaxPods", Number("/spec/maxReplicas")),
            number("Replicas", Number("/status/currentReplicas")),
            AGE,
        ],
    ),
    (
        &["policy"],
        &["PodDisruptionBudget"],
        &[
            NAME,
            text("Min Available", Or("/spec/minAvailable", "N/A")),
            text("Max Unavailable", Or("/spec/maxUnavailable", "N/A")),
            number("Allowed Disruptions", Number("/status/disruptionsAllowed")),
            AGE,
        ],
    ),
    (
        &[""],
        &["PersistentVolume"],
        &[
            NAME,
            text("Capacity", Text("/spec/capacity/storage")),
            text("Access Modes", With(c::access_modes)),
            text("Reclaim Policy", Text("/spec/persistentVolumeReclaimPolicy")),
            text("Status", With(c::volume_status)),
            text("Claim", With(c::volume_claim)),
            text("StorageClass", Text("/spec/storageClassName")),
            text(
                "VolumeAttributesClass",
                Or("/spec/volumeAttributesClassName", "<unset>"),
            ),
            text("Reason", Text("/status/reason")),
            AGE,
            wide("VolumeMode", Or("/spec/volumeMode", "<unset>")),
        ],
    ),
    (
        &[""],
        &["PersistentVolumeClaim"],
        &[
            NAME,
            text("Status", With(c::volume_status)),
            text("Volume", Text("/spec/volumeName")),
            text("Capacity", Text("/status/capacity/storage")),
            text("Access Modes", With(c::bound_access_modes)),
            text("StorageClass", Text("/spec/storageClassName")),
            text(
                "VolumeAttributesClass",
                Or("/spec/volumeAttributesClassName", "<unset>"),
            ),
            AGE,
            wide("VolumeMode", Or("/spec/volumeMode", "<unset>")),
        ],
    ),
    (
        &[""],
        &["ResourceQuota"],
        &[
            NAME,
            text("Request", With(c::quota_requests)),
            text("Limit", With(c::quota_limits)),
            AGE,
        ],
    ),
    (&[""], &["LimitRange"], &[NAME, CREATED]),
    (
        &["rbac.authorization.k8s.io"],
        &["Role", "ClusterRole"],
        &[NAME, CREATED],
    ),
    (
        &["rbac.authorization.k8s.io"],
        &["RoleBinding", "ClusterRoleBinding"],
        &[
            NAME,
            text("Role", With(c::role)),
            AGE,
            wide("Users", With(c::users)),
            wide("Groups", With(c::groups)),
            wide("ServiceAccounts", With(c::service_accounts)),
        ],
    ),
    (
        &["apiextensions.k8s.io"],
        &["CustomResourceDefinition"],
        &[NAME, CREATED],
    ),
    (
        &["networking.k8s.io"],
        &["Ingress"],
        &[
            NAME,
            text("Class", Or("/spec/ingressClassName", "<none>")),
            text("Hosts", With(c::ingress_hosts)),
            text("Address", With(c::load_balancer)),
            text("Ports", With(c::ingress_ports)),
            AGE,
        ],
    ),
    (
        &["networking.k8s.io"],
        &["IngressClass"],
        &[
            NAME,
            text("Controller", Text("/spec/controller")),
            text("Parameters", With(c::class_parameters)),
            AGE,
        ],
    ),
    (
        &["networking.k8s.io"],
        &["NetworkPolicy"],
        &[NAME, text("Pod-Selector", With(c::pod_selector)), AGE],
    ),
    (
        &["discovery.k8s.io"],
        &["EndpointSlice"],
        &[
            NAME,
            text("AddressType", Text("/addressType")),
            text("Ports", With(c::slice_ports)),
            text("Endpoints", With(c::slice_endpoints)),
            AGE,
        ],
    ),
    (
        &["coordination.k8s.io"],
        &["Lease"],
        &[NAME, text("Holder", Text("/spec/holderIdentity")), AGE],
    ),
    (
        &["storage.k8s.io"],
        &["StorageClass"],
        &[
            NAME_OF_CLASS,
            text("Provisioner", Text("/provisioner")),
            text("ReclaimPolicy", Or("/reclaimPolicy", "Delete")),
            text("VolumeBindingMode", Or("/volumeBindingMode", "Immediate")),
            text("AllowVolumeExpansion", Or("/allowVolumeExpansion", "false")),
            AGE,
        ],
    ),
    (
        &["storage.k8s.io"],
        &["VolumeAttachment"],
        &[
            NAME,
            text("Attacher", Text("/spec/attacher")),
            text("PV", Text("/spec/source/persistentVolumeName")),
            text("Node", Text("/spec/nodeName")),
            text("Attached", Or("/status/attached", "false")),
            AGE,
        ],
    ),
    (
        &["storage.k8s.io"],
        &["CSINode"],
        &[NAME, number("Drivers", Count("/spec/drivers")), AGE],
    ),
    (
        &["scheduling.k8s.io"],
        &["PriorityClass"],
        &[
            NAME,
            number("Value", Number("/value")),
            column("Global-Default", "boolean", With(c::global_default)),
            AGE,
            text("PreemptionPolicy", Text("/preemptionPolicy")),
        ],
    ),
    (
        &["node.k8s.io"],
        &["RuntimeClass"],
        &[NAME, text("Handler", Text("/handler")), AGE],
    ),
    (
        &["certificates.k8s.io"],
        &["CertificateSigningRequest"],
        &[
            NAME,
            AGE,
            text("SignerName", Or("/spec/signerName", "<none>")),
            text("Requestor", Text("/spec/username")),
            text("RequestedDuration", With(c::requested_duration)),
            text("Condition", With(c::request_condition)),
        ],
    ),
    (
        &["admissionregistration.k8s.io"],
        &["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"],
        &[NAME, number("Webhooks", Count("/webhooks")), AGE],
    ),
    (
        &["resource.k8s.io"],
        &["ResourceClaim"],
        &[NAME, text("State", With(c::claim_state)), AGE],
    ),
    (
        &["resource.k8s.io"],
        &["ResourceSlice"],
        &[
            NAME,
            text("Node", Text("/spec/nodeName")),
            text("Driver", Text("/spec/driver")),
            text("Pool", Text("/spec/pool/name")),
            AGE,
        ],
    ),
    (
        &["resource.k8s.io"],
        &["DeviceTaintRule"],
        &[
            NAME,
            text("Key", Text("/spec/taint/key")),
            text("Value", Text("/spec/taint/value")),
            text("Effect", Text("/spec/taint/effect")),
            text("TimeAdded", With(c::taint_age)),
            AGE,
        ],
    ),
    (
        &["apiregistration.k8s.io"],
        &["APIService"],
        &[
            NAME,
            text("Service", With(c::api_service)),
            text("Available", With(c::available)),
            AGE,
        ],
    ),
];

const NAME_OF_CLASS: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    priority: 0,
    cell: With(c::class_name),
};
