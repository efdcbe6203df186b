//! One pass over a value and its type: Go's type errors, unknown fields dropped and named, nulls removed,
//! quantities and times in canonical spelling.

use crate::error::DecodeError;
use crate::path::Path;
use crate::types::{Object, Scalar, Shape, ShapeId, Types};
use mainstay_semantics::quantity::Quantity;
use serde_json::{Map, Value};

/// Brings `value` into the form its type prescribes. Unknown fields are appended to `unknown` as paths.
///
/// # Errors
/// `Type` in Go's words when a value does not fit its field.
pub fn check(
    types: &Types,
    shape: ShapeId,
    value: &mut Value,
    unknown: &mut Vec<String>,
) -> Result<(), DecodeError> {
    Checker { types, unknown }.value(shape, value, &Path::Root)
}

struct Checker<'a> {
    types: &'a Types,
    unknown: &'a mut Vec<String>,
}

impl Checker<'_> {
    fn value(&mut self, shape: ShapeId, value: &mut Value, path: &Path<'_>) -> Result<(), DecodeError> {
        let types = self.types;
        match (types.shape(shape), value) {
            (_, Value::Null) | (Shape::Any { .. }, _) => Ok(()),
            (Shape::Scalar(kind), value) => scalar(*kind, value, path),
            (Shape::List(list), Value::Array(items)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    if item.is_null() {
                        *item = zero(types.shape(list.items));
                    }
                    self.value(list.items, item, &path.index(index))?;
                }
                Ok(())
            }
            (Shape::Object(object), Value::Object(entries)) => self.object(object, entries, path),
            (Shape::List(_), value) => Err(mismatch(value, path, "[]")),
            (Shape::Object(object), value) => Err(mismatch(value, path, go_type(object))),
        }
    }

    fn object(
        &mut self,
        object: &Object,
        entries: &mut Map<String, Value>,
        path: &Path<'_>,
    ) -> Result<(), DecodeError> {
        if let (Some(rest), true) = (object.rest, self.types.fields(object).is_empty()) {
            for (key, value) in entries.iter_mut() {
                if value.is_null() {
                    *value = zero(self.types.shape(rest));
                }
                self.value(rest, value, &path.key(key))?;
            }
            return Ok(());
        }
        let mut drop = Vec::new();
        for (key, value) in entries.iter_mut() {
            let at = path.field(key);
            match self.types.entry(object, key) {
                Some(_) if value.is_null() => drop.push(key.clone()),
                Some(shape) => self.value(shape, value, &at)?,
                None => {
                    self.unknown.push(at.to_string());
                    drop.push(key.clone());
                }
            }
        }
        for key in drop {
            entries.remove(&key);
        }
        Ok(())
    }
}

/// What Go's decoder makes of null inside a list or map.
fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::Scalar(Scalar::String | Scalar::Bytes) => "".into(),
        Shape::Scalar(Scalar::Quantity) => "0".into(),
        Shape::Scalar(Scalar::Boolean) => false.into(),
        Shape::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString) => 0.into(),
        Shape::Object(_) => Value::Object(Map::new()),
        _ => Value::Null,
    }
}

fn scalar(kind: Scalar, value: &mut Value, path: &Path<'_>) -> Result<(), DecodeError> {
    let fits = match (kind, &*value) {
        (Scalar::String, Value::String(_)) | (Scalar::Boolean, Value::Bool(_)) => true,
        (Scalar::Int32, Value::Number(number)) => number
            .as_i64()
            .is_some_and(|number| i32::try_from(number).is_ok()),
        (Scalar::Int64, Value::Number(number)) => number.is_i64(),
        (Scalar::Double, Value::Number(_)) => true,
        (Scalar::Bytes, Value::String(text)) => return base64(text, path),
        (Scalar::Time | Scalar::MicroTime, Value::String(text)) => {
            *value = time(text, kind, path)?.into();
            true
        }
        (Scalar::Quantity, _) => {
            let quantity =
                Quantity::from_json(value).map_err(|error| DecodeError::Type(error.to_string()))?;
            *value = quantity.to_string().into();
            true
        }
        (Scalar::IntOrString, Value::String(_)) => true,
        (Scalar::IntOrString, Value::Number(number)) => number
            .as_i64()
            .is_some_and(|number| i32::try_from(number).is_ok()),
        _ => false,
    };
    if fits {
        Ok(())
    } else {
        Err(mismatch(value, path, go_scalar(kind)))
    }
}

