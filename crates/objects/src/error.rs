//! What is wrong with an object: field errors as upstream words them, and decode errors.

use serde_json::Value;
use std::fmt;

/// The kind of a field error; its text is the `reason` of a Status cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    Required,
    Invalid,
    NotSupported,
    Duplicate,
    Forbidden,
    TooLong,
    TooMany,
    NotFound,
    TypeInvalid,
}

impl Reason {
    /// `FieldValueRequired` and so on.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Required => "FieldValueRequired",
            Reason::Invalid => "FieldValueInvalid",
            Reason::NotSupported => "FieldValueNotSupported",
            Reason::Duplicate => "FieldValueDuplicate",
            Reason::Forbidden => "FieldValueForbidden",
            Reason::TooLong => "FieldValueTooLong",
            Reason::TooMany => "FieldValueTooMany",
            Reason::NotFound => "FieldValueNotFound",
            Reason::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// One broken rule: a cause of a 422 Status. Displays as `field: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    pub field: String,
    pub reason: Reason,
    /// The cause's message: `Invalid value: "x": must be ...`.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl FieldError {
    fn new(field: impl fmt::Display, reason: Reason, message: String) -> Self {
        Self {
            field: field.to_string(),
            reason,
            message,
        }
    }

    /// `Required value: detail`.
    pub fn required(field: impl fmt::Display, detail: &str) -> Self {
        let message = if detail.is_empty() {
            "Required value".into()
        } else {
            format!("Required value: {detail}")
        };
        Self::new(field, Reason::Required, message)
    }

    /// `Invalid value: <JSON>: detail`.
    pub fn invalid(field: impl fmt::Display, value: &Value, detail: impl fmt::Display) -> Self {
        Self::new(
            field,
            Reason::Invalid,
            format!("Invalid value: {}: {detail}", shown(value)),
        )
    }

    /// `Unsupported value: <JSON>: supported values: ...`.
    pub fn not_supported(field: impl fmt::Display, value: &Value, supported: &[&str]) -> Self {
        let list = supported
            .iter()
            .map(|value| format!("{value:?}"))
            .collect::<Vec<_>>()
            .join(", ");
        Self::new(
            field,
            Reason::NotSupported,
            format!("Unsupported value: {}: supported values: {list}", shown(value)),
        )
    }

    /// `Duplicate value: <JSON>`.
    pub fn duplicate(field: impl fmt::Display, value: &Value) -> Self {
        Self::new(
            field,
            Reason::Duplicate,
            format!("Duplicate value: {}", shown(value)),
        )
    }

    /// `Forbidden: detail`.
    pub fn forbidden(field: impl fmt::Display, detail: impl fmt::Display) -> Self {
        Self::new(field, Reason::Forbidden, format!("Forbidden: {detail}"))
    }

    /// `Too long: may not be more than N bytes`.
    pub fn too_long(field: impl fmt::Display, limit: usize) -> Self {
        Self::new(
            field,
            Reason::TooLong,
            format!("Too long: may not be more than {limit} bytes"),
        )
    }

    /// `Too many: N: must have at most M items`.
    pub fn too_many(field: impl fmt::Display, count: usize, limit: usize) -> Self {
        Self::new(
            field,
            Reason::TooMany,
            format!("Too many: {count}: must have at most {limit} items"),
        )
    }

    /// `Not found: <JSON>`.
    pub fn not_found(field: impl fmt::Display, value: &Value) -> Self {
        Self::new(field, Reason::NotFound, format!("Not found: {}", shown(value)))
    }

    /// `Invalid value: "type": field must be of type wanted: "type"`: a custom resource's value of another JSON type.
    pub fn type_invalid(field: impl fmt::Display, value: &Value, wanted: &str) -> Self {
        let got = json_type(value);
        let message = format!("Invalid value: {got:?}: {field} in body must be of type {wanted}: {got:?}");
        Self::new(field, Reason::TypeInvalid, message)
    }
}

const SHOWN_LIMIT: usize = 400;

fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > SHOWN_LIMIT {
        let end = (0..=SHOWN_LIMIT)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or_default();
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// JSON's name of a value's type.
pub fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Why a body cannot be turned into an object: 400 BadRequest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{0}")]
    Syntax(String),
    /// Go's wording of a value that does not fit its field.
    #[error("{0}")]
    Type(String),
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
    #[error("Object 'Kind' is missing in '{0}'")]
    NotAnObject(String),
}
