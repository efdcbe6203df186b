//! Rules about `metadata` that hold for every kind, built-in or custom.

use super::{Entries, Errors, list, text};
use crate::error::FieldError;
use crate::names;
use crate::path::Path;
use mainstay_semantics::selector::{label_key_problems, label_value_problems};
use serde_json::{Map, Value};
use std::sync::LazyLock;

/// All annotations together, upstream's limit.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;
const STANDARD_FINALIZERS: [&str; 4] = [
    "kubernetes",
    "orphan",
    "foregroundDeletion",
    "customresourcecleanup.apiextensions.k8s.io",
];

static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

fn metadata(object: &Value) -> &Entries {
    object
        .get("metadata")
        .and_then(Value::as_object)
        .unwrap_or(&EMPTY)
}

/// Checks a new object's metadata; `name` checks the form of names of this kind.
pub fn metadata_create(object: &Value, namespaced: bool, name: fn(&str) -> Vec<String>) -> Errors {
    let meta = metadata(object);
    let mut errors = Vec::new();
    let path = Path::Root;
    let path = path.field("metadata");
    name_rules(meta, &path, name, &mut errors);
    let namespace = text(meta, "namespace");
    if namespaced && namespace.is_empty() {
        errors.push(FieldError::required(path.field("namespace"), ""));
    }
    if !namespaced && !namespace.is_empty() {
        errors.push(FieldError::forbidden(
            path.field("namespace"),
            "not allowed on this type",
        ));
    }
    if namespaced && !namespace.is_empty() {
        let value = namespace.into();
        let problems = names::dns_label(namespace).into_iter();
        errors.extend(problems.map(|problem| FieldError::invalid(path.field("namespace"), &value, problem)));
    }
    common(meta, &path, &mut errors);
    standard_finalizers(object, &path.field("finalizers"), &mut errors);
    errors
}

fn name_rules(meta: &Entries, path: &Path<'_>, check: fn(&str) -> Vec<String>, errors: &mut Errors) {
    let (name, prefix) = (text(meta, "name"), text(meta, "generateName"));
    if name.is_empty() {
        errors.push(FieldError::required(
            path.field("name"),
            "name or generateName is required",
        ));
    } else {
        let problems = check(name).into_iter();
        errors.extend(problems.map(|problem| FieldError::invalid(path.field("name"), &name.into(), problem)));
    }
    if !prefix.is_empty() {
        // A prefix may end in what no name may end in: something follows.
        let problems = check(&format!("{}a", prefix.trim_end_matches('-'))).into_iter();
        let at = path.field("generateName");
        errors.extend(problems.map(|problem| FieldError::invalid(at, &prefix.into(), problem)));
    }
}

fn common(meta: &Entries, path: &Path<'_>, errors: &mut Errors) {
    labels(meta, &path.field("labels"), errors);
    annotations(meta, &path.field("annotations"), errors);
    owners(meta, &path.field("ownerReferences"), errors);
    finalizers(meta, &path.field("finalizers"), errors);
}

/// Labels wherever they stand: in metadata and in templates.
pub(super) fn labels(meta: &Entries, path: &Path<'_>, errors: &mut Errors) {
    for (key, value) in meta
        .get("labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let problems = label_key_problems(key).into_iter();
        errors.extend(problems.map(|problem| FieldError::invalid(path, &key.as_str().into(), problem)));
        let problems = label_value_problems(value.as_str().unwrap_or_default()).into_iter();
        errors.extend(problems.map(|problem| FieldError::invalid(path, value, problem)));
    }
}

pub(super) fn annotations(meta: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in meta
        .get("annotations")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        size += key.len() + value.as_str().map(str::len).unwrap_or_default();
        let problems = label_key_problems(&key.to_lowercase()).into_iter();
        errors.extend(problems.map(|problem| FieldError::invalid(path, &key.as_str().into(), problem)));
    }
    if size > MAX_ANNOTATION_BYTES {
        errors.push(FieldError::too_long(path, MAX_ANNOTATION_BYTES));
    }
}

fn owners(meta: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let mut controller: Option<&str> = None;
    for owner in list(meta, "ownerReferences").iter().filter_map(Value::as_object) {
        for (field, sentence) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(owner, field).is_empty() {
                errors.push(FieldError::invalid(
                    path.field(field),
                    &text(owner, field).into(),
                    sentence,
                ));
            }
        }
        if owner.get("controller") != Some(&Value::Bool(true)) {
            continue;
        }
        if let Some(first) = controller {
            let sentence = format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}",
                text(owner, "name")
            );
            errors.push(FieldError::invalid(path, &Value::Object(owner.clone()), sentence));
        }
        controller = controller.or(Some(text(owner, "name")));
    }
}

fn finalizers(meta: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let found = list(meta, "finalizers");
    for (index, value) in found.iter().enumerate() {
        let name = value.as_str().unwrap_or_default();
        let at = path.index(index);
        let problems = label_key_problems(name);
        if !problems.is_empty() {
            errors.extend(
                problems
                    .into_iter()
                    .map(|problem| FieldError::invalid(at, value, problem)),
            );
        }
    }
    let has = |name: &str| found.iter().any(|value| value == name);
    if has("orphan") && has("foregroundDeletion") {
        let sentence = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path, &Value::Array(found.to_vec()), sentence));
    }
}

/// Built-in kinds take only standard finalizers and qualified names; custom kinds and their definitions take any name.
fn standard_finalizers(object: &Value, path: &Path<'_>, errors: &mut Errors) {
    let version = object
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let built_in = !group.contains('.') || group.ends_with(".k8s.io") && group != "apiextensions.k8s.io";
    if !built_in {
        return;
    }
    for (index, value) in list(metadata(object), "finalizers").iter().enumerate() {
        let name = value.as_str().unwrap_or_default();
        let qualified = name.contains('/') || !label_key_problems(name).is_empty();
        if !qualified && !STANDARD_FINALIZERS.contains(&name) {
            let sentence = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(path.index(index), value, sentence));
        }
    }
}

/// Checks a changed object's metadata against the stored one. Upstream looks twice and reports twice; so do we, since
/// clients see the list of causes.
pub fn metadata_update(new: &Value, old: &Value) -> Errors {
    let (meta, before) = (metadata(new), metadata(old));
    let path = Path::Root;
    let path = path.field("metadata");
    let mut errors = Vec::new();
    for _ in 0..2 {
        common(meta, &path, &mut errors);
        standard_finalizers(new, &path.field("finalizers"), &mut errors);
        labels(meta, &path.field("labels"), &mut errors);
        added_finalizers(meta, before, &path.field("finalizers"), &mut errors);
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        let (value, was) = (
            meta.get(field).unwrap_or(&Value::Null),
            before.get(field).unwrap_or(&Value::Null),
        );
        if value != was && !(value.is_null() && field == "uid") {
            errors.push(FieldError::invalid(
                path.field(field),
                value,
                "field is immutable",
            ));
        }
    }
    errors
}

fn added_finalizers(meta: &Entries, before: &Entries, path: &Path<'_>, errors: &mut Errors) {
    if !before.contains_key("deletionTimestamp") {
        return;
    }
    let known = list(before, "finalizers");
    let added: Vec<&str> = list(meta, "finalizers")
        .iter()
        .filter(|value| !known.contains(value))
        .filter_map(Value::as_str)
        .collect();
    if !added.is_empty() {
        let sentence = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
        );
        errors.push(FieldError::forbidden(path, sentence));
    }
}
