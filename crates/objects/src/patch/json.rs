//! JSON patch (RFC 6902) as evanphx/json-patch v4 does it. The crate json-patch is stricter where clients rely on the
//! leniency: negative indexes count from the end, `replace` may create a key, `test` of null matches a missing key.

use super::{MAX_COPIED_BYTES, MAX_JSON_PATCH_OPERATIONS, PatchError};
use crate::json::{MAX_DEPTH, is_deeper};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Operation {
    #[serde(default)]
    op: String,
    path: Option<String>,
    from: Option<String>,
    #[serde(default, deserialize_with = "present")]
    value: Option<Value>,
}

/// Tells `"value": null` from no value.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Applies a list of operations; on an error `document` may be half changed.
///
/// # Errors
/// `Malformed` when the patch is no list of operations or too long, `Inapplicable` when an operation fails.
pub fn json_patch(document: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Array(list) = patch else {
        let shape = crate::error::json_type(patch);
        return Err(PatchError::Malformed(format!(
            "json: cannot unmarshal {shape} into Go value of type jsonpatch.Patch"
        )));
    };
    if list.len() > MAX_JSON_PATCH_OPERATIONS {
        return Err(PatchError::Malformed(format!(
            "The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {}",
            list.len()
        )));
    }
    let mut copied_bytes = 0;
    for entry in list {
        let operation =
            Operation::deserialize(entry).map_err(|error| PatchError::Malformed(error.to_string()))?;
        apply(document, operation, &mut copied_bytes)?;
    }
    Ok(())
}

/// Counts what copies add: a few of them, each of all that the ones before made, would fill any memory.
fn count_copy(copied: &Value, copied_bytes: &mut usize) -> Result<(), PatchError> {
    *copied_bytes += crate::json::write(copied).len();
    if *copied_bytes <= MAX_COPIED_BYTES {
        return Ok(());
    }
    Err(PatchError::Inapplicable(format!(
        "Unable to complete the copy, the accumulated size increase of copy is {copied_bytes}, exceeding the limit {MAX_COPIED_BYTES}"
    )))
}

/// What is deeper than a body may be could never be read again.
fn check_depth(path: &[String], value: &Value) -> Result<(), PatchError> {
    if path.len() < MAX_DEPTH && !is_deeper(value, MAX_DEPTH - path.len()) {
        return Ok(());
    }
    Err(PatchError::Inapplicable(
        "the patched object exceeds the maximum depth".into(),
    ))
}

fn apply(document: &mut Value, operation: Operation, copied_bytes: &mut usize) -> Result<(), PatchError> {
    let name = operation.op.clone();
    let path = pointer(operation.path.as_deref(), &name, "path")?;
    match name.as_str() {
        "add" => add(document, &path, value(operation.value, &name)?, &name),
        "remove" => remove(document, &path, &name).map(drop),
        "replace" => replace(document, &path, value(operation.value, &name)?),
        "test" => test(document, &path, operation.value.as_ref()),
        "move" => {
            let from = pointer(operation.from.as_deref(), &name, "from")?;
            let moved = remove(document, &from, &name)?;
            add(document, &path, moved, &name)
        }
        "copy" => {
            let from = pointer(operation.from.as_deref(), &name, "from")?;
            let copied = find(document, &from)
                .cloned()
                .ok_or_else(|| missing(&name, &from))?;
            count_copy(&copied, copied_bytes)?;
            add(document, &path, copied, &name)
        }
        _ => Err(PatchError::Inapplicable(format!("Unexpected kind: {name}"))),
    }
}

fn value(value: Option<Value>, operation: &str) -> Result<Value, PatchError> {
    value.ok_or_else(|| PatchError::Inapplicable(format!("{operation} operation has no value")))
}

/// Splits a JSON pointer and undoes its escapes.
fn pointer(text: Option<&str>, operation: &str, member: &str) -> Result<Vec<String>, PatchError> {
    let text =
        text.ok_or_else(|| PatchError::Inapplicable(format!("{operation} operation has no {member}")))?;
    match text.strip_prefix('/') {
        Some(rest) => Ok(rest
            .split('/')
            .map(|part| part.replace("~1", "/").replace("~0", "~"))
            .collect()),
        None if text.is_empty() => Ok(Vec::new()),
        None => Err(PatchError::Inapplicable(format!(
            "{operation} operation does not apply: doc is missing path: {text:?}: missing value"
        ))),
    }
}

