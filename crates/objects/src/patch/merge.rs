//! JSON merge patch (RFC 7386). As upstream, nulls are also removed inside lists of the patch.

use serde_json::{Map, Value};

/// Merges `patch` into `document`.
pub fn merge_patch(document: &mut Value, patch: &Value) {
    let Value::Object(entries) = patch else {
        *document = without_nulls(patch);
        return;
    };
    let Value::Object(target) = document else {
        *document = without_nulls(patch);
        return;
    };
    for (key, change) in entries {
        match (change, target.get_mut(key)) {
            (Value::Null, _) => {
                target.remove(key);
            }
            (change, Some(current)) if !current.is_null() => merge_patch(current, change),
            (change, _) => {
                target.insert(key.clone(), without_nulls(change));
            }
        }
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(entries) => {
            let kept = entries.iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                kept.map(|(key, value)| (key.clone(), without_nulls(value)))
                    .collect::<Map<_, _>>(),
            )
        }
        Value::Array(items) => Value::Array(
            items
                .iter()
                .filter(|item| !item.is_null())
                .map(without_nulls)
                .collect(),
        ),
        other => other.clone(),
    }
}
