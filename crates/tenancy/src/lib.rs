//! Tenants, ownership, quota and isolation, as hooks of the API server and two small controllers.
//!
//! A namespace that a user makes carries that user in an annotation which only the platform writes, on every path
//! of every request. A controller binds the user to ClusterRole `namespace-admin` there and nowhere else. What
//! would let the user leave the namespace's limits is refused by the guard: its owner record, isolation labels,
//! quota, and whatever the platform put there. A [`Tenant`](mainstay_api::Tenant) ties users, namespaces and limits
//! together; its quota is charged across namespaces in each write's own transaction.

pub mod controller;
mod guard;
mod namespaces;
mod pods;
mod quota;
mod rights;
mod services;
mod tenants;

use std::sync::Arc;

use mainstay_access::authz::Authorizer;
use mainstay_access::hooks::{Admit, Authorize, Charge, ListFilter};
use mainstay_base::clock::SharedClock;

pub use namespaces::Owned;

/// The annotation that names the user who made a namespace.
pub const OWNER_ANNOTATION: &str = "mainstay.dev/owner";
/// The label that names the tenant a namespace belongs to.
pub const TENANT_LABEL: &str = "mainstay.dev/tenant";
/// The label of objects the platform puts into users' namespaces; users cannot write such objects.
pub const PLATFORM_LABEL: &str = "mainstay.dev/platform";
/// The name of the RoleBinding that makes a namespace's owner its admin.
pub const OWNER_BINDING: &str = "mainstay-owner";
/// The key of the taint that reserves nodes for a tenant, with the tenant's name as its value.
pub const TENANT_TAINT: &str = "mainstay.dev/tenant";

/// The rules of tenancy, one hook each; put `authorize` after RBAC and `admit` after the built-in plugins.
pub struct Tenancy {
    /// Tenants' owners may make namespaces.
    pub authorize: Arc<dyn Authorize>,
    /// Ownership, guard and limits, in order.
    pub admit: Vec<Arc<dyn Admit>>,
    /// Tenants' quota.
    pub charge: Arc<dyn Charge>,
    /// Users list the namespaces they may read.
    pub list_filter: Arc<dyn ListFilter>,
}

impl Tenancy {
    /// Makes the rules over a server's authorizer.
    pub fn new(authorizer: Arc<Authorizer>, clock: SharedClock) -> Self {
        let rights = rights::Rights::new(authorizer.clone());
        let tenants = Arc::new(tenants::Tenants::default());
        Tenancy {
            authorize: Arc::new(namespaces::TenantsMakeNamespaces::new(
                authorizer.clone(),
                tenants.clone(),
            )),
            admit: vec![
                Arc::new(namespaces::Ownership::new(rights.clone(), tenants.clone())),
                Arc::new(guard::Guard::new(rights)),
                Arc::new(pods::PodLimits::new(tenants.clone())),
                Arc::new(services::ServiceLimits::new(tenants.clone())),
            ],
            charge: Arc::new(quota::TenantQuota::new(tenants, clock)),
            list_filter: Arc::new(namespaces::ReadableNamespaces::new(authorizer)),
        }
    }
}

#[cfg(test)]
mod tests;
