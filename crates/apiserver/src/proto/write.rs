//! JSON to messages, led by the same tables. A value that does not fit its type is left out: what is written comes from
//! the store, whose objects fit.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mainstay_objects::types::{Object, Scalar, Shape, ShapeId, Types};
use serde_json::Value;

use super::MAGIC;
use super::numbers::{self, Entry, Special};
use super::wire::{put_bytes, put_eight, put_message, put_number};

/// Writes an object with its envelope; `None` for kinds that are not built in.
pub fn from_json(object: &Value) -> Option<Vec<u8>> {
    let (api_version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
    let definition = numbers::definition(api_version, kind)?;
    let mut raw = Vec::new();
    message(&mut raw, definition, object);
    Some(envelope(api_version, kind, &raw))
}

/// Puts the envelope around an object's own message.
pub fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + api_version.len() + kind.len() + 24);
    out.extend_from_slice(MAGIC);
    put_message(&mut out, 1, |types| {
        put_bytes(types, 1, api_version.as_bytes());
        put_bytes(types, 2, kind.as_bytes());
    });
    put_bytes(&mut out, 2, raw);
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    out
}

/// A list that is written item by item, so that its items need not be values all at once.
pub struct List {
    raw: Vec<u8>,
    item: Option<ShapeId>,
}

impl List {
    /// Starts a list of `kind` with its metadata; `None` for kinds that are not built in.
    pub fn start(api_version: &str, kind: &str, list_kind: &str, meta: &Value) -> Option<Self> {
        let list = numbers::definition(api_version, list_kind)?;
        let item = numbers::definition(api_version, kind);
        let mut raw = Vec::new();
        if let Some(entry) = numbers::entries(list)
            .iter()
            .find(|entry| entry.name == "metadata")
        {
            field(&mut raw, entry, &entry.path, meta);
        }
        Some(List { raw, item })
    }

    /// Adds an item. Every list kind has its items in field 2.
    pub fn push(&mut self, object: &Value) {
        if let Some(item) = self.item {
            put_message(&mut self.raw, 2, |out| message(out, item, object));
        }
    }

    /// The list with its envelope.
    pub fn finish(self, api_version: &str, list_kind: &str) -> Vec<u8> {
        envelope(api_version, list_kind, &self.raw)
    }
}

/// One event of a watch: a length and a message without envelope, which holds the object with one.
pub fn event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(object.len() + 32);
    put_bytes(&mut message, 1, kind.as_bytes());
    put_message(&mut message, 2, |out| put_bytes(out, 1, object));
    // A message of the wire is far below 4 GiB: the store takes no object above 3 MiB.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), message.as_slice()].concat()
}

fn message(out: &mut Vec<u8>, definition: ShapeId, object: &Value) {
    for entry in numbers::entries(definition) {
        if let Some(value) = object.get(entry.name).filter(|value| !value.is_null()) {
            field(out, entry, &entry.path, value);
        }
    }
}

/// Writes a field at its path. A message may come in several parts: readers join them.
fn field(out: &mut Vec<u8>, entry: &Entry, path: &[u32], value: &Value) {
    match path {
        [number] => at(out, *number, entry.shape, entry.special, value),
        [number, rest @ ..] => put_message(out, *number, |out| field(out, entry, rest, value)),
        [] => {}
    }
}

fn at(out: &mut Vec<u8>, number: u32, shape: ShapeId, special: Special, value: &Value) {
    match (Types::builtin().shape(shape), value) {
        (Shape::Scalar(kind), value) => scalar(out, number, *kind, value),
        (Shape::List(list), Value::Array(items)) => {
            for item in items {
                at(out, number, list.items, special, item);
            }
        }
        (Shape::Object(Object { rest: Some(rest), .. }), Value::Object(pairs)) => {
            for (key, value) in pairs {
                put_message(out, number, |out| pair(out, key, *rest, value));
            }
        }
        (Shape::Object(_), value) => put_message(out, number, |out| message(out, shape, value)),
        (Shape::Any { .. }, value) => put_message(out, number, |out| any(out, special, value)),
        (Shape::List(_), _) => {}
    }
}

fn pair(out: &mut Vec<u8>, key: &str, shape: ShapeId, value: &Value) {
    put_bytes(out, 1, key.as_bytes());
    match Types::builtin().shape(shape) {
        Shape::List(_) => put_message(out, 2, |out| at(out, 1, shape, Special::None, value)),
        _ => at(out, 2, shape, Special::None, value),
    }
}

fn scalar(out: &mut Vec<u8>, number: u32, kind: Scalar, value: &Value) {
    match (kind, value) {
        (Scalar::String, Value::String(text)) => put_bytes(out, number, text.as_bytes()),
        (Scalar::Bytes, Value::String(text)) => {
            put_bytes(out, number, &STANDARD.decode(text).unwrap_or_default());
        }
        (Scalar::Boolean, Value::Bool(flag)) => put_number(out, number, u64::from(*flag)),
        (Scalar::Int32 | Scalar::Int64, Value::Number(amount)) => {
            put_number(out, number, amount.as_i64().unwrap_or_default() as u64);
        }
        (Scalar::Double, Value::Number(amount)) => {
            put_eight(out, number, amount.as_f64().unwrap_or_default().to_bits());
        }
        (Scalar::Time | Scalar::MicroTime, Value::String(text)) => {
            put_message(out, number, |out| time(out, text));
        }
        (Scalar::Quantity, value) => put_message(out, number, |out| {
            put_bytes(out, 1, plain(value).as_bytes());
        }),
        (Scalar::IntOrString, value) => put_message(out, number, |out| int_or_string(out, value)),
        _ => {}
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

fn time(out: &mut Vec<u8>, text: &str) {
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        put_number(out, 1, at.as_second() as u64);
        put_number(out, 2, at.subsec_nanosecond() as u64);
    }
}

fn int_or_string(out: &mut Vec<u8>, value: &Value) {
    let number = value.as_i64();
    put_number(out, 1, u64::from(number.is_none()));
    put_number(out, 2, number.unwrap_or_default() as u64);
    put_bytes(out, 3, value.as_str().unwrap_or_default().as_bytes());
}

fn any(out: &mut Vec<u8>, special: Special, value: &Value) {
    let schema = |out: &mut Vec<u8>, number: u32, value: &Value| {
        if let Some(definition) = numbers::schema() {
            put_message(out, number, |out| message(out, definition, value));
        }
    };
    match (special, value) {
        (Special::None, _) => {}
        (Special::Json, value) => put_bytes(out, 1, value.to_string().as_bytes()),
        (Special::SchemaOrFlag, Value::Bool(flag)) => put_number(out, 1, u64::from(*flag)),
        (Special::SchemaOrFlag, value) => {
            put_number(out, 1, 1);
            schema(out, 2, value);
        }
        (Special::SchemaOrList, Value::Array(items)) => items.iter().for_each(|item| schema(out, 2, item)),
        (Special::SchemaOrTexts, Value::Array(items)) => {
            let texts = items.iter().filter_map(Value::as_str);
            texts.for_each(|text| put_bytes(out, 2, text.as_bytes()));
        }
        (Special::SchemaOrList | Special::SchemaOrTexts, value) => schema(out, 1, value),
    }
}
