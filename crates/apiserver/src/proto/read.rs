//! Messages to JSON, led by the tables of types and numbers. Fields that they do not know are left out, as upstream does.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mainstay_base::clock::{rfc3339_micros, rfc3339_seconds};
use mainstay_objects::types::{Object, Scalar, Shape, ShapeId, Types};
use serde_json::{Map, Value};

use super::numbers::{self, Entry, Special};
use super::wire::{self, Wire, each};
use super::{MAGIC, ProtoError};

/// Messages nest no deeper than this; JSON may not either.
const DEPTH: usize = 100;

type Fields = Map<String, Value>;

/// Turns a body into the object that it stands for.
///
/// # Errors
/// `Malformed` for damaged bytes, `Unknown` for kinds that are not built in.
pub fn to_json(body: &[u8]) -> Result<Value, ProtoError> {
    enveloped(body, 0)
}

fn enveloped(body: &[u8], depth: usize) -> Result<Value, ProtoError> {
    let envelope = body.strip_prefix(MAGIC).ok_or(ProtoError::Malformed)?;
    let (mut types, mut raw) = (&b""[..], &b""[..]);
    each(envelope, |number, wire| {
        match number {
            1 => types = wire.bytes()?,
            2 => raw = wire.bytes()?,
            _ => {}
        }
        Ok(())
    })?;
    let (mut api_version, mut kind) = (String::new(), String::new());
    each(types, |number, wire| {
        match number {
            1 => api_version = text(wire.bytes()?)?,
            2 => kind = text(wire.bytes()?)?,
            _ => {}
        }
        Ok(())
    })?;
    let Some(definition) = numbers::definition(&api_version, &kind) else {
        return Err(ProtoError::Unknown(kind));
    };
    let mut object = message(raw, definition, depth)?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

fn message(bytes: &[u8], definition: ShapeId, depth: usize) -> Result<Fields, ProtoError> {
    let mut fields = Map::new();
    fill(&mut fields, bytes, numbers::entries(definition), 0, depth)?;
    Ok(fields)
}

/// Reads a message whose fields are those of `entries`, `level` numbers into their paths.
fn fill(
    fields: &mut Fields,
    bytes: &[u8],
    entries: &[Entry],
    level: usize,
    depth: usize,
) -> Result<(), ProtoError> {
    if depth > DEPTH {
        return Err(ProtoError::Malformed);
    }
    each(bytes, |number, wire| {
        let here = |entry: &Entry| entry.path.get(level).is_some_and(|own| u64::from(*own) == number);
        let Some(start) = entries.iter().position(here) else {
            return Ok(());
        };
        let entry = &entries[start];
        if entry.path.len() == level + 1 {
            return add(fields, entry, wire, depth + 1);
        }
        let count = entries[start..].iter().take_while(|entry| here(entry)).count();
        fill(
            fields,
            wire.bytes()?,
            &entries[start..start + count],
            level + 1,
            depth + 1,
        )
    })
}

fn add(fields: &mut Fields, entry: &Entry, wire: Wire<'_>, depth: usize) -> Result<(), ProtoError> {
    match Types::builtin().shape(entry.shape) {
        Shape::List(list) => {
            let into = fields
                .entry(entry.name)
                .or_insert_with(|| Value::Array(Vec::new()));
            let into = into.as_array_mut().ok_or(ProtoError::Malformed)?;
            items(into, list.items, entry.special, wire, depth)
        }
        Shape::Object(Object { rest: Some(rest), .. }) => {
            let into = fields
                .entry(entry.name)
                .or_insert_with(|| Value::Object(Map::new()));
            let into = into.as_object_mut().ok_or(ProtoError::Malformed)?;
            pair(into, *rest, wire, depth)
        }
        _ => {
            let value = value(entry.shape, entry.special, wire, depth)?;
            let left_out = value.is_null() || entry.omit_zero && is_zero(&value);
            if !left_out {
                fields.insert(entry.name.into(), value);
            }
            Ok(())
        }
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn items(
    into: &mut Vec<Value>,
    shape: ShapeId,
    special: Special,
    wire: Wire<'_>,
    depth: usize,
) -> Result<(), ProtoError> {
    let numbers = matches!(
        Types::builtin().shape(shape),
        Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Boolean)
    );
    match wire {
        Wire::Bytes(mut packed) if numbers => {
            while !packed.is_empty() {
                let number = wire::varint(&mut packed)?;
                into.push(value(shape, special, Wire::Number(number), depth)?);
            }
        }
        wire => into.push(value(shape, special, wire, depth)?),
    }
    Ok(())
}

/// An entry of a map. A list as a value is a message with the items in its first field.
fn pair(into: &mut Fields, shape: ShapeId, wire: Wire<'_>, depth: usize) -> Result<(), ProtoError> {
    let (mut key, mut content) = (String::new(), None);
    each(wire.bytes()?, |number, wire| {
        match number {
            1 => key = text(wire.bytes()?)?,
            2 => content = Some(wire),
            _ => {}
        }
        Ok(())
    })?;
    let content = content.unwrap_or(Wire::Bytes(b""));
    let value = match Types::builtin().shape(shape) {
        Shape::List(list) => {
            let mut found = Vec::new();
            each(content.bytes()?, |_, wire| {
                items(&mut found, list.items, Special::None, wire, depth)
            })?;
            Value::Array(found)
        }
        _ => value(shape, Special::None, content, depth)?,
    };
    into.insert(key, value);
    Ok(())
}

/// One value; `Null` for what is there but empty, like a time that was never set.
fn value(shape: ShapeId, special: Special, wire: Wire<'_>, depth: usize) -> Result<Value, ProtoError> {
    Ok(match Types::builtin().shape(shape) {
        Shape::Scalar(scalar) => return self::scalar(*scalar, wire),
        Shape::Object(_) => Value::Object(message(wire.bytes()?, shape, depth)?),
        Shape::Any { .. } | Shape::List(_) => return self::special(special, wire.bytes()?, depth),
    })
}

fn scalar(scalar: Scalar, wire: Wire<'_>) -> Result<Value, ProtoError> {
    Ok(match scalar {
        Scalar::String => text(wire.bytes()?)?.into(),
        Scalar::Boolean => (wire.number()? != 0).into(),
        Scalar::Int32 | Scalar::Int64 => (wire.number()? as i64).into(),
        Scalar::Double => match wire {
            Wire::Eight(bits) => double(f64::from_bits(bits)),
            _ => return Err(ProtoError::Malformed),
        },
        Scalar::Bytes => STANDARD.encode(wire.bytes()?).into(),
        Scalar::Time => time(wire.bytes()?, rfc3339_seconds)?,
        Scalar::MicroTime => time(wire.bytes()?, rfc3339_micros)?,
        Scalar::Quantity => {
            let mut amount = String::new();
            each(wire.bytes()?, |_, wire| {
                amount = text(wire.bytes()?)?;
                Ok(())
            })?;
            amount.into()
        }
        Scalar::IntOrString => int_or_string(wire.bytes()?)?,
    })
}

/// Whole numbers are written without a point.
fn double(number: f64) -> Value {
    const EXACT: f64 = (1u64 << 53) as f64;
    if number.fract() == 0.0 && number.abs() < EXACT {
        return Value::from(number as i64);
    }
    Value::from(number)
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtoError> {
    let (mut is_text, mut number, mut words) = (false, 0, String::new());
    each(bytes, |field, wire| {
        match field {
            1 => is_text = wire.number()? != 0,
            2 => number = wire.number()? as i64,
            3 => words = text(wire.bytes()?)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(if is_text { words.into() } else { number.into() })
}

fn text(bytes: &[u8]) -> Result<String, ProtoError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ProtoError::Malformed)?;
    Ok(text.to_string())
}

fn time(bytes: &[u8], write: fn(jiff::Timestamp) -> String) -> Result<Value, ProtoError> {
    let (mut seconds, mut nanos) = (None, 0);
    each(bytes, |number, wire| {
        match number {
            1 => seconds = Some(wire.number()? as i64),
            2 => nanos = wire.number()? as i32,
            _ => {}
        }
        Ok(())
    })?;
    let Some(seconds) = seconds else {
        return Ok(Value::Null);
    };
    let at = jiff::Timestamp::new(seconds, nanos).map_err(|_| ProtoError::Malformed)?;
    Ok(write(at).into())
}

fn special(special: Special, bytes: &[u8], depth: usize) -> Result<Value, ProtoError> {
    let mut found = Value::Null;
    each(bytes, |number, wire| {
        match (special, number) {
            (Special::Json, 1) => found = embedded(wire.bytes()?, depth)?,
            (Special::SchemaOrFlag, 1) if found.is_null() => found = (wire.number()? != 0).into(),
            (Special::SchemaOrFlag, 2) | (Special::SchemaOrList | Special::SchemaOrTexts, 1) => {
                found = Value::Object(schema(wire, depth)?);
            }
            (Special::SchemaOrList, 2) => push(&mut found, Value::Object(schema(wire, depth)?)),
            (Special::SchemaOrTexts, 2) => push(&mut found, text(wire.bytes()?)?.into()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(found)
}

fn schema(wire: Wire<'_>, depth: usize) -> Result<Fields, ProtoError> {
    let definition = numbers::schema().ok_or(ProtoError::Malformed)?;
    message(wire.bytes()?, definition, depth)
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(items) => items.push(item),
        None => *list = Value::Array(vec![item]),
    }
}

/// JSON inside a message; objects may stand there as protobuf too.
fn embedded(bytes: &[u8], depth: usize) -> Result<Value, ProtoError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    if bytes.starts_with(MAGIC) {
        return enveloped(bytes, depth + 1);
    }
    serde_json::from_slice(bytes).map_err(|_| ProtoError::Malformed)
}
