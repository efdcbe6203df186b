//! Custom resource definitions: checked and compiled into kinds that prune, default and validate their objects.

mod library;
mod rule;
mod rules;
mod schema;
mod shape;
mod validate;

use crate::decode::{Decoded, FieldValidation, Parsed};
use crate::error::{DecodeError, FieldError};
use crate::jsonpath::JsonPath;
use crate::names;
use crate::path::Path;
use crate::types::{ShapeId, Types};
use crate::{check, validation};
use schema::{Reader, Schema, Type};
use serde_json::Value;

/// Upstream's limit.
const MAX_SELECTABLE_FIELDS: usize = 8;

/// A compiled definition.
#[derive(Debug)]
pub struct CustomKind {
    pub group: String,
    pub kind: String,
    pub list_kind: String,
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    /// In the order of the definition.
    pub versions: Vec<CustomVersion>,
}

/// One version of a custom kind.
#[derive(Debug)]
pub struct CustomVersion {
    pub name: String,
    pub served: bool,
    pub storage: bool,
    /// The text of the `Warning` header when the version is deprecated.
    pub deprecation: Option<String>,
    /// The status subresource is on.
    pub status: bool,
    pub scale: Option<Scale>,
    /// Dotted paths without the leading dot, as in field selectors.
    pub selectable_fields: Vec<String>,
    pub columns: Vec<Column>,
    schema: Option<Schema>,
    types: Types,
    root: ShapeId,
}

/// Where the scale subresource finds its numbers; dotted paths without the leading dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    pub spec_replicas: String,
    pub status_replicas: String,
    pub label_selector: Option<String>,
}

/// An additional printer column.
#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: String,
    pub format: String,
    pub description: String,
    pub priority: i64,
    pub path: JsonPath,
}

fn text(value: &Value, key: &str) -> String {
    value
        .get(key)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    let list = value.get(key).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn flag(value: &Value, key: &str) -> bool {
    value.get(key) == Some(&Value::Bool(true))
}

impl CustomKind {
    /// Checks and compiles a CustomResourceDefinition (v1, defaults applied).
    ///
    /// # Errors
    /// Everything wrong with it, by field.
    pub fn compile(crd: &Value) -> Result<Self, Vec<FieldError>> {
        let spec = crd.get("spec").unwrap_or(&Value::Null);
        let mut errors = Vec::new();
        let root = Path::Root;
        let path = root.field("spec");
        names_of(crd, spec, &mut errors);
        let names = spec.get("names").unwrap_or(&Value::Null);
        let at = path.field("versions");
        let list = spec
            .get("versions")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let versions: Vec<CustomVersion> = list
            .iter()
            .enumerate()
            .filter_map(|(index, version)| CustomVersion::compile(version, &at.index(index), &mut errors))
            .collect();
        if list.iter().filter(|version| flag(version, "storage")).count() != 1 {
            let sentence = "must have exactly one version marked as storage version";
            errors.push(FieldError::invalid(at, &Value::Array(Vec::new()), sentence));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            group: text(spec, "group"),
            kind: text(names, "kind"),
            list_kind: text(names, "listKind"),
            plural: text(names, "plural"),
            singular: text(names, "singular"),
            short_names: texts(names, "shortNames"),
            categories: texts(names, "categories"),
            namespaced: text(spec, "scope") == "Namespaced",
            versions,
        })
    }

    /// A version by name.
    pub fn version(&self, name: &str) -> Option<&CustomVersion> {
        self.versions.iter().find(|version| version.name == name)
    }

    /// The version that is stored.
    pub fn storage_version(&self) -> Option<&CustomVersion> {
        self.versions.iter().find(|version| version.storage)
    }
}

