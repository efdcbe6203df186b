//! Compiled structural schemas: read once from a CRD's `openAPIV3Schema`, with upstream's structural rules checked.

use super::rule::CelRule;
use crate::error::FieldError;
use crate::path::Path;
use regex::Regex;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Deeper schemas are refused.
const MAX_DEPTH: usize = 100;
/// Larger patterns are refused when they compile.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// The JSON type a schema demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
    /// Preserve-unknown without a type.
    Any,
}

/// One node of a schema.
#[derive(Debug)]
pub struct Schema {
    pub(super) kind: Type,
    pub(super) nullable: bool,
    pub(super) preserve_unknown: bool,
    pub(super) embedded: bool,
    pub(super) map_atomic: bool,
    pub(super) properties: BTreeMap<Box<str>, Schema>,
    pub(super) additional: Option<Box<Schema>>,
    pub(super) items: Option<Box<Schema>>,
    pub(super) default: Option<Box<Value>>,
    pub(super) list: ListType,
    pub(super) checks: Option<Box<Checks>>,
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ListType {
    Atomic,
    Set,
    Map(Vec<Box<str>>),
}

/// Value validations; most nodes have none.
#[derive(Debug, Default)]
pub(super) struct Checks {
    pub required: Vec<Box<str>>,
    pub allowed: Vec<Value>,
    pub minimum: Option<(f64, bool)>,
    pub maximum: Option<(f64, bool)>,
    pub multiple_of: Option<f64>,
    pub length: Bounds,
    pub items: Bounds,
    pub properties: Bounds,
    pub unique: bool,
    pub pattern: Option<Regex>,
    pub format: Option<Box<str>>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
    pub rules: Vec<CelRule>,
}

/// Inclusive limits on a count.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub low: Option<u64>,
    pub high: Option<u64>,
}

impl Bounds {
    fn read(schema: &Map<String, Value>, low: &str, high: &str) -> Self {
        let number = |key: &str| schema.get(key).and_then(Value::as_u64);
        Self {
            low: number(low),
            high: number(high),
        }
    }
}

impl Schema {
    /// The schema of a property, named or additional.
    pub(super) fn property(&self, name: &str) -> Option<&Schema> {
        self.properties.get(name).or(self.additional.as_deref())
    }
}

/// Reads schemas and collects what is wrong with them.
pub(super) struct Reader<'a> {
    pub errors: &'a mut Vec<FieldError>,
}

