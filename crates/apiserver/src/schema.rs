//! The one door to object machinery: decode, defaults, validation, patches, tables. Registry and handlers call nothing
//! else, so that built-in and custom resources take the same way.

use http::StatusCode;
use mainstay_objects::decode::{Notation, Parsed, parse};
use mainstay_objects::error::DecodeError;
use mainstay_objects::patch::{self, PatchError};
use mainstay_objects::types::{ShapeId, Types};
use serde_json::Value;

use crate::negotiate::{Content, unsupported};
use crate::resources::{Gvk, Resource};
use crate::serve::options::FieldValidation;
use crate::status::{ApiError, ApiResult, Cause};

/// A compiled custom resource version.
#[derive(Debug, Clone, Default)]
pub struct CustomType {}

/// A decoded body.
#[derive(Debug)]
pub struct Decoded {
    /// The object, pruned.
    pub value: Value,
    /// Unknown and duplicate fields, for `Warning` headers.
    pub warnings: Vec<String>,
}

/// Parses a body that holds an object of `kind`, or of any kind when it names none.
///
/// # Errors
/// 400 when it is not one.
pub fn decode(
    resource: &Resource,
    kind: &Gvk,
    body: &[u8],
    content: Content,
    validation: FieldValidation,
) -> ApiResult<Decoded> {
    let notation = match content {
        Content::Yaml | Content::Apply => Notation::Yaml,
        Content::Json => Notation::Json,
        _ => return Err(unsupported("a patch")),
    };
    let mut parsed = parse(body, notation).map_err(bad_body)?;
    check_kind(&mut parsed.value, kind)?;
    fit(resource, kind, parsed, validation)
}

/// Checks a value against the type of `kind`: drops unknown fields, spells canonically.
///
/// # Errors
/// 400 for a value that does not fit.
pub fn fit(
    resource: &Resource,
    kind: &Gvk,
    parsed: Parsed,
    validation: FieldValidation,
) -> ApiResult<Decoded> {
    let Some(root) = root(kind).filter(|_| resource.custom.is_none()) else {
        return Ok(Decoded {
            value: parsed.value,
            warnings: Vec::new(),
        });
    };
    let validation = match validation {
        FieldValidation::Ignore => mainstay_objects::decode::FieldValidation::Ignore,
        FieldValidation::Warn => mainstay_objects::decode::FieldValidation::Warn,
        FieldValidation::Strict => mainstay_objects::decode::FieldValidation::Strict,
    };
    let decoded = parsed.fit(Types::builtin(), root, validation).map_err(bad_body)?;
    Ok(Decoded {
        value: decoded.value,
        warnings: decoded.warnings,
    })
}

fn root(kind: &Gvk) -> Option<ShapeId> {
    Types::builtin().root(&kind.group, &kind.version, &kind.kind)
}

fn bad_body(error: DecodeError) -> ApiError {
    ApiError::bad_request(error.to_string())
}

/// Fills in an absent kind and apiVersion, refuses others.
fn check_kind(value: &mut Value, kind: &Gvk) -> ApiResult<()> {
    let wanted = crate::resources::api_version(&kind.group, &kind.version);
    for (key, wanted) in [("apiVersion", wanted.as_str()), ("kind", kind.kind.as_str())] {
        match value[key].as_str().unwrap_or_default() {
            "" => value[key] = wanted.into(),
            given if given == wanted => {}
            given => {
                let message =
                    format!("the {key} in the data ({given}) does not match the expected {key} ({wanted})");
                return Err(ApiError::bad_request(message));
            }
        }
    }
    Ok(())
}

/// Sets defaults.
pub fn default(_resource: &Resource, _object: &mut Value) {}

/// Checks a new object.
pub fn validate_create(_resource: &Resource, _object: &Value) -> Vec<Cause> {
    Vec::new()
}

/// Checks a changed object; `subresource` is empty for the object itself.
pub fn validate_update(_resource: &Resource, _subresource: &str, _new: &Value, _old: &Value) -> Vec<Cause> {
    Vec::new()
}

