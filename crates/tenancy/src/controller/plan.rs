//! What a namespace must hold and what a tenant reports: pure functions of what was seen.

use jiff::Timestamp;
use mainstay_api::tenant::{OwnedNamespace, Owner, TenantSpec};
use serde_json::{Value, json};

use super::observe::{Existing, SeenNamespace, SeenTenant};
use crate::{OWNER_BINDING, PLATFORM_LABEL, TENANT_LABEL};

/// The binding of a tenant's owners in each of its namespaces.
const TENANT_BINDING: &str = "mainstay-tenant-owners";
/// The tenant's LimitRange in each of its namespaces.
const LIMITS: &str = "mainstay-tenant";
/// The tenant's isolation in each of its namespaces.
const ISOLATION: &str = "mainstay-isolation";

/// One step on a namespace.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Set the level that pods must meet.
    Enforce(String),
    /// Make an object of this resource.
    Create(&'static str, Value),
    /// Bring an object into shape; a binding to another role is made anew instead.
    Replace(&'static str, Value),
    /// Remove an object.
    Delete(&'static str, String),
}

/// Plans a namespace.
pub(super) fn namespace(seen: &SeenNamespace) -> Vec<Step> {
    if seen.ending {
        return Vec::new();
    }
    let mut steps = Vec::new();
    if let Some(tenant) = &seen.tenant
        && seen.enforce.as_deref() != Some(tenant.pod_security.as_str())
    {
        steps.push(Step::Enforce(tenant.pod_security.clone()));
    }
    let wanted = wanted(seen);
    for (resource, object) in &wanted {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        match seen
            .existing
            .iter()
            .find(|own| own.resource == *resource && own.name == name)
        {
            None => steps.push(Step::Create(resource, object.clone())),
            Some(own) if holds(&own.body, object) => {}
            Some(own) => steps.extend(reshape(resource, own, object)),
        }
    }
    let is_wanted = |own: &Existing| {
        wanted.iter().any(|(resource, object)| {
            *resource == own.resource && object["metadata"]["name"] == own.name.as_str()
        })
    };
    // What a tenant gave is taken away only when it is certain that there is no such tenant.
    let certain = seen.tenant_name.is_none() || seen.tenants_known;
    let extra = seen.existing.iter().filter(|own| certain && !is_wanted(own));
    steps.extend(extra.map(|own| Step::Delete(own.resource, own.name.clone())));
    steps
}

/// Role references never change: such a binding is made anew.
fn reshape(resource: &'static str, own: &Existing, object: &Value) -> Vec<Step> {
    if resource == "rolebindings" && !contains(&own.body["roleRef"], &object["roleRef"]) {
        return vec![
            Step::Delete(resource, own.name.clone()),
            Step::Create(resource, object.clone()),
        ];
    }
    vec![Step::Replace(resource, object.clone())]
}

/// Whether the parts that decide are as wanted; what the server filled in besides does not matter.
fn holds(own: &Value, wanted: &Value) -> bool {
    let parts = own.as_object().into_iter().flatten();
    parts
        .into_iter()
        .all(|(part, value)| contains(value, &wanted[part]))
}

fn contains(own: &Value, wanted: &Value) -> bool {
    match (own, wanted) {
        (Value::Object(own), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, value)| own.get(key).is_some_and(|own| contains(own, value))),
        (Value::Array(own), Value::Array(wanted)) => {
            own.len() == wanted.len() && own.iter().zip(wanted).all(|(own, wanted)| contains(own, wanted))
        }
        _ => own == wanted,
    }
}

fn wanted(seen: &SeenNamespace) -> Vec<(&'static str, Value)> {
    let mut found = Vec::new();
    if let Some(owner) = &seen.owner {
        found.push((
            "rolebindings",
            binding(seen, OWNER_BINDING, vec![user_subject(owner)]),
        ));
    }
    let Some(tenant) = &seen.tenant else { return found };
    if !tenant.owners.is_empty() {
        let subjects = tenant.owners.iter().map(owner_subject).collect();
        found.push(("rolebindings", binding(seen, TENANT_BINDING, subjects)));
    }
    if !tenant.limit_range.is_empty() {
        let spec = json!(tenant.limit_range);
        found.push((
            "limitranges",
            object(seen, "v1", "LimitRange", LIMITS, json!({"spec": spec})),
        ));
    }
    if tenant.network.isolation != "Open" {
        let spec = isolation(seen, tenant);
        found.push((
            "networkpolicies",
            object(
                seen,
                "networking.k8s.io/v1",
                "NetworkPolicy",
                ISOLATION,
                json!({"spec": spec}),
            ),
        ));
    }
    found
}

fn object(seen: &SeenNamespace, api_version: &str, kind: &str, name: &str, body: Value) -> Value {
    let mut object = json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"name": name, "namespace": seen.name, "labels": {PLATFORM_LABEL: "true"}},
    });
    for (field, value) in body.as_object().into_iter().flatten() {
        object[field] = value.clone();
    }
    object
}

