//! The audit policy: rules in order, the first that matches gives the level.

use serde::Deserialize;

use crate::info::RequestInfo;
use crate::user::UserInfo;

/// How fully a request is noted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Not at all.
    #[default]
    None,
    /// Who did what and when.
    Metadata,
    /// Also the request's body.
    Request,
    /// Also the answer's body; noted here like `Request`, since answers are streamed.
    RequestResponse,
}

/// Why a policy is refused.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Not the format.
    #[error("failed to read the audit policy")]
    Format(#[from] serde_yaml_ng::Error),
    /// Another kind of document.
    #[error("the audit policy must be of apiVersion audit.k8s.io/v1 and kind Policy, not {0}")]
    Kind(String),
}

/// A policy (`audit.k8s.io/v1`).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    api_version: String,
    kind: String,
    rules: Vec<Rule>,
    omit_stages: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    level: Level,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What the policy says about a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruling {
    /// How fully it is noted.
    pub level: Level,
    omitted: Vec<String>,
}

impl Ruling {
    /// Whether no event is written at this stage.
    pub fn omits(&self, stage: &str) -> bool {
        self.omitted.iter().any(|omitted| omitted == stage)
    }
}

impl Policy {
    /// Reads a policy in YAML or JSON.
    ///
    /// # Errors
    /// When it is not a policy of version v1.
    pub fn parse(text: &str) -> Result<Policy, PolicyError> {
        let policy: Policy = serde_yaml_ng::from_str(text)?;
        if policy.api_version != "audit.k8s.io/v1" || policy.kind != "Policy" {
            return Err(PolicyError::Kind(format!(
                "{} {}",
                policy.api_version, policy.kind
            )));
        }
        Ok(policy)
    }

    /// The policy of a cluster without one: metadata of every write and of every read of secrets and tokens; nothing of
    /// health checks, leases and events.
    pub fn standard() -> Policy {
        Policy::parse(STANDARD).expect("the built-in policy is well-formed")
    }

    /// Decides about a request.
    pub fn rule(&self, user: &UserInfo, info: &RequestInfo) -> Ruling {
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(user, info)) else {
            return Ruling::default();
        };
        let omitted = rule
            .omit_stages
            .iter()
            .chain(&self.omit_stages)
            .cloned()
            .collect();
        Ruling {
            level: rule.level,
            omitted,
        }
    }
}

const STANDARD: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: None
  resources: [{group: coordination.k8s.io, resources: [leases]}, {resources: [events]}, {group: events.k8s.io}]
- level: None
  nonResourceURLs: ['/healthz*', '/livez*', '/readyz*', '/version', '/metrics', '/openapi*', '/api', '/apis*']
- level: Metadata
  resources: [{resources: [secrets, serviceaccounts/token]}]
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
";

/// An empty list means every value.
fn any(list: &[String], wanted: impl Fn(&str) -> bool) -> bool {
    list.is_empty() || list.iter().any(|item| wanted(item))
}

impl Rule {
    fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        any(&self.users, |name| name == user.name)
            && any(&self.user_groups, |group| user.in_group(group))
            && any(&self.verbs, |verb| verb == "*" || verb == info.verb)
            && self.matches_target(info)
    }

    fn matches_target(&self, info: &RequestInfo) -> bool {
        if self.resources.is_empty() && self.namespaces.is_empty() && self.non_resource_urls.is_empty() {
            return true;
        }
        if !info.is_resource {
            return self
                .non_resource_urls
                .iter()
                .any(|path| path_matches(path, &info.path));
        }
        let named = !self.resources.is_empty() || !self.namespaces.is_empty();
        named
            && any(&self.namespaces, |namespace| namespace == info.namespace)
            && (self.resources.is_empty() || self.resources.iter().any(|group| group.matches(info)))
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == pattern,
    }
}

impl GroupResources {
    fn matches(&self, info: &RequestInfo) -> bool {
        self.group == info.group
            && any(&self.resources, |item| resource_matches(item, info))
            && any(&self.resource_names, |name| name == info.name)
    }
}

/// `pods` (without subresources), `pods/log`, `*/status`, `pods/*`, `*`.
fn resource_matches(item: &str, info: &RequestInfo) -> bool {
    if item == "*" {
        return true;
    }
    let (resource, sub) = item.split_once('/').unwrap_or((item, ""));
    (resource == "*" || resource == info.resource)
        && (sub == info.subresource || sub == "*" && !info.subresource.is_empty())
}
