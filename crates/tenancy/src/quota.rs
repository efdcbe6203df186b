//! A tenant's quota across its namespaces: charged to the Tenant object in each write's own transaction.

use std::sync::Arc;

use async_trait::async_trait;
use mainstay_access::ApiResult;
use mainstay_access::hooks::{Charge, Charged, Review, World};
use mainstay_base::clock::SharedClock;
use mainstay_policy::amounts::{Amounts, amounts, to_json};
use mainstay_policy::quota::{Charged as Counted, charge, matches, recount, usage};
use serde_json::{Value, json};

use crate::TENANT_LABEL;
use crate::rights::forbidden;
use crate::tenants::{TENANTS, Tenant, Tenants};

/// Charges writes in tenants' namespaces.
pub(crate) struct TenantQuota {
    tenants: Arc<Tenants>,
    clock: SharedClock,
}

impl TenantQuota {
    pub(crate) fn new(tenants: Arc<Tenants>, clock: SharedClock) -> Self {
        TenantQuota { tenants, clock }
    }
}

/// The tenant's quota in the form of a ResourceQuota.
fn as_quota(tenant: &Tenant) -> Value {
    json!({
        "metadata": {"name": format!("tenant-{}", tenant.name)},
        "spec": {"hard": tenant.spec.quota.hard, "scopes": tenant.spec.quota.scopes},
    })
}

/// The object as the quota counts it; nothing when it does not.
fn counted(review: &Review, quota: &Value, object: &Value, now_seconds: i64) -> Amounts {
    let counted = Counted {
        group: &review.group,
        resource: &review.resource,
        object,
    };
    match object.is_null() || !matches(quota, &counted) {
        true => Amounts::new(),
        false => usage(&counted, now_seconds),
    }
}

#[async_trait]
impl Charge for TenantQuota {
    async fn charge(&self, review: &Review, world: &dyn World) -> ApiResult<Vec<Charged>> {
        let whole = matches!(review.subresource.as_str(), "" | "status" | "resize");
        if review.namespace.is_empty() || !whole {
            return Ok(Vec::new());
        }
        let Some(tenant) = self.tenants.of_namespace(&review.namespace, world) else {
            return Ok(Vec::new());
        };
        if tenant.spec.quota.hard.is_empty() {
            return Ok(Vec::new());
        }
        let Some(object) = world.get(TENANTS, "", &tenant.name) else {
            return Ok(Vec::new());
        };
        let quota = as_quota(&tenant);
        let now = self.clock.now().as_second();
        let (before, after) = (
            counted(review, &quota, &review.old, now),
            counted(review, &quota, &review.object, now),
        );
        if before == after {
            return Ok(Vec::new());
        }
        let mut value = object.value();
        let hard = amounts(&quota["spec"]["hard"]);
        let used = used(&value, &hard, &tenant, world, now);
        let name = format!("tenant {}", tenant.name);
        let charged =
            charge(&name, &hard, &used, &before, &after).map_err(|refusal| forbidden(review, refusal))?;
        let Some(charged) = charged else {
            return Ok(Vec::new());
        };
        value["status"]["used"] = to_json(&charged.used);
        Ok(vec![Charged {
            resource: TENANTS.into(),
            namespace: String::new(),
            name: tenant.name,
            revision: object.revision(),
            value,
        }])
    }
}

/// What is used already; counted afresh when the status does not know every limit.
fn used(object: &Value, hard: &Amounts, tenant: &Tenant, world: &dyn World, now_seconds: i64) -> Amounts {
    let known = amounts(&object["status"]["used"]);
    if hard.keys().all(|name| known.contains_key(name)) {
        return known;
    }
    count(tenant, world, now_seconds)
}

/// Counts a tenant's usage over its namespaces from the objects that exist.
fn count(tenant: &Tenant, world: &dyn World, now_seconds: i64) -> Amounts {
    const KINDS: &[&str] = &[
        "pods",
        "services",
        "persistentvolumeclaims",
        "configmaps",
        "secrets",
        "replicationcontrollers",
    ];
    let namespaces = world.list("core/namespaces", None);
    let own = namespaces
        .iter()
        .filter(|object| object.label(TENANT_LABEL).as_deref() == Some(tenant.name.as_str()));
    let mut objects: Vec<(&str, Value)> = Vec::new();
    for namespace in own {
        for kind in KINDS {
            let found = world.list(&format!("core/{kind}"), Some(&namespace.name()));
            objects.extend(found.iter().map(|object| (*kind, object.value())));
        }
    }
    let counted = objects.iter().map(|(resource, object)| Counted {
        group: "",
        resource,
        object,
    });
    recount(&as_quota(tenant), counted, now_seconds)
}
