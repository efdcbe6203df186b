//! Pruning and defaulting by schema, and lowering of schemas into type arenas for server-side apply.

use super::schema::{ListType, Schema, Type};
use crate::path::Path;
use crate::types::{Field, List, ListKey, ListKind, Name, Patch, Scalar, Shape, ShapeId, Types};
use serde_json::{Map, Value};

/// What every object has, whatever its schema says.
const ENVELOPE: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Drops unknown fields and names them.
pub(super) fn prune(
    schema: &Schema,
    value: &mut Value,
    top: bool,
    path: &Path<'_>,
    unknown: &mut Vec<String>,
) {
    match value {
        Value::Array(items) => {
            let Some(below) = schema.items.as_deref() else {
                return;
            };
            for (index, item) in items.iter_mut().enumerate() {
                prune(below, item, false, &path.index(index), unknown);
            }
        }
        Value::Object(entries) => {
            let envelope = top || schema.embedded;
            let mut gone = Vec::new();
            for (key, entry) in entries.iter_mut() {
                let at = path.field(key);
                match schema.property(key) {
                    _ if envelope && ENVELOPE.contains(&key.as_str()) => {}
                    Some(below) => prune(below, entry, false, &at, unknown),
                    None if schema.preserve_unknown || schema.kind == Type::Any => {}
                    None => {
                        unknown.push(at.to_string());
                        gone.push(key.clone());
                    }
                }
            }
            gone.iter().for_each(|key| {
                entries.remove(key);
            });
        }
        _ => {}
    }
}

/// Fills in defaults; a null where none is allowed counts as missing when there is a default.
pub(super) fn default(schema: &Schema, value: &mut Value) {
    match value {
        Value::Array(items) => {
            if let Some(below) = schema.items.as_deref() {
                items.iter_mut().for_each(|item| default(below, item));
            }
        }
        Value::Object(entries) => default_object(schema, entries),
        _ => {}
    }
}

fn default_object(schema: &Schema, entries: &mut Map<String, Value>) {
    for (name, below) in &schema.properties {
        let Some(fallback) = &below.default else { continue };
        let missing = match entries.get(name.as_ref()) {
            None => true,
            Some(value) => value.is_null() && !below.nullable,
        };
        if missing {
            entries.insert(name.to_string(), (**fallback).clone());
        }
    }
    for (key, entry) in entries.iter_mut() {
        if let Some(below) = schema.property(key) {
            default(below, entry);
        }
    }
}

/// The arena of one custom kind; its metadata is that of the built-in table.
pub(super) fn lower(schema: Option<&Schema>) -> (Types, ShapeId) {
    let mut types = Types::default();
    let builtin = Types::builtin();
    let metadata = builtin
        .definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
        .map(|meta| types.import(builtin, meta));
    let text = types.add(Shape::Scalar(Scalar::String));
    let mut fields: Vec<Field> = Vec::new();
    fields.extend(["apiVersion", "kind"].map(|name| field(name, text)));
    fields.extend(metadata.map(|metadata| field("metadata", metadata)));
    let mut rest = None;
    if let Some(schema) = schema {
        for (name, below) in schema
            .properties
            .iter()
            .filter(|(name, _)| !ENVELOPE.contains(&name.as_ref()))
        {
            let shape = lower_node(&mut types, below);
            fields.push(field(name, shape));
        }
        rest = schema
            .preserve_unknown
            .then(|| types.add(Shape::Any { granular: true }));
    } else {
        rest = rest.or_else(|| Some(types.add(Shape::Any { granular: true })));
    }
    let root = types.add_object(Name::Borrowed(""), fields, rest, false);
    (types, root)
}

fn field(name: &str, shape: ShapeId) -> Field {
    Field {
        name: Name::Owned(name.to_owned()),
        shape,
        required: false,
        patch: Patch::default(),
    }
}

fn lower_node(types: &mut Types, schema: &Schema) -> ShapeId {
    let scalar = |kind| Shape::Scalar(kind);
    match schema.kind {
        Type::String => types.add(scalar(Scalar::String)),
        Type::Integer => types.add(scalar(Scalar::Int64)),
        Type::Number => types.add(scalar(Scalar::Double)),
        Type::Boolean => types.add(scalar(Scalar::Boolean)),
        Type::IntOrString => types.add(scalar(Scalar::IntOrString)),
        Type::Any => types.add(Shape::Any { granular: true }),
        Type::Array => {
            let items = match schema.items.as_deref() {
                Some(items) => lower_node(types, items),
                None => types.add(Shape::Any { granular: false }),
            };
            let kind = match &schema.list {
                ListType::Atomic => ListKind::Atomic,
                ListType::Set => ListKind::Set,
                ListType::Map(keys) => ListKind::Map(keys.iter().map(|key| list_key(schema, key)).collect()),
            };
            types.add(Shape::List(List { items, kind }))
        }
        Type::Object => {
            let fields = schema.properties.iter().map(|(name, below)| {
                let shape = lower_node(types, below);
                field(name, shape)
            });
            let fields: Vec<Field> = fields.collect();
            let rest = match schema.additional.as_deref() {
                Some(values) => Some(lower_node(types, values)),
                None if schema.preserve_unknown || schema.embedded => {
                    Some(types.add(Shape::Any { granular: true }))
                }
                None => None,
            };
            types.add_object(Name::Borrowed(""), fields, rest, schema.map_atomic)
        }
    }
}

fn list_key(schema: &Schema, key: &str) -> ListKey {
    let default = schema
        .items
        .as_deref()
        .and_then(|items| items.properties.get(key)?.default.as_deref().cloned());
    ListKey {
        name: Name::Owned(key.to_owned()),
        default,
    }
}
