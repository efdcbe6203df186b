//! `nodeSelector` and node affinity: which nodes a pod wants, by labels and by name.
//!
//! Terms are ORed, the requirements of a term are ANDed, and a term without requirements matches nothing
//! (<https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/>).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::selector::Labels;

/// How a requirement compares a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The label is an integer greater than the only value.
    Gt,
    /// The label is an integer less than the only value.
    Lt,
}

/// One condition on a label (or on `metadata.name` in `matchFields`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// The comparison.
    pub operator: Operator,
    /// What is compared with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

impl Requirement {
    /// Tells whether a label with this value (`None`: absent) meets the requirement.
    pub fn met_by(&self, value: Option<&str>) -> bool {
        match self.operator {
            Operator::In => value.is_some_and(|value| self.has(value)),
            Operator::NotIn => value.is_none_or(|value| !self.has(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => self
                .number_and(value)
                .is_some_and(|(wanted, found)| found > wanted),
            Operator::Lt => self
                .number_and(value)
                .is_some_and(|(wanted, found)| found < wanted),
        }
    }

    fn has(&self, value: &str) -> bool {
        self.values.iter().any(|wanted| wanted == value)
    }

    fn number_and(&self, value: Option<&str>) -> Option<(i64, i64)> {
        let [wanted] = self.values.as_slice() else {
            return None;
        };
        Some((wanted.parse().ok()?, value?.parse().ok()?))
    }
}

/// A conjunction of requirements.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Term {
    /// Conditions on labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
    /// Conditions on fields; Kubernetes knows `metadata.name` only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_fields: Vec<Requirement>,
}

impl Term {
    /// Tells whether a node meets every requirement; an empty term matches nothing.
    pub fn matches(&self, name: &str, labels: &impl Labels) -> bool {
        if self.match_expressions.is_empty() && self.match_fields.is_empty() {
            return false;
        }
        let by_field = |wanted: &Requirement| wanted.key == "metadata.name" && wanted.met_by(Some(name));
        self.match_expressions
            .iter()
            .all(|wanted| wanted.met_by(labels.label(&wanted.key)))
            && self.match_fields.iter().all(by_field)
    }
}

/// A disjunction of terms.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelector {
    /// At least one must match.
    pub node_selector_terms: Vec<Term>,
}

impl NodeSelector {
    /// Tells whether one of the terms matches the node.
    pub fn matches(&self, name: &str, labels: &impl Labels) -> bool {
        self.node_selector_terms
            .iter()
            .any(|term| term.matches(name, labels))
    }
}

/// A wish with a weight (1 to 100).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PreferredTerm {
    /// Added to a matching node's score.
    pub weight: i32,
    /// What is wished for.
    pub preference: Term,
}

/// `spec.affinity.nodeAffinity` of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeAffinity {
    /// What a node must have.
    #[serde(
        rename = "requiredDuringSchedulingIgnoredDuringExecution",
        skip_serializing_if = "Option::is_none"
    )]
    pub required: Option<NodeSelector>,
    /// What a node should have.
    #[serde(
        rename = "preferredDuringSchedulingIgnoredDuringExecution",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub preferred: Vec<PreferredTerm>,
}

/// Tells whether a node satisfies a pod's `nodeSelector` and required node affinity.
pub fn fits(
    node_selector: &BTreeMap<String, String>,
    affinity: Option<&NodeAffinity>,
    name: &str,
    labels: &impl Labels,
) -> bool {
    let selected = node_selector
        .iter()
        .all(|(key, value)| labels.label(key) == Some(value));
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    selected && required.is_none_or(|selector| selector.matches(name, labels))
}

/// Sums the weights of the preferred terms that a node matches. An empty preferred term matches nothing.
pub fn preference(affinity: Option<&NodeAffinity>, name: &str, labels: &impl Labels) -> i64 {
    let preferred = affinity
        .map(|affinity| affinity.preferred.as_slice())
        .unwrap_or_default();
    preferred
        .iter()
        .filter(|wish| wish.preference.matches(name, labels))
        .map(|wish| i64::from(wish.weight))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> BTreeMap<String, String> {
        [("zone", "a"), ("cores", "8")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    fn term(json: &str) -> Term {
        serde_json::from_str(json).expect("a term")
    }

    #[test]
    fn requirements_compare_labels_and_names() {
        let rows = [
            (
                r#"{"matchExpressions":[{"key":"zone","operator":"In","values":["a","b"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions":[{"key":"zone","operator":"NotIn","values":["a"]}]}"#,
                false,
            ),
            (
                r#"{"matchExpressions":[{"key":"rack","operator":"NotIn","values":["a"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions":[{"key":"rack","operator":"DoesNotExist"}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions":[{"key":"rack","operator":"Exists"}]}"#,
                false,
            ),
            (
                r#"{"matchExpressions":[{"key":"cores","operator":"Gt","values":["4"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions":[{"key":"zone","operator":"Lt","values":["4"]}]}"#,
                false,
            ),
            (
                r#"{"matchFields":[{"key":"metadata.name","operator":"In","values":["n1"]}]}"#,
                true,
            ),
            (
                r#"{"matchFields":[{"key":"metadata.uid","operator":"In","values":["n1"]}]}"#,
                false,
            ),
            (r#"{}"#, false),
        ];
        for (json, expected) in rows {
            assert_eq!(term(json).matches("n1", &labels()), expected, "{json}");
        }
    }

    #[test]
    fn preferences_add_up() {
        let affinity: NodeAffinity = serde_json::from_str(
            r#"{"preferredDuringSchedulingIgnoredDuringExecution":[
                {"weight":5,"preference":{"matchExpressions":[{"key":"zone","operator":"Exists"}]}},
                {"weight":7,"preference":{"matchExpressions":[{"key":"rack","operator":"Exists"}]}}]}"#,
        )
        .expect("an affinity");
        assert_eq!(preference(Some(&affinity), "n1", &labels()), 5);
        assert!(fits(&labels(), Some(&affinity), "n1", &labels()));
    }
}
