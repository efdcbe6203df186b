//! The one door to object machinery: decode, defaults, validation, patches, tables. Registry and handlers call nothing
//! else, so that built-in and custom resources take the same way.

use std::sync::Arc;

use http::StatusCode;
use mainstay_objects::apply::{self, ApplyError, Writer};
use mainstay_objects::crd::{CustomKind, CustomVersion};
use mainstay_objects::decode::{Notation, Parsed, parse};
use mainstay_objects::error::{DecodeError, FieldError};
use mainstay_objects::model::Builtin;
use mainstay_objects::patch::{self, PatchError};
use mainstay_objects::table::Columns;
use mainstay_objects::types::{ShapeId, Types};
use serde_json::Value;

use crate::negotiate::{Content, unsupported};
use crate::proto::{self, ProtoError};
use crate::resources::{Gvk, Resource};
use crate::serve::options::FieldValidation;
use mainstay_access::status::{ApiError, ApiResult, Cause};

/// One version of a compiled CustomResourceDefinition.
#[derive(Debug, Clone)]
pub struct CustomType {
    /// The whole definition.
    pub kind: Arc<CustomKind>,
    /// Which of its versions.
    pub version: usize,
}

impl CustomType {
    /// The version's schema.
    pub fn schema(&self) -> &CustomVersion {
        &self.kind.versions[self.version]
    }
}

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
    let mut parsed = match content {
        Content::Yaml | Content::Apply => parse(body, Notation::Yaml).map_err(bad_body)?,
        Content::Json => parse(body, Notation::Json).map_err(bad_body)?,
        Content::Protobuf => Parsed::from_value(from_protobuf(body)?),
        _ => return Err(unsupported("a patch")),
    };
    check_kind(&mut parsed.value, kind)?;
    fit(resource, kind, parsed, validation)
}

/// Reads a protobuf body.
///
/// # Errors
/// 400 when it is damaged, 415 for kinds that are only read as JSON or YAML.
pub fn from_protobuf(body: &[u8]) -> ApiResult<Value> {
    proto::to_json(body).map_err(|error| match error {
        ProtoError::Malformed => ApiError::bad_request("the protobuf body is malformed"),
        ProtoError::Unknown(_) => unsupported("application/vnd.kubernetes.protobuf"),
    })
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
    let validation = match validation {
        FieldValidation::Ignore => mainstay_objects::decode::FieldValidation::Ignore,
        FieldValidation::Warn => mainstay_objects::decode::FieldValidation::Warn,
        FieldValidation::Strict => mainstay_objects::decode::FieldValidation::Strict,
    };
    let decoded = match (
        own_custom(resource, kind),
        Builtin::find(&kind.group, &kind.version, &kind.kind),
    ) {
        (Some(custom), _) => custom.schema().fit(parsed, validation).map_err(bad_body)?,
        (None, Some(builtin)) => builtin.fit(parsed, validation).map_err(bad_body)?,
        (None, None) => {
            return Ok(Decoded {
                value: parsed.value,
                warnings: Vec::new(),
            });
        }
    };
    Ok(Decoded {
        value: decoded.value,
        warnings: decoded.warnings,
    })
}

/// The custom type of the resource's own kind; a Scale of a custom resource is built in.
fn own_custom<'a>(resource: &'a Resource, kind: &Gvk) -> Option<&'a CustomType> {
    resource.custom.as_deref().filter(|_| *kind == resource.gvk)
}

fn stored_builtin(resource: &Resource) -> Option<Builtin> {
    let kind = &resource.storage;
    Builtin::find(&kind.group, &kind.version, &kind.kind).filter(|_| resource.custom.is_none())
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

/// Sets defaults in an object in stored form.
pub fn default(resource: &Resource, object: &mut Value) {
    match (&resource.custom, stored_builtin(resource)) {
        (Some(custom), _) => custom.schema().default(object),
        (None, Some(builtin)) => builtin.default(object),
        (None, None) => {}
    }
}

fn causes(errors: Vec<FieldError>) -> Vec<Cause> {
    errors
        .into_iter()
        .map(|error| Cause::new(error.reason.as_str(), error.field, error.message))
        .collect()
}

/// Checks a new object.
pub fn validate_create(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut errors = match (&resource.custom, stored_builtin(resource)) {
        (Some(custom), _) => custom.schema().validate_create(object, resource.namespaced),
        (None, Some(builtin)) => builtin.validate_create(object, resource.namespaced),
        (None, None) => Vec::new(),
    };
    errors.extend(definition_errors(resource, object));
    causes(errors)
}

/// Checks a changed object; `subresource` is empty for the object itself.
pub fn validate_update(resource: &Resource, subresource: &str, new: &Value, old: &Value) -> Vec<Cause> {
    let mut errors = match (&resource.custom, stored_builtin(resource)) {
        (Some(custom), _) => custom.schema().validate_update(new, old),
        (None, Some(builtin)) if subresource.is_empty() => builtin.validate_update(new, old),
        (None, Some(builtin)) => builtin.validate_status(new, old),
        (None, None) => Vec::new(),
    };
    if subresource.is_empty() && new["spec"] != old["spec"] {
        errors.extend(definition_errors(resource, new));
    }
    causes(errors)
}

/// What is wrong with a CustomResourceDefinition's schemas.
fn definition_errors(resource: &Resource, object: &Value) -> Vec<FieldError> {
    match &*resource.store {
        crate::custom::DEFINITIONS => CustomKind::compile(object).err().unwrap_or_default(),
        _ => Vec::new(),
    }
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
    let parsed: Value = serde_json::from_str(&mainstay_objects::json::text(body))
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
        return Err(misfit("the patched object is no object"));
    }
    // A strategic patch keeps the type it was applied to, whatever it says.
    let typed = content != Content::StrategicPatch;
    let given = new["kind"].as_str().unwrap_or_default();
    if typed && !given.is_empty() && given != kind.kind {
        return Err(misfit(&format!("unable to decode {given} into {}", kind.kind)));
    }
    Ok(new)
}

