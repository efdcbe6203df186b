//! A container's resources as its status tells them: what it was given, with the amounts that the runtime reads back from
//! the kernel. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use mainstay_semantics::quantity::{Format, Quantity};

use crate::amount;

/// Fewest `cpu.shares`: what a request of nothing or next to nothing becomes.
const LEAST_SHARES: i64 = 2;
/// Smallest quota in thousandths: what a smaller limit becomes.
const LEAST_QUOTA_MILLI: i64 = 10;

/// Limits of a running container as its runtime tells them; 0 where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reported {
    /// `cpu.shares`.
    pub cpu_shares: i64,
    /// Microseconds in a period.
    pub cpu_quota: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Bytes.
    pub memory: i64,
}

impl Reported {
    /// Thousandths of a processor that shares stand for.
    fn cpu_request(&self) -> Option<i64> {
        (self.cpu_shares > 0).then(|| (self.cpu_shares * 1000 + 1023) / 1024)
    }

    fn cpu_limit(&self) -> Option<i64> {
        (self.cpu_quota > 0 && self.cpu_period > 0).then(|| self.cpu_quota * 1000 / self.cpu_period)
    }

    fn memory_limit(&self) -> Option<i64> {
        (self.memory > 0).then_some(self.memory)
    }

    /// What a container was given, as far as the kernel has it: an amount that was never asked for is not added.
    pub fn over(&self, given: &ResourceRequirements) -> ResourceRequirements {
        let mut seen = given.clone();
        let milli = |value: i64| Quantity::from_milli(value, Format::DecimalSI);
        if let Some(found) = self.cpu_request() {
            let least = found <= LEAST_SHARES;
            replace(seen.requests.as_mut(), "cpu", milli(found), |asked| {
                least && asked <= LEAST_SHARES
            });
        }
        if let Some(found) = self.cpu_limit() {
            let least = found == LEAST_QUOTA_MILLI;
            replace(seen.limits.as_mut(), "cpu", milli(found), |asked| {
                least && asked <= LEAST_QUOTA_MILLI
            });
        }
        if let Some(found) = self.memory_limit() {
            let found = Quantity::new(found, Format::BinarySI);
            replace(seen.limits.as_mut(), "memory", found, |_| false);
        }
        seen
    }
}

/// Puts an amount in the place of another that is not the same; `rounded` tells whether the kernel's is as near to what was
/// asked for (thousandths for processors) as it gets.
fn replace(
    list: Option<&mut BTreeMap<String, ApiQuantity>>,
    name: &str,
    found: Quantity,
    rounded: impl Fn(i64) -> bool,
) {
    let Some(asked) = list.and_then(|list| list.get_mut(name)) else {
        return;
    };
    let same = Quantity::parse(&asked.0).is_ok_and(|asked| asked == found);
    if !same && !rounded(amount::of(name, asked)) {
        *asked = ApiQuantity(found.canonical());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn over(reported: Reported, given: Value) -> Value {
        let given: ResourceRequirements = serde_json::from_value(given).expect("valid");
        serde_json::to_value(reported.over(&given)).expect("serializable")
    }

    const REPORTED: Reported = Reported {
        cpu_shares: 102,
        cpu_quota: 20_000,
        cpu_period: 100_000,
        memory: 64 << 20,
    };

    #[test]
    fn what_the_kernel_has_is_told_in_the_words_that_were_asked_in_if_it_is_the_same() {
        let same = json!({"requests": {"cpu": "0.1", "memory": "16Mi"}, "limits": {"cpu": "200m", "memory": "67108864"}});
        assert_eq!(over(REPORTED, same.clone()), same);
        let other =
            json!({"requests": {"cpu": "300m", "memory": "16Mi"}, "limits": {"cpu": "1", "memory": "32Mi"}});
        assert_eq!(
            over(REPORTED, other),
            json!({"requests": {"cpu": "100m", "memory": "16Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}})
        );
    }

    #[test]
    fn nothing_is_added_that_was_not_asked_for() {
        let given = json!({"requests": {"memory": "16Mi"}});
        assert_eq!(over(REPORTED, given.clone()), given);
    }

    #[test]
    fn amounts_below_the_kernels_least_stay_as_asked() {
        let least = Reported {
            cpu_shares: 2,
            cpu_quota: 1_000,
            cpu_period: 100_000,
            memory: 0,
        };
        let given = json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "5m"}});
        assert_eq!(over(least, given.clone()), given);
    }
}
