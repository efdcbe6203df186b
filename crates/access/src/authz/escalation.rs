//! Who may write roles and bindings: nobody hands out rights they do not hold, unless `escalate` or `bind` allows it.

use std::sync::Arc;

use mainstay_policy::rbac::{RoleRef, Rule, uncovered};
use serde_json::Value;

use super::rbac::read;
use super::{Authorizer, attributes};
use crate::hooks::{Decision, Operation, Review};
use crate::status::{ApiError, ApiResult};
use crate::user::GROUP_MASTERS;

const GROUP: &str = "rbac.authorization.k8s.io";

/// The check, over the authorizer that knows everybody's rules.
pub struct Escalation {
    authorizer: Arc<Authorizer>,
}

impl Escalation {
    /// Makes the check.
    pub fn new(authorizer: Arc<Authorizer>) -> Self {
        Escalation { authorizer }
    }

    /// Refuses writes of roles and bindings that hand out more than the writer holds.
    ///
    /// # Errors
    /// 403 with the rules that are not covered.
    pub fn check(&self, review: &Review) -> ApiResult<()> {
        let written = matches!(review.operation, Operation::Create | Operation::Update);
        if review.group != GROUP || !review.subresource.is_empty() || !written {
            return Ok(());
        }
        if review.user.in_group(GROUP_MASTERS) {
            return Ok(());
        }
        match review.resource.as_str() {
            "roles" | "clusterroles" => self.check_role(review),
            "rolebindings" | "clusterrolebindings" => self.check_binding(review),
            _ => Ok(()),
        }
    }

    fn allowed(&self, review: &Review, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let asked = attributes(&review.user, verb, (GROUP, resource, ""), (namespace, name));
        self.authorizer.decide(&asked) == Decision::Allow
    }

    fn check_role(&self, review: &Review) -> ApiResult<()> {
        let unchanged = |field: &str| review.object[field] == review.old[field];
        if review.operation == Operation::Update && unchanged("rules") && unchanged("aggregationRule") {
            return Ok(());
        }
        if self.allowed(
            review,
            "escalate",
            &review.resource,
            &review.namespace,
            &review.name,
        ) {
            return Ok(());
        }
        let aggregates = !review.object["aggregationRule"].is_null() && !unchanged("aggregationRule");
        let held = self.authorizer.rbac().rules(&review.user, &review.namespace);
        let mut wanted: Vec<Rule> = read(&review.object["rules"]);
        if aggregates {
            let all = || vec!["*".to_string()];
            wanted.push(Rule {
                verbs: all(),
                api_groups: all(),
                resources: all(),
                ..Rule::default()
            });
            wanted.push(Rule {
                verbs: all(),
                non_resource_urls: all(),
                ..Rule::default()
            });
        }
        refuse_uncovered(review, &held, &wanted)
    }

    fn check_binding(&self, review: &Review) -> ApiResult<()> {
        let unchanged = |field: &str| review.object[field] == review.old[field];
        if review.operation == Operation::Update && unchanged("roleRef") && unchanged("subjects") {
            return Ok(());
        }
        let role: RoleRef = read(&review.object["roleRef"]);
        let (resource, role_namespace) = match role.kind.as_str() {
            "Role" => ("roles", review.namespace.as_str()),
            _ => ("clusterroles", ""),
        };
        if self.allowed(review, "bind", resource, &review.namespace, &role.name) {
            return Ok(());
        }
        let rbac = self.authorizer.rbac();
        let Some(wanted) = rbac.role_rules(role_namespace, &role.name) else {
            return Err(ApiError::not_found(GROUP, resource, &role.name));
        };
        refuse_uncovered(review, &rbac.rules(&review.user, &review.namespace), &wanted)
    }
}

fn refuse_uncovered(review: &Review, held: &[Rule], wanted: &[Rule]) -> ApiResult<()> {
    let missing = uncovered(held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> = missing.iter().map(describe).collect();
    let why = format!(
        "user \"{}\" (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
        review.user.name,
        review.user.groups,
        texts.join("\n")
    );
    Err(ApiError::forbidden(
        &review.group,
        &review.resource,
        &review.name,
        why,
    ))
}

fn describe(rule: &Rule) -> String {
    serde_json::to_value(rule).unwrap_or(Value::Null).to_string()
}
