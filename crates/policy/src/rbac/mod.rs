//! Role-based access control: what a rule matches, who a binding means, and the compiled index of both.
//!
//! Rules of the Kubernetes documentation, "Using RBAC Authorization".

mod covers;
mod index;
mod review;

pub use covers::{Uncovered, uncovered};
pub use index::{Decision, Index, ObjectRef};
pub use review::{NonResourceRule, ResourceRule, RulesReview, rules_review};

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One rule of a role: verbs on resources of API groups, or verbs on paths outside the API groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rule {
    /// The verbs; `*` means all.
    #[serde(deserialize_with = "null_as_default")]
    pub verbs: Vec<String>,
    /// The API groups; the core group is the empty text, `*` means all.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub api_groups: Vec<String>,
    /// The resources, with `/subresource` where one is meant; `*` means all, `*/scale` one subresource of all.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub resources: Vec<String>,
    /// The only object names the rule holds for; empty means every name.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_as_default")]
    pub resource_names: Vec<String>,
    /// Paths outside the API groups; a trailing `*` matches any rest.
    #[serde(
        rename = "nonResourceURLs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_as_default"
    )]
    pub non_resource_urls: Vec<String>,
}

fn null_as_default<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(input)?.unwrap_or_default())
}

/// Who a binding grants to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Subject {
    /// `User`, `Group` or `ServiceAccount`.
    pub kind: String,
    /// The group of the kind; empty for service accounts.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    /// The name, compared exactly.
    pub name: String,
    /// The namespace of a service account; in a RoleBinding it defaults to the binding's own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
}

/// The role a binding points at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RoleRef {
    /// `rbac.authorization.k8s.io`.
    pub api_group: String,
    /// `Role` or `ClusterRole`.
    pub kind: String,
    /// The role's name.
    pub name: String,
}

/// Who asks: a user name and its groups.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// The user name; a service account's is `system:serviceaccount:<namespace>:<name>`.
    pub name: &'a str,
    /// The groups.
    pub groups: &'a [String],
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// A request on an API resource.
    Resource {
        /// The Kubernetes verb (`get`, `list`, `watch`, `create`, ...).
        verb: &'a str,
        /// The API group, empty for core.
        group: &'a str,
        /// The plural resource name.
        resource: &'a str,
        /// The subresource or the empty text.
        subresource: &'a str,
        /// The namespace or the empty text.
        namespace: &'a str,
        /// The object's name or the empty text.
        name: &'a str,
    },
    /// A request on a path outside the API groups; the verb is the HTTP method in lower case.
    Path {
        /// The HTTP method in lower case.
        verb: &'a str,
        /// The URL path.
        path: &'a str,
    },
}

impl<'a> Request<'a> {
    /// The namespace of the request, empty when it has none.
    pub fn namespace(&self) -> &'a str {
        match self {
            Request::Resource { namespace, .. } => namespace,
            Request::Path { .. } => "",
        }
    }
}

fn any_or(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    /// Tells whether the rule allows the request.
    pub fn allows(&self, request: &Request<'_>) -> bool {
        match *request {
            Request::Resource {
                verb,
                group,
                resource,
                subresource,
                name,
                ..
            } => {
                any_or(&self.verbs, verb)
                    && any_or(&self.api_groups, group)
                    && self.names_resource(resource, subresource)
                    && (self.resource_names.is_empty() || self.resource_names.iter().any(|n| n == name))
            }
            Request::Path { verb, path } => any_or(&self.verbs, verb) && self.names_path(path),
        }
    }

    fn names_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|item| {
            if item == "*" {
                return true;
            }
            match item.split_once('/') {
                None => subresource.is_empty() && item == resource,
                Some((on, sub)) => {
                    !subresource.is_empty() && sub == subresource && (on == "*" || on == resource)
                }
            }
        })
    }

    fn names_path(&self, path: &str) -> bool {
        self.non_resource_urls.iter().any(|item| url_covers(item, path))
    }
}

/// Tells whether the path pattern covers a path or a second pattern.
fn url_covers(pattern: &str, path: &str) -> bool {
    pattern == path || pattern.ends_with('*') && path.starts_with(pattern.trim_end_matches('*'))
}

/// Tells the user name of a service account.
pub fn service_account_user(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// Splits a service account's user name into namespace and name.
pub fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// Collects the rules of the roles whose labels one of the selectors matches, each rule once, in name order.
///
/// `roles` holds (name, labels match, rules); the aggregated role itself must not be among them.
pub fn aggregate<'a>(roles: impl IntoIterator<Item = &'a [Rule]>) -> Vec<Rule> {
    let mut seen = std::collections::HashSet::new();
    let all = roles.into_iter().flatten();
    all.filter(|rule| seen.insert(*rule)).cloned().collect()
}

/// Rules shared without copies.
pub type Rules = Arc<[Rule]>;

#[cfg(test)]
mod tests;
