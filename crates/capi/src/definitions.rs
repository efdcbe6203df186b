//! The CustomResourceDefinitions, as clusterctl wants them: storage version v1beta2, contract and move labels,
//! and every object open for fields that this crate does not name.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;

use crate::kinds::*;

/// Makes the CustomResourceDefinitions of all kinds in this crate.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut all = vec![
        Cluster::crd(),
        Machine::crd(),
        MachineSet::crd(),
        MachineDeployment::crd(),
        MachinePool::crd(),
        MachineHealthCheck::crd(),
        KubeadmControlPlane::crd(),
        KubeadmConfig::crd(),
    ];
    for crd in &mut all {
        let labels = crd.metadata.labels.get_or_insert_default();
        for (key, value) in [
            ("cluster.x-k8s.io/provider", "cluster-api"),
            ("cluster.x-k8s.io/v1beta2", "v1beta2"),
            ("clusterctl.cluster.x-k8s.io", ""),
            ("clusterctl.cluster.x-k8s.io/core", ""),
        ] {
            labels.insert(key.into(), value.into());
        }
        for version in &mut crd.spec.versions {
            if let Some(schema) = version
                .schema
                .as_mut()
                .and_then(|s| s.open_api_v3_schema.as_mut())
            {
                open(schema, true);
            }
        }
    }
    all
}

/// Lets unknown fields pass at every level below the top one, and drops `required`: upstream's own rules
/// belong to upstream's schema.
fn open(schema: &mut JSONSchemaProps, top: bool) {
    if schema.properties.is_some() && !top {
        schema.x_kubernetes_preserve_unknown_fields = Some(true);
        schema.required = None;
    }
    for (name, property) in schema.properties.iter_mut().flatten() {
        if !(top && name == "metadata") {
            open(property, false);
        }
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &mut schema.items {
        open(item, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_have_the_names_and_labels_that_clusterctl_looks_for() {
        let names: Vec<String> = crds()
            .iter()
            .map(|crd| crd.metadata.name.clone().unwrap())
            .collect();
        expect_test::expect![[r#"
            clusters.cluster.x-k8s.io
            machines.cluster.x-k8s.io
            machinesets.cluster.x-k8s.io
            machinedeployments.cluster.x-k8s.io
            machinepools.cluster.x-k8s.io
            machinehealthchecks.cluster.x-k8s.io
            kubeadmcontrolplanes.controlplane.cluster.x-k8s.io
            kubeadmconfigs.bootstrap.cluster.x-k8s.io"#]]
        .assert_eq(&names.join("\n"));
        for crd in crds() {
            assert!(crd.spec.versions[0].storage, "{}", crd.spec.names.kind);
            assert_eq!(
                crd.metadata.labels.as_ref().unwrap()["cluster.x-k8s.io/v1beta2"],
                "v1beta2"
            );
        }
    }

    #[test]
    fn fields_of_upstream_that_we_do_not_name_pass_through() {
        let cluster = serde_json::to_value(&crds()[0]).unwrap();
        let spec = &cluster["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        assert_eq!(spec["x-kubernetes-preserve-unknown-fields"], true);
        assert_eq!(
            spec["properties"]["clusterNetwork"]["x-kubernetes-preserve-unknown-fields"],
            true
        );
    }
}
