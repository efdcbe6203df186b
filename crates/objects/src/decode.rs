//! From a client's bytes to a checked value: syntax, duplicate keys, types, unknown fields by `fieldValidation`.

use crate::check::check;
use crate::error::DecodeError;
use crate::json;
use crate::types::{ShapeId, Types};
use serde_json::Value;

/// The notation of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notation {
    Json,
    Yaml,
}

/// `fieldValidation`: what to do about unknown and duplicate fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl FieldValidation {
    /// The parameter's values; the empty text means the default, anything else is `None`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Ignore" => Some(Self::Ignore),
            "" | "Warn" => Some(Self::Warn),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// A body that fits its type.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
}

/// A parsed body before its type is known: the caller reads `apiVersion` and `kind` first.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    pub value: Value,
    duplicates: Vec<String>,
}

impl Parsed {
    /// A value that was not parsed here, for example the result of a patch.
    pub fn from_value(value: Value) -> Self {
        Self {
            value,
            duplicates: Vec::new(),
        }
    }

    /// `apiVersion` and `kind`, empty where absent.
    pub fn type_meta(&self) -> (&str, &str) {
        let text = |key: &str| self.value.get(key).and_then(Value::as_str).unwrap_or_default();
        (text("apiVersion"), text("kind"))
    }

    /// Checks against a type of `types`: drops unknown fields, applies canonical spellings.
    ///
    /// # Errors
    /// `Type` for a value that does not fit, `Strict` for unknown or duplicate fields in strict mode.
    pub fn fit(
        mut self,
        types: &Types,
        root: ShapeId,
        validation: FieldValidation,
    ) -> Result<Decoded, DecodeError> {
        let mut unknown = Vec::new();
        check(types, root, &mut self.value, &mut unknown)?;
        let warnings = findings(self.duplicates, unknown, validation)?;
        Ok(Decoded {
            value: self.value,
            warnings,
        })
    }

    /// The same for a custom resource, whose pruning happens elsewhere and names `unknown` fields.
    ///
    /// # Errors
    /// `Strict` as above.
    pub(crate) fn with_unknown(
        self,
        unknown: Vec<String>,
        validation: FieldValidation,
    ) -> Result<Decoded, DecodeError> {
        let warnings = findings(self.duplicates, unknown, validation)?;
        Ok(Decoded {
            value: self.value,
            warnings,
        })
    }
}

fn findings(
    duplicates: Vec<String>,
    unknown: Vec<String>,
    validation: FieldValidation,
) -> Result<Vec<String>, DecodeError> {
    if validation == FieldValidation::Ignore || (duplicates.is_empty() && unknown.is_empty()) {
        return Ok(Vec::new());
    }
    let duplicates = duplicates
        .into_iter()
        .map(|path| format!("duplicate field {path:?}"));
    let unknown = unknown.into_iter().map(|path| format!("unknown field {path:?}"));
    let found: Vec<String> = duplicates.chain(unknown).collect();
    match validation {
        FieldValidation::Strict => Err(DecodeError::Strict(found)),
        _ => Ok(found),
    }
}

/// Parses a body that must be one object.
///
/// # Errors
/// `Syntax` for text that is no JSON or YAML, `NotAnObject` for anything but an object.
pub fn parse(bytes: &[u8], notation: Notation) -> Result<Parsed, DecodeError> {
    let mut duplicates = Vec::new();
    let value = match notation {
        Notation::Json => json::parse(bytes, &mut duplicates)?,
        Notation::Yaml => json::parse_yaml(bytes, &mut duplicates)?,
    };
    match value {
        Value::Object(_) => Ok(Parsed { value, duplicates }),
        other => {
            let shown: String = other.to_string().chars().take(200).collect();
            Err(DecodeError::NotAnObject(shown))
        }
    }
}
