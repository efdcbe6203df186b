//! JSON and YAML text to values and back: duplicate keys are found, depth is bounded, output has one fixed key order.

use crate::error::DecodeError;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

/// Deeper YAML is refused; the JSON reader reads 127 levels too.
pub(crate) const MAX_DEPTH: usize = 127;

/// Whether lists and objects are nested deeper than `levels`.
pub(crate) fn is_deeper(value: &Value, levels: usize) -> bool {
    let below = |inner: &Value| levels == 0 || is_deeper(inner, levels - 1);
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(below),
        Value::Object(entries) => levels == 0 || entries.values().any(below),
        _ => false,
    }
}

/// Reads bytes as upstream's JSON decoder does: each byte that is no UTF-8 becomes U+FFFD.
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk
            .invalid()
            .iter()
            .for_each(|_| text.push(char::REPLACEMENT_CHARACTER));
    }
    Cow::Owned(text)
}

/// Parses JSON. Of duplicate keys the last wins; each is reported as a dotted path.
///
/// # Errors
/// On syntax errors, trailing bytes and nesting beyond 128.
pub fn parse(bytes: &[u8], duplicates: &mut Vec<String>) -> Result<Value, DecodeError> {
    let found = RefCell::new(Vec::new());
    let text = text(bytes);
    let mut deserializer = serde_json::Deserializer::from_str(&text);
    let seed = Node {
        path: &Trail::Root,
        depth: 0,
        duplicates: &found,
    };
    let value = seed.deserialize(&mut deserializer).map_err(syntax)?;
    deserializer.end().map_err(syntax)?;
    duplicates.extend(found.into_inner());
    Ok(value)
}

/// Parses one YAML document into the same values; a JSON text is YAML too.
///
/// # Errors
/// As [`parse`]; also for keys that are no scalars and for several documents.
pub fn parse_yaml(bytes: &[u8], duplicates: &mut Vec<String>) -> Result<Value, DecodeError> {
    if bytes.first() == Some(&b'{') {
        return parse(bytes, duplicates);
    }
    let found = RefCell::new(Vec::new());
    let deserializer = serde_yaml_ng::Deserializer::from_slice(bytes);
    let seed = Node {
        path: &Trail::Root,
        depth: 0,
        duplicates: &found,
    };
    let value = seed
        .deserialize(deserializer)
        .map_err(|error| DecodeError::Syntax(format!("error converting YAML to JSON: yaml: {error}")))?;
    duplicates.extend(found.into_inner());
    Ok(value)
}

fn syntax(error: serde_json::Error) -> DecodeError {
    DecodeError::Syntax(format!("couldn't get version/kind; json parse error: {error}"))
}

enum Trail<'a> {
    Root,
    Key(&'a Trail<'a>, &'a str),
    Index(&'a Trail<'a>, usize),
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trail::Root => Ok(()),
            Trail::Key(Trail::Root, key) => f.write_str(key),
            Trail::Key(parent, key) => write!(f, "{parent}.{key}"),
            Trail::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

#[derive(Clone, Copy)]
struct Node<'a> {
    path: &'a Trail<'a>,
    depth: usize,
    duplicates: &'a RefCell<Vec<String>>,
}

impl<'a> Node<'a> {
    fn below<'b>(&self, path: &'b Trail<'b>) -> Node<'b>
    where
        'a: 'b,
    {
        Node {
            path,
            depth: self.depth + 1,
            duplicates: self.duplicates,
        }
    }

    fn check_depth<E: Error>(&self) -> Result<(), E> {
        if self.depth < MAX_DEPTH {
            Ok(())
        } else {
            Err(E::custom("exceeded max depth"))
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut list = Vec::new();
        loop {
            let at = Trail::Index(self.path, list.len());
            match items.next_element_seed(self.below(&at))? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(Key)? {
            let at = Trail::Key(self.path, &key);
            let value = entries.next_value_seed(self.below(&at))?;
            if map.contains_key(&key) {
                self.duplicates.borrow_mut().push(at.to_string());
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// Keys are strings; YAML's other scalars become their text.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scalar key")
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_string<E>(self, value: String) -> Result<String, E> {
        Ok(value)
    }

    fn visit_bool<E>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E>(self, value: f64) -> Result<String, E> {
        Ok(value.to_string())
    }
}

/// Keys that stand first at the top of an object, so that readers of the head stop early.
const FIRST: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// The canonical bytes: no blanks, `apiVersion`, `kind`, `metadata` first, every other key sorted.
pub fn write(value: &Value) -> Vec<u8> {
    written(value, false)
}

/// The canonical bytes as they are stored: without `metadata.resourceVersion`.
pub fn write_stored(value: &Value) -> Vec<u8> {
    written(value, true)
}

fn written(value: &Value, stored: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let Value::Object(object) = value else {
        write_value(&mut out, value);
        return out;
    };
    let first = FIRST.iter().filter_map(|name| object.get_key_value(*name));
    let rest = object.iter().filter(|(key, _)| !FIRST.contains(&key.as_str()));
    out.push(b'{');
    for (index, (key, value)) in first.chain(rest).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_value(&mut out, key);
        out.push(b':');
        match value {
            Value::Object(metadata) if stored && key == "metadata" => write_metadata(&mut out, metadata),
            value => write_value(&mut out, value),
        }
    }
    out.push(b'}');
    out
}

fn write_metadata(out: &mut Vec<u8>, metadata: &Map<String, Value>) {
    out.push(b'{');
    let kept = metadata.iter().filter(|(key, _)| *key != "resourceVersion");
    for (index, (key, value)) in kept.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_value(out, key);
        out.push(b':');
        write_value(out, value);
    }
    out.push(b'}');
}

fn write_value(out: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) {
    // Writing JSON values into memory has no failure: keys are strings and numbers are finite.
    let written = serde_json::to_writer(&mut *out, value);
    debug_assert!(written.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn duplicates_are_named_and_the_last_wins() {
        let mut duplicates = Vec::new();
        let value = parse(
            br#"{"data":{"a":"1","a":"2"},"l":[{"x":1,"x":2}]}"#,
            &mut duplicates,
        )
        .expect("JSON");
        assert_eq!(value["data"]["a"], "2");
        assert_eq!(duplicates, ["data.a", "l[0].x"]);
    }

    #[test]
    fn yaml_and_json_give_the_same_values() {
        let yaml =
            b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y1}\ndata: {a: b, 8080: c, t: 'true'}\n";
        let value = parse_yaml(yaml, &mut Vec::new()).expect("YAML");
        assert_eq!(
            String::from_utf8(write(&value)).expect("UTF-8"),
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"y1"},"data":{"8080":"c","a":"b","t":"true"}}"#
        );
    }

    #[test]
    fn broken_texts_are_errors() {
        let deep = "[".repeat(5000);
        for text in [&b"{not json"[..], b"", b"{} {}", deep.as_bytes()] {
            assert!(parse(text, &mut Vec::new()).is_err());
        }
        // Not an error upstream either: what is no UTF-8 becomes the replacement character.
        let lenient = parse(b"\"\xff\"", &mut Vec::new());
        assert_eq!(lenient.ok(), Some(Value::from("\u{fffd}")));
        assert!(parse_yaml(b"a: [1\nb: 2", &mut Vec::new()).is_err());
        assert!(parse_yaml(deep.as_bytes(), &mut Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "[{}\\[\\]:,\"a0-9.\\-\\\\ \\n\\PC]{0,40}") {
            let _ = parse(text.as_bytes(), &mut Vec::new());
            let _ = parse_yaml(text.as_bytes(), &mut Vec::new());
        }
    }
}
