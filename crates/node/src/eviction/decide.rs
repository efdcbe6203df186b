//! One pass of the eviction manager: from observations to conditions and, at most, one victim. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::rank::{PodUse, rank};
use super::thresholds::{Condition, Signal, Threshold, bytes_text};

/// Grace in seconds of a hard eviction: the kubelet's one second, not zero, which would mean "at once and unsaid".
pub const HARD_GRACE_SECONDS: i64 = 1;

/// What is left of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// Left.
    pub available: i64,
    /// In all.
    pub capacity: i64,
}

/// Observations by signal; signals that cannot be read are missing.
pub type Observations = BTreeMap<Signal, Observation>;

/// What one pass leaves for the next.
#[derive(Debug, Default)]
pub struct Memory {
    met: Vec<Threshold>,
    met_since: Vec<(Threshold, Duration)>,
    seen_at: BTreeMap<Condition, Duration>,
}

/// A pod to evict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Victim {
    /// The pod.
    pub uid: String,
    /// For its status.
    pub message: String,
    /// Longest grace in seconds.
    pub grace_seconds: i64,
}

/// What follows from one look.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decision {
    /// Conditions that hold, those in their transition period included.
    pub conditions: BTreeSet<Condition>,
    /// The threshold to act on.
    pub act_on: Option<Threshold>,
}

fn is_met(threshold: &Threshold, seen: &Observations, with_reclaim: bool) -> bool {
    let Some(observation) = seen.get(&threshold.signal) else {
        return false;
    };
    let mut wanted = threshold.amount.of(observation.capacity);
    if with_reclaim {
        let more = threshold.min_reclaim.as_ref();
        wanted += more.map_or(0, |r| r.of(observation.capacity));
    }
    observation.available < wanted
}

/// Decides which conditions hold and which threshold to act on. `now` is monotonic.
pub fn decide(
    memory: &mut Memory,
    thresholds: &[Threshold],
    seen: &Observations,
    transition: Duration,
    now: Duration,
) -> Decision {
    let mut met: Vec<Threshold> = thresholds
        .iter()
        .filter(|t| is_met(t, seen, false))
        .cloned()
        .collect();
    for unresolved in memory.met.iter().filter(|t| is_met(t, seen, true)) {
        if !met.contains(unresolved) {
            met.push(unresolved.clone());
        }
    }
    memory.met_since = met
        .iter()
        .map(|t| {
            let since = memory.met_since.iter().find(|(m, _)| m == t).map(|(_, at)| *at);
            (t.clone(), since.unwrap_or(now))
        })
        .collect();
    for threshold in &met {
        memory.seen_at.insert(threshold.signal.condition(), now);
    }
    let conditions = memory
        .seen_at
        .iter()
        .filter(|(_, at)| now.saturating_sub(**at) < transition)
        .map(|(c, _)| *c);
    let conditions = conditions.collect();
    let mut ripe: Vec<Threshold> = memory
        .met_since
        .iter()
        .filter(|(t, since)| now.saturating_sub(*since) >= t.grace)
        .map(|(t, _)| t.clone())
        .collect();
    memory.met = ripe.clone();
    ripe.sort_by_key(|t| t.signal.condition() != Condition::Memory);
    Decision {
        conditions,
        act_on: ripe.into_iter().next(),
    }
}

/// The message of an eviction: what was low, and which containers used more than they asked for.
fn message(threshold: &Threshold, seen: &Observations, pod: &PodUse) -> String {
    let resource = threshold.signal.resource();
    let mut text = format!("The node was low on resource: {resource}. ");
    if let Some(observation) = seen.get(&threshold.signal) {
        text.push_str(&format!(
            "Threshold quantity: {}, available: {}. ",
            threshold.amount.text(observation.capacity),
            bytes_text(observation.available)
        ));
    }
    for container in &pod.containers {
        let (used, request) = match resource {
            "memory" => (container.memory, container.memory_request),
            "ephemeral-storage" => (container.disk, container.disk_request),
            _ => continue,
        };
        if used > request {
            text.push_str(&format!(
                "Container {} was using {}, request is {}, has larger consumption of {resource}. ",
                container.name,
                bytes_text(used),
                bytes_text(request)
            ));
        }
    }
    text
}