/// Applies a JSON, merge or strategic patch.
///
/// # Errors
/// 400, 415 or 422.
pub fn patch(
    resource: &Resource,
    kind: &Gvk,
    content: Content,
    old: &Value,
    body: &[u8],
) -> ApiResult<Value> {
    let parsed: Value = serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    let mut new = old.clone();
    match content {
        Content::JsonPatch => patch::json_patch(&mut new, &parsed).map_err(bad_patch)?,
        Content::MergePatch if parsed.is_object() => patch::merge_patch(&mut new, &parsed),
        Content::MergePatch => return Err(ApiError::bad_request("the patch is no object")),
        Content::StrategicPatch => {
            let root = root(kind).filter(|_| resource.custom.is_none());
            let root = root.ok_or_else(|| unsupported("application/strategic-merge-patch+json"))?;
            patch::strategic_merge_patch(Types::builtin(), root, &mut new, &parsed).map_err(bad_patch)?;
        }
        _ => return Err(unsupported("application/json")),
    }
    if !new.is_object() {
        return Err(ApiError::bad_request("the patched object is no object"));
    }
    Ok(new)
}

fn bad_patch(error: PatchError) -> ApiError {
    match error {
        PatchError::Malformed(text) => ApiError::bad_request(text),
        PatchError::Inapplicable(text) => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", text),
    }
}

/// The columns of a resource's table, and each object's cells.
pub fn table(_resource: &Resource, items: &[Value]) -> (Value, Vec<Value>) {
    let column = |name: &str, format: &str| serde_json::json!({"name": name, "type": "string", "format": format, "description": "", "priority": 0});
    let columns = Value::Array(vec![column("Name", "name"), column("Created At", "date")]);
    let cells = |item: &Value| {
        Value::Array(vec![
            item["metadata"]["name"].clone(),
            item["metadata"]["creationTimestamp"].clone(),
        ])
    };
    (columns, items.iter().map(cells).collect())
}

/// Records who owns the fields that a write changed.
pub struct Track<'a> {
    /// The resource.
    pub resource: &'a Resource,
    /// The field manager.
    pub manager: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// The time, RFC 3339 in seconds.
    pub now: &'a str,
}

impl Track<'_> {
    /// Updates `new.metadata.managedFields` after an update that made `new` of `old` (null: created).
    pub fn update(&self, _old: &Value, _new: &mut Value) {}

    /// Merges what a manager applies into the present object, `None` when there is none.
    ///
    /// # Errors
    /// 409 naming the fields that others own, unless `force` takes them.
    pub fn apply(&self, old: Option<&Value>, applied: &Value, _force: bool) -> ApiResult<Value> {
        let mut new = old.cloned().unwrap_or_else(|| applied.clone());
        patch::merge_patch(&mut new, applied);
        Ok(new)
    }
}

/// Parses what is applied: kind and apiVersion must be given, managedFields must not.
///
/// # Errors
/// 400.
pub fn decode_applied(
    resource: &Resource,
    kind: &Gvk,
    body: &[u8],
    validation: FieldValidation,
) -> ApiResult<Decoded> {
    let parsed = parse(body, Notation::Yaml).map_err(bad_body)?;
    for key in ["apiVersion", "kind"] {
        if parsed.value[key].as_str().unwrap_or_default().is_empty() {
            return Err(ApiError::bad_request(format!("the applied object has no {key}")));
        }
    }
    if parsed.value["metadata"]["managedFields"]
        .as_array()
        .is_some_and(|list| !list.is_empty())
    {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    decode(resource, kind, body, Content::Apply, validation)
}

/// Where a scalable resource keeps its counts, as dotted paths.
pub struct ScalePaths {
    /// Wanted replicas.
    pub spec: String,
    /// Present replicas.
    pub status: String,
    /// The selector.
    pub selector: String,
}

/// Where `resource` keeps its counts.
pub fn scale_paths(_resource: &Resource) -> ScalePaths {
    ScalePaths {
        spec: "spec.replicas".into(),
        status: "status.replicas".into(),
        selector: "spec.selector".into(),
    }
}

/// The OpenAPI v2 document of everything served.
pub fn openapi_v2(_catalog: &crate::resources::Catalog) -> Value {
    serde_json::json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": crate::server::GIT_VERSION}, "paths": {}, "definitions": {}})
}

/// The OpenAPI v3 document of one group version.
pub fn openapi_v3(catalog: &crate::resources::Catalog, group: &str, version: &str) -> Option<Value> {
    catalog.has_version(group, version).then(|| {
        serde_json::json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": crate::server::GIT_VERSION}, "paths": {}, "components": {"schemas": {}}})
    })
}
