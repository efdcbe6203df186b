//! Eviction limits by zone: one sick node is emptied soon, a sick zone slowly or not at all, and when everything looks
//! lost, the fault is ours and nothing is evicted. Rules:
//! <https://kubernetes.io/docs/concepts/architecture/nodes/#rate-limits-on-eviction>.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mainstay_semantics::labels::{REGION, ZONE};
use mainstay_semantics::toleration::Effect;

use super::Health;
use super::health::{NOT_READY, Readiness, Step, UNREACHABLE, readiness};
use crate::kinds::{Node, NodeTaint};

/// Fewer lost nodes than this never make a zone disrupted.
const LOST_AT_LEAST: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Normal,
    Partial,
    Full,
}

/// A bucket that fills with the zone's rate up to one eviction.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Duration,
}

/// What is remembered about zones between passes.
pub(super) struct Zones {
    health: Health,
    buckets: HashMap<String, Bucket>,
}

type Planned = (Arc<Node>, Vec<Step>);

fn zone_of(node: &Node) -> String {
    let label = |name: &str| node.metadata.labels.as_ref()?.get(name).map(String::as_str);
    [label(REGION).unwrap_or_default(), label(ZONE).unwrap_or_default()].join("/")
}

fn is_eviction(taint: &NodeTaint) -> bool {
    taint.taint.effect == Effect::NoExecute && [NOT_READY, UNREACHABLE].contains(&taint.taint.key.as_str())
}

/// Whether these taints start an eviction that the node's present ones do not.
fn starts_eviction(node: &Node, taints: &[NodeTaint]) -> bool {
    taints.iter().any(is_eviction) && !node.spec.taints.iter().any(is_eviction)
}

impl Zones {
    pub(super) fn new(health: Health) -> Self {
        Zones {
            health,
            buckets: HashMap::new(),
        }
    }

    /// Takes evictions out of the plans that their zone does not allow now.
    pub(super) fn limit(&mut self, plans: &mut [Planned], now: Duration) {
        let states = self.states(plans);
        let all_lost =
            !states.is_empty() && states.values().all(|(state, _)| *state == State::Full) && plans.len() > 1;
        for (node, steps) in plans.iter_mut() {
            let zone = zone_of(node);
            let (state, size) = states.get(&zone).copied().unwrap_or((State::Normal, 1));
            let rate = if all_lost { 0.0 } else { self.rate(state, size) };
            for step in steps.iter_mut() {
                if let Step::Taints(taints) = step
                    && starts_eviction(node, taints)
                    && !self.take(&zone, rate, now)
                {
                    taints.retain(|taint| !is_eviction(taint));
                }
            }
            steps.retain(|step| !matches!(step, Step::Taints(taints) if *taints == node.spec.taints));
        }
    }

    fn states(&self, plans: &[Planned]) -> HashMap<String, (State, usize)> {
        let mut counts: HashMap<String, (usize, usize)> = HashMap::new();
        for (node, steps) in plans {
            let new = steps.iter().find_map(|step| match step {
                Step::Conditions(conditions) => Some(conditions),
                _ => None,
            });
            let lost = readiness(new.unwrap_or(&node.status.conditions)) != Readiness::Ready;
            let count = counts.entry(zone_of(node)).or_default();
            count.0 += usize::from(lost);
            count.1 += 1;
        }
        let state = |(lost, all): (usize, usize)| match lost {
            lost if lost > 0 && lost == all => State::Full,
            lost if lost >= LOST_AT_LEAST && lost as f64 / all as f64 >= self.health.unhealthy_share => {
                State::Partial
            }
            _ => State::Normal,
        };
        counts
            .into_iter()
            .map(|(zone, count)| (zone, (state(count), count.1)))
            .collect()
    }

    fn rate(&self, state: State, size: usize) -> f64 {
        match state {
            State::Normal | State::Full => self.health.eviction_rate,
            State::Partial if size > self.health.large_zone => self.health.secondary_rate,
            State::Partial => 0.0,
        }
    }

    fn take(&mut self, zone: &str, rate: f64, now: Duration) -> bool {
        let bucket = self
            .buckets
            .entry(zone.to_string())
            .or_insert(Bucket { tokens: 1.0, at: now });
        bucket.tokens = (bucket.tokens + rate * now.saturating_sub(bucket.at).as_secs_f64()).min(1.0);
        bucket.at = now;
        // The tolerance covers rounding: 50 times 0.02 shall be one.
        let allowed = rate > 0.0 && bucket.tokens >= 1.0 - 1e-9;
        if allowed {
            bucket.tokens -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::health;
    use crate::testing::{at, decoded};
    use serde_json::json;

    /// Nodes in zones, `lost` of each silent.
    fn evicted(zones: &mut Zones, sizes: &[(usize, usize)], now: u64) -> Vec<usize> {
        let mut plans = Vec::new();
        for (zone, (lost, all)) in sizes.iter().enumerate() {
            for number in 0..*all {
                let node: Node = decoded(json!({
                    "metadata": {"name": format!("n{zone}-{number}"), "labels": {ZONE: format!("z{zone}")}},
                    "spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]},
                }));
                let silence = Duration::from_secs(if number < *lost { 60 } else { 0 });
                let steps = health::plan(&node, silence, &Health::default(), at(1000));
                plans.push((Arc::new(node), steps));
            }
        }
        zones.limit(&mut plans, Duration::from_secs(now));
        let starts = |(node, steps): &&Planned| {
            steps
                .iter()
                .any(|step| matches!(step, Step::Taints(taints) if starts_eviction(node, taints)))
        };
        let in_zone = |zone: usize| {
            plans
                .iter()
                .filter(|(node, _)| zone_of(node) == format!("/z{zone}"))
                .filter(starts)
                .count()
        };
        (0..sizes.len()).map(in_zone).collect()
    }

    #[test]
    fn a_healthy_zone_evicts_one_node_in_ten_seconds() {
        let mut zones = Zones::new(Health::default());
        assert_eq!(evicted(&mut zones, &[(2, 10)], 100), [1]);
        assert_eq!(evicted(&mut zones, &[(2, 10)], 105), [0]);
        assert_eq!(evicted(&mut zones, &[(2, 10)], 110), [1]);
    }

    #[test]
    fn a_disrupted_small_zone_stops_and_others_go_on() {
        let mut zones = Zones::new(Health::default());
        assert_eq!(evicted(&mut zones, &[(6, 10), (1, 10)], 100), [0, 1]);
    }

    #[test]
    fn a_disrupted_large_zone_is_slow() {
        let mut zones = Zones::new(Health::default());
        assert_eq!(evicted(&mut zones, &[(60, 100)], 100), [1]);
        assert_eq!(evicted(&mut zones, &[(60, 100)], 150), [0]);
        assert_eq!(evicted(&mut zones, &[(60, 100)], 200), [1]);
    }

    #[test]
    fn a_lost_zone_is_emptied_but_when_all_are_lost_nothing_is() {
        let mut zones = Zones::new(Health::default());
        assert_eq!(evicted(&mut zones, &[(5, 5), (0, 5)], 100), [1, 0]);
        let mut zones = Zones::new(Health::default());
        assert_eq!(evicted(&mut zones, &[(5, 5), (5, 5)], 100), [0, 0]);
    }
}
