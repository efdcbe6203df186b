//! What the controllers look at: small projections, and every input of one decision in one struct.

use std::sync::Arc;

use mainstay_api::tenant::{TenantSpec, TenantStatus};
use mainstay_control::{Cache, CancellationToken, ObjectKey, Scope, projection};
use serde_json::Value;

use crate::{OWNER_ANNOTATION, PLATFORM_LABEL, TENANT_LABEL};

projection! {
    /// A namespace's record.
    pub(super) struct Namespace = "" "v1" "Namespace" "namespaces" cluster {}
}

projection! {
    /// A tenant.
    pub(super) struct Tenant = "mainstay.dev" "v1alpha1" "Tenant" "tenants" cluster {
        pub spec: TenantSpec,
        pub status: TenantStatus,
    }
}

projection! {
    /// A binding the platform made.
    pub(super) struct Binding = "rbac.authorization.k8s.io" "v1" "RoleBinding" "rolebindings" namespaced {
        pub subjects: Value,
        pub role_ref: Value,
    }
}

projection! {
    /// A limit range the platform made.
    pub(super) struct Limits = "" "v1" "LimitRange" "limitranges" namespaced {
        pub spec: Value,
    }
}

projection! {
    /// A network policy the platform made.
    pub(super) struct Policy = "networking.k8s.io" "v1" "NetworkPolicy" "networkpolicies" namespaced {
        pub spec: Value,
    }
}

/// The shared caches.
#[derive(Clone)]
pub(super) struct Caches {
    pub namespaces: Cache<Namespace>,
    pub tenants: Cache<Tenant>,
    pub bindings: Cache<Binding>,
    pub limits: Cache<Limits>,
    pub policies: Cache<Policy>,
}

impl Caches {
    pub(super) fn start(client: &kube::Client, stop: &CancellationToken) -> Caches {
        let own = || Scope {
            labels: Some(PLATFORM_LABEL.to_string()),
            ..Scope::default()
        };
        Caches {
            namespaces: Cache::start(client, Scope::default(), stop.clone()),
            tenants: Cache::start(client, Scope::default(), stop.clone()),
            bindings: Cache::start(client, own(), stop.clone()),
            limits: Cache::start(client, own(), stop.clone()),
            policies: Cache::start(client, own(), stop.clone()),
        }
    }
}

/// The tenant a namespace's label names.
pub(super) fn tenant_of(namespace: &Namespace) -> Option<&str> {
    namespace
        .metadata
        .labels
        .as_ref()?
        .get(TENANT_LABEL)
        .map(String::as_str)
}

fn owner_of(namespace: &Namespace) -> Option<&str> {
    namespace
        .metadata
        .annotations
        .as_ref()?
        .get(OWNER_ANNOTATION)
        .map(String::as_str)
}

fn text(value: &Option<String>) -> String {
    value.clone().unwrap_or_default()
}

/// A platform object that exists: its resource, name and the part that decides.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Existing {
    pub resource: &'static str,
    pub name: String,
    pub body: Value,
}

/// Everything about one namespace.
#[derive(Debug, Clone, Default)]
pub(super) struct SeenNamespace {
    pub name: String,
    pub owner: Option<String>,
    pub tenant_name: Option<String>,
    /// `None` although a name is there: the tenant is gone, or not known yet.
    pub tenant: Option<TenantSpec>,
    /// Whether all tenants are known.
    pub tenants_known: bool,
    pub enforce: Option<String>,
    pub ending: bool,
    pub existing: Vec<Existing>,
}

/// Gathers everything about a namespace; `None` when it is gone.
pub(super) fn namespace(caches: &Caches, key: &ObjectKey) -> Option<SeenNamespace> {
    let object = caches.namespaces.get(key)?;
    let tenant_name = tenant_of(&object).map(str::to_string);
    let tenant = tenant_name
        .as_ref()
        .and_then(|name| caches.tenants.get(&ObjectKey::cluster(name.clone())));
    let labels = object.metadata.labels.as_ref();
    let name = text(&object.metadata.name);
    Some(SeenNamespace {
        owner: owner_of(&object).map(str::to_string),
        tenant: tenant.map(|tenant| tenant.spec.clone()),
        tenants_known: caches.tenants.is_ready(),
        enforce: labels
            .and_then(|labels| labels.get("pod-security.kubernetes.io/enforce"))
            .cloned(),
        ending: object.metadata.deletion_timestamp.is_some(),
        existing: existing(caches, &name),
        tenant_name,
        name,
    })
}

fn existing(caches: &Caches, namespace: &str) -> Vec<Existing> {
    let within = |meta: &mainstay_control::reexport::ObjectMeta| meta.namespace.as_deref() == Some(namespace);
    let mut found = Vec::new();
    for object in caches.bindings.select(|object| within(&object.metadata)) {
        let body = serde_json::json!({"subjects": object.subjects, "roleRef": object.role_ref});
        found.push(Existing {
            resource: "rolebindings",
            name: text(&object.metadata.name),
            body,
        });
    }
    for object in caches.limits.select(|object| within(&object.metadata)) {
        let body = serde_json::json!({"spec": object.spec});
        found.push(Existing {
            resource: "limitranges",
            name: text(&object.metadata.name),
            body,
        });
    }
    for object in caches.policies.select(|object| within(&object.metadata)) {
        let body = serde_json::json!({"spec": object.spec});
        found.push(Existing {
            resource: "networkpolicies",
            name: text(&object.metadata.name),
            body,
        });
    }
    found
}

/// A namespace as a tenant sees it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Member {
    pub name: String,
    pub uid: String,
    pub owner: String,
    pub tenant: Option<String>,
}

/// Everything about one tenant.
#[derive(Debug, Clone, Default)]
pub(super) struct SeenTenant {
    pub name: String,
    pub generation: i64,
    pub status: TenantStatus,
    /// Namespaces that carry its label or that it wants to adopt.
    pub members: Vec<Member>,
}

/// Gathers everything about a tenant; `None` when it is gone.
pub(super) fn tenant(caches: &Caches, key: &ObjectKey) -> Option<SeenTenant> {
    let object: Arc<Tenant> = caches.tenants.get(key)?;
    let name = text(&object.metadata.name);
    let concerns = |namespace: &Namespace| {
        let own = namespace.metadata.name.as_ref();
        tenant_of(namespace) == Some(name.as_str())
            || own.is_some_and(|own| object.spec.namespaces.adopt.contains(own))
    };
    let mut members: Vec<Member> = caches
        .namespaces
        .select(concerns)
        .iter()
        .map(|namespace| Member {
            name: text(&namespace.metadata.name),
            uid: text(&namespace.metadata.uid),
            owner: owner_of(namespace).unwrap_or_default().to_string(),
            tenant: tenant_of(namespace).map(str::to_string),
        })
        .collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    Some(SeenTenant {
        generation: object.metadata.generation.unwrap_or(0),
        status: object.status.clone(),
        members,
        name,
    })
}