fn missing(operation: &str, path: &[String]) -> PatchError {
    PatchError::Inapplicable(format!(
        "{operation} operation does not apply: doc is missing path: \"{}\": missing value",
        shown(path)
    ))
}

fn bad_index(operation: &str, path: &[String], index: &str) -> PatchError {
    PatchError::Inapplicable(format!(
        "error in {operation} for path: '{}': Unable to access invalid index: {index}: invalid index referenced",
        shown(path)
    ))
}

fn shown(path: &[String]) -> String {
    path.iter()
        .map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1")))
        .collect()
}

fn step<'a>(value: &'a mut Value, part: &str) -> Option<&'a mut Value> {
    match value {
        Value::Object(entries) => entries.get_mut(part),
        Value::Array(items) => existing(items.len(), part).and_then(|at| items.get_mut(at)),
        _ => None,
    }
}

fn find<'a>(document: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(document, |value, part| step(value, part))
}

/// The place of an existing element; negative numbers count from the end.
fn existing(length: usize, part: &str) -> Option<usize> {
    let number: i64 = part.parse().ok()?;
    let at = if number < 0 {
        number.checked_add(i64::try_from(length).ok()?)?
    } else {
        number
    };
    usize::try_from(at).ok().filter(|at| *at < length)
}

/// The place of a new element: up to the end; `-1` is the end.
fn insertion(length: usize, part: &str) -> Option<usize> {
    if part == "-" {
        return Some(length);
    }
    existing(length + 1, part)
}

fn parent<'a, 'p>(
    document: &'a mut Value,
    path: &'p [String],
    operation: &str,
) -> Result<(&'a mut Value, &'p str), PatchError> {
    let (last, front) = path.split_last().ok_or_else(|| missing(operation, path))?;
    let container = find(document, front).ok_or_else(|| missing(operation, path))?;
    Ok((container, last))
}

fn add(document: &mut Value, path: &[String], value: Value, operation: &str) -> Result<(), PatchError> {
    check_depth(path, &value)?;
    let (container, key) = parent(document, path, operation)?;
    match container {
        Value::Object(entries) => {
            entries.insert(key.to_owned(), value);
        }
        Value::Array(items) => {
            let at = insertion(items.len(), key).ok_or_else(|| bad_index(operation, path, key))?;
            items.insert(at, value);
        }
        _ => return Err(missing(operation, path)),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &[String], operation: &str) -> Result<Value, PatchError> {
    let (container, key) = parent(document, path, operation)?;
    match container {
        Value::Object(entries) => entries.remove(key).ok_or_else(|| missing(operation, path)),
        Value::Array(items) => {
            let at = existing(items.len(), key).ok_or_else(|| bad_index(operation, path, key))?;
            Ok(items.remove(at))
        }
        _ => Err(missing(operation, path)),
    }
}

fn replace(document: &mut Value, path: &[String], value: Value) -> Result<(), PatchError> {
    check_depth(path, &value)?;
    if path.is_empty() {
        *document = value;
        return Ok(());
    }
    let (container, key) = parent(document, path, "replace")?;
    match container {
        Value::Object(entries) => {
            entries.insert(key.to_owned(), value);
        }
        Value::Array(items) => {
            let at = existing(items.len(), key).ok_or_else(|| bad_index("replace", path, key))?;
            items[at] = value;
        }
        _ => return Err(missing("replace", path)),
    }
    Ok(())
}

fn test(document: &mut Value, path: &[String], wanted: Option<&Value>) -> Result<(), PatchError> {
    let found = find(document, path).map_or(&Value::Null, |value| &*value);
    if found == wanted.unwrap_or(&Value::Null) {
        return Ok(());
    }
    Err(PatchError::Inapplicable(format!(
        "testing value {} failed: test failed",
        shown(path)
    )))
}