fn binding(seen: &SeenNamespace, name: &str, subjects: Vec<Value>) -> Value {
    let role = json!({
        "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
        "name": mainstay_policy::bootstrap::NAMESPACE_ADMIN,
    });
    let body = json!({"roleRef": role, "subjects": subjects});
    object(seen, "rbac.authorization.k8s.io/v1", "RoleBinding", name, body)
}

/// The subject that stands for a user name; service accounts are named by their own kind.
fn user_subject(user: &str) -> Value {
    match mainstay_policy::rbac::split_service_account(user) {
        Some((namespace, name)) => json!({"kind": "ServiceAccount", "namespace": namespace, "name": name}),
        None => json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}),
    }
}

fn owner_subject(owner: &Owner) -> Value {
    match owner.kind.as_str() {
        "ServiceAccount" => {
            json!({"kind": "ServiceAccount", "namespace": owner.namespace, "name": owner.name})
        }
        kind => json!({"kind": kind, "apiGroup": "rbac.authorization.k8s.io", "name": owner.name}),
    }
}

/// Pods take connections from the tenant's own namespaces and from those it allows, each a namespace or a tenant.
fn isolation(seen: &SeenNamespace, tenant: &TenantSpec) -> Value {
    let labelled = |key: &str, value: &str| json!({"namespaceSelector": {"matchLabels": {key: value}}});
    let mut from = vec![labelled(
        TENANT_LABEL,
        seen.tenant_name.as_deref().unwrap_or_default(),
    )];
    for allowed in &tenant.network.allow_from {
        from.push(labelled("kubernetes.io/metadata.name", allowed));
        from.push(labelled(TENANT_LABEL, allowed));
    }
    json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": from}]})
}

/// One step on a tenant.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TenantStep {
    /// Label a namespace that has no tenant yet.
    Adopt(String),
    /// Write the part of the status that is the controller's.
    Status(Value),
}

/// Plans a tenant.
pub(super) fn tenant(seen: &SeenTenant, now: Timestamp) -> Vec<TenantStep> {
    let adopt = seen.members.iter().filter(|member| member.tenant.is_none());
    let mut steps: Vec<TenantStep> = adopt
        .map(|member| TenantStep::Adopt(member.name.clone()))
        .collect();
    let own = seen
        .members
        .iter()
        .filter(|member| member.tenant.as_deref() == Some(seen.name.as_str()));
    let namespaces: Vec<OwnedNamespace> = own
        .map(|member| OwnedNamespace {
            name: member.name.clone(),
            uid: member.uid.clone(),
            owner: member.owner.clone(),
        })
        .collect();
    let condition = condition(seen, now);
    let unchanged = namespaces == seen.status.namespaces && condition.is_none();
    if !unchanged {
        let mut status = json!({"namespaces": namespaces});
        if let Some(condition) = condition {
            status["conditions"] = json!([condition]);
        }
        steps.push(TenantStep::Status(status));
    }
    steps
}

/// The condition Ready, when it must be written: not ready while a namespace to adopt belongs to another tenant.
fn condition(seen: &SeenTenant, now: Timestamp) -> Option<Value> {
    let foreign = seen
        .members
        .iter()
        .find(|member| member.tenant.as_deref().is_some_and(|tenant| tenant != seen.name));
    let (status, reason, message) = match foreign {
        Some(member) => (
            "False",
            "NamespaceTaken",
            format!("namespace {} belongs to another tenant", member.name),
        ),
        None => ("True", "AsExpected", String::new()),
    };
    let old = seen
        .status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Ready");
    let same = old.is_some_and(|old| {
        old.status == status
            && old.reason == reason
            && old.message == message
            && old.observed_generation == Some(seen.generation)
    });
    if same {
        return None;
    }
    let since = old
        .filter(|old| old.status == status)
        .map(|old| json!(old.last_transition_time));
    Some(json!({
        "type": "Ready", "status": status, "reason": reason, "message": message,
        "observedGeneration": seen.generation,
        "lastTransitionTime": since.unwrap_or_else(|| json!(mainstay_base::clock::rfc3339_seconds(now))),
    }))
}
