//! The order in which pods end when the machine goes down: groups by priority, each with its grace.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::admission::Refusal;
use crate::config::KubeletConfiguration;

/// From this priority on pods are critical to the cluster.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// The grace of pods from a priority on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PriorityGrace {
    /// The lowest priority of the group.
    pub priority: i32,
    /// How long its pods may take.
    pub shutdown_grace_period_seconds: i64,
}

/// The two graces of the older configuration as groups; none when they contradict each other or there is no grace.
pub fn from_periods(whole: Duration, critical: Duration) -> Vec<PriorityGrace> {
    let Some(others) = whole.checked_sub(critical).filter(|_| !whole.is_zero()) else {
        return Vec::new();
    };
    let group = |priority, grace: Duration| PriorityGrace {
        priority,
        shutdown_grace_period_seconds: grace.as_secs() as i64,
    };
    vec![group(0, others), group(CRITICAL_PRIORITY, critical)]
}

/// The groups of a configuration, the lowest priority first; none: no order is kept.
pub fn periods(config: &KubeletConfiguration) -> Vec<PriorityGrace> {
    if !config.gate("GracefulNodeShutdown") {
        return Vec::new();
    }
    let mut periods = match config.gate("GracefulNodeShutdownBasedOnPodPriority") {
        true => config.shutdown_grace_period_by_pod_priority.clone(),
        false => Vec::new(),
    };
    if periods.is_empty() {
        let critical = config.shutdown_grace_period_critical_pods;
        periods = from_periods(config.shutdown_grace_period, critical);
    }
    periods.sort_by_key(|p| p.priority);
    periods
}

/// Puts each pod into the highest group that its priority reaches; what is below the lowest goes there. `periods` are
/// sorted.
pub fn groups<'p>(periods: &[PriorityGrace], pods: &[&'p Pod]) -> Vec<(PriorityGrace, Vec<&'p Pod>)> {
    let mut groups: Vec<(PriorityGrace, Vec<&Pod>)> = periods.iter().map(|p| (*p, Vec::new())).collect();
    for pod in pods {
        let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
        // Of groups with one priority a pod of exactly that takes the first, a higher one the last.
        let not_below = periods.partition_point(|p| p.priority < priority);
        let index = match periods.get(not_below) {
            Some(p) if p.priority == priority => not_below,
            _ => not_below.saturating_sub(1),
        };
        if let Some((_, group)) = groups.get_mut(index) {
            group.push(pod);
        }
    }
    groups
}

/// The refusal of a pod that comes too late.
pub fn refusal() -> Refusal {
    Refusal {
        reason: "NodeShutdown".to_owned(),
        message: "Pod was rejected as the node is shutting down.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn critical_pods_keep_their_part_of_the_grace() {
        let seconds = Duration::from_secs;
        let graces: Vec<i64> = from_periods(seconds(30), seconds(10))
            .iter()
            .map(|p| p.shutdown_grace_period_seconds)
            .collect();
        assert_eq!(graces, [20, 10]);
        assert_eq!(from_periods(seconds(10), seconds(20)), []);
    }
}
