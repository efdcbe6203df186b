//! Validation of built-in objects: a table of type, field and rule, checked in one walk over value and type, functions
//! for rules between fields, and rules about changes. Field paths and wording are those users know from upstream.

mod change;
mod devices;
mod functions;
mod metadata;
mod pod;
mod table;
mod workloads;

pub use metadata::{metadata_create, metadata_update};

use crate::defaults::short_name;
use crate::error::FieldError;
use crate::path::Path;
use crate::types::{Object, Scalar, Shape, ShapeId, Types};
use mainstay_semantics::quantity::Quantity;
use serde_json::{Map, Value};
use std::sync::LazyLock;
use table::TABLE;

/// Where rules report.
pub type Errors = Vec<FieldError>;

type Entries = Map<String, Value>;

/// What a field must obey when it is set; zero values of Go count as unset where upstream cannot tell them apart.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    /// Present, and neither empty text nor empty list.
    Required,
    Enum(&'static [&'static str]),
    Range(i64, i64),
    Min(i64),
    /// Every problem the function names.
    Name(fn(&str) -> Vec<String>),
    /// A quantity that is not negative, or a map of such.
    Amounts,
    /// A number or a percentage, not negative.
    Share,
    /// A port number or name.
    PortReference,
    /// Elements differ in this field.
    Unique(&'static str),
}

/// One line of the table.
pub(crate) enum Line {
    /// Type (without `io.k8s.api.`), field, rule.
    Field(&'static str, &'static str, Rule),
    /// Type, rules between its fields.
    Function(&'static str, fn(&Entries, &Path<'_>, &mut Errors)),
}

impl Line {
    fn type_name(&self) -> &'static str {
        match self {
            Line::Field(name, _, _) | Line::Function(name, _) => name,
        }
    }

    fn check(&self, entries: &Entries, path: &Path<'_>, errors: &mut Errors) {
        match self {
            Line::Function(_, function) => function(entries, path, errors),
            Line::Field(_, field, rule) => {
                rule.check(
                    entries.get(*field).unwrap_or(&Value::Null),
                    &path.field(field),
                    errors,
                );
            }
        }
    }
}

static INDEX: LazyLock<Vec<Vec<&'static Line>>> = LazyLock::new(|| {
    let types = Types::builtin();
    let lines_of = |name: &str| {
        TABLE
            .iter()
            .filter(|line| line.type_name() == short_name(name))
            .collect()
    };
    types
        .definitions()
        .map(|(_, object)| lines_of(&object.name))
        .collect()
});

/// Checks the body of a new object, without its metadata.
pub fn body(root: ShapeId, value: &Value) -> Errors {
    let mut errors = Vec::new();
    Walk {
        types: Types::builtin(),
        errors: &mut errors,
    }
    .value(root, value, &Path::Root, true);
    errors
}

/// Checks what may not change between two versions of an object's body.
pub fn changes(group: &str, kind: &str, new: &Value, old: &Value) -> Errors {
    change::check(group, kind, new, old)
}

struct Walk<'a> {
    types: &'a Types,
    errors: &'a mut Errors,
}

impl Walk<'_> {
    fn value(&mut self, shape: ShapeId, value: &Value, path: &Path<'_>, strict: bool) {
        let types = self.types;
        match (types.shape(shape), value) {
            (Shape::List(list), Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.value(list.items, item, &path.index(index), strict);
                }
            }
            (Shape::Object(object), Value::Object(entries)) => {
                self.object(shape, object, entries, path, strict)
            }
            _ => {}
        }
    }

    fn object(&mut self, shape: ShapeId, object: &Object, entries: &Entries, path: &Path<'_>, strict: bool) {
        let types = self.types;
        if strict {
            self.required(object, entries, path);
            let lines = INDEX.get(shape.number()).map(Vec::as_slice).unwrap_or_default();
            lines
                .iter()
                .for_each(|line| line.check(entries, path, self.errors));
        }
        if matches!(types.fields(object), []) {
            let Some(rest) = object.rest else { return };
            entries
                .iter()
                .for_each(|(key, entry)| self.value(rest, entry, &path.key(key), strict));
            return;
        }
        for (key, entry) in entries {
            let top = matches!(path, Path::Root);
            if key == "metadata" && top {
                continue;
            }
            let completed = (key == "template" && object.name.ends_with(STATEFUL_SPEC))
                .then(|| workloads::with_claims(entry, entries));
            if let Some(field) = types.field(object, key) {
                self.value(
                    field.shape,
                    completed.as_ref().unwrap_or(entry),
                    &path.field(key),
                    strict && !(top && key == "status"),
                );
            }
        }
    }

    /// Texts and structures that the API description marks as required.
    fn required(&mut self, object: &Object, entries: &Entries, path: &Path<'_>) {
        if LENIENT.iter().any(|group| object.name.contains(group)) {
            return;
        }
        for field in self.types.fields(object).iter().filter(|field| field.required) {
            let empty = match (self.types.shape(field.shape), entries.get(field.name.as_ref())) {
                (Shape::Scalar(Scalar::String) | Shape::Object(_), None) => true,
                (Shape::Scalar(Scalar::String), Some(value)) => value == "",
                _ => false,
            };
            if empty {
                self.errors
                    .push(FieldError::required(path.field(&field.name), ""));
            }
        }
    }
}

