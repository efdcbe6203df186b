//! Writes that change only what differs: merge patches computed from what was read, creation and deletion
//! that do not mind having been done before.

use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::Error;
use crate::error::{found, is_conflict};

/// Computes the merge patch (RFC 7386) from `old` to `new`; None when they are equal.
pub fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return Some(new.clone());
    };
    let mut patch = Map::new();
    for (key, value) in after {
        if let Some(part) = merge_diff(before.get(key).unwrap_or(&Value::Null), value) {
            patch.insert(key.clone(), part);
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Some(Value::Object(patch))
}

fn what<K: Resource<DynamicType = ()>>(verb: &str, name: &str) -> String {
    format!("{verb} {} {name}", K::kind(&()))
}

/// Writes the status when it differs from what was read, and only onto the version that was read; tells
/// whether it did.
///
/// # Errors
/// What the API server answers; a conflict when somebody else wrote the object meanwhile.
pub async fn status<K, S>(api: &Api<K>, object: &K, old: Option<&S>, new: &S) -> Result<bool, Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
    S: Serialize,
{
    let old = old
        .map_or(Ok(json!({})), serde_json::to_value)
        .unwrap_or(Value::Null);
    let new = serde_json::to_value(new).unwrap_or(Value::Null);
    let Some(diff) = merge_diff(&old, &new) else {
        return Ok(false);
    };
    let metadata = json!({ "resourceVersion": object.resource_version() });
    let patch = Patch::Merge(json!({ "metadata": metadata, "status": diff }));
    let name = object.name_any();
    let written = api.patch_status(&name, &PatchParams::default(), &patch).await;
    written.map_err(Error::api(|| what::<K>("write the status of", &name)))?;
    Ok(true)
}

/// Patches part of an object.
///
/// # Errors
/// What the API server answers.
pub async fn merge<K>(api: &Api<K>, name: &str, patch: Value) -> Result<K, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let written = api
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await;
    written.map_err(Error::api(|| what::<K>("patch", name)))
}

/// Creates an object; one that exists already is left as it is. Tells whether it was created.
///
/// # Errors
/// What the API server answers, other than "already exists".
pub async fn create<K>(api: &Api<K>, object: &K) -> Result<bool, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    match api.create(&PostParams::default(), object).await {
        Ok(_) => Ok(true),
        Err(error) if is_conflict(&error) => Ok(false),
        Err(error) => Err(Error::api(|| what::<K>("create", &object.name_any()))(error)),
    }
}

/// Deletes an object; one that is gone is no error.
///
/// # Errors
/// What the API server answers, other than "not found".
pub async fn delete<K>(api: &Api<K>, name: &str) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let deleted = found(api.delete(name, &DeleteParams::background()).await);
    deleted
        .map(|_| ())
        .map_err(Error::api(|| what::<K>("delete", name)))
}

/// Adds a finalizer if it is missing; tells whether it was.
///
/// # Errors
/// What the API server answers.
pub async fn add_finalizer<K>(api: &Api<K>, object: &K, finalizer: &str) -> Result<bool, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    if object.finalizers().iter().any(|have| have == finalizer) {
        return Ok(false);
    }
    let mut all = object.finalizers().to_vec();
    all.push(finalizer.to_string());
    set_finalizers(api, object, all).await
}

/// Removes a finalizer if it is there; tells whether it was.
///
/// # Errors
/// What the API server answers.
pub async fn remove_finalizer<K>(api: &Api<K>, object: &K, finalizer: &str) -> Result<bool, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let kept: Vec<String> = object
        .finalizers()
        .iter()
        .filter(|have| *have != finalizer)
        .cloned()
        .collect();
    if kept.len() == object.finalizers().len() {
        return Ok(false);
    }
    set_finalizers(api, object, kept).await
}

async fn set_finalizers<K>(api: &Api<K>, object: &K, all: Vec<String>) -> Result<bool, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let metadata = json!({ "finalizers": all, "resourceVersion": object.resource_version() });
    match merge(api, &object.name_any(), json!({ "metadata": metadata })).await {
        Err(error) if error.is_code(404) => Ok(true),
        other => other.map(|_| true),
    }
}

/// Reads an object that may be gone.
///
/// # Errors
/// What the API server answers, other than "not found".
pub async fn get<K>(api: &Api<K>, name: &str) -> Result<Option<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    api.get_opt(name)
        .await
        .map_err(Error::api(|| what::<K>("read", name)))
}

/// Lists objects with these labels (empty: all).
///
/// # Errors
/// What the API server answers.
pub async fn list<K>(api: &Api<K>, labels: &str) -> Result<Vec<K>, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let params = kube::api::ListParams::default().labels(labels);
    let listed = api
        .list(&params)
        .await
        .map_err(Error::api(|| what::<K>("list", labels)))?;
    Ok(listed.items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_names_what_changed_and_nulls_what_went() {
        let old = json!({"a": 1, "b": {"c": 2, "d": 3}, "e": [1]});
        assert_eq!(merge_diff(&old, &old), None);
        let new = json!({"a": 1, "b": {"c": 2}, "e": [2], "f": "x"});
        assert_eq!(
            merge_diff(&old, &new),
            Some(json!({"b": {"d": null}, "e": [2], "f": "x"}))
        );
    }
}
