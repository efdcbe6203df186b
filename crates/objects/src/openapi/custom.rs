//! Definitions of custom resources: their own schemas with the envelope every object has.

use super::schemas::Schemas;
use super::{Edition, Names, Resource};
use serde_json::{Map, Value, json};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
/// What OpenAPI v2 cannot say.
const ONLY_V3: [&str; 5] = ["oneOf", "anyOf", "not", "nullable", "default"];

pub(super) fn add(schemas: &mut Schemas<'_>, resource: &Resource<'_>, schema: &Value) -> Names {
    let mut group: Vec<&str> = resource.group.split('.').collect();
    group.reverse();
    let name = |kind: &str| format!("{}.{}.{kind}", group.join("."), resource.version);
    let names = Names {
        object: name(resource.kind),
        list: name(resource.list_kind),
    };
    let kind = |kind: &str| json!([{"group": resource.group, "version": resource.version, "kind": kind}]);
    let mut object = match schemas.edition() {
        Edition::V3 => schema.clone(),
        Edition::V2 => for_v2(schema),
    };
    let metadata = schemas.reference_to(OBJECT_META);
    envelope(&mut object, metadata);
    object["x-kubernetes-group-version-kind"] = kind(resource.kind);
    let mut list = json!({"type": "object", "required": ["items"], "properties": {
        "items": {"type": "array", "items": {"$ref": schemas.edition().reference(&names.object)}}}});
    let metadata = schemas.reference_to(LIST_META);
    envelope(&mut list, metadata);
    list["x-kubernetes-group-version-kind"] = kind(resource.list_kind);
    schemas.insert(names.object.clone(), object);
    schemas.insert(names.list.clone(), list);
    names
}

fn envelope(schema: &mut Value, metadata: Value) {
    let Value::Object(entries) = schema else { return };
    let properties = entries
        .entry("properties")
        .or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(properties) = properties else {
        return;
    };
    for name in ["apiVersion", "kind"] {
        properties
            .entry(name)
            .or_insert_with(|| json!({"type": "string"}));
    }
    properties.insert("metadata".into(), metadata);
}

/// Leaves out what v2 has no word for; objects of free form lose their properties, as upstream does.
fn for_v2(schema: &Value) -> Value {
    match schema {
        Value::Object(entries) => {
            let free = entries.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
            let either = entries.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
            let gone = |key: &str| match key {
                "items" | "properties" => free,
                "type" => either,
                _ => ONLY_V3.contains(&key),
            };
            let kept = entries.iter().filter(|(key, _)| !gone(key));
            Value::Object(kept.map(|(key, value)| (key.clone(), for_v2(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(for_v2).collect()),
        other => other.clone(),
    }
}
