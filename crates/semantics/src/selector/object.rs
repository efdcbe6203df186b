//! `metav1.LabelSelector` objects: the form selectors have inside specs.

use super::{Operator, Requirement, Selector, SelectorError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A label selector as it stands in a spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_expressions: Option<Vec<LabelSelectorRequirement>>,
}

/// One entry of `matchExpressions`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LabelSelectorRequirement {
    pub key: String,
    pub operator: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<String>>,
}

impl LabelSelector {
    /// The selector this object stands for; an empty object selects everything.
    ///
    /// # Errors
    /// Upstream's text for a bad operator, key or value.
    pub fn selector(&self) -> Result<Selector, SelectorError> {
        let mut requirements = Vec::new();
        for (key, value) in self.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Operator::Equals, [value.clone()])?);
        }
        for expression in self.match_expressions.iter().flatten() {
            requirements.push(expression.requirement()?);
        }
        Ok(Selector::from_requirements(requirements))
    }

    /// Null selects nothing.
    ///
    /// # Errors
    /// As [`Self::selector`].
    pub fn optional(selector: Option<&Self>) -> Result<Selector, SelectorError> {
        selector.map_or_else(|| Ok(Selector::nothing()), Self::selector)
    }

    /// Builds from a JSON value; null selects nothing.
    ///
    /// # Errors
    /// When the value has another shape, or as [`Self::selector`].
    pub fn from_json(value: &serde_json::Value) -> Result<Selector, SelectorError> {
        let parsed: Option<Self> =
            Deserialize::deserialize(value).map_err(|error| SelectorError::new(error.to_string()))?;
        Self::optional(parsed.as_ref())
    }

    /// The text kubectl shows: `<none>` for everything and nothing, `<error>` for a bad selector.
    pub fn formatted(selector: Option<&Self>) -> String {
        match Self::optional(selector).map(|selector| selector.to_string()) {
            Ok(text) if text.is_empty() => "<none>".to_owned(),
            Ok(text) => text,
            Err(_) => "<error>".to_owned(),
        }
    }
}

impl LabelSelectorRequirement {
    fn requirement(&self) -> Result<Requirement, SelectorError> {
        let operator = match self.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => {
                return Err(SelectorError::new(format!(
                    "{other:?} is not a valid label selector operator"
                )));
            }
        };
        Requirement::new(&self.key, operator, self.values.iter().flatten().cloned())
    }
}