/// The type whose template's pods get volumes that the template does not have.
const STATEFUL_SPEC: &str = "apps.v1.StatefulSetSpec";

/// Groups whose objects are questions, not stored state: clients leave marked fields out.
const LENIENT: [&str; 4] = [
    "api.authentication.",
    "api.authorization.",
    "apiextensions.v1.",
    "api.flowcontrol.",
];

impl Rule {
    pub(crate) fn check(self, value: &Value, path: &Path<'_>, errors: &mut Errors) {
        match (self, value) {
            (Rule::Required, Value::Null) => errors.push(FieldError::required(path, "")),
            (Rule::Required, Value::String(text)) if text.is_empty() => {
                errors.push(FieldError::required(path, ""))
            }
            (Rule::Required, Value::Array(items)) if items.is_empty() => {
                errors.push(FieldError::required(path, ""))
            }
            (Rule::Enum(known), Value::String(text)) if !known.contains(&text.as_str()) => {
                errors.push(FieldError::not_supported(path, value, known));
            }
            (Rule::Name(problems), Value::String(text)) if !text.is_empty() => {
                errors.extend(
                    problems(text)
                        .into_iter()
                        .map(|problem| FieldError::invalid(path, value, problem)),
                );
            }
            (Rule::Range(low, high), Value::Number(number)) => {
                let number = number.as_i64().unwrap_or(i64::MIN);
                if !(low..=high).contains(&number) {
                    let sentence = format!("must be between {low} and {high}, inclusive");
                    errors.push(FieldError::invalid(path, value, sentence));
                }
            }
            (Rule::Min(low), Value::Number(number)) if number.as_i64().is_some_and(|number| number < low) => {
                errors.push(FieldError::invalid(
                    path,
                    value,
                    format!("must be greater than or equal to {low}"),
                ));
            }
            (Rule::Amounts, Value::Object(amounts)) => {
                amounts
                    .iter()
                    .for_each(|(name, amount)| amount_not_negative(amount, &path.key(name), errors));
            }
            (Rule::Amounts, amount) => amount_not_negative(amount, path, errors),
            (Rule::Share, value) => share(value, path, errors),
            (Rule::PortReference, value) => port_reference(value, path, errors),
            (Rule::Unique(field), Value::Array(items)) => unique(items, field, path, errors),
            _ => {}
        }
    }
}

fn amount_not_negative(amount: &Value, path: &Path<'_>, errors: &mut Errors) {
    if amount
        .as_str()
        .and_then(|text| Quantity::parse(text).ok())
        .is_some_and(|quantity| quantity.sign() < 0)
    {
        errors.push(FieldError::invalid(
            path,
            amount,
            "must be greater than or equal to 0",
        ));
    }
}

fn share(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    match value {
        Value::Number(number) if number.as_i64().is_some_and(|number| number < 0) => {
            errors.push(FieldError::invalid(
                path,
                value,
                "must be greater than or equal to 0",
            ));
        }
        Value::String(text) => {
            let digits = text.strip_suffix('%').unwrap_or_default();
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                let sentence = "a valid percent string must be a numeric string followed by an ending '%' (e.g. \
                                '1%',  or '93%', regex used for validation is '[0-9]+%')";
                errors.push(FieldError::invalid(path, value, sentence));
            }
        }
        _ => {}
    }
}

fn port_reference(value: &Value, path: &Path<'_>, errors: &mut Errors) {
    match value {
        Value::Number(_) => Rule::Range(1, 65_535).check(value, path, errors),
        Value::String(text) if text.is_empty() => {
            errors.push(FieldError::invalid(
                path,
                value,
                "must contain at least one letter (a-z)",
            ));
        }
        Value::String(_) => Rule::Name(crate::names::port_name).check(value, path, errors),
        _ => {}
    }
}

fn unique(items: &[Value], field: &str, path: &Path<'_>, errors: &mut Errors) {
    let mut seen = std::collections::HashSet::new();
    for (index, item) in items.iter().enumerate() {
        let Some(value) = item.get(field) else { continue };
        if value != "" && !seen.insert(value.to_string()) {
            errors.push(FieldError::duplicate(path.index(index).field(field), value));
        }
    }
}

/// Text of a field, empty when absent.
pub(crate) fn text<'a>(entries: &'a Entries, key: &str) -> &'a str {
    entries.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Elements of a list field.
pub(crate) fn list<'a>(entries: &'a Entries, key: &str) -> &'a [Value] {
    entries
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
