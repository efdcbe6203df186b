//! Strategic merge patch: lists merge by key or as sets where the type table says so, steered by the directives
//! `$patch`, `$retainKeys`, `$setElementOrder/…` and `$deleteFromPrimitiveList/…`.

mod order;

use super::PatchError;
use crate::types::{Patch, Shape, ShapeId, Types};
use order::{arrange, matches_key};
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER_PREFIX: &str = "$setElementOrder/";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";

/// Merges `patch` into `document`, which is of type `root`.
///
/// # Errors
/// `Malformed` for bad directives and list elements without their merge key.
pub fn strategic_merge_patch(
    types: &Types,
    root: ShapeId,
    document: &mut Value,
    patch: &Value,
) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(malformed("the patch is no object"));
    };
    let original = match std::mem::take(document) {
        Value::Object(original) => original,
        _ => Map::new(),
    };
    *document = Value::Object(merge_map(types, Some(root), original, patch.clone())?);
    Ok(())
}

fn malformed(text: impl Into<String>) -> PatchError {
    PatchError::Malformed(text.into())
}

/// The type and merge rule of a field; unknown fields merge without rules.
fn lookup<'a>(types: &'a Types, shape: Option<ShapeId>, field: &str) -> (Option<ShapeId>, Option<&'a Patch>) {
    let Some(Shape::Object(object)) = shape.map(|shape| types.shape(shape)) else {
        return (None, None);
    };
    match types.field(object, field) {
        Some(found) => (Some(found.shape), Some(&found.patch)),
        None => (object.rest, None),
    }
}

fn items_of(types: &Types, shape: Option<ShapeId>) -> Option<ShapeId> {
    match types.shape(shape?) {
        Shape::List(list) => Some(list.items),
        _ => None,
    }
}

fn merge_map(
    types: &Types,
    shape: Option<ShapeId>,
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
) -> Result<Map<String, Value>, PatchError> {
    match patch.remove(DIRECTIVE) {
        None => {}
        Some(Value::String(directive)) if directive == "replace" => return Ok(without_directives(patch)),
        Some(Value::String(directive)) if directive == "delete" => return Ok(Map::new()),
        Some(Value::String(directive)) if directive == "merge" => {}
        Some(other) => return Err(malformed(format!("unknown patch type {other} found"))),
    }
    retain_keys(&mut original, &mut patch)?;
    apply_orders(types, shape, &mut original, &mut patch)?;
    for (key, change) in patch {
        merge_entry(types, shape, &mut original, key, change)?;
    }
    Ok(original)
}

fn merge_entry(
    types: &Types,
    shape: Option<ShapeId>,
    original: &mut Map<String, Value>,
    key: String,
    change: Value,
) -> Result<(), PatchError> {
    if let Some(field) = key.strip_prefix(DELETE_PREFIX) {
        return delete_primitives(original, field, change);
    }
    if change.is_null() {
        original.remove(&key);
        return Ok(());
    }
    let (below, rule) = lookup(types, shape, &key);
    let merged = match (original.remove(&key), change) {
        (Some(Value::Object(current)), Value::Object(change)) => {
            Value::Object(merge_map(types, below, current, change)?)
        }
        (Some(Value::Array(current)), Value::Array(change)) if rule.is_some_and(|rule| rule.merge) => {
            let merge_key = rule.and_then(|rule| rule.key.as_deref());
            Value::Array(merge_list(
                types,
                items_of(types, below),
                current,
                change,
                merge_key,
            )?)
        }
        (_, change) => match cleaned(change) {
            Some(value) => value,
            None => return Ok(()),
        },
    };
    original.insert(key, merged);
    Ok(())
}

fn delete_primitives(
    original: &mut Map<String, Value>,
    field: &str,
    change: Value,
) -> Result<(), PatchError> {
    let Value::Array(gone) = change else {
        return Err(malformed(format!("{DELETE_PREFIX}{field} is no list")));
    };
    if let Some(Value::Array(items)) = original.get_mut(field) {
        items.retain(|item| !gone.contains(item));
    }
    Ok(())
}

/// Drops every key of the original that `$retainKeys` does not name.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), PatchError> {
    let Some(keep) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keep) = keep else {
        return Err(malformed("invalid patch format of retainKeys list"));
    };
    let kept = |key: &str| keep.iter().any(|name| name == key);
    if patch
        .iter()
        .any(|(key, value)| !key.starts_with('$') && !value.is_null() && !kept(key))
    {
        return Err(malformed("invalid patch format of retainKeys list"));
    }
    original.retain(|key, _| kept(key));
    Ok(())
}

