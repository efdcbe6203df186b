//! The tenants as the rules see them: parsed once per change, looked up by name and by user.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstay_access::hooks::World;
use mainstay_access::user::UserInfo;
use mainstay_api::tenant::{Owner, TenantSpec};
use parking_lot::RwLock;
use serde::Deserialize as _;
use serde_json::Value;

use crate::TENANT_LABEL;

/// The tenants' resource as the store names it.
pub(crate) const TENANTS: &str = "mainstay.dev/tenants";

/// One tenant.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tenant {
    pub name: String,
    pub spec: TenantSpec,
}

/// All tenants, followed by generation.
#[derive(Default)]
pub(crate) struct Tenants {
    known: RwLock<(Option<u64>, Arc<BTreeMap<String, Tenant>>)>,
}

impl Tenants {
    /// All tenants by name.
    pub(crate) fn all(&self, world: &dyn World) -> Arc<BTreeMap<String, Tenant>> {
        let now = Some(world.generation(TENANTS));
        {
            let known = self.known.read();
            if known.0 == now {
                return known.1.clone();
            }
        }
        let parsed = world
            .list(TENANTS, None)
            .iter()
            .filter_map(|object| parse(&object.value()))
            .collect();
        let parsed = Arc::new(parsed);
        *self.known.write() = (now, Arc::clone(&parsed));
        parsed
    }

    /// The tenant that a namespace belongs to; a name whose tenant is gone still counts as one without rights.
    pub(crate) fn of_namespace(&self, namespace: &str, world: &dyn World) -> Option<Tenant> {
        let object = world.get("core/namespaces", "", namespace)?;
        let name = object.label(TENANT_LABEL)?.into_owned();
        let found = self.all(world).get(&name).cloned();
        Some(found.unwrap_or_else(|| Tenant {
            name,
            spec: TenantSpec::default(),
        }))
    }

    /// The tenants a user owns, alone or through a group, by name.
    pub(crate) fn of_user(&self, user: &UserInfo, world: &dyn World) -> Vec<Tenant> {
        let all = self.all(world);
        all.values()
            .filter(|tenant| owns(user, &tenant.spec.owners))
            .cloned()
            .collect()
    }
}

fn parse(object: &Value) -> Option<(String, Tenant)> {
    let name = object["metadata"]["name"].as_str()?.to_string();
    let spec = TenantSpec::deserialize(&object["spec"]).ok()?;
    Some((name.clone(), Tenant { name, spec }))
}

fn owns(user: &UserInfo, owners: &[Owner]) -> bool {
    owners.iter().any(|owner| match owner.kind.as_str() {
        "User" => owner.name == user.name && !owner.name.starts_with("system:"),
        "Group" => !owner.name.starts_with("system:") && user.in_group(&owner.name),
        "ServiceAccount" => {
            !owner.namespace.is_empty()
                && user.name == mainstay_policy::rbac::service_account_user(&owner.namespace, &owner.name)
        }
        _ => false,
    })
}
