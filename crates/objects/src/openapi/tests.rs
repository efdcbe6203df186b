//! Documents as clients read them.

use super::*;
use std::collections::BTreeSet;

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

fn deployments() -> Resource<'static> {
    Resource {
        group: "apps",
        version: "v1",
        kind: "Deployment",
        list_kind: "DeploymentList",
        plural: "deployments",
        namespaced: true,
        verbs: VERBS,
        subresources: &[("status", &["get", "patch", "update"])],
        schema: None,
    }
}

fn describe(definition: &str, field: Option<&str>) -> Option<String> {
    (definition.ends_with("DeploymentSpec")).then(|| format!("about {}", field.unwrap_or("it")))
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(entries) => {
            found.extend(entries.get("$ref").and_then(Value::as_str).map(str::to_owned));
            entries.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

fn check_references(document: &Value) {
    let mut found = BTreeSet::new();
    references(document, &mut found);
    for reference in found {
        let pointer = reference.trim_start_matches('#').to_owned();
        assert!(document.pointer(&pointer).is_some(), "{reference} leads nowhere");
    }
}

#[test]
fn a_group_version_document_explains_and_validates() {
    let document = v3(&[deployments()], "apps", "v1", "v1.36.3", &describe).expect("document");
    check_references(&document);
    let spec = &document["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"];
    assert_eq!(spec["required"], json!(["selector", "template"]));
    assert_eq!(
        spec["properties"]["replicas"],
        json!({"type": "integer", "format": "int32", "description": "about replicas"})
    );
    assert_eq!(
        spec["properties"]["template"],
        json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.PodTemplateSpec"}], "description": "about template"})
    );
    let pods = &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(pods["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(pods["x-kubernetes-list-map-keys"], json!(["name"]));
    let path = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    let kind = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    assert_eq!(path["get"]["x-kubernetes-group-version-kind"], kind);
    let parameters = path["patch"]["parameters"].as_array().expect("parameters");
    assert!(
        ["dryRun", "fieldValidation"]
            .iter()
            .all(|name| parameters.iter().any(|parameter| parameter["name"] == *name))
    );
    assert!(v3(&[deployments()], "apps", "v2", "x", &describe).is_none());
}

#[test]
fn the_old_document_holds_custom_resources_too() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "nullable": true, "description": "wish",
        "properties": {"size": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}}}});
    let custom = Resource {
        group: "stable.example.com",
        kind: "Thing",
        list_kind: "ThingList",
        plural: "things",
        subresources: &[],
        schema: Some(&schema),
        ..deployments()
    };
    let document = v2(&[deployments(), custom], "v1.36.3", &describe);
    check_references(&document);
    let strategic = |path: &str| {
        let kinds = document["paths"][path]["patch"]["consumes"].to_string();
        kinds
            .contains("merge-patch+json")
            .then(|| kinds.contains("strategic"))
    };
    assert_eq!(
        [
            strategic("/apis/apps/v1/namespaces/{namespace}/deployments/{name}"),
            strategic("/apis/stable.example.com/v1/namespaces/{namespace}/things/{name}"),
        ],
        [Some(true), Some(false)]
    );
    let thing = &document["definitions"]["com.example.stable.v1.Thing"];
    assert_eq!(
        thing["properties"]["spec"],
        json!({"type": "object", "description": "wish", "properties": {"size": {"x-kubernetes-int-or-string": true}}})
    );
    assert_eq!(
        thing["properties"]["metadata"]["$ref"],
        "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );
    assert_eq!(document["info"]["title"], "Kubernetes");
}

#[test]
fn every_builtin_kind_can_be_documented() {
    for root in Types::builtin().roots() {
        let resource = Resource {
            group: &root.group,
            version: &root.version,
            kind: &root.kind,
            list_kind: "",
            plural: "x",
            ..deployments()
        };
        let document = v3(&[resource], &root.group, &root.version, "x", &describe).expect("document");
        check_references(&document);
    }
}