/// Handles lists that come with an explicit order of their elements.
fn apply_orders(
    types: &Types,
    shape: Option<ShapeId>,
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
) -> Result<(), PatchError> {
    let directives: Vec<String> = patch
        .keys()
        .filter(|key| key.starts_with(ORDER_PREFIX))
        .cloned()
        .collect();
    for directive in directives {
        let field = &directive[ORDER_PREFIX.len()..];
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(malformed(format!("{directive} is no list")));
        };
        if matches!(patch.get(field), Some(value) if !value.is_array()) {
            continue;
        }
        let (below, rule) = lookup(types, shape, field);
        let key = rule.and_then(|rule| rule.key.as_deref());
        let before = take_list(original, field);
        let change = take_list(patch, field);
        let merged = match (before.clone(), change) {
            (None, None) => continue,
            (Some(list), None) => list,
            (None, Some(list)) => cleaned_list(list),
            (Some(list), Some(change)) => merge_list(types, items_of(types, below), list, change, key)?,
        };
        let arranged = arrange(merged, &order, &before.unwrap_or_default(), key);
        original.insert(field.to_owned(), Value::Array(arranged));
    }
    Ok(())
}

fn take_list(map: &mut Map<String, Value>, field: &str) -> Option<Vec<Value>> {
    match map.remove(field) {
        Some(Value::Array(list)) => Some(list),
        Some(other) => {
            map.insert(field.to_owned(), other);
            None
        }
        None => None,
    }
}

fn merge_list(
    types: &Types,
    items: Option<ShapeId>,
    original: Vec<Value>,
    patch: Vec<Value>,
    key: Option<&str>,
) -> Result<Vec<Value>, PatchError> {
    let maps = original.iter().chain(&patch).any(Value::is_object);
    if !maps {
        let mut merged: Vec<Value> = Vec::new();
        for item in original.iter().chain(&patch) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return Ok(arrange(merged, &patch, &original, None));
    }
    let key = key.ok_or_else(|| malformed("cannot merge lists without merge key"))?;
    let before = original.clone();
    let (mut merged, patch) = special_elements(original, patch, key)?;
    for change in &patch {
        let Value::Object(entries) = change else {
            return Err(malformed("list elements are of different types"));
        };
        let wanted = entries.get(key).ok_or_else(|| no_merge_key(change, key))?;
        let found = merged.iter_mut().find(|item| item.get(key) == Some(wanted));
        match found {
            Some(item) => {
                let current = match item.take() {
                    Value::Object(current) => current,
                    _ => Map::new(),
                };
                *item = Value::Object(merge_map(types, items, current, entries.clone())?);
            }
            None => merged.extend(cleaned(change.clone())),
        }
    }
    Ok(arrange(merged, &patch, &before, Some(key)))
}

/// Obeys elements that carry `$patch`; returns what is left of both lists.
fn special_elements(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut rest = Vec::new();
    let mut replace = false;
    for item in patch {
        match item.get(DIRECTIVE).and_then(Value::as_str) {
            None if item.get(DIRECTIVE).is_some() => return Err(malformed("unknown patch type found")),
            None => rest.push(item),
            Some("replace") => replace = true,
            Some("delete") => {
                let gone = item.get(key).ok_or_else(|| no_merge_key(&item, key))?;
                original.retain(|current| !matches_key(current, key, gone));
            }
            Some("merge") => return Err(malformed("merging lists cannot yet be specified in the patch")),
            Some(other) => return Err(malformed(format!("unknown patch type {other} found"))),
        }
    }
    if replace {
        original.clear();
    }
    Ok((original, rest))
}

fn no_merge_key(element: &Value, key: &str) -> PatchError {
    malformed(format!(
        "map: {} does not contain declared merge key: {key}",
        go_text(element)
    ))
}

/// Go's `%v` of a JSON value.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(entries) => {
            let parts: Vec<_> = entries
                .iter()
                .map(|(key, value)| format!("{key}:{}", go_text(value)))
                .collect();
            format!("map[{}]", parts.join(" "))
        }
        other => other.to_string(),
    }
}

/// A patch value that is taken as it is: nulls and directives go, deleted elements are `None`.
fn cleaned(value: Value) -> Option<Value> {
    match value {
        Value::Object(entries) => {
            let deleted = entries
                .get(DIRECTIVE)
                .is_some_and(|directive| directive == "delete");
            (!deleted).then(|| Value::Object(without_directives(entries)))
        }
        Value::Array(items) => Some(Value::Array(cleaned_list(items))),
        other => Some(other),
    }
}

fn cleaned_list(items: Vec<Value>) -> Vec<Value> {
    let bare_directive = |item: &Value| {
        item.as_object()
            .is_some_and(|entries| entries.len() == 1 && entries.contains_key(DIRECTIVE))
    };
    items
        .into_iter()
        .filter(|item| !bare_directive(item))
        .filter_map(cleaned)
        .collect()
}

fn without_directives(entries: Map<String, Value>) -> Map<String, Value> {
    let directive = |key: &str| {
        key == DIRECTIVE
            || key == RETAIN_KEYS
            || key.starts_with(ORDER_PREFIX)
            || key.starts_with(DELETE_PREFIX)
    };
    entries
        .into_iter()
        .filter(|(key, value)| !directive(key) && !value.is_null())
        .filter_map(|(key, value)| cleaned(value).map(|value| (key, value)))
        .collect()
}