fn names_of(crd: &Value, spec: &Value, errors: &mut Vec<FieldError>) {
    let (group, names) = (text(spec, "group"), spec.get("names").unwrap_or(&Value::Null));
    let mut require = |field: &str, value: &str, check: fn(&str) -> Vec<String>| {
        if value.is_empty() {
            errors.push(FieldError::required(field, ""));
        } else {
            errors.extend(
                check(value)
                    .into_iter()
                    .map(|problem| FieldError::invalid(field, &value.into(), problem)),
            );
        }
    };
    require("spec.group", &group, names::dns_subdomain);
    require("spec.names.plural", &text(names, "plural"), names::dns_1035_label);
    require(
        "spec.names.kind",
        &text(names, "kind").to_lowercase(),
        names::dns_1035_label,
    );
    if !group.contains('.') && !group.is_empty() {
        let sentence = "should be a domain with at least one dot";
        errors.push(FieldError::invalid(
            "spec.group",
            &group.as_str().into(),
            sentence,
        ));
    }
    if !matches!(text(spec, "scope").as_str(), "Cluster" | "Namespaced") {
        let value = spec.get("scope").cloned().unwrap_or_else(|| "".into());
        errors.push(FieldError::not_supported(
            "spec.scope",
            &value,
            &["Cluster", "Namespaced"],
        ));
    }
    let wanted = format!("{}.{group}", text(names, "plural"));
    let name = crd
        .get("metadata")
        .map(|meta| text(meta, "name"))
        .unwrap_or_default();
    if name != wanted {
        let sentence = "must be spec.names.plural+\".\"+spec.group";
        errors.push(FieldError::invalid("metadata.name", &name.into(), sentence));
    }
    let strategy = spec
        .get("conversion")
        .map(|conversion| text(conversion, "strategy"))
        .unwrap_or_default();
    if strategy == "Webhook" {
        let sentence = "conversion webhooks are not supported by this server; use None";
        errors.push(FieldError::forbidden("spec.conversion.strategy", sentence));
    }
}

impl CustomVersion {
    fn compile(version: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) -> Option<Self> {
        let name = text(version, "name");
        let problems = names::dns_1035_label(&name).into_iter();
        errors.extend(
            problems.map(|problem| FieldError::invalid(path.field("name"), &name.as_str().into(), problem)),
        );
        let at = path.field("schema");
        let at = at.field("openAPIV3Schema");
        let schema = match version
            .get("schema")
            .and_then(|schema| schema.get("openAPIV3Schema"))
        {
            Some(schema) => Reader { errors }.read(schema, &at, 0, false),
            None => {
                errors.push(FieldError::required(at, "schemas are required"));
                None
            }
        };
        if schema.as_ref().is_some_and(|schema| schema.kind != Type::Object) {
            errors.push(FieldError::invalid(
                at.field("type"),
                &version["schema"]["openAPIV3Schema"]["type"],
                "must be object at the root",
            ));
        }
        let (types, root) = shape::lower(schema.as_ref());
        let subresources = version.get("subresources").unwrap_or(&Value::Null);
        let selectable = selectable(version, &types, root, path, errors);
        let compiled = Self {
            served: flag(version, "served"),
            storage: flag(version, "storage"),
            deprecation: flag(version, "deprecated").then(|| text(version, "deprecationWarning")),
            status: subresources.get("status").is_some(),
            scale: scale(subresources, path, errors),
            selectable_fields: selectable,
            columns: columns(version, path, errors),
            name,
            schema,
            types,
            root,
        };
        compiled.check_defaults(&at, errors);
        Some(compiled)
    }

    /// Defaults must themselves satisfy the schema.
    fn check_defaults(&self, path: &Path<'_>, errors: &mut Vec<FieldError>) {
        if let Some(schema) = &self.schema {
            defaults_fit(schema, path, errors);
        }
    }

    /// The structure for server-side apply.
    pub fn types(&self) -> (&Types, ShapeId) {
        (&self.types, self.root)
    }