/// Chooses the pod to evict for a threshold.
pub fn choose(
    threshold: &Threshold,
    seen: &Observations,
    mut pods: Vec<PodUse>,
    max_grace_seconds: i64,
) -> Option<Victim> {
    rank(threshold.signal, &mut pods);
    let pod = pods.iter().find(|p| !p.critical)?;
    Some(Victim {
        uid: pod.uid.clone(),
        message: message(threshold, seen, pod),
        grace_seconds: if threshold.is_hard() {
            HARD_GRACE_SECONDS
        } else {
            max_grace_seconds
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::rank::ContainerUse;
    use super::super::thresholds::Amount;
    use super::*;

    fn threshold(grace: u64, reclaim: Option<&str>) -> Threshold {
        let amount = |text: &str| Amount::parse(text).expect("valid").expect("on");
        Threshold {
            signal: Signal::Memory,
            amount: amount("100Mi"),
            grace: Duration::from_secs(grace),
            min_reclaim: reclaim.map(amount),
        }
    }

    fn left(mib: i64) -> Observations {
        let observation = Observation {
            available: mib << 20,
            capacity: 4 << 30,
        };
        BTreeMap::from([(Signal::Memory, observation)])
    }

    /// Shows conditions and actions for (second, MiB left).
    fn run(thresholds: &[Threshold], looks: &[(u64, i64)]) -> Vec<String> {
        let mut memory = Memory::default();
        looks
            .iter()
            .map(|(at, mib)| {
                let transition = Duration::from_secs(300);
                let decision = decide(
                    &mut memory,
                    thresholds,
                    &left(*mib),
                    transition,
                    Duration::from_secs(*at),
                );
                let conditions: Vec<&str> = decision.conditions.iter().map(|c| c.as_str()).collect();
                format!(
                    "{at}: {}{}",
                    conditions.join(","),
                    if decision.act_on.is_some() { " evict" } else { "" }
                )
            })
            .collect()
    }

    #[test]
    fn a_condition_outlasts_the_pressure_by_its_transition_period() {
        let looks = [(0, 2000), (10, 50), (20, 2000), (200, 2000), (321, 2000)];
        assert_eq!(
            run(&[threshold(0, None)], &looks),
            [
                "0: ",
                "10: MemoryPressure evict",
                "20: MemoryPressure",
                "200: MemoryPressure",
                "321: "
            ]
        );
    }

    #[test]
    fn a_soft_threshold_waits_for_its_grace_which_restarts_on_recovery() {
        let looks = [(0, 50), (60, 50), (70, 2000), (80, 50), (169, 50), (170, 50)];
        let acted: Vec<bool> = run(&[threshold(90, None)], &looks)
            .iter()
            .map(|l| l.ends_with("evict"))
            .collect();
        assert_eq!(acted, [false, false, false, false, false, true]);
    }

    #[test]
    fn minimum_reclaim_keeps_evicting_until_more_is_free() {
        let looks = [(0, 50), (10, 150), (20, 700)];
        let acted: Vec<bool> = run(&[threshold(0, Some("500Mi"))], &looks)
            .iter()
            .map(|l| l.ends_with("evict"))
            .collect();
        assert_eq!(acted, [true, true, false]);
    }

    #[test]
    fn the_message_says_what_lacked_and_who_used_it() {
        let pod = PodUse {
            uid: "u".into(),
            known: true,
            memory: 500 << 20,
            containers: vec![ContainerUse {
                name: "c".into(),
                memory: 500 << 20,
                ..Default::default()
            }],
            ..Default::default()
        };
        let victim = choose(&threshold(0, None), &left(50), vec![pod], 0).expect("a victim");
        assert_eq!(
            victim.message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 500Mi, \
             request is 0, has larger consumption of memory. "
        );
    }
}
