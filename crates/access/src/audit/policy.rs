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
    /// Also the answer's body, unless it is a stream.
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
    /// A stage that does not exist.
    #[error("the audit policy omits the stage {0}, which does not exist")]
    Stage(String),
}

/// Every stage that a policy may name.
const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];

/// A policy (`audit.k8s.io/v1`).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(rename = "metadata")]
    _metadata: serde_json::Value,
    rules: Vec<Rule>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
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
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
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
    /// Whether managedFields are left out of bodies.
    pub omits_managed_fields: bool,
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
        let rules = policy.rules.iter().flat_map(|rule| &rule.omit_stages);
        let unknown = |stage: &&String| !STAGES.contains(&stage.as_str());
        match policy.omit_stages.iter().chain(rules).find(unknown) {
            Some(stage) => Err(PolicyError::Stage(stage.clone())),
            None => Ok(policy),
        }
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
            omits_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
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
