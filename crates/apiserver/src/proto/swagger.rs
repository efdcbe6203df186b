//! The OpenAPI v2 document as protobuf: kubectl before 1.28 and client-go's discovery read nothing else. The messages are
//! those of OpenAPIv2.proto in gnostic (Apache-2.0), as far as our document has them.

use serde_json::{Map, Value};

use super::wire::{put_bytes, put_eight, put_message, put_number};

/// How a field is written.
#[derive(Clone, Copy)]
enum Type {
    Text,
    /// One text or several.
    Texts,
    Int,
    Double,
    Flag,
    /// Any value, as YAML.
    Free,
    Frees,
    Message(&'static Message),
    Messages(&'static Message),
    /// A message with names and values in this field.
    Named(u32, &'static Message),
    /// A message with a message in this field.
    Wrapped(u32, &'static Message),
    /// A schema or a flag.
    SchemaOrFlag,
    Parameters,
}

struct Message {
    fields: &'static [(&'static str, u32, Type)],
    /// Where keys that start with `x-` go.
    extensions: u32,
}

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Type::Text),
        ("format", 2, Type::Text),
        ("title", 3, Type::Text),
        ("description", 4, Type::Text),
        ("default", 5, Type::Free),
        ("multipleOf", 6, Type::Double),
        ("maximum", 7, Type::Double),
        ("exclusiveMaximum", 8, Type::Flag),
        ("minimum", 9, Type::Double),
        ("exclusiveMinimum", 10, Type::Flag),
        ("maxLength", 11, Type::Int),
        ("minLength", 12, Type::Int),
        ("pattern", 13, Type::Text),
        ("maxItems", 14, Type::Int),
        ("minItems", 15, Type::Int),
        ("uniqueItems", 16, Type::Flag),
        ("maxProperties", 17, Type::Int),
        ("minProperties", 18, Type::Int),
        ("required", 19, Type::Texts),
        ("enum", 20, Type::Frees),
        ("additionalProperties", 21, Type::SchemaOrFlag),
        ("type", 22, Type::Message(&TYPE)),
        ("items", 23, Type::Wrapped(1, &SCHEMA)),
        ("allOf", 24, Type::Messages(&SCHEMA)),
        ("properties", 25, Type::Named(1, &SCHEMA)),
        ("example", 30, Type::Free),
    ],
    extensions: 31,
};
/// The word or words under `type`.
static TYPE: Message = Message {
    fields: &[("", 1, Type::Texts)],
    extensions: 0,
};
static BODY: Message = Message {
    fields: &[
        ("description", 1, Type::Text),
        ("name", 2, Type::Text),
        ("in", 3, Type::Text),
        ("required", 4, Type::Flag),
        ("schema", 5, Type::Message(&SCHEMA)),
    ],
    extensions: 6,
};
static QUERY: Message = Message {
    fields: &[
        ("required", 1, Type::Flag),
        ("in", 2, Type::Text),
        ("description", 3, Type::Text),
        ("name", 4, Type::Text),
        ("type", 6, Type::Text),
        ("format", 7, Type::Text),
        ("uniqueItems", 20, Type::Flag),
    ],
    extensions: 23,
};
static PATH: Message = Message {
    fields: &[
        ("required", 1, Type::Flag),
        ("in", 2, Type::Text),
        ("description", 3, Type::Text),
        ("name", 4, Type::Text),
        ("type", 5, Type::Text),
        ("format", 6, Type::Text),
        ("uniqueItems", 19, Type::Flag),
    ],
    extensions: 22,
};
static RESPONSE: Message = Message {
    fields: &[
        ("description", 1, Type::Text),
        ("schema", 2, Type::Wrapped(1, &SCHEMA)),
    ],
    extensions: 5,
};
/// A response is one of two; ours is never a reference.
static RESPONSE_VALUE: Message = Message {
    fields: &[("", 1, Type::Message(&RESPONSE))],
    extensions: 0,
};
static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Type::Texts),
        ("summary", 2, Type::Text),
        ("description", 3, Type::Text),
        ("operationId", 5, Type::Text),
        ("produces", 6, Type::Texts),
        ("consumes", 7, Type::Texts),
        ("parameters", 8, Type::Parameters),
        ("responses", 9, Type::Named(1, &RESPONSE_VALUE)),
        ("schemes", 10, Type::Texts),
        ("deprecated", 11, Type::Flag),
    ],
    extensions: 13,
};
static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 2, Type::Message(&OPERATION)),
        ("put", 3, Type::Message(&OPERATION)),
        ("post", 4, Type::Message(&OPERATION)),
        ("delete", 5, Type::Message(&OPERATION)),
        ("options", 6, Type::Message(&OPERATION)),
        ("head", 7, Type::Message(&OPERATION)),
        ("patch", 8, Type::Message(&OPERATION)),
        ("parameters", 9, Type::Parameters),
    ],
    extensions: 10,
};
static INFO: Message = Message {
    fields: &[
        ("title", 1, Type::Text),
        ("version", 2, Type::Text),
        ("description", 3, Type::Text),
    ],
    extensions: 7,
};
static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Type::Text),
        ("info", 2, Type::Message(&INFO)),
        ("paths", 8, Type::Named(2, &PATH_ITEM)),
        ("definitions", 9, Type::Named(1, &SCHEMA)),
    ],
    extensions: 16,
};

