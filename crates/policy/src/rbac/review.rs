//! The answer of a SelfSubjectRulesReview: the rules that hold for a user in a namespace, merged where they repeat.

use serde::Serialize;

use super::Rule;

/// Verbs on resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceRule {
    /// The verbs.
    pub verbs: Vec<String>,
    /// The API groups.
    pub api_groups: Vec<String>,
    /// The resources.
    pub resources: Vec<String>,
    /// The names; left out when every name is meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
}

/// Verbs on paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NonResourceRule {
    /// The verbs.
    pub verbs: Vec<String>,
    /// The paths.
    #[serde(rename = "nonResourceURLs")]
    pub non_resource_urls: Vec<String>,
}

/// Everything a user may do in a namespace, as `status` of a SelfSubjectRulesReview has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RulesReview {
    /// Rules on resources.
    pub resource_rules: Vec<ResourceRule>,
    /// Rules on paths.
    pub non_resource_rules: Vec<NonResourceRule>,
    /// Whether the list may lack something.
    pub incomplete: bool,
}

/// Sorts rules into the two lists, each rule once.
pub fn rules_review(rules: &[Rule]) -> RulesReview {
    let mut review = RulesReview::default();
    for rule in rules {
        if !rule.resources.is_empty() {
            push_once(
                &mut review.resource_rules,
                ResourceRule {
                    verbs: rule.verbs.clone(),
                    api_groups: rule.api_groups.clone(),
                    resources: rule.resources.clone(),
                    resource_names: rule.resource_names.clone(),
                },
            );
        }
        if !rule.non_resource_urls.is_empty() {
            push_once(
                &mut review.non_resource_rules,
                NonResourceRule {
                    verbs: rule.verbs.clone(),
                    non_resource_urls: rule.non_resource_urls.clone(),
                },
            );
        }
    }
    review
}

fn push_once<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}