/// A patched object that no longer fits its type is unprocessable, not a bad request.
pub fn misfit(why: &str) -> ApiError {
    let cause = Cause::new("FieldValueInvalid", "patch", format!("Invalid value: {why}"));
    ApiError::invalid("", "", "", vec![cause])
}

fn bad_patch(error: PatchError) -> ApiError {
    match error {
        PatchError::Malformed(text) => ApiError::bad_request(text),
        PatchError::Inapplicable(text) => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", text),
    }
}

/// The columns of a resource's table, and each object's cells.
pub fn table(resource: &Resource, items: &[Value], now: jiff::Timestamp) -> (Value, Vec<Value>) {
    let columns = match &resource.custom {
        Some(custom) => Columns::custom(&custom.schema().columns),
        None => Columns::builtin(&resource.gvk.group, &resource.gvk.kind),
    };
    (
        columns.definitions(),
        items.iter().map(|item| columns.cells(item, now)).collect(),
    )
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
    fn writer<'w>(&'w self, api_version: &'w str) -> Writer<'w> {
        Writer {
            manager: self.manager,
            api_version,
            subresource: self.subresource,
            now: self.now,
        }
    }

    /// Updates `new.metadata.managedFields` after an update that made `new` of `old` (null: created), both as stored.
    pub fn update(&self, old: &Value, new: &mut Value) {
        let Some((types, root)) = structure(self.resource, &self.resource.storage) else {
            return;
        };
        let kind = &self.resource.storage;
        let api_version = crate::resources::api_version(&kind.group, &kind.version);
        apply::track_update(
            types,
            root,
            Some(old).filter(|old| !old.is_null()),
            new,
            &self.writer(&api_version),
        );
    }

    /// Merges what a manager applies into the present object in served form, `None` when there is none.
    ///
    /// # Errors
    /// 409 naming the fields that others own, unless `force` takes them.
    pub fn apply(&self, old: Option<&Value>, applied: &Value, force: bool) -> ApiResult<Value> {
        let kind = &self.resource.gvk;
        let Some((types, root)) = structure(self.resource, kind) else {
            return Err(unsupported("application/apply-patch+yaml"));
        };
        let api_version = self.resource.api_version();
        apply::apply(types, root, old, applied, &self.writer(&api_version), force).map_err(refused_apply)
    }
}

fn structure<'a>(resource: &'a Resource, kind: &Gvk) -> Option<(&'a Types, ShapeId)> {
    match &resource.custom {
        Some(custom) => Some(custom.schema().types()),
        None => root(kind).map(|root| (Types::builtin(), root)),
    }
}

fn refused_apply(error: ApplyError) -> ApiError {
    let message = error.to_string();
    match error {
        ApplyError::Invalid(text) => ApiError::bad_request(text),
        ApplyError::Conflicts(conflicts) => {
            let refused = ApiError::new(StatusCode::CONFLICT, "Conflict", message);
            conflicts.into_iter().fold(refused, |refused, conflict| {
                refused.cause(Cause::new(
                    "FieldManagerConflict",
                    conflict.field,
                    conflict.message,
                ))
            })
        }
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
    let mut parsed = parse(body, Notation::Yaml).map_err(bad_body)?;
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
    check_kind(&mut parsed.value, kind)?;
    fit(resource, kind, parsed, validation)
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
pub fn scale_paths(resource: &Resource) -> ScalePaths {
    if let Some(scale) = resource
        .custom
        .as_ref()
        .and_then(|custom| custom.schema().scale.as_ref())
    {
        return ScalePaths {
            spec: scale.spec_replicas.clone(),
            status: scale.status_replicas.clone(),
            selector: scale.label_selector.clone().unwrap_or_else(|| "none".into()),
        };
    }
    ScalePaths {
        spec: "spec.replicas".into(),
        status: "status.replicas".into(),
        selector: "spec.selector".into(),
    }
}