fn mismatch(value: &Value, path: &Path<'_>, wanted: &str) -> DecodeError {
    let got = match value {
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) if number.is_f64() || wanted.starts_with("int") => format!("number {number}"),
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        _ => "object".to_owned(),
    };
    let field = path.dotted_fields();
    DecodeError::Type(format!(
        "json: cannot unmarshal {got} into Go struct field {field} of type {wanted}"
    ))
}

fn go_scalar(kind: Scalar) -> &'static str {
    match kind {
        Scalar::String => "string",
        Scalar::Boolean => "bool",
        Scalar::Int32 => "int32",
        Scalar::Int64 => "int64",
        Scalar::Double => "float64",
        Scalar::Bytes => "[]uint8",
        Scalar::Time => "v1.Time",
        Scalar::MicroTime => "v1.MicroTime",
        Scalar::Quantity => "resource.Quantity",
        Scalar::IntOrString => "intstr.IntOrString",
    }
}

/// `v1.PodSpec` for a definition, `map[string]...` for a map.
fn go_type(object: &Object) -> &str {
    match object.name.rmatch_indices('.').nth(1) {
        Some((at, _)) => &object.name[at + 1..],
        None => "map[string]",
    }
}

fn base64(text: &str, path: &Path<'_>) -> Result<(), DecodeError> {
    let body = text.trim_end_matches('=');
    let padding = text.len() - body.len();
    let legal = body.bytes().filter(|b| !matches!(b, b'\r' | b'\n'));
    let bad = legal
        .clone()
        .position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/')));
    let length = legal.count() + padding;
    match bad {
        None if length.is_multiple_of(4) && padding <= 2 => Ok(()),
        bad => Err(DecodeError::Type(format!(
            "illegal base64 data at input byte {} ({})",
            bad.unwrap_or(body.len()),
            path
        ))),
    }
}

/// RFC 3339 in UTC: whole seconds for times, six digits for micro times.
fn time(text: &str, kind: Scalar, path: &Path<'_>) -> Result<String, DecodeError> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let instant: jiff::Timestamp = text
        .parse()
        .map_err(|_| DecodeError::Type(format!("parsing time {text:?} as RFC 3339 failed ({path})")))?;
    let format = if kind == Scalar::Time {
        "%Y-%m-%dT%H:%M:%SZ"
    } else {
        "%Y-%m-%dT%H:%M:%S%.6fZ"
    };
    Ok(instant.strftime(format).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(kind: (&str, &str, &str), mut value: Value) -> Result<(Value, Vec<String>), String> {
        let types = Types::builtin();
        let root = types.root(kind.0, kind.1, kind.2).expect("known kind");
        let mut unknown = Vec::new();
        check(types, root, &mut value, &mut unknown).map_err(|error| error.to_string())?;
        Ok((value, unknown))
    }

    #[test]
    fn unknown_fields_go_and_are_named() {
        let pod = json!({"kind": "Pod", "zzz": 1, "spec": {"containers": [{"name": "a", "imag": "x"}]}});
        let (value, unknown) = run(("", "v1", "Pod"), pod).expect("fits");
        assert_eq!(
            value,
            json!({"kind": "Pod", "spec": {"containers": [{"name": "a"}]}})
        );
        assert_eq!(unknown, ["spec.containers[0].imag", "zzz"]);
    }

    #[test]
    fn spellings_become_canonical() {
        let pod = json!({"metadata": {"creationTimestamp": "2026-01-02T03:04:05.6+01:00", "labels": {"a": null}},
            "spec": {"nodeName": null, "containers": [{"name": "a", "resources": {"limits": {"cpu": 0.5, "memory": "1024Ki"}}}]}});
        let (value, _) = run(("", "v1", "Pod"), pod).expect("fits");
        assert_eq!(
            value,
            json!({"metadata": {"creationTimestamp": "2026-01-02T02:04:05Z", "labels": {"a": ""}},
            "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "500m", "memory": "1Mi"}}}]}})
        );
    }

    #[test]
    fn type_errors_read_like_upstream() {
        let errors: Vec<String> = [
            json!({"spec": {"replicas": "x"}}),
            json!({"spec": {"replicas": 1.5}}),
            json!({"spec": {"template": {"spec": {"containers": "x"}}}}),
            json!({"spec": {"template": []}}),
        ]
        .into_iter()
        .filter_map(|value| run(("apps", "v1", "Deployment"), value).err())
        .collect();
        expect_test::expect![[r#"
            json: cannot unmarshal string into Go struct field spec.replicas of type int32
            json: cannot unmarshal number 1.5 into Go struct field spec.replicas of type int32
            json: cannot unmarshal string into Go struct field spec.template.spec.containers of type []
            json: cannot unmarshal array into Go struct field spec.template of type v1.PodTemplateSpec"#]]
        .assert_eq(&errors.join("\n"));
    }
}
