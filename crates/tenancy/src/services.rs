//! Limits on what tenants publish and store: external addresses, ingress classes and host names, storage classes.

use std::sync::Arc;

use async_trait::async_trait;
use mainstay_access::ApiResult;
use mainstay_access::hooks::{Admit, Operation, Review, World};
use serde_json::Value;

use crate::namespaces::Owned;
use crate::rights::forbidden;
use crate::tenants::{Tenant, Tenants};

/// The plugin.
pub(crate) struct ServiceLimits {
    tenants: Arc<Tenants>,
}

impl ServiceLimits {
    pub(crate) fn new(tenants: Arc<Tenants>) -> Self {
        ServiceLimits { tenants }
    }
}

#[async_trait]
impl Admit for ServiceLimits {
    async fn mutate(&self, _: &mut Review, _: &dyn World) -> ApiResult<()> {
        Ok(())
    }

    async fn validate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        let written = matches!(review.operation, Operation::Create | Operation::Update);
        if !written || !review.subresource.is_empty() || review.object["spec"] == review.old["spec"] {
            return Ok(());
        }
        let check: fn(&Review, Option<&Tenant>, &dyn World) -> Option<String> =
            match (review.group.as_str(), review.resource.as_str()) {
                ("", "services") => service,
                ("", "persistentvolumeclaims") => claim,
                ("networking.k8s.io", "ingresses") => ingress,
                _ => return Ok(()),
            };
        if Owned::lookup(&review.namespace, world).is_none() {
            return Ok(());
        }
        let tenant = self.tenants.of_namespace(&review.namespace, world);
        match check(review, tenant.as_ref(), world) {
            Some(why) => Err(forbidden(review, why)),
            None => Ok(()),
        }
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

fn service(review: &Review, _: Option<&Tenant>, _: &dyn World) -> Option<String> {
    let external = items(&review.object["spec"]["externalIPs"]).next().is_some();
    external.then(|| "spec.externalIPs: only the platform assigns external addresses".into())
}

/// A refusal when a list is set and lacks the name.
fn outside(field: &str, name: &str, listed: &[String]) -> Option<String> {
    (!listed.is_empty() && !listed.iter().any(|one| one == name)).then(|| {
        format!(
            "{field}: {name} is not among those this tenant may use: {}",
            listed.join(", ")
        )
    })
}

fn claim(review: &Review, tenant: Option<&Tenant>, _: &dyn World) -> Option<String> {
    let class = review.object["spec"]["storageClassName"].as_str()?;
    outside("spec.storageClassName", class, &tenant?.spec.storage_classes)
}

/// The host names an ingress answers for.
fn hosts(ingress: &Value) -> Vec<String> {
    let rules = items(&ingress["spec"]["rules"]).filter_map(|rule| rule["host"].as_str());
    let tls = items(&ingress["spec"]["tls"])
        .flat_map(|tls| items(&tls["hosts"]))
        .filter_map(Value::as_str);
    rules.chain(tls).map(str::to_lowercase).collect()
}

fn ingress(review: &Review, tenant: Option<&Tenant>, world: &dyn World) -> Option<String> {
    let spec = &review.object["spec"];
    let limits = tenant.map(|tenant| &tenant.spec.ingress);
    if let (Some(limits), Some(class)) = (limits, spec["ingressClassName"].as_str())
        && let Some(why) = outside("spec.ingressClassName", class, &limits.classes)
    {
        return Some(why);
    }
    let patterns = limits
        .map(|limits| limits.hostnames.as_slice())
        .unwrap_or_default();
    let catches_all = !spec["defaultBackend"].is_null()
        || items(&spec["rules"]).any(|rule| rule["host"].as_str().unwrap_or("").is_empty());
    if !patterns.is_empty() && catches_all {
        return Some(
            "spec: a host name is needed in each rule, and no default backend, in this tenant".into(),
        );
    }
    let hosts = hosts(&review.object);
    if let Some(host) = hosts
        .iter()
        .find(|host| !patterns.is_empty() && !patterns.iter().any(|p| covers(p, host)))
    {
        return Some(format!(
            "spec.rules: host {host} is not among those this tenant may use: {}",
            patterns.join(", ")
        ));
    }
    taken(review, &hosts, world)
}

/// `*.example.com` covers every name below it, and itself as a wildcard.
fn covers(pattern: &str, host: &str) -> bool {
    let pattern = pattern.to_lowercase();
    host == pattern
        || pattern
            .strip_prefix('*')
            .is_some_and(|suffix| host.ends_with(suffix) && host.len() > suffix.len())
}

/// A host name belongs to the namespace that used it first.
fn taken(review: &Review, hosts: &[String], world: &dyn World) -> Option<String> {
    if hosts.is_empty() {
        return None;
    }
    let others = world.list("networking.k8s.io/ingresses", None);
    let foreign = others
        .iter()
        .filter(|other| other.namespace() != review.namespace.as_str());
    for other in foreign {
        let used = self::hosts(&other.value());
        if let Some(host) = hosts.iter().find(|host| used.contains(host)) {
            return Some(format!("spec.rules: host {host} is used in another namespace"));
        }
    }
    None
}
