//! The sentences that `kubectl explain` prints, from k8s-openapi's schemas: made when a document is asked for, kept by
//! nobody.

use k8s_openapi::api;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;
use schemars::SchemaGenerator;
use serde_json::{Map, Value};

/// Schemas by definition name, for example `io.k8s.api.core.v1.Pod`.
pub struct Descriptions(Map<String, Value>);

macro_rules! kinds {
    ($schemas:ident: $($module:path => $($kind:ident),+;)+) => {
        $($({ use $module as module; let _ = $schemas.subschema_for::<module::$kind>(); })+)+
    };
}

impl Descriptions {
    /// Collects the schemas of a group's kinds; of all groups for `None`.
    pub fn of(group: Option<&str>) -> Self {
        let mut schemas = SchemaGenerator::default();
        let wants = |name: &str| group.is_none_or(|group| group == name);
        if wants("") {
            core(&mut schemas);
        }
        if wants("apps") || wants("batch") || wants("autoscaling") || wants("policy") {
            workloads(&mut schemas);
        }
        others(&mut schemas, &wants);
        Descriptions(schemas.take_definitions(true))
    }

    /// The sentence about a definition or one of its fields.
    pub fn describe(&self, definition: &str, field: Option<&str>) -> Option<String> {
        let schema = self.0.get(definition)?;
        let found = match field {
            None => &schema["description"],
            Some(field) => &schema["properties"][field]["description"],
        };
        found.as_str().map(str::to_string)
    }
}

fn core(schemas: &mut SchemaGenerator) {
    kinds!(schemas:
        api::core::v1 => Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node,
            PersistentVolume, PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret,
            Service, ServiceAccount;
        api::autoscaling::v1 => Scale;
        api::policy::v1 => Eviction;
        api::authentication::v1 => TokenRequest;
    );
}

fn workloads(schemas: &mut SchemaGenerator) {
    kinds!(schemas:
        api::apps::v1 => ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet;
        api::autoscaling::v1 => Scale, HorizontalPodAutoscaler;
        api::batch::v1 => CronJob, Job;
        api::policy::v1 => PodDisruptionBudget, Eviction;
    );
    let _ = schemas.subschema_for::<api::autoscaling::v2::HorizontalPodAutoscaler>();
}

fn others(schemas: &mut SchemaGenerator, wants: &dyn Fn(&str) -> bool) {
    if wants("networking.k8s.io") || wants("discovery.k8s.io") || wants("storage.k8s.io") {
        kinds!(schemas:
            api::networking::v1 => Ingress, IngressClass, NetworkPolicy, IPAddress, ServiceCIDR;
            api::discovery::v1 => EndpointSlice;
            api::storage::v1 => CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment;
        );
    }
    if wants("rbac.authorization.k8s.io") || wants("authentication.k8s.io") || wants("authorization.k8s.io") {
        kinds!(schemas:
            api::rbac::v1 => ClusterRole, ClusterRoleBinding, Role, RoleBinding;
            api::authentication::v1 => SelfSubjectReview, TokenReview;
            api::authorization::v1 => LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview,
                SubjectAccessReview;
        );
    }
    if wants("admissionregistration.k8s.io")
        || wants("apiextensions.k8s.io")
        || wants("apiregistration.k8s.io")
    {
        kinds!(schemas:
            api::admissionregistration::v1 => MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
                ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding;
            apiextensions => CustomResourceDefinition;
            apiregistration => APIService;
        );
    }
    if wants("certificates.k8s.io") || wants("coordination.k8s.io") || wants("scheduling.k8s.io") {
        kinds!(schemas:
            api::certificates::v1 => CertificateSigningRequest;
            api::coordination::v1 => Lease;
            api::scheduling::v1 => PriorityClass;
        );
    }
    if wants("node.k8s.io") || wants("events.k8s.io") || wants("flowcontrol.apiserver.k8s.io") {
        kinds!(schemas:
            api::node::v1 => RuntimeClass;
            api::events::v1 => Event;
            api::flowcontrol::v1 => FlowSchema, PriorityLevelConfiguration;
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_and_their_fields_are_described() {
        let found = Descriptions::of(Some(""));
        assert!(found.describe("io.k8s.api.core.v1.Pod", None).is_some());
        assert!(
            found
                .describe("io.k8s.api.core.v1.PodSpec", Some("nodeName"))
                .is_some()
        );
        assert!(
            found
                .describe("io.k8s.api.core.v1.PodSpec", Some("none"))
                .is_none()
        );
    }
}
