//! Limits on pods in users' namespaces, whoever makes them: a user's Deployment is carried out by a controller, and
//! must not carry the controller's rights into the pod. Nodes are chosen by the scheduler, reserved nodes are entered
//! only by their tenant, and priorities are those the tenant was given.

use std::sync::Arc;

use async_trait::async_trait;
use mainstay_access::ApiResult;
use mainstay_access::hooks::{Admit, Operation, Review, World};
use mainstay_access::user::GROUP_MASTERS;
use mainstay_api::POOL_LABEL;
use mainstay_policy::tolerations::{Toleration, first_outside, merge};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::TENANT_TAINT;
use crate::namespaces::Owned;
use crate::rights::forbidden;
use crate::tenants::{Tenant, Tenants};

/// The plugin.
pub(crate) struct PodLimits {
    tenants: Arc<Tenants>,
}

impl PodLimits {
    pub(crate) fn new(tenants: Arc<Tenants>) -> Self {
        PodLimits { tenants }
    }
}

/// Pods made by people of system:masters are their own responsibility; pods of nodes mirror static ones.
fn applies(review: &Review) -> bool {
    let written = matches!(review.operation, Operation::Create | Operation::Update);
    let node = review.user.in_group("system:nodes");
    written && review.is("", "pods", "") && !node && !review.user.in_group(GROUP_MASTERS)
}

#[async_trait]
impl Admit for PodLimits {
    async fn mutate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        if !applies(review) || review.operation != Operation::Create {
            return Ok(());
        }
        let Some(tenant) = self.tenants.of_namespace(&review.namespace, world) else {
            return Ok(());
        };
        let spec = &mut review.object["spec"];
        let merged = merge(&tolerations(&spec["tolerations"]), &given(&tenant));
        if !merged.is_empty() {
            spec["tolerations"] = json!(merged);
        }
        keep_to_pools(spec, &tenant.spec.node_pools);
        Ok(())
    }

    async fn validate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        if !applies(review) {
            return Ok(());
        }
        if Owned::lookup(&review.namespace, world).is_none() {
            return Ok(());
        }
        let tenant = self.tenants.of_namespace(&review.namespace, world);
        match refusal(review, tenant.as_ref()) {
            Some(why) => Err(forbidden(review, why)),
            None => Ok(()),
        }
    }
}

fn tolerations(list: &Value) -> Vec<Toleration> {
    Vec::deserialize(list).unwrap_or_default()
}

/// What the platform gives the tenant's pods: its listed tolerations, and the one of its reserved nodes.
fn given(tenant: &Tenant) -> Vec<Toleration> {
    let listed = json!(tenant.spec.tolerations);
    let own = Toleration {
        key: TENANT_TAINT.into(),
        operator: "Equal".into(),
        value: tenant.name.clone(),
        effect: "NoSchedule".into(),
        toleration_seconds: None,
    };
    let mut all = tolerations(&listed);
    all.push(own);
    all
}

/// What any user's pod may tolerate: the taints Kubernetes itself sets by condition.
fn common() -> Vec<Toleration> {
    let kinds = [
        "not-ready",
        "unreachable",
        "disk-pressure",
        "memory-pressure",
        "pid-pressure",
        "unschedulable",
        "network-unavailable",
    ];
    let exists = |kind: &&str| Toleration {
        key: format!("node.kubernetes.io/{kind}"),
        operator: "Exists".into(),
        ..Toleration::default()
    };
    kinds.iter().map(exists).collect()
}

fn refusal(review: &Review, tenant: Option<&Tenant>) -> Option<String> {
    let spec = &review.object["spec"];
    if review.operation == Operation::Create && spec["nodeName"].as_str().is_some_and(|name| !name.is_empty())
    {
        return Some("spec.nodeName: nodes are chosen by the scheduler in this namespace".into());
    }
    let mut allowed = common();
    allowed.extend(tenant.map(given).unwrap_or_default());
    let wanted = tolerations(&spec["tolerations"]);
    // Without a tenant, only what could enter reserved nodes is refused.
    let reserved = |one: &&Toleration| one.key.is_empty() || one.key.starts_with("mainstay.dev/");
    let outside = match tenant {
        Some(_) => first_outside(&wanted, &allowed),
        None => wanted.iter().find(reserved),
    };
    if let Some(outside) = outside {
        return Some(format!(
            "spec.tolerations: {} is not among those this namespace may use",
            describe(outside)
        ));
    }
    class_refusal(spec["priorityClassName"].as_str().unwrap_or_default(), tenant)
}

fn describe(toleration: &Toleration) -> String {
    let key = if toleration.key.is_empty() {
        "every key"
    } else {
        toleration.key.as_str()
    };
    match toleration.value.as_str() {
        "" => format!("{key}:{}", toleration.effect),
        value => format!("{key}={value}:{}", toleration.effect),
    }
}

fn class_refusal(class: &str, tenant: Option<&Tenant>) -> Option<String> {
    if class.starts_with("system-") {
        return Some(format!("spec.priorityClassName: {class} is the platform's own"));
    }
    let listed = tenant
        .map(|tenant| &tenant.spec.priority_classes)
        .filter(|listed| !listed.is_empty())?;
    (!class.is_empty() && !listed.iter().any(|one| one == class)).then(|| {
        format!(
            "spec.priorityClassName: {class} is not among those this tenant may use: {}",
            listed.join(", ")
        )
    })
}

/// Adds the requirement that the pod runs in one of the tenant's pools to every alternative of its node affinity.
fn keep_to_pools(spec: &mut Value, pools: &[String]) {
    if pools.is_empty() {
        return;
    }
    let requirement = json!({"key": POOL_LABEL, "operator": "In", "values": pools});
    let required = &mut spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    if required["nodeSelectorTerms"].as_array().is_none_or(Vec::is_empty) {
        required["nodeSelectorTerms"] = json!([{}]);
    }
    for term in required["nodeSelectorTerms"].as_array_mut().into_iter().flatten() {
        match &mut term["matchExpressions"] {
            Value::Array(expressions) if !expressions.contains(&requirement) => {
                expressions.push(requirement.clone())
            }
            Value::Array(_) => {}
            unset => *unset = json!([requirement]),
        }
    }
}
