//! Limits of the cgroups above pods: of all pods together, of the node's own daemons, and of the classes. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use mainstay_semantics::qos::Class;

use crate::amount::{self, Amounts};
use crate::memory_qos::Protected;
use crate::qos::{self, MIN_SHARES, shares};

/// Limits of a cgroup for a list of resources; what the list does not name is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupLimits {
    /// `cpu.shares`.
    pub shares: Option<i64>,
    /// Bytes.
    pub memory: Option<i64>,
    /// Most processes.
    pub pids: Option<i64>,
    /// Bytes by page size.
    pub hugepages: BTreeMap<i64, i64>,
    /// Memory that the kernel leaves alone.
    pub protected: Protected,
}

/// The limits for these resources; with `compressible_only` those that slow down and never kill.
pub fn limits(of: &Amounts, compressible_only: bool) -> GroupLimits {
    let shares = of.get("cpu").map(|milli| shares(*milli));
    if compressible_only {
        return GroupLimits {
            shares,
            ..Default::default()
        };
    }
    let pages = of.iter().filter_map(|(name, bytes)| {
        let size = amount::value(name.strip_prefix("hugepages-")?)?;
        Some((size, *bytes))
    });
    GroupLimits {
        shares,
        memory: of.get("memory").copied(),
        pids: of.get("pid").copied(),
        hugepages: pages.collect(),
        ..Default::default()
    }
}

/// Memory that pods of a class request together, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requested {
    /// By Guaranteed pods.
    pub guaranteed: i64,
    /// By Burstable pods.
    pub burstable: i64,
}

/// Limits of the cgroups of the two lower classes. Guaranteed pods have no cgroup of their own: what is set for them is
/// set for all pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tiers {
    /// Of all pods together.
    pub guaranteed: GroupLimits,
    /// What the limits were made from.
    pub requested_memory: Requested,
    /// Of Burstable pods.
    pub burstable: GroupLimits,
    /// Of BestEffort pods.
    pub best_effort: GroupLimits,
}

impl Tiers {
    /// The limits of a class, if it has any.
    pub fn of(&self, class: Class) -> Option<&GroupLimits> {
        match class {
            Class::Guaranteed => Some(&self.guaranteed).filter(|limits| **limits != GroupLimits::default()),
            Class::Burstable => Some(&self.burstable),
            Class::BestEffort => Some(&self.best_effort),
        }
    }
}

/// Weighs the classes by their pods' requests. A `reserved_percent` above zero withholds that share of what higher
/// classes request from the memory (`allocatable` bytes) of the lower ones.
pub fn tiers<'p>(
    pods: impl IntoIterator<Item = &'p Pod>,
    allocatable: Option<i64>,
    reserved_percent: i64,
) -> Tiers {
    let (mut cpu, mut guaranteed, mut burstable) = (0, 0, 0);
    for pod in pods {
        let requests = qos::pod_requests(pod);
        let of = |name: &str| requests.get(name).copied().unwrap_or(0);
        match qos::class(pod) {
            Class::Guaranteed => guaranteed += of("memory"),
            Class::Burstable => {
                cpu += of("cpu");
                burstable += of("memory");
            }
            Class::BestEffort => {}
        }
    }
    let allocatable = allocatable.filter(|bytes| reserved_percent > 0 && *bytes > 0);
    let for_burstable = allocatable.map(|bytes| bytes - guaranteed * reserved_percent / 100);
    let for_best_effort = for_burstable.map(|bytes| bytes - burstable * reserved_percent / 100);
    let group = |shares, memory| GroupLimits {
        shares: Some(shares),
        memory,
        ..Default::default()
    };
    Tiers {
        guaranteed: GroupLimits::default(),
        requested_memory: Requested {
            guaranteed,
            burstable,
        },
        burstable: group(shares(cpu), for_burstable),
        best_effort: group(MIN_SHARES, for_best_effort),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressible_limits_are_the_weight_alone() {
        let of = Amounts::from([
            ("cpu".into(), 500),
            ("memory".into(), 1 << 30),
            ("hugepages-2Mi".into(), 4 << 20),
        ]);
        assert_eq!(limits(&of, true).memory, None);
        let all = limits(&of, false);
        assert_eq!(
            (all.shares, all.hugepages),
            (Some(512), BTreeMap::from([(2 << 20, 4 << 20)]))
        );
    }
}
