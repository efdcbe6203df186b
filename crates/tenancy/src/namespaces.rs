//! Who made a namespace, whose it is, and who may see it.

use std::sync::Arc;

use async_trait::async_trait;
use mainstay_access::authz::{Authorizer, attributes};
use mainstay_access::hooks::{
    Admit, Attributes, Authorize, Decision, ListFilter, Operation, Review, Visible, World,
};
use mainstay_access::user::UserInfo;
use mainstay_access::{ApiResult, Object};
use serde_json::{Value, json};

use crate::rights::{Rights, forbidden};
use crate::tenants::{Tenant, Tenants};
use crate::{OWNER_ANNOTATION, TENANT_LABEL};

const ENFORCE_LABEL: &str = "pod-security.kubernetes.io/enforce";
/// What users' namespaces enforce unless their tenant says otherwise.
const DEFAULT_LEVEL: &str = "baseline";

/// What is known about a namespace's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// The user who made it.
    pub owner: Option<String>,
    /// The tenant it belongs to.
    pub tenant: Option<String>,
}

impl Owned {
    /// Reads a namespace's record; `None` when it is neither a user's nor a tenant's.
    pub fn of(namespace: &Value) -> Option<Owned> {
        let meta = &namespace["metadata"];
        let text = |value: &Value| value.as_str().map(str::to_string);
        let (owner, tenant) = (
            text(&meta["annotations"][OWNER_ANNOTATION]),
            text(&meta["labels"][TENANT_LABEL]),
        );
        (owner.is_some() || tenant.is_some()).then_some(Owned { owner, tenant })
    }

    /// Looks the namespace up.
    pub(crate) fn lookup(namespace: &str, world: &dyn World) -> Option<Owned> {
        Owned::of(&world.get("core/namespaces", "", namespace)?.value())
    }
}

/// Records who makes a namespace and which tenant it belongs to. A later change of the record is the guard's matter.
pub(crate) struct Ownership {
    rights: Rights,
    tenants: Arc<Tenants>,
}

impl Ownership {
    pub(crate) fn new(rights: Rights, tenants: Arc<Tenants>) -> Self {
        Ownership { rights, tenants }
    }

    /// The platform makes namespaces for others and for itself: it is not recorded, and may record somebody.
    fn record(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        if self.rights.is_platform(&review.user) {
            return Ok(());
        }
        let tenant = self.tenant(review, world)?;
        let user = review.user.name.clone();
        let meta = &mut review.object["metadata"];
        meta["annotations"][OWNER_ANNOTATION] = json!(user);
        let level = tenant
            .as_ref()
            .map_or(DEFAULT_LEVEL, |tenant| tenant.spec.pod_security.as_str());
        meta["labels"][ENFORCE_LABEL] = json!(level);
        if let Some(tenant) = &tenant {
            meta["labels"][TENANT_LABEL] = json!(tenant.name);
        }
        Ok(())
    }

    /// The tenant the new namespace goes to: the one it names, else the one whose prefix its name has.
    fn tenant(&self, review: &Review, world: &dyn World) -> ApiResult<Option<Tenant>> {
        let own = self.tenants.of_user(&review.user, world);
        if let Some(named) = review.object["metadata"]["labels"][TENANT_LABEL].as_str() {
            let mine = own.into_iter().find(|tenant| tenant.name == named);
            let refused = || forbidden(review, format!("you are not an owner of tenant {named}"));
            return mine.map(Some).ok_or_else(refused);
        }
        let generated = review.object["metadata"]["generateName"]
            .as_str()
            .unwrap_or_default();
        let name = if review.name.is_empty() {
            generated
        } else {
            &review.name
        };
        let mut fitting = own
            .iter()
            .filter(|tenant| name.starts_with(&tenant.spec.namespaces.prefix));
        match (fitting.next(), fitting.next()) {
            (Some(tenant), None) => Ok(Some(tenant.clone())),
            (Some(_), Some(_)) => Err(forbidden(
                review,
                format!("it could belong to several of your tenants: name one in the label {TENANT_LABEL}"),
            )),
            (None, _) if own.is_empty() => Ok(None),
            (None, _) => {
                let prefixes: Vec<&str> = own
                    .iter()
                    .map(|tenant| tenant.spec.namespaces.prefix.as_str())
                    .collect();
                Err(forbidden(
                    review,
                    format!("its name must start with {}", prefixes.join(" or ")),
                ))
            }
        }
    }
}

#[async_trait]
impl Admit for Ownership {
    async fn mutate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        if review.operation == Operation::Create && review.is("", "namespaces", "") {
            self.record(review, world)?;
        }
        Ok(())
    }

    async fn validate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        if review.operation != Operation::Create || !review.is("", "namespaces", "") {
            return Ok(());
        }
        let Some(name) = review.object["metadata"]["labels"][TENANT_LABEL].as_str() else {
            return Ok(());
        };
        let all = self.tenants.all(world);
        let Some(tenant) = all.get(name) else {
            return Err(forbidden(review, format!("there is no tenant {name}")));
        };
        let limit = tenant.spec.namespaces.limit;
        let count = world
            .list("core/namespaces", None)
            .iter()
            .filter(|namespace| namespace.label(TENANT_LABEL).as_deref() == Some(name))
            .count();
        match limit {
            Some(limit) if count >= limit as usize => Err(forbidden(
                review,
                format!("tenant {name} has {count} namespaces, its limit is {limit}"),
            )),
            _ => Ok(()),
        }
    }
}

/// Lets tenants' owners make namespaces without a role of their own.
pub(crate) struct TenantsMakeNamespaces {
    world: Arc<dyn World>,
    tenants: Arc<Tenants>,
}

impl TenantsMakeNamespaces {
    pub(crate) fn new(authorizer: Arc<Authorizer>, tenants: Arc<Tenants>) -> Self {
        TenantsMakeNamespaces {
            world: authorizer.world().clone(),
            tenants,
        }
    }
}

#[async_trait]
impl Authorize for TenantsMakeNamespaces {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let makes_namespace = attributes.is_resource
            && attributes.verb == "create"
            && (attributes.group, attributes.resource, attributes.subresource) == ("", "namespaces", "");
        if makes_namespace && !self.tenants.of_user(attributes.user, &*self.world).is_empty() {
            return Decision::Allow;
        }
        Decision::NoOpinion(String::new())
    }
}

/// Lets everybody list and watch the namespaces they may get.
pub(crate) struct ReadableNamespaces {
    authorizer: Arc<Authorizer>,
}

impl ReadableNamespaces {
    pub(crate) fn new(authorizer: Arc<Authorizer>) -> Self {
        ReadableNamespaces { authorizer }
    }
}

fn may_get(authorizer: &Authorizer, user: &UserInfo, namespace: &str) -> bool {
    let asked = attributes(user, "get", ("", "namespaces", ""), (namespace, namespace));
    authorizer.decide(&asked) == Decision::Allow
}

impl ListFilter for ReadableNamespaces {
    fn filter(&self, attributes: &Attributes<'_>, _: &Arc<dyn World>) -> Option<Visible> {
        let all_namespaces =
            (attributes.group, attributes.resource, attributes.namespace) == ("", "namespaces", "");
        // Somebody bound in no namespace keeps the plain refusal.
        let bound = self.authorizer.rbac().namespaces_of(attributes.user);
        if !all_namespaces || bound.iter().all(|namespace| namespace.is_empty()) {
            return None;
        }
        let (authorizer, user) = (self.authorizer.clone(), attributes.user.clone());
        Some(Arc::new(move |object: &Object| {
            may_get(&authorizer, &user, &object.name())
        }))
    }
}
