//! ResourceQuota: every write is charged to the quotas it falls under, in its own transaction. The server calls
//! again with fresh objects when another write came first, so quotas are never overshot and no client sees a conflict.

use async_trait::async_trait;
use jiff::Timestamp;
use mainstay_base::clock::SharedClock;
use mainstay_policy::amounts::{Amounts, amounts, to_json};
use mainstay_policy::quota::{Charged as Counted, charge, concerns, matches, missing, recount, usage};
use serde_json::{Value, json};

use super::{creates_pod, forbidden};
use crate::hooks::{Admit, Charge, Charged, Operation, Review, World, store_resource};
use crate::status::ApiResult;

const QUOTAS: &str = "core/resourcequotas";
/// How long after its creation a quota is counted afresh by every charge: writes that were under way when it was made
/// knew nothing of it.
const SETTLING_SECONDS: i64 = 5;

/// Charges namespaced writes.
pub struct Quotas {
    clock: SharedClock,
}

impl Quotas {
    /// Makes the charger; the clock tells which pods' deletions are overdue.
    pub fn new(clock: SharedClock) -> Self {
        Quotas { clock }
    }

    fn seconds(&self) -> i64 {
        self.clock.now().as_second()
    }

    fn charge_one(&self, review: &Review, world: &dyn World, quota: &Value) -> ApiResult<Option<Value>> {
        let side = |object: &Value| match counted(review, quota, object) {
            Some(counted) => usage(&counted, self.seconds()),
            None => Amounts::new(),
        };
        let (before, after) = (side(&review.old), side(&review.object));
        if creates_pod(review)
            && counted(review, quota, &review.object).is_some()
            && let Some(refusal) = missing(quota, &review.object)
        {
            return Err(forbidden(review, refusal));
        }
        if before == after {
            return Ok(None);
        }
        let (hard, used) = (amounts(&quota["spec"]["hard"]), self.used(quota, world));
        let name = quota["metadata"]["name"].as_str().unwrap_or_default();
        let charged =
            charge(name, &hard, &used, &before, &after).map_err(|refusal| forbidden(review, refusal))?;
        Ok(charged.map(|charged| with_status(quota, &hard, &charged.used)))
    }

    /// The quota's usage; counted afresh when it is new, was never counted, or its limits have changed.
    fn used(&self, quota: &Value, world: &dyn World) -> Amounts {
        let (status, now) = (&quota["status"], self.seconds());
        let made = quota["metadata"]["creationTimestamp"]
            .as_str()
            .and_then(|at| at.parse::<Timestamp>().ok());
        let settled = made.is_none_or(|made| now > made.as_second() + SETTLING_SECONDS);
        if settled && status["hard"] == quota["spec"]["hard"] && !status["used"].is_null() {
            return amounts(&status["used"]);
        }
        count(quota, world, now)
    }
}

/// The object as the quota counts it; `None` when the quota does not.
fn counted<'o>(review: &'o Review, quota: &Value, object: &'o Value) -> Option<Counted<'o>> {
    let counted = Counted {
        group: &review.group,
        resource: &review.resource,
        object,
    };
    (!object.is_null() && matches(quota, &counted)).then_some(counted)
}

/// What a quota's limits can count; other kinds are found by their `count/` name.
const COUNTED: &[&str] = &[
    "pods",
    "services",
    "persistentvolumeclaims",
    "configmaps",
    "secrets",
    "replicationcontrollers",
    "resourcequotas",
];

/// `count/deployments.apps` names apps/deployments.
fn counted_kind(limit: &str) -> Option<(String, String)> {
    let (resource, group) = limit.strip_prefix("count/")?.split_once('.')?;
    Some((group.to_string(), resource.to_string()))
}

/// The kinds that the quota's limits count.
fn kinds(quota: &Value) -> Vec<(String, String)> {
    let limits: Vec<&String> = quota["spec"]["hard"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
        .collect();
    let concerned = |kind: &&&str| {
        let any = Counted {
            group: "",
            resource: kind,
            object: &Value::Null,
        };
        limits.iter().any(|limit| concerns(&any, limit))
    };
    let core = COUNTED
        .iter()
        .filter(concerned)
        .map(|kind| (String::new(), (*kind).to_string()));
    core.chain(limits.iter().filter_map(|limit| counted_kind(limit)))
        .collect()
}

fn count(quota: &Value, world: &dyn World, now_seconds: i64) -> Amounts {
    let kinds = kinds(quota);
    let namespace = quota["metadata"]["namespace"].as_str().unwrap_or_default();
    let objects: Vec<(usize, Value)> = kinds
        .iter()
        .enumerate()
        .flat_map(|(number, (group, resource))| {
            let found = world.list(&store_resource(group, resource), Some(namespace));
            found
                .into_iter()
                .map(move |object| (number, object.value()))
                .collect::<Vec<_>>()
        })
        .collect();
    let counted = objects.iter().map(|(number, object)| {
        let (group, resource) = &kinds[*number];
        Counted {
            group,
            resource,
            object,
        }
    });
    recount(quota, counted, now_seconds)
}

fn with_status(quota: &Value, hard: &Amounts, used: &Amounts) -> Value {
    let mut changed = quota.clone();
    changed["status"] = json!({"hard": to_json(hard), "used": to_json(used)});
    changed
}

/// Tells the status a quota should have, counted from the objects that exist: for resync after changes that were
/// not charged.
pub fn quota_status(quota: &Value, world: &dyn World, now_seconds: i64) -> Value {
    let used = count(quota, world, now_seconds);
    json!({"hard": quota["spec"]["hard"], "used": to_json(&used)})
}

#[async_trait]
impl Charge for Quotas {
    async fn charge(&self, review: &Review, world: &dyn World) -> ApiResult<Vec<Charged>> {
        let whole = matches!(review.subresource.as_str(), "" | "status" | "resize");
        if review.namespace.is_empty() || !whole || review.is("", "resourcequotas", "status") {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for quota in world.list(QUOTAS, Some(&review.namespace)) {
            // A quota that is itself being written is counted by the write, not charged by it.
            let itself = review.is("", "resourcequotas", "") && quota.name() == review.name.as_str();
            if itself {
                continue;
            }
            if let Some(value) = self.charge_one(review, world, &quota.value())? {
                found.push(Charged {
                    resource: QUOTAS.into(),
                    namespace: review.namespace.clone(),
                    name: quota.name().into_owned(),
                    revision: quota.revision(),
                    value,
                });
            }
        }
        Ok(found)
    }
}

/// Fills a quota's status as soon as it is written, so that it shows its limits and what is used before anything is
/// charged.
pub(super) struct QuotaStatus {
    clock: SharedClock,
}

impl QuotaStatus {
    /// Makes the plugin.
    pub(super) fn new(clock: SharedClock) -> Self {
        QuotaStatus { clock }
    }
}

#[async_trait]
impl Admit for QuotaStatus {
    async fn mutate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        let written = matches!(review.operation, Operation::Create | Operation::Update);
        let limits = &review.object["spec"]["hard"];
        if !written || !review.is("", "resourcequotas", "") || !limits.is_object() {
            return Ok(());
        }
        if *limits != review.old["status"]["hard"] {
            let mut quota = review.object.clone();
            quota["metadata"]["namespace"] = json!(review.namespace);
            review.object["status"] = quota_status(&quota, world, self.clock.now().as_second());
        }
        Ok(())
    }

    async fn validate(&self, _: &mut Review, _: &dyn World) -> ApiResult<()> {
        Ok(())
    }
}