    /// Checks a parsed body: metadata by type, unknown fields by schema.
    ///
    /// # Errors
    /// `Type` for metadata that does not fit, `Strict` for findings in strict mode.
    pub fn fit(&self, mut body: Parsed, validation: FieldValidation) -> Result<Decoded, DecodeError> {
        let mut unknown = Vec::new();
        if let Some(Value::Object(object)) = Some(&mut body.value)
            && let Some(metadata) = object.get_mut("metadata")
        {
            let builtin = Types::builtin();
            if let Some(meta) = builtin.definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta") {
                let mut found = Vec::new();
                check::check(builtin, meta, metadata, &mut found)?;
                unknown.extend(found.into_iter().map(|path| format!("metadata.{path}")));
            }
        }
        if let Some(schema) = &self.schema {
            shape::prune(schema, &mut body.value, true, &Path::Root, &mut unknown);
        }
        body.with_unknown(unknown, validation)
    }

    /// Fills in the schema's defaults.
    pub fn default(&self, value: &mut Value) {
        if let Some(schema) = &self.schema {
            shape::default(schema, value);
        }
    }

    /// Checks a new object, metadata included.
    pub fn validate_create(&self, value: &Value, namespaced: bool) -> Vec<FieldError> {
        let mut errors = validation::metadata_create(value, namespaced, names::dns_subdomain);
        self.validate_schema(value, None, &mut errors);
        errors
    }

    /// Checks a changed object against the stored one; also for writes of the status.
    pub fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = validation::metadata_update(new, old);
        self.validate_schema(new, Some(old), &mut errors);
        errors
    }

    fn validate_schema(&self, value: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
        if let Some(schema) = &self.schema {
            validate::validate(schema, value, old, &Path::Root, errors);
        }
    }
}

fn defaults_fit(schema: &Schema, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(fallback) = &schema.default {
        let mut filled = (**fallback).clone();
        shape::default(schema, &mut filled);
        let mut found = Vec::new();
        validate::validate(schema, &filled, None, &path.field("default"), &mut found);
        errors.extend(found);
    }
    for (name, below) in &schema.properties {
        let at = path.field("properties");
        defaults_fit(below, &at.key(name), errors);
    }
    if let Some(items) = schema.items.as_deref() {
        defaults_fit(items, &path.field("items"), errors);
    }
    if let Some(values) = schema.additional.as_deref() {
        defaults_fit(values, &path.field("additionalProperties"), errors);
    }
}

fn selectable(
    version: &Value,
    types: &Types,
    root: ShapeId,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) -> Vec<String> {
    let list = version
        .get("selectableFields")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let at = path.field("selectableFields");
    if list.len() > MAX_SELECTABLE_FIELDS {
        errors.push(FieldError::too_many(at, list.len(), MAX_SELECTABLE_FIELDS));
    }
    let mut found = Vec::new();
    for (index, field) in list.iter().enumerate() {
        let dotted = text(field, "jsonPath");
        let known = dotted
            .strip_prefix('.')
            .filter(|dotted| types.descend(root, dotted).is_some());
        match known {
            Some(dotted) => found.push(dotted.to_owned()),
            None => {
                let at = at.index(index);
                let sentence = "is an invalid path: does not refer to a valid field";
                errors.push(FieldError::invalid(
                    at.field("jsonPath"),
                    &dotted.into(),
                    sentence,
                ));
            }
        }
    }
    found
}

fn scale(subresources: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) -> Option<Scale> {
    let scale = subresources.get("scale")?;
    let at = path.field("subresources");
    let at = at.field("scale");
    let mut dotted = |key: &str, front: &str| {
        let path = text(scale, key);
        if !path.starts_with(front) {
            let sentence = format!("should be a json path under {front}");
            errors.push(FieldError::invalid(
                at.field(key),
                &path.as_str().into(),
                sentence,
            ));
        }
        path.trim_start_matches('.').to_owned()
    };
    let label_selector = text(scale, "labelSelectorPath");
    Some(Scale {
        spec_replicas: dotted("specReplicasPath", ".spec."),
        status_replicas: dotted("statusReplicasPath", ".status."),
        label_selector: (!label_selector.is_empty())
            .then(|| label_selector.trim_start_matches('.').to_owned()),
    })
}

fn columns(version: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) -> Vec<Column> {
    let at = path.field("additionalPrinterColumns");
    let list = version
        .get("additionalPrinterColumns")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let mut found = Vec::new();
    for (index, column) in list.enumerate() {
        let at = at.index(index);
        match JsonPath::parse(&text(column, "jsonPath")) {
            Some(path) => found.push(Column {
                name: text(column, "name"),
                kind: text(column, "type"),
                format: text(column, "format"),
                description: text(column, "description"),
                priority: column.get("priority").and_then(Value::as_i64).unwrap_or_default(),
                path,
            }),
            None => {
                let value = column.get("jsonPath").cloned().unwrap_or_default();
                errors.push(FieldError::invalid(
                    at.field("jsonPath"),
                    &value,
                    "is an invalid JSON path",
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests;
