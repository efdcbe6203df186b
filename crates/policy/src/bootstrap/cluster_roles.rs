//! Kubernetes' default cluster roles, their bindings, and the few namespaced roles.

use super::{Binding, Role, role};

const fn aggregated(name: &'static str, from: &'static str, into: &'static str) -> Role {
    Role {
        name,
        into,
        from,
        grants: "",
    }
}

const fn part(name: &'static str, into: &'static str, grants: &'static str) -> Role {
    Role {
        name,
        into,
        from: "",
        grants,
    }
}

pub(super) const ROLES: &[Role] = &[
    role("cluster-admin", "* * *\n* url *"),
    aggregated("admin", "admin", ""),
    aggregated("edit", "edit", "admin"),
    aggregated("view", "view", "edit"),
    part("system:aggregate-to-admin", "admin", "
        create authorization.k8s.io localsubjectaccessreviews
        read,write rbac.authorization.k8s.io roles,rolebindings"),
    part("system:aggregate-to-edit", "edit", "
        read core pods/attach,pods/exec,pods/portforward,pods/proxy,secrets,services/proxy
        impersonate core serviceaccounts
        write core pods,pods/attach,pods/exec,pods/portforward,pods/proxy
        create core pods/eviction,serviceaccounts/token
        write core configmaps,events,persistentvolumeclaims,replicationcontrollers,replicationcontrollers/scale,secrets,serviceaccounts,services,services/proxy
        write apps daemonsets,deployments,deployments/rollback,deployments/scale,replicasets,replicasets/scale,statefulsets,statefulsets/scale
        write autoscaling horizontalpodautoscalers
        write batch cronjobs,jobs
        write extensions daemonsets,deployments,deployments/rollback,deployments/scale,ingresses,networkpolicies,replicasets,replicasets/scale,replicationcontrollers/scale
        write policy poddisruptionbudgets
        write networking.k8s.io ingresses,networkpolicies
        read,write coordination.k8s.io leases
        write resource.k8s.io resourceclaims,resourceclaimtemplates"),
    part("system:aggregate-to-view", "view", "
        read core configmaps,endpoints,persistentvolumeclaims,persistentvolumeclaims/status,pods,replicationcontrollers,replicationcontrollers/scale,serviceaccounts,services,services/status
        read core bindings,events,limitranges,namespaces,namespaces/status,pods/log,pods/status,replicationcontrollers/status,resourcequotas,resourcequotas/status
        read discovery.k8s.io endpointslices
        read apps controllerrevisions,daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,replicasets,replicasets/scale,replicasets/status,statefulsets,statefulsets/scale,statefulsets/status
        read autoscaling horizontalpodautoscalers,horizontalpodautoscalers/status
        read batch cronjobs,cronjobs/status,jobs,jobs/status
        read extensions daemonsets,daemonsets/status,deployments,deployments/scale,deployments/status,ingresses,ingresses/status,networkpolicies,replicasets,replicasets/scale,replicasets/status,replicationcontrollers/scale
        read policy poddisruptionbudgets,poddisruptionbudgets/status
        read networking.k8s.io ingresses,ingresses/status,networkpolicies
        read resource.k8s.io resourceclaims,resourceclaims/status,resourceclaimtemplates"),
    role("system:auth-delegator", "
        create authentication.k8s.io tokenreviews
        create authorization.k8s.io subjectaccessreviews"),
    role("system:basic-user", "
        create authorization.k8s.io selfsubjectaccessreviews,selfsubjectrulesreviews
        create authentication.k8s.io selfsubjectreviews"),
    role("system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        "create certificates.k8s.io certificatesigningrequests/nodeclient"),
    role("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        "create certificates.k8s.io certificatesigningrequests/selfnodeclient"),
    role("system:certificates.k8s.io:kube-apiserver-client-approver",
        "approve certificates.k8s.io signers kubernetes.io/kube-apiserver-client"),
    role("system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        "approve certificates.k8s.io signers kubernetes.io/kube-apiserver-client-kubelet"),
    role("system:certificates.k8s.io:kubelet-serving-approver",
        "approve certificates.k8s.io signers kubernetes.io/kubelet-serving"),
    role("system:certificates.k8s.io:legacy-unknown-approver",
        "approve certificates.k8s.io signers kubernetes.io/legacy-unknown"),
    role("system:cluster-trust-bundle-discovery", "read certificates.k8s.io clustertrustbundles"),
    role("system:discovery",
        "get url /api,/api/*,/apis,/apis/*,/healthz,/livez,/openapi,/openapi/*,/readyz,/version,/version/"),
    role("system:heapster", "
        read core events,namespaces,nodes,pods
        read extensions deployments"),
    role("system:kube-aggregator", "read core endpoints,services"),
    role("system:kube-controller-manager", "
        create,patch,update core,events.k8s.io events
        create coordination.k8s.io leases
        get,update coordination.k8s.io leases kube-controller-manager
        create,update,get core secrets,serviceaccounts
        delete core secrets
        get core configmaps,namespaces
        create core serviceaccounts/token
        create authentication.k8s.io tokenreviews
        create authorization.k8s.io subjectaccessreviews
        list,watch * *"),
    role("system:kube-dns", "list,watch core endpoints,services"),
    role("system:kube-scheduler", "
        create,patch,update core,events.k8s.io events
        create coordination.k8s.io leases
        get,update,list,watch coordination.k8s.io leases kube-scheduler
        read core nodes,namespaces,replicationcontrollers,services,persistentvolumeclaims,persistentvolumes
        read,delete core pods
        create core bindings,pods/binding
        patch,update core pods/status
        read apps,extensions replicasets
        read apps statefulsets
        read policy poddisruptionbudgets
        create authentication.k8s.io tokenreviews
        create authorization.k8s.io subjectaccessreviews
        read storage.k8s.io csinodes,csidrivers,csistoragecapacities,volumeattachments
        read resource.k8s.io deviceclasses,resourceslices
        read,update,patch resource.k8s.io resourceclaims,resourceclaims/status
        update,patch core pods/finalizers"),
    role("system:kubelet-api-admin", "
        read,proxy core nodes
        * core nodes/configz,nodes/healthz,nodes/log,nodes/metrics,nodes/pods,nodes/proxy,nodes/stats"),
    role("system:monitoring",
        "get url /healthz,/healthz/*,/livez,/livez/*,/metrics,/metrics/slis,/readyz,/readyz/*"),
    role("system:node", "
        create authentication.k8s.io tokenreviews
        create authorization.k8s.io localsubjectaccessreviews,subjectaccessreviews
        read core services,pods,configmaps,secrets
        read,create,patch,update core nodes
        patch,update core nodes/status,pods/status
        create,patch,update core,events.k8s.io events
        create,delete core pods
        create core pods/eviction,serviceaccounts/token
        get core persistentvolumeclaims,persistentvolumes,endpoints,serviceaccounts
        get,patch,update core persistentvolumeclaims/status
        read,create certificates.k8s.io certificatesigningrequests
        read certificates.k8s.io clustertrustbundles
        get,create,delete,patch,update coordination.k8s.io leases
        get storage.k8s.io volumeattachments
        read storage.k8s.io csidrivers
        get,create,delete,patch,update storage.k8s.io csinodes
        read node.k8s.io runtimeclasses"),
    role("system:node-bootstrapper", "read,create certificates.k8s.io certificatesigningrequests"),
    role("system:node-problem-detector", "
        get core nodes
        patch core nodes/status
        create,patch,update core,events.k8s.io events"),
    role("system:node-proxier", "
        list,watch core endpoints,services
        read core nodes
        create,patch,update core,events.k8s.io events
        list,watch discovery.k8s.io endpointslices
        list,watch networking.k8s.io servicecidrs"),
    role("system:persistent-volume-provisioner", "
        read,create,delete core persistentvolumes
        read,update core persistentvolumeclaims
        read storage.k8s.io storageclasses
        watch core events
        create,patch,update core,events.k8s.io events"),
    role("system:public-info-viewer", "get url /healthz,/livez,/readyz,/version,/version/"),
    role("system:service-account-issuer-discovery",
        "get url /.well-known/openid-configuration,/.well-known/openid-configuration/,/openid/v1/jwks,/openid/v1/jwks/"),
    role("system:volume-scheduler", "
        read,patch,update core persistentvolumes,persistentvolumeclaims
        read storage.k8s.io storageclasses"),
];

pub(super) const BINDINGS: &[Binding] = &[
    bind("cluster-admin", "Group:system:masters"),
    bind("system:basic-user", "Group:system:authenticated"),
    bind(
        "system:cluster-trust-bundle-discovery",
        "Group:system:serviceaccounts",
    ),
    bind("system:discovery", "Group:system:authenticated"),
    bind(
        "system:kube-controller-manager",
        "User:system:kube-controller-manager",
    ),
    bind("system:kube-dns", "ServiceAccount:kube-system/kube-dns"),
    bind("system:kube-scheduler", "User:system:kube-scheduler"),
    bind("system:monitoring", "Group:system:monitoring"),
    bind("system:node", ""),
    Binding {
        name: "system:node-proxier",
        role: "system:node-proxier",
        subjects: "User:system:kube-proxy",
    },
    bind(
        "system:public-info-viewer",
        "Group:system:authenticated Group:system:unauthenticated",
    ),
    bind(
        "system:service-account-issuer-discovery",
        "Group:system:serviceaccounts",
    ),
    bind("system:volume-scheduler", "User:system:kube-scheduler"),
];

pub(super) const fn bind(role: &'static str, subjects: &'static str) -> Binding {
    Binding {
        name: role,
        role,
        subjects,
    }
}

/// A Role with the RoleBinding of the same name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Namespaced {
    pub namespace: &'static str,
    pub name: &'static str,
    pub grants: &'static str,
    pub subjects: &'static str,
}

pub(super) const NAMESPACED: &[Namespaced] = &[
    Namespaced {
        namespace: "kube-system",
        name: "extension-apiserver-authentication-reader",
        grants: "read core configmaps extension-apiserver-authentication",
        subjects: "User:system:kube-controller-manager User:system:kube-scheduler",
    },
    Namespaced {
        namespace: "kube-system",
        name: "system:controller:bootstrap-signer",
        grants: "read core secrets",
        subjects: "ServiceAccount:kube-system/bootstrap-signer",
    },
    Namespaced {
        namespace: "kube-system",
        name: "system:controller:cloud-provider",
        grants: "create,get,list,update,watch core configmaps",
        subjects: "ServiceAccount:kube-system/cloud-provider",
    },
    Namespaced {
        namespace: "kube-system",
        name: "system:controller:token-cleaner",
        grants: "read,delete core secrets\ncreate,patch,update core,events.k8s.io events",
        subjects: "ServiceAccount:kube-system/token-cleaner",
    },
    Namespaced {
        namespace: "kube-system",
        name: "system::leader-locking-kube-controller-manager",
        grants: "watch core configmaps\nget,update core configmaps kube-controller-manager",
        subjects: "User:system:kube-controller-manager ServiceAccount:kube-system/kube-controller-manager",
    },
    Namespaced {
        namespace: "kube-system",
        name: "system::leader-locking-kube-scheduler",
        grants: "watch core configmaps\nget,update core configmaps kube-scheduler",
        subjects: "User:system:kube-scheduler ServiceAccount:kube-system/kube-scheduler",
    },
    Namespaced {
        namespace: "kube-public",
        name: "system:controller:bootstrap-signer",
        grants: "read core configmaps\nupdate core configmaps cluster-info\ncreate,patch,update core,events.k8s.io events",
        subjects: "ServiceAccount:kube-system/bootstrap-signer",
    },
];