/// The document's bytes.
pub fn document(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, &DOCUMENT, value);
    out
}

fn write(out: &mut Vec<u8>, message: &Message, value: &Value) {
    for (key, number, kind) in message.fields {
        // A field without a name holds the value itself.
        let content = if key.is_empty() {
            Some(value)
        } else {
            value.get(*key)
        };
        if let Some(content) = content {
            field(out, *number, *kind, content);
        }
    }
    let entries = value.as_object().filter(|_| message.extensions > 0);
    for (key, value) in entries
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with("x-"))
    {
        put_message(out, message.extensions, |out| {
            put_bytes(out, 1, key.as_bytes());
            field(out, 2, Type::Free, value);
        });
    }
}

fn field(out: &mut Vec<u8>, number: u32, kind: Type, value: &Value) {
    match kind {
        Type::Text => put_bytes(out, number, value.as_str().unwrap_or_default().as_bytes()),
        Type::Texts => each(value).filter_map(Value::as_str).for_each(|text| {
            put_bytes(out, number, text.as_bytes());
        }),
        Type::Int => put_number(out, number, value.as_i64().unwrap_or_default() as u64),
        Type::Double => put_eight(out, number, value.as_f64().unwrap_or_default().to_bits()),
        Type::Flag => put_number(out, number, u64::from(value == &Value::Bool(true))),
        Type::Free => put_message(out, number, |out| {
            put_bytes(out, 2, format!("{value}\n").as_bytes());
        }),
        Type::Frees => each(value).for_each(|one| field(out, number, Type::Free, one)),
        Type::Message(message) => put_message(out, number, |out| write(out, message, value)),
        Type::Messages(message) => {
            each(value).for_each(|one| put_message(out, number, |out| write(out, message, one)));
        }
        Type::Wrapped(inner, message) => put_message(out, number, |out| {
            put_message(out, inner, |out| write(out, message, value));
        }),
        Type::Named(inner, message) => put_message(out, number, |out| named(out, inner, message, value)),
        Type::SchemaOrFlag => put_message(out, number, |out| match value {
            Value::Bool(flag) => put_number(out, 2, u64::from(*flag)),
            schema => put_message(out, 1, |out| write(out, &SCHEMA, schema)),
        }),
        Type::Parameters => {
            each(value).for_each(|one| put_message(out, number, |out| parameter(out, one)));
        }
    }
}

/// The items of a list; anything else is its own only item.
fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value
        .as_array()
        .map_or(std::slice::from_ref(value), Vec::as_slice)
        .iter()
}

fn named(out: &mut Vec<u8>, number: u32, message: &Message, value: &Value) {
    let none = Map::new();
    for (name, value) in value.as_object().unwrap_or(&none) {
        put_message(out, number, |out| {
            put_bytes(out, 1, name.as_bytes());
            put_message(out, 2, |out| write(out, message, value));
        });
    }
}

/// Item, parameter, its place: three messages around each other.
fn parameter(out: &mut Vec<u8>, value: &Value) {
    put_message(out, 1, |out| match value["in"].as_str() {
        Some("body") => put_message(out, 1, |out| write(out, &BODY, value)),
        Some("path") => put_message(out, 2, |out| {
            put_message(out, 4, |out| write(out, &PATH, value));
        }),
        _ => put_message(out, 2, |out| {
            put_message(out, 3, |out| write(out, &QUERY, value));
        }),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_schema_is_written_as_the_clients_read_it() {
        let schema =
            json!({"type": "string", "x-a": [1], "additionalProperties": true, "items": {"$ref": "r"}});
        let mut out = Vec::new();
        write(&mut out, &SCHEMA, &schema);
        let mut wanted = vec![0xaa, 1, 2, 2 << 3, 1];
        wanted.extend([&[0xb2, 1, 8, 10, 6][..], b"string"].concat());
        wanted.extend([&[0xba, 1, 5, 10, 3, 10, 1][..], b"r"].concat());
        wanted.extend([&[0xfa, 1, 13, 10, 3][..], b"x-a", &[18, 6, 18, 4], b"[1]\n"].concat());
        assert_eq!(out, wanted);
    }

    #[test]
    fn parameters_go_by_their_place() {
        let operation = json!({"parameters": [{"name": "a", "in": "path"}, {"name": "b", "in": "query"}]});
        let mut out = Vec::new();
        write(&mut out, &OPERATION, &operation);
        let inner = |place: u8, text: &str, name: &str| {
            let own = [
                &[18, text.len() as u8][..],
                text.as_bytes(),
                &[34, 1],
                name.as_bytes(),
            ]
            .concat();
            let place = [&[place << 3 | 2, own.len() as u8][..], &own].concat();
            let non_body = [&[18, place.len() as u8][..], &place].concat();
            let item = [&[10, non_body.len() as u8][..], &non_body].concat();
            [&[66, item.len() as u8][..], &item].concat()
        };
        assert_eq!(out, [inner(4, "path", "a"), inner(3, "query", "b")].concat());
    }
}
