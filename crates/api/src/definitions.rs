//! The CustomResourceDefinitions of all kinds, with the labels and rules that derives cannot express.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, ValidationRule,
};
use kube::CustomResourceExt;

use crate::{
    BreakFixTicket, ClusterDeployment, ComputeCluster, ComputeNode, ComputeNodeTemplate, DataCenter, Host,
    HostedControlPlane, HostedControlPlaneTemplate, NodeConfig, NodeConfigTemplate, NodePool, OSImage, Rack,
    Region, Repair, RepairPolicy, Tenant, Zone,
};

/// Kinds that Cluster API's own controllers and clusterctl look up by contract label.
const CONTRACT_KINDS: [&str; 7] = [
    "ComputeCluster",
    "ComputeNode",
    "ComputeNodeTemplate",
    "HostedControlPlane",
    "HostedControlPlaneTemplate",
    "NodeConfig",
    "NodeConfigTemplate",
];

/// Rules on `spec`: kind, CEL rule, message.
const RULES: [(&str, &str, &str); 5] = [
    (
        "NodePool",
        "!has(self.autoscaling) || self.autoscaling.min <= self.autoscaling.max",
        "autoscaling.min must not be greater than autoscaling.max",
    ),
    (
        "ComputeNode",
        "!has(oldSelf.hostRef) || (has(self.hostRef) && self.hostRef.name == oldSelf.hostRef.name)",
        "hostRef cannot be changed once it is set",
    ),
    (
        "ComputeNode",
        "self.incarnation >= oldSelf.incarnation",
        "incarnation can only be raised",
    ),
    (
        "RepairPolicy",
        "self.maxInFlight >= 1",
        "maxInFlight must be at least 1",
    ),
    (
        "ClusterDeployment",
        "self.nodePools.all(a, self.nodePools.exists_one(b, b.name == a.name))",
        "names of nodePools must be unique",
    ),
];

/// Makes the CustomResourceDefinitions of this group, places first.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut all = vec![
        Region::crd(),
        DataCenter::crd(),
        Zone::crd(),
        Rack::crd(),
        Host::crd(),
        OSImage::crd(),
        NodePool::crd(),
        ComputeNode::crd(),
        ComputeNodeTemplate::crd(),
        ComputeCluster::crd(),
        ClusterDeployment::crd(),
        HostedControlPlane::crd(),
        HostedControlPlaneTemplate::crd(),
        NodeConfig::crd(),
        NodeConfigTemplate::crd(),
        RepairPolicy::crd(),
        Repair::crd(),
        BreakFixTicket::crd(),
        Tenant::crd(),
    ];
    for crd in &mut all {
        add_labels(crd);
        add_rules(crd);
    }
    all
}

fn add_labels(crd: &mut CustomResourceDefinition) {
    let labels = crd.metadata.labels.get_or_insert_default();
    labels.insert("app.kubernetes.io/part-of".into(), "mainstay".into());
    if CONTRACT_KINDS.contains(&crd.spec.names.kind.as_str()) {
        labels.insert("cluster.x-k8s.io/v1beta2".into(), crate::VERSION.into());
        labels.insert("clusterctl.cluster.x-k8s.io".into(), String::new());
        labels.insert("clusterctl.cluster.x-k8s.io/move".into(), String::new());
    }
    if ["Host", "ClusterDeployment"].contains(&crd.spec.names.kind.as_str()) {
        labels.insert("clusterctl.cluster.x-k8s.io".into(), String::new());
        labels.insert("clusterctl.cluster.x-k8s.io/move-hierarchy".into(), String::new());
    }
}

fn add_rules(crd: &mut CustomResourceDefinition) {
    let kind = crd.spec.names.kind.clone();
    let rules: Vec<ValidationRule> = RULES
        .iter()
        .filter(|(of, ..)| *of == kind)
        .map(|(_, rule, message)| ValidationRule {
            rule: rule.to_string(),
            message: Some(message.to_string()),
            ..Default::default()
        })
        .collect();
    if rules.is_empty() {
        return;
    }
    for version in &mut crd.spec.versions {
        let schema = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut());
        let spec = schema.and_then(|schema| schema.properties.as_mut()?.get_mut("spec"));
        if let Some(spec) = spec {
            spec.x_kubernetes_validations = Some(rules.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_structural_schema_and_a_plural_name() {
        let names: Vec<String> = crds().iter().map(|crd| crd.spec.names.plural.clone()).collect();
        expect_test::expect![[r#"regions datacenters zones racks hosts osimages nodepools computenodes computenodetemplates computeclusters clusterdeployments hostedcontrolplanes hostedcontrolplanetemplates nodeconfigs nodeconfigtemplates repairpolicies repairs breakfixtickets tenants"#]]
        .assert_eq(&names.join(" "));
        for crd in crds() {
            let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
            let spec = &schema["openAPIV3Schema"]["properties"]["spec"];
            assert_eq!(spec["type"], "object", "{}", crd.spec.names.kind);
            let text = schema.to_string();
            assert!(!text.contains("$ref"), "{}: {text}", crd.spec.names.kind);
        }
    }

    #[test]
    fn contract_kinds_carry_the_labels_that_cluster_api_looks_for() {
        let all = crds();
        let labelled = all.iter().filter(|crd| {
            crd.metadata
                .labels
                .as_ref()
                .is_some_and(|l| l.contains_key("cluster.x-k8s.io/v1beta2"))
        });
        assert_eq!(labelled.count(), CONTRACT_KINDS.len());
    }

    #[test]
    fn rules_reach_the_schema() {
        let pool = crds()
            .into_iter()
            .find(|crd| crd.spec.names.kind == "NodePool")
            .unwrap();
        let text = serde_json::to_string(&pool).unwrap();
        assert!(text.contains("autoscaling.min must not be greater"));
        assert!(text.contains("labelSelectorPath"));
    }
}
