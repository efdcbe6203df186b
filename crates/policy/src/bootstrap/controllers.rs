//! Kubernetes' roles of the built-in controllers, bound to the service account of the same name in kube-system.
//!
//! All of them flow into the aggregated role that Mainstay's own controllers run with.

use super::Role;

const fn controller(name: &'static str, grants: &'static str) -> Role {
    Role {
        name,
        into: super::own::CONTROLLERS,
        from: "",
        grants,
    }
}

pub(super) const ROLES: &[Role] = &[
    controller("system:controller:attachdetach-controller", "
        list,watch core persistentvolumes,persistentvolumeclaims,pods
        read core nodes
        patch,update core nodes/status
        read,create,delete storage.k8s.io volumeattachments
        read storage.k8s.io csidrivers,csinodes
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:certificate-controller", "
        read,delete certificates.k8s.io certificatesigningrequests
        update certificates.k8s.io certificatesigningrequests/status,certificatesigningrequests/approval
        approve certificates.k8s.io signers kubernetes.io/kube-apiserver-client-kubelet
        sign certificates.k8s.io signers kubernetes.io/kube-apiserver-client,kubernetes.io/kube-apiserver-client-kubelet,kubernetes.io/kubelet-serving,kubernetes.io/legacy-unknown
        create authorization.k8s.io subjectaccessreviews
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:clusterrole-aggregation-controller",
        "escalate,read,update,patch rbac.authorization.k8s.io clusterroles"),
    controller("system:controller:cronjob-controller", "
        read,update batch cronjobs
        read,create,update,delete,patch batch jobs
        update batch cronjobs/status,cronjobs/finalizers
        list,watch,delete core pods
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:daemon-set-controller", "
        read apps,extensions daemonsets
        update apps,extensions daemonsets/status,daemonsets/finalizers
        list,watch core nodes
        list,watch,create,delete,patch core pods
        create core pods/binding
        read,create,delete,update,patch apps controllerrevisions
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:deployment-controller", "
        read,update apps,extensions deployments
        update apps,extensions deployments/status,deployments/finalizers
        read,create,update,patch,delete apps,extensions replicasets
        read,update core pods
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:disruption-controller", "
        read apps,extensions deployments,replicasets
        read core replicationcontrollers
        read policy poddisruptionbudgets
        read apps statefulsets
        update policy poddisruptionbudgets/status
        patch,update core pods/status
        get * */scale
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:endpoint-controller", "
        read core services,pods
        read,create,update,delete core endpoints
        create core endpoints/restricted
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:endpointslice-controller", "
        read core services,pods,nodes
        update core services/finalizers
        read,create,update,delete discovery.k8s.io endpointslices
        create discovery.k8s.io endpointslices/restricted
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:endpointslicemirroring-controller", "
        read core services,endpoints
        update core services/finalizers,endpoints/finalizers
        read,create,update,delete discovery.k8s.io endpointslices
        create discovery.k8s.io endpointslices/restricted
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:ephemeral-volume-controller", "
        read core pods
        update core pods/finalizers
        read,create core persistentvolumeclaims
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:expand-controller", "
        read,update,patch core persistentvolumes
        update,patch core persistentvolumeclaims/status
        read core persistentvolumeclaims
        get core services
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:generic-garbage-collector", "
        read,patch,update,delete * *
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:horizontal-pod-autoscaler", "
        read autoscaling horizontalpodautoscalers
        update autoscaling horizontalpodautoscalers/status
        get,update * */scale
        list,watch core pods
        list,watch metrics.k8s.io pods
        read custom.metrics.k8s.io,external.metrics.k8s.io *
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:job-controller", "
        read,update,patch batch jobs
        update batch jobs/status,jobs/finalizers
        list,watch,create,delete,patch core pods
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:legacy-service-account-token-cleaner", "
        get core configmaps kube-apiserver-legacy-service-account-token-tracking
        patch,delete core secrets"),
    controller("system:controller:namespace-controller", "
        read,delete core namespaces
        update core namespaces/finalize,namespaces/status
        read,delete,deletecollection * *"),
    controller("system:controller:node-controller", "
        read,update,delete,patch core nodes
        patch,update core nodes/status,pods/status
        read,delete core pods
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:persistent-volume-binder", "
        read,update,create,delete core persistentvolumes
        update core persistentvolumes/status,persistentvolumeclaims/status
        read,update core persistentvolumeclaims
        read,create,delete core pods
        read storage.k8s.io storageclasses
        list,watch core nodes
        watch core events
        get core services
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:pod-garbage-collector", "
        list,watch,delete core pods
        read core nodes
        patch core pods/status"),
    controller("system:controller:pv-protection-controller", "
        read,update core persistentvolumes
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:pvc-protection-controller", "
        read,update core persistentvolumeclaims
        read core pods
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:replicaset-controller", "
        read,update apps,extensions replicasets
        update apps,extensions replicasets/status,replicasets/finalizers
        list,watch,patch,create,delete core pods
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:replication-controller", "
        read,update core replicationcontrollers
        update core replicationcontrollers/status,replicationcontrollers/finalizers
        list,watch,patch,create,delete core pods
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:resource-claim-controller", "
        read core pods
        update core pods/finalizers
        read,create,delete resource.k8s.io resourceclaims
        update,patch resource.k8s.io resourceclaims,resourceclaims/status
        update,patch core pods/status
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:resourcequota-controller", "
        list,watch * *
        update core resourcequotas/status
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:root-ca-cert-publisher", "
        create,update core configmaps
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:route-controller", "
        list,watch core nodes
        patch core nodes/status
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:service-account-controller", "
        create core serviceaccounts
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:service-cidrs-controller", "
        read,patch,update networking.k8s.io servicecidrs
        patch,update networking.k8s.io servicecidrs/finalizers,servicecidrs/status
        read networking.k8s.io ipaddresses
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:service-controller", "
        read core services
        patch,update core services/status
        list,watch core nodes
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:statefulset-controller", "
        list,watch core pods
        read apps statefulsets
        update apps statefulsets/status,statefulsets/finalizers
        get,create,delete,update,patch core pods
        read,create,delete,update,patch apps controllerrevisions
        read,create,update,delete core persistentvolumeclaims
        update core pods/finalizers
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:ttl-after-finished-controller", "
        read,delete batch jobs
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:ttl-controller", "
        update,patch,list,watch core nodes
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:validatingadmissionpolicy-status-controller", "
        read admissionregistration.k8s.io validatingadmissionpolicies
        get,patch,update admissionregistration.k8s.io validatingadmissionpolicies/status
        create,patch,update core,events.k8s.io events"),
    controller("system:controller:volumeattributesclass-protection-controller", "
        read core persistentvolumeclaims,persistentvolumes
        read,update storage.k8s.io volumeattributesclasses
        create,patch,update core,events.k8s.io events"),
];
