//! Roles of Mainstay's own components: each may touch what it manages and nothing else.
//!
//! Component users are `system:mainstay:<component>`; no component is a member of system:masters.

use super::cluster_roles::bind;
use super::{Binding, Role, role};

/// The role a user gets in a namespace of their own. It has no `bind`, `escalate` or `impersonate`; what would
/// let its holder leave the namespace's limits is refused by the tenancy guard in admission besides.
pub const NAMESPACE_ADMIN: &str = "namespace-admin";

/// The role that lets users make namespaces of their own; bound to nobody by default.
pub const NAMESPACE_CREATOR: &str = "namespace-creator";

/// The aggregation that collects the built-in controllers' roles.
pub(super) const CONTROLLERS: &str = "mainstay-controllers";

/// Tells the user name of one of Mainstay's components, such as `fleet`.
pub fn component_user(component: &str) -> String {
    format!("system:mainstay:{component}")
}

pub(super) const ROLES: &[Role] = &[
    role(NAMESPACE_ADMIN, "
        read,write * *
        impersonate core serviceaccounts"),
    role(NAMESPACE_CREATOR, "create core namespaces"),
    Role { name: "system:mainstay:controllers", into: "", from: CONTROLLERS, grants: "" },
    Role { name: "system:mainstay:controllers:leases", into: CONTROLLERS, from: "", grants: "
        get,create,update,patch coordination.k8s.io leases
        create,update,patch,get,list,watch core configmaps,serviceaccounts
        read,update,patch core nodes
        patch core pods,nodes/status,namespaces/status,pods/status
        patch apps,batch deployments/status,replicasets/status,statefulsets/status,daemonsets/status,jobs/status,cronjobs/status
        patch autoscaling horizontalpodautoscalers/status
        patch policy poddisruptionbudgets/status
        patch certificates.k8s.io certificatesigningrequests/status,certificatesigningrequests/approval
        patch discovery.k8s.io endpointslices
        patch core resourcequotas/status,persistentvolumes,persistentvolumeclaims,persistentvolumes/status,persistentvolumeclaims/status,services/status,endpoints"},
    role("system:mainstay:fleet", "
        read,write mainstay.dev *
        read,write cluster.x-k8s.io,bootstrap.cluster.x-k8s.io,controlplane.cluster.x-k8s.io,infrastructure.cluster.x-k8s.io *
        read,create,update,patch,delete core secrets,configmaps
        read,create,patch,update core namespaces
        read,update,patch,delete core nodes
        patch,update core nodes/status
        read,delete core pods
        create core pods/eviction
        read policy poddisruptionbudgets
        read apps daemonsets,replicasets,statefulsets
        read storage.k8s.io volumeattachments
        get,create,update,patch,list,watch coordination.k8s.io leases
        create,patch,update core,events.k8s.io events"),
    role("system:mainstay:csr-approver", "
        read,delete certificates.k8s.io certificatesigningrequests
        update,patch certificates.k8s.io certificatesigningrequests/approval,certificatesigningrequests/status
        approve,sign certificates.k8s.io signers kubernetes.io/kube-apiserver-client-kubelet,kubernetes.io/kubelet-serving
        read cluster.x-k8s.io machines
        read mainstay.dev computenodes
        read core nodes
        create authorization.k8s.io subjectaccessreviews
        create,patch,update core,events.k8s.io events"),
    role("system:mainstay:repair", "
        read mainstay.dev,cluster.x-k8s.io *
        read,write mainstay.dev repairs,repairpolicies,breakfixtickets
        update,patch mainstay.dev repairs/status,repairpolicies/status,breakfixtickets/status,hosts,hosts/status,computenodes,computenodes/status
        update,patch,delete cluster.x-k8s.io machines,machines/status
        read,update,patch core nodes
        patch,update core nodes/status
        read core pods
        create core pods/eviction
        get,create,update,patch,list,watch coordination.k8s.io leases
        create,patch,update core,events.k8s.io events"),
    role("system:mainstay:autoscaler", "
        read core nodes,pods,services,replicationcontrollers,persistentvolumeclaims,persistentvolumes,namespaces
        update,patch core nodes
        delete core nodes
        create core pods/eviction
        patch,update core pods/status
        read apps daemonsets,replicasets,statefulsets
        read batch jobs,cronjobs
        read policy poddisruptionbudgets
        read storage.k8s.io storageclasses,csinodes,csidrivers,csistoragecapacities,volumeattachments
        read mainstay.dev nodepools,computenodes,computenodetemplates
        get,patch,update mainstay.dev nodepools/scale
        read,patch,update cluster.x-k8s.io machinedeployments,machinesets,machines,machinedeployments/scale,machinesets/scale
        get,create,update,patch,list,watch coordination.k8s.io leases
        read,create,update,patch core configmaps
        create,patch,update core,events.k8s.io events"),
    role("system:mainstay:tenancy", "
        read mainstay.dev tenants,nodepools
        update,patch mainstay.dev tenants/status
        read,update,patch core namespaces
        read,create,update,patch,delete core resourcequotas,limitranges
        read,create,update,patch,delete networking.k8s.io networkpolicies
        read,create,update,patch,delete rbac.authorization.k8s.io rolebindings
        bind rbac.authorization.k8s.io clusterroles namespace-admin
        read core pods,nodes
        get,create,update,patch,list,watch coordination.k8s.io leases
        create,patch,update core,events.k8s.io events"),
    role("system:mainstay:services", "
        read core services,endpoints,nodes,pods,namespaces
        read discovery.k8s.io endpointslices
        read networking.k8s.io networkpolicies,ingresses
        create,patch,update core,events.k8s.io events"),
    // Nodes translate Services themselves; Services they may read as system:node.
    role("system:mainstay:node-network", "list,watch discovery.k8s.io endpointslices"),
    role("system:mainstay:dashboard", "
        read core nodes,namespaces,events,pods,services
        read apps deployments,daemonsets,replicasets,statefulsets
        read mainstay.dev *
        read cluster.x-k8s.io *"),
    role("system:mainstay:addons", "
        read,create,patch,update,delete * *"),
];

pub(super) const BINDINGS: &[Binding] = &[
    bind(
        "system:mainstay:controllers",
        "User:system:kube-controller-manager",
    ),
    bind(
        "system:mainstay:fleet",
        "User:system:mainstay:fleet User:system:mainstay:machines",
    ),
    bind(
        "system:mainstay:csr-approver",
        "User:system:mainstay:csr-approver User:system:kube-controller-manager",
    ),
    bind("system:kubelet-api-admin", "User:kube-apiserver-kubelet-client"),
    bind("system:mainstay:repair", "User:system:mainstay:repair"),
    bind("system:mainstay:autoscaler", "User:system:mainstay:autoscaler"),
    bind("system:mainstay:tenancy", "User:system:mainstay:tenancy"),
    bind("system:mainstay:services", "User:system:mainstay:services"),
    bind("system:mainstay:node-network", "Group:system:nodes"),
    bind("system:mainstay:dashboard", "User:system:mainstay:dashboard"),
    bind("system:mainstay:addons", "User:system:mainstay:addons"),
    Binding {
        name: "system:mainstay:node-bootstrap",
        role: "system:node-bootstrapper",
        subjects: "Group:system:bootstrappers:mainstay",
    },
    Binding {
        name: "system:mainstay:node-bootstrap:approve",
        role: "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        subjects: "Group:system:bootstrappers:mainstay",
    },
    Binding {
        name: "system:mainstay:node-renew",
        role: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        subjects: "Group:system:nodes",
    },
];