impl Reader<'_> {
    /// Reads one node. `logical`: inside allOf, anyOf, oneOf or not, where nothing structural may stand.
    pub fn read(&mut self, value: &Value, path: &Path<'_>, depth: usize, logical: bool) -> Option<Schema> {
        let Value::Object(schema) = value else {
            self.errors
                .push(FieldError::invalid(path, value, "must be a schema"));
            return None;
        };
        if depth > MAX_DEPTH {
            self.errors
                .push(FieldError::forbidden(path, "the schema is nested too deeply"));
            return None;
        }
        let flag = |key: &str| schema.get(key) == Some(&Value::Bool(true));
        let kind = self.kind(schema, path, logical)?;
        for key in [
            "$ref",
            "definitions",
            "dependencies",
            "deprecated",
            "discriminator",
            "id",
            "patternProperties",
        ] {
            if schema.contains_key(key) {
                self.errors
                    .push(FieldError::forbidden(path.field(key), "not supported"));
            }
        }
        let properties = self.properties(schema, path, depth, logical);
        let additional = self.additional(schema, path, depth, logical);
        if !properties.is_empty() && additional.is_some() {
            let sentence = "additionalProperties and properties are mutual exclusive";
            self.errors.push(FieldError::forbidden(
                path.field("additionalProperties"),
                sentence,
            ));
        }
        let items = schema
            .get("items")
            .and_then(|items| self.read(items, &path.field("items"), depth + 1, logical));
        if kind == Type::Array && items.is_none() && !logical {
            self.errors
                .push(FieldError::required(path.field("items"), "must be specified"));
        }
        Some(Schema {
            kind,
            nullable: flag("nullable"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            map_atomic: schema
                .get("x-kubernetes-map-type")
                .is_some_and(|kind| kind == "atomic"),
            properties,
            additional: additional.map(Box::new),
            items: items.map(Box::new),
            default: schema.get("default").cloned().map(Box::new),
            list: self.list_type(schema, path),
            checks: self.checks(schema, path, depth),
        })
    }

    fn kind(&mut self, schema: &Map<String, Value>, path: &Path<'_>, logical: bool) -> Option<Type> {
        let flag = |key: &str| schema.get(key) == Some(&Value::Bool(true));
        if flag("x-kubernetes-int-or-string") {
            return Some(Type::IntOrString);
        }
        let name = schema.get("type").and_then(Value::as_str).unwrap_or_default();
        Some(match name {
            "object" => Type::Object,
            "array" => Type::Array,
            "string" => Type::String,
            "integer" => Type::Integer,
            "number" => Type::Number,
            "boolean" => Type::Boolean,
            "" if logical || flag("x-kubernetes-preserve-unknown-fields") => Type::Any,
            "" => {
                self.errors.push(FieldError::required(
                    path.field("type"),
                    "must not be empty for specified object fields",
                ));
                return None;
            }
            _ => {
                let known = ["array", "boolean", "integer", "number", "object", "string"];
                self.errors.push(FieldError::not_supported(
                    path.field("type"),
                    &name.into(),
                    &known,
                ));
                return None;
            }
        })
    }

    fn properties(
        &mut self,
        schema: &Map<String, Value>,
        path: &Path<'_>,
        depth: usize,
        logical: bool,
    ) -> BTreeMap<Box<str>, Schema> {
        let at = path.field("properties");
        let mut found = BTreeMap::new();
        for (name, value) in schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            if let Some(property) = self.read(value, &at.key(name), depth + 1, logical) {
                found.insert(name.as_str().into(), property);
            }
        }
        found
    }

    fn additional(
        &mut self,
        schema: &Map<String, Value>,
        path: &Path<'_>,
        depth: usize,
        logical: bool,
    ) -> Option<Schema> {
        match schema.get("additionalProperties") {
            Some(Value::Bool(true)) => {
                let any = serde_json::json!({"x-kubernetes-preserve-unknown-fields": true});
                self.read(&any, path, depth + 1, logical)
            }
            None | Some(Value::Bool(false) | Value::Null) => None,
            Some(value) => self.read(value, &path.field("additionalProperties"), depth + 1, logical),
        }
    }

    fn list_type(&mut self, schema: &Map<String, Value>, path: &Path<'_>) -> ListType {
        let keys: Vec<Box<str>> = strings(schema, "x-kubernetes-list-map-keys");
        match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => ListType::Set,
            Some("map") if keys.is_empty() => {
                let sentence = "must not be empty if x-kubernetes-list-type is map";
                self.errors.push(FieldError::required(
                    path.field("x-kubernetes-list-map-keys"),
                    sentence,
                ));
                ListType::Atomic
            }
            Some("map") => ListType::Map(keys),
            None | Some("atomic") => ListType::Atomic,
            Some(other) => {
                let at = path.field("x-kubernetes-list-type");
                self.errors.push(FieldError::not_supported(
                    at,
                    &other.into(),
                    &["atomic", "map", "set"],
                ));
                ListType::Atomic
            }
        }
    }

    fn checks(&mut self, schema: &Map<String, Value>, path: &Path<'_>, depth: usize) -> Option<Box<Checks>> {
        let number = |key: &str| schema.get(key).and_then(Value::as_f64);
        let flag = |key: &str| schema.get(key) == Some(&Value::Bool(true));
        let checks = Checks {
            required: strings(schema, "required"),
            allowed: schema
                .get("enum")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default(),
            minimum: number("minimum").map(|bound| (bound, flag("exclusiveMinimum"))),
            maximum: number("maximum").map(|bound| (bound, flag("exclusiveMaximum"))),
            multiple_of: number("multipleOf"),
            length: Bounds::read(schema, "minLength", "maxLength"),
            items: Bounds::read(schema, "minItems", "maxItems"),
            properties: Bounds::read(schema, "minProperties", "maxProperties"),
            unique: flag("uniqueItems"),
            pattern: self.pattern(schema, path),
            format: schema.get("format").and_then(Value::as_str).map(Into::into),
            all_of: self.logical(schema, "allOf", path, depth),
            any_of: self.logical(schema, "anyOf", path, depth),
            one_of: self.logical(schema, "oneOf", path, depth),
            not: schema
                .get("not")
                .and_then(|not| self.read(not, &path.field("not"), depth + 1, true))
                .map(Box::new),
            rules: CelRule::read_all(schema, path, self.errors),
        };
        (!checks.is_trivial()).then(|| Box::new(checks))
    }

    fn logical(
        &mut self,
        schema: &Map<String, Value>,
        key: &str,
        path: &Path<'_>,
        depth: usize,
    ) -> Vec<Schema> {
        let at = path.field(key);
        let parts = schema
            .get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .enumerate();
        parts
            .filter_map(|(index, part)| self.read(part, &at.index(index), depth + 1, true))
            .collect()
    }

    fn pattern(&mut self, schema: &Map<String, Value>, path: &Path<'_>) -> Option<Regex> {
        let text = schema.get("pattern")?.as_str().filter(|text| !text.is_empty())?;
        let built = regex::RegexBuilder::new(text)
            .size_limit(MAX_PATTERN_BYTES)
            .build();
        if built.is_err() {
            let sentence = "must be a valid regular expression, but isn't";
            self.errors
                .push(FieldError::invalid(path.field("pattern"), &text.into(), sentence));
        }
        built.ok()
    }
}

impl Checks {
    fn is_trivial(&self) -> bool {
        let lists = self.required.is_empty() && self.allowed.is_empty() && self.rules.is_empty();
        let logic =
            self.all_of.is_empty() && self.any_of.is_empty() && self.one_of.is_empty() && self.not.is_none();
        let numbers = self.minimum.is_none() && self.maximum.is_none() && self.multiple_of.is_none();
        let none = Bounds::default();
        let counts = self.length == none && self.items == none && self.properties == none && !self.unique;
        lists && logic && numbers && counts && self.pattern.is_none() && self.format.is_none()
    }
}

fn strings(schema: &Map<String, Value>, key: &str) -> Vec<Box<str>> {
    let list = schema.get(key).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(Into::into).collect()
}
