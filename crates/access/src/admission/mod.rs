//! The admission chain, in upstream's order. Each plugin is one module; the chain runs all mutations, then, after the
//! server's own validation, all refusals. Quotas are charged last, in the write's own transaction ([`Quotas`]).

mod certificates;
mod defaults;
mod extended_resources;
mod limits;
mod namespaces;
mod node_restriction;
mod pod_security;
mod priority;
mod quota;
mod rbac;
mod runtime_class;
mod service_account;
mod webhooks;

pub use pod_security::PodSecurity;
pub use quota::{Quotas, quota_status};
pub use webhooks::Webhooks;

use std::sync::Arc;

use async_trait::async_trait;
use mainstay_base::clock::SharedClock;
use mainstay_policy::podsecurity::{Level, Standard, Version};
use serde_json::Value;

use crate::authz::Authorizer;
use crate::hooks::{Admit, Charge, Charged, Operation, Review, World};
use crate::status::{ApiError, ApiResult};

/// Admission plugins in the order they run.
#[derive(Default)]
pub struct Chain {
    plugins: Vec<Arc<dyn Admit>>,
}

/// What the standard chain is made with.
pub struct Options {
    /// For checks on the user's rights.
    pub authorizer: Arc<Authorizer>,
    /// For ages and deadlines.
    pub clock: SharedClock,
    /// Names of plugins to leave out, as upstream's `--disable-admission-plugins`.
    pub disabled: Vec<String>,
    /// What namespaces without labels enforce.
    pub pod_security_default: Standard,
}

impl Options {
    /// All plugins; namespaces without labels enforce nothing, as upstream.
    pub fn new(authorizer: Arc<Authorizer>, clock: SharedClock) -> Self {
        let pod_security_default = Standard {
            level: Level::Privileged,
            version: Version::LATEST,
        };
        Options {
            authorizer,
            clock,
            disabled: Vec::new(),
            pod_security_default,
        }
    }
}

impl Chain {
    /// Makes the standard chain. `between` (tenancy's rules, for example) run after the built-in plugins and before
    /// the webhooks.
    pub fn standard(options: &Options, between: impl IntoIterator<Item = Arc<dyn Admit>>) -> Self {
        let authorizer = &options.authorizer;
        let built_in: Vec<(&str, Arc<dyn Admit>)> = vec![
            ("NamespaceLifecycle", Arc::new(namespaces::NamespaceLifecycle)),
            ("LimitRanger", Arc::new(limits::LimitRanger)),
            (
                "ServiceAccount",
                Arc::new(service_account::ServiceAccount::default()),
            ),
            ("NodeRestriction", Arc::new(node_restriction::NodeRestriction)),
            ("TaintNodesByCondition", Arc::new(defaults::TAINT_NODES)),
            (
                "PodSecurity",
                Arc::new(PodSecurity::new(options.pod_security_default)),
            ),
            ("Priority", Arc::new(priority::Priority)),
            ("DefaultTolerationSeconds", Arc::new(defaults::TOLERATION_SECONDS)),
            ("PodTolerationRestriction", Arc::new(defaults::MEMORY_PRESSURE)),
            ("DefaultStorageClass", Arc::new(defaults::STORAGE_CLASS)),
            ("RuntimeClass", Arc::new(runtime_class::RuntimeClass)),
            ("DefaultIngressClass", Arc::new(defaults::INGRESS_CLASS)),
            (
                "Certificates",
                Arc::new(certificates::Certificates::new(authorizer.clone())),
            ),
            (
                "ExtendedResources",
                Arc::new(extended_resources::ExtendedResources),
            ),
            (
                "QuotaStatus",
                Arc::new(quota::QuotaStatus::new(options.clock.clone())),
            ),
            ("RBAC", Arc::new(rbac::RbacWrites::new(authorizer.clone()))),
        ];
        let enabled = |name: &str| !options.disabled.iter().any(|disabled| disabled == name);
        let mut plugins: Vec<Arc<dyn Admit>> = built_in
            .into_iter()
            .filter(|(name, _)| enabled(name))
            .map(|(_, plugin)| plugin)
            .collect();
        plugins.extend(between);
        if enabled("Webhooks") {
            plugins.push(Arc::new(Webhooks::new()));
        }
        Chain { plugins }
    }
}

#[async_trait]
impl Admit for Chain {
    async fn mutate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        for plugin in &self.plugins {
            plugin.mutate(review, world).await?;
        }
        Ok(())
    }

    async fn validate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        for plugin in &self.plugins {
            plugin.validate(review, world).await?;
        }
        Ok(())
    }
}

/// Several chargers as one.
pub struct Charges(pub Vec<Arc<dyn Charge>>);

#[async_trait]
impl Charge for Charges {
    async fn charge(&self, review: &Review, world: &dyn World) -> ApiResult<Vec<Charged>> {
        let mut found = Vec::new();
        for charger in &self.0 {
            found.extend(charger.charge(review, world).await?);
        }
        Ok(found)
    }
}

/// The items of a list; nothing when it is unset.
pub(crate) fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

/// 403 about the review's object.
pub(crate) fn forbidden(review: &Review, why: impl std::fmt::Display) -> ApiError {
    ApiError::forbidden(&review.group, &review.resource, &review.name, why)
}

/// Whether the review creates a pod.
fn creates_pod(review: &Review) -> bool {
    review.operation == Operation::Create && review.is("", "pods", "")
}

#[cfg(test)]
mod tests;
