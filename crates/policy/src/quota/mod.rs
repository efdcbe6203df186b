//! ResourceQuota: what an object is charged, which quotas it falls under, and whether a charge fits.
//!
//! Usage is a function of the object alone (and, for pods being deleted, of the time), so that admission, resync
//! and the simulator agree.

mod scopes;
mod usage;

pub use scopes::{applies, matches};
pub use usage::{Charged, concerns, is_extended_for_quota, missing, usage};

use std::cmp::Ordering;

use crate::amounts::{Amounts, add, amounts, difference};

use serde_json::Value;

/// What one quota is asked to bear.
#[derive(Debug, Clone, PartialEq)]
pub struct Charge {
    /// The quota's usage after the charge, for every resource it limits.
    pub used: Amounts,
}

/// Why a quota refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A container lacks a request or limit that the quota counts.
    #[error("failed quota: {quota}: must specify {missing}")]
    Missing {
        /// The quota's name.
        quota: String,
        /// `resource for: container,...; ...`.
        missing: String,
    },
    /// The charge does not fit.
    #[error("exceeded quota: {quota}, requested: {requested}, used: {used}, limited: {limited}")]
    Exceeded {
        /// The quota's name.
        quota: String,
        /// What the object adds, of the resources that do not fit.
        requested: String,
        /// What is used already.
        used: String,
        /// The limits.
        limited: String,
    },
    /// The quota has never been counted.
    #[error("status unknown for quota: {quota}, resources: {resources}")]
    Unknown {
        /// The quota's name.
        quota: String,
        /// The resources without a known usage.
        resources: String,
    },
}

/// Decides whether a quota bears the change from `before` to `after` (usages of the old and the new object).
/// Returns the new usage, or `None` when the change does not touch what the quota counts.
///
/// # Errors
/// When a resource that grows would pass its limit.
pub fn charge(
    quota: &str,
    hard: &Amounts,
    used: &Amounts,
    before: &Amounts,
    after: &Amounts,
) -> Result<Option<Charge>, Refusal> {
    let mut delta = difference(after, before);
    delta.retain(|name, amount| hard.contains_key(name) && !amount.is_zero());
    if delta.is_empty() {
        return Ok(None);
    }
    let mut total = used.clone();
    total.retain(|name, _| hard.contains_key(name));
    add(&mut total, &delta);
    let over: Vec<&String> = delta
        .iter()
        .filter(|(name, amount)| amount.sign() > 0 && total[*name].cmp(&hard[*name]) == Ordering::Greater)
        .map(|(name, _)| name)
        .collect();
    if over.is_empty() {
        return Ok(Some(Charge { used: total }));
    }
    Err(Refusal::Exceeded {
        quota: quota.to_string(),
        requested: pick(&delta, &over),
        used: pick(used, &over),
        limited: pick(hard, &over),
    })
}

/// `a=1,b=2` of some resources; those not known count as 0.
fn pick(amounts: &Amounts, names: &[&String]) -> String {
    let one = |name: &&String| {
        let amount = amounts
            .get(*name)
            .map_or_else(|| "0".to_string(), |amount| amount.canonical());
        format!("{name}={amount}")
    };
    names.iter().map(one).collect::<Vec<_>>().join(",")
}

/// Sums the usage of all objects that fall under the quota, with a zero for each limited resource that none uses.
pub fn recount<'o>(quota: &Value, objects: impl Iterator<Item = Charged<'o>>, now_seconds: i64) -> Amounts {
    let hard = amounts(&quota["spec"]["hard"]);
    let mut used: Amounts = hard
        .keys()
        .map(|name| (name.clone(), mainstay_semantics::quantity::Quantity::zero()))
        .collect();
    for object in objects.filter(|object| matches(quota, object)) {
        let mut own = usage(&object, now_seconds);
        own.retain(|name, _| hard.contains_key(name));
        add(&mut used, &own);
    }
    used
}

#[cfg(test)]
mod tests;
