//! Definitions of built-in types, each with everything it refers to.

use super::{Describe, Edition};
use crate::types::{Field, List, ListKind, Object, Scalar, Shape, ShapeId, Types};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";

/// Collects definitions until all references are satisfied.
pub(super) struct Schemas<'a> {
    types: &'a Types,
    edition: Edition,
    describe: Describe<'a>,
    wanted: Vec<ShapeId>,
    seen: BTreeSet<ShapeId>,
    out: Map<String, Value>,
}

impl<'a> Schemas<'a> {
    pub fn new(types: &'a Types, edition: Edition, describe: Describe<'a>) -> Self {
        Self {
            types,
            edition,
            describe,
            wanted: Vec::new(),
            seen: BTreeSet::new(),
            out: Map::new(),
        }
    }

    pub fn edition(&self) -> Edition {
        self.edition
    }

    /// Adds a definition and gives its name.
    pub fn add(&mut self, id: ShapeId) -> String {
        let Shape::Object(object) = self.types.shape(id) else {
            return String::new();
        };
        let name = object.name.to_string();
        self.want(id);
        name
    }

    /// Adds a definition by name.
    pub fn add_named(&mut self, name: &str) {
        if let Some(id) = self.types.definition(name) {
            self.want(id);
        }
    }

    /// Adds a schema that is made elsewhere.
    pub fn insert(&mut self, name: String, schema: Value) {
        self.out.insert(name, schema);
    }

    /// A reference to a definition that will be in the document.
    pub fn reference_to(&mut self, name: &str) -> Value {
        self.add_named(name);
        json!({"$ref": self.edition.reference(name)})
    }

    pub fn finish(mut self) -> Map<String, Value> {
        while let Some(id) = self.wanted.pop() {
            if let Shape::Object(object) = self.types.shape(id) {
                let schema = self.definition(id, object);
                self.out.insert(object.name.to_string(), schema);
            }
        }
        self.out
    }

    fn want(&mut self, id: ShapeId) {
        if self.seen.insert(id) {
            self.wanted.push(id);
        }
    }

    fn definition(&mut self, id: ShapeId, object: &'a Object) -> Value {
        let mut schema = Map::new();
        if let Some(sentence) = (self.describe)(&object.name, None) {
            schema.insert("description".into(), sentence.into());
        }
        schema.insert("type".into(), "object".into());
        let fields = self.types.fields(object);
        let required: Vec<&str> = fields
            .iter()
            .filter(|field| field.required)
            .map(|field| field.name.as_ref())
            .collect();
        if !required.is_empty() {
            schema.insert("required".into(), required.into());
        }
        if object.atomic {
            schema.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        let kinds: Vec<Value> = self
            .types
            .roots()
            .iter()
            .filter(|root| root.shape == id)
            .map(|root| json!({"group": root.group, "version": root.version, "kind": root.kind}))
            .collect();
        if !kinds.is_empty() {
            schema.insert("x-kubernetes-group-version-kind".into(), kinds.into());
        }
        let properties: Map<String, Value> = fields
            .iter()
            .map(|field| (field.name.to_string(), self.property(object, field)))
            .collect();
        if !properties.is_empty() {
            schema.insert("properties".into(), properties.into());
        }
        Value::Object(schema)
    }

    fn property(&mut self, object: &Object, field: &'a Field) -> Value {
        let mut schema = self.schema(field.shape);
        let sentence = (self.describe)(&object.name, Some(&field.name));
        let Value::Object(entries) = &mut schema else {
            return schema;
        };
        // In v3 nothing may stand beside a reference.
        if self.edition == Edition::V3
            && sentence.is_some()
            && let Some(reference) = entries.remove("$ref")
        {
            entries.insert("allOf".into(), json!([{"$ref": reference}]));
        }
        if let Some(sentence) = sentence {
            entries.insert("description".into(), sentence.into());
        }
        if field.patch.merge || field.patch.retain_keys {
            let strategies = [
                ("merge", field.patch.merge),
                ("retainKeys", field.patch.retain_keys),
            ];
            let names: Vec<&str> = strategies
                .iter()
                .filter(|(_, on)| *on)
                .map(|(name, _)| *name)
                .collect();
            entries.insert("x-kubernetes-patch-strategy".into(), names.join(",").into());
        }
        if let Some(key) = &field.patch.key {
            entries.insert("x-kubernetes-patch-merge-key".into(), key.as_ref().into());
        }
        schema
    }

    fn schema(&mut self, id: ShapeId) -> Value {
        match self.types.shape(id) {
            Shape::Scalar(scalar) => self.scalar(*scalar),
            Shape::Any { .. } => json!({"type": "object"}),
            Shape::List(list) => self.list(list),
            Shape::Object(object) if object.name.is_empty() => {
                let values = object.rest.map_or_else(|| json!({}), |rest| self.schema(rest));
                let mut map = json!({"type": "object", "additionalProperties": values});
                if object.atomic {
                    map["x-kubernetes-map-type"] = "atomic".into();
                }
                map
            }
            Shape::Object(object) => {
                self.want(id);
                json!({"$ref": self.edition.reference(&object.name)})
            }
        }
    }

    fn list(&mut self, list: &List) -> Value {
        let mut schema = json!({"type": "array", "items": self.schema(list.items)});
        schema["x-kubernetes-list-type"] = match &list.kind {
            ListKind::Atomic => "atomic",
            ListKind::Set => "set",
            ListKind::Map(_) => "map",
        }
        .into();
        if let ListKind::Map(keys) = &list.kind {
            schema["x-kubernetes-list-map-keys"] = keys
                .iter()
                .map(|key| key.name.as_ref())
                .collect::<Vec<_>>()
                .into();
        }
        schema
    }

    fn scalar(&mut self, scalar: Scalar) -> Value {
        let (name, schema) = match scalar {
            Scalar::String => return json!({"type": "string"}),
            Scalar::Boolean => return json!({"type": "boolean"}),
            Scalar::Int32 => return json!({"type": "integer", "format": "int32"}),
            Scalar::Int64 => return json!({"type": "integer", "format": "int64"}),
            Scalar::Double => return json!({"type": "number", "format": "double"}),
            Scalar::Bytes => return json!({"type": "string", "format": "byte"}),
            Scalar::Time => (TIME, json!({"type": "string", "format": "date-time"})),
            Scalar::MicroTime => (MICRO_TIME, json!({"type": "string", "format": "date-time"})),
            Scalar::Quantity => (QUANTITY, json!({"type": "string"})),
            Scalar::IntOrString => (
                INT_OR_STRING,
                json!({"type": "string", "format": "int-or-string"}),
            ),
        };
        let mut schema = schema;
        if self.edition == Edition::V3 && matches!(scalar, Scalar::Quantity | Scalar::IntOrString) {
            let number = if scalar == Scalar::Quantity {
                "number"
            } else {
                "integer"
            };
            schema = json!({"oneOf": [{"type": "string"}, {"type": number}]});
        }
        if let Some(sentence) = (self.describe)(name, None) {
            schema["description"] = sentence.into();
        }
        self.out.entry(name).or_insert(schema);
        json!({"$ref": self.edition.reference(name)})
    }
}
