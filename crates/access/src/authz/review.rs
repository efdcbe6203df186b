//! The reviews: SubjectAccessReview and its local and self forms, SelfSubjectRulesReview, SelfSubjectReview.
//! Each takes the request object and gives it back with its status filled.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Authorizer, node_name};
use crate::hooks::{Attributes, Decision};
use crate::status::{ApiError, ApiResult, Cause};
use crate::user::{GROUP_MASTERS, UserInfo};

const GROUP: &str = "authorization.k8s.io";

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    items
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_string)
        .collect()
}

fn invalid(kind: &str, field: &str, message: &str) -> ApiError {
    ApiError::invalid(
        GROUP,
        kind,
        "",
        vec![Cause::new("FieldValueInvalid", field, message)],
    )
}

/// The user a SubjectAccessReview asks about.
fn subject(spec: &Value) -> UserInfo {
    let extra = spec["extra"].as_object().into_iter().flatten();
    UserInfo {
        name: text(spec, "user").to_string(),
        uid: text(spec, "uid").to_string(),
        groups: texts(&spec["groups"]),
        extra: extra
            .map(|(key, values)| (key.to_lowercase(), texts(values)))
            .collect::<BTreeMap<_, _>>(),
    }
}

/// Asks the authorizer what the review's spec says; `user` is the subject.
fn decide(authorizer: &Authorizer, user: &UserInfo, spec: &Value) -> (Decision, String) {
    let resource = &spec["resourceAttributes"];
    let plain = &spec["nonResourceAttributes"];
    let is_resource = !resource.is_null();
    let from = if is_resource { resource } else { plain };
    let selector = |field: &str| text(&from[field], "rawSelector");
    let attributes = Attributes {
        user,
        verb: text(from, "verb"),
        group: text(from, "group"),
        version: text(from, "version"),
        resource: text(from, "resource"),
        subresource: text(from, "subresource"),
        namespace: text(from, "namespace"),
        name: text(from, "name"),
        path: text(from, "path"),
        is_resource,
        label_selector: selector("labelSelector"),
        field_selector: selector("fieldSelector"),
    };
    let decision = authorizer.decide(&attributes);
    let reason = match &decision {
        Decision::Allow if user.in_group(GROUP_MASTERS) || node_name(user).is_some() => String::new(),
        Decision::Allow => authorizer.rbac().explain(&attributes).reason,
        Decision::Deny(reason) | Decision::NoOpinion(reason) => reason.clone(),
    };
    (decision, reason)
}

fn with_status(authorizer: &Authorizer, user: &UserInfo, mut review: Value) -> Value {
    let (decision, reason) = decide(authorizer, user, &review["spec"]);
    let mut status = json!({"allowed": decision == Decision::Allow});
    if matches!(decision, Decision::Deny(_)) {
        status["denied"] = json!(true);
    }
    if !reason.is_empty() {
        status["reason"] = json!(reason);
    }
    review["status"] = status;
    review
}

fn check_attributes(kind: &str, spec: &Value) -> ApiResult<()> {
    let (resource, plain) = (
        !spec["resourceAttributes"].is_null(),
        !spec["nonResourceAttributes"].is_null(),
    );
    match (resource, plain) {
        (true, true) => Err(invalid(
            kind,
            "spec.nonResourceAttributes",
            "cannot be specified in combination with resourceAttributes",
        )),
        (false, false) => Err(invalid(
            kind,
            "spec.resourceAttributes",
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )),
        _ => Ok(()),
    }
}

/// Answers a SubjectAccessReview.
///
/// # Errors
/// 422 when it names nobody, or not exactly one kind of attributes.
pub fn subject_access(authorizer: &Authorizer, review: Value) -> ApiResult<Value> {
    let spec = &review["spec"];
    check_attributes("SubjectAccessReview", spec)?;
    let user = subject(spec);
    if user.name.is_empty() && user.groups.is_empty() {
        return Err(invalid(
            "SubjectAccessReview",
            "spec.user",
            "at least one of user or group must be specified",
        ));
    }
    Ok(with_status(authorizer, &user, review))
}

/// Answers a LocalSubjectAccessReview in a namespace.
///
/// # Errors
/// As [`subject_access`], and 422 when the attributes name another namespace or none of a resource.
pub fn local_subject_access(authorizer: &Authorizer, namespace: &str, review: Value) -> ApiResult<Value> {
    let resource = &review["spec"]["resourceAttributes"];
    if resource.is_null() {
        return Err(invalid(
            "LocalSubjectAccessReview",
            "spec.nonResourceAttributes",
            "disallowed on this kind of request",
        ));
    }
    if text(resource, "namespace") != namespace {
        return Err(invalid(
            "LocalSubjectAccessReview",
            "spec.resourceAttributes.namespace",
            "must match metadata.namespace",
        ));
    }
    subject_access(authorizer, review)
}

/// Answers a SelfSubjectAccessReview.
///
/// # Errors
/// 422 when it has not exactly one kind of attributes.
pub fn self_subject_access(authorizer: &Authorizer, user: &UserInfo, review: Value) -> ApiResult<Value> {
    check_attributes("SelfSubjectAccessReview", &review["spec"])?;
    Ok(with_status(authorizer, user, review))
}

/// Answers a SelfSubjectRulesReview.
///
/// # Errors
/// 400 when it names no namespace.
pub fn self_subject_rules(authorizer: &Authorizer, user: &UserInfo, mut review: Value) -> ApiResult<Value> {
    let namespace = text(&review["spec"], "namespace").to_string();
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let mut rules = authorizer.rbac().rules_review(user, &namespace);
    if user.in_group(GROUP_MASTERS) {
        let all = || vec!["*".to_string()];
        rules.resource_rules.insert(
            0,
            mainstay_policy::rbac::ResourceRule {
                verbs: all(),
                api_groups: all(),
                resources: all(),
                resource_names: Vec::new(),
            },
        );
        let urls = mainstay_policy::rbac::NonResourceRule {
            verbs: all(),
            non_resource_urls: all(),
        };
        rules.non_resource_rules.insert(0, urls);
    }
    if node_name(user).is_some() {
        rules.incomplete = true;
    }
    review["status"] = serde_json::to_value(rules).map_err(ApiError::internal)?;
    if node_name(user).is_some() {
        review["status"]["evaluationError"] = json!("node authorizer does not support user rule resolution");
    }
    Ok(review)
}

/// Writes a user as `userInfo` of reviews.
pub fn user_info(user: &UserInfo) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

/// Answers a SelfSubjectReview.
pub fn self_subject(user: &UserInfo, mut review: Value) -> Value {
    review["status"] = json!({"userInfo": user_info(user)});
    review
}
