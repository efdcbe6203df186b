//! `PartialObjectMetadata`: an object without everything but its metadata.

use serde_json::{Value, json};

/// One object's metadata.
pub fn object(object: &Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object["metadata"],
    })
}

/// The metadata of a list's objects.
pub fn list(items: &[Value], meta: Value, version: &str) -> Value {
    let items: Vec<Value> = items.iter().map(|item| object(item, version)).collect();
    json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": meta,
        "items": items,
    })
}
