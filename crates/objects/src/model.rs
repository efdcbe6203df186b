//! One kind as the API server uses it: its structure, defaults, validation and merge rules behind one value.

use crate::decode::{Decoded, FieldValidation, Parsed};
use crate::defaults;
use crate::error::{DecodeError, FieldError};
use crate::names;
use crate::patch::{PatchError, strategic_merge_patch};
use crate::types::{ShapeId, Types};
use crate::validation;
use serde_json::Value;

/// A built-in kind. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Builtin {
    group: &'static str,
    kind: &'static str,
    root: ShapeId,
}

impl Builtin {
    /// Finds a kind of the built-in table.
    pub fn find(group: &str, version: &str, kind: &str) -> Option<Self> {
        let root = Types::builtin().find(group, version, kind)?;
        let (group, kind) = (root.group.as_ref(), root.kind.as_ref());
        Some(Self {
            group,
            kind,
            root: root.shape,
        })
    }

    /// The kind's structure.
    pub fn root(&self) -> ShapeId {
        self.root
    }

    /// Checks a parsed body against the kind's structure: unknown fields go, spellings become canonical.
    ///
    /// # Errors
    /// `Type` for a value that does not fit, `Strict` for findings in strict mode.
    pub fn fit(&self, body: Parsed, validation: FieldValidation) -> Result<Decoded, DecodeError> {
        body.fit(Types::builtin(), self.root, validation)
    }

    /// Fills in defaults.
    pub fn default(&self, value: &mut Value) {
        defaults::apply(self.root, value);
    }

    /// Applies a strategic merge patch.
    ///
    /// # Errors
    /// As [`strategic_merge_patch`].
    pub fn strategic(&self, document: &mut Value, patch: &Value) -> Result<(), PatchError> {
        strategic_merge_patch(Types::builtin(), self.root, document, patch)
    }

    /// Checks a new object, metadata included.
    pub fn validate_create(&self, value: &Value, namespaced: bool) -> Vec<FieldError> {
        let mut errors = validation::metadata_create(value, namespaced, name_rule(self.group, self.kind));
        errors.extend(validation::body(self.root, value));
        errors
    }

    /// Checks a changed object against the stored one.
    pub fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = validation::metadata_update(new, old);
        errors.extend(validation::changes(self.group, self.kind, new, old));
        if new.get("spec") != old.get("spec") || old.get("spec").is_none() {
            errors.extend(validation::body(self.root, new));
        }
        errors
    }

    /// Checks a write of the status: only metadata rules hold.
    pub fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        validation::metadata_update(new, old)
    }
}

/// The form of names of a built-in kind.
pub fn name_rule(group: &str, kind: &str) -> fn(&str) -> Vec<String> {
    match (group, kind) {
        ("", "Namespace") => names::dns_label,
        ("", "Service") => names::dns_1035_label,
        ("rbac.authorization.k8s.io", _) => names::path_segment,
        _ => names::dns_subdomain,
    }
}
