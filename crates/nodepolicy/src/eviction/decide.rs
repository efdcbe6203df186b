//! One pass of the eviction manager: from observations to conditions and, at most, one victim. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mainstay_semantics::quantity::{Format, Quantity};

use super::rank::{PodUse, rank};
use super::thresholds::{Condition, Layout, Signal, Threshold, available_text, bytes_text};
use crate::podspec;

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
pub struct Eviction {
    /// The pod.
    pub uid: String,
    /// What was short: a signal's name, or the pod's own limit.
    pub signal: &'static str,
    /// For its status and its event.
    pub message: String,
    /// Longest grace in seconds.
    pub grace_seconds: i64,
    /// Annotations of its event.
    pub annotations: BTreeMap<String, String>,
    /// Whether the node lacked something (the pod gets condition DisruptionTarget), or the pod broke its own limit.
    pub disruption: bool,
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

/// Whether every threshold has its amount and what is to be won back besides.
pub fn is_enough(thresholds: &[Threshold], seen: &Observations) -> bool {
    !thresholds.iter().any(|t| is_met(t, seen, true))
}

/// The message of an eviction, and the annotations of its event: what was low, and which containers used more than
/// they asked for.
fn message(threshold: &Threshold, seen: &Observations, pod: &PodUse) -> (String, BTreeMap<String, String>) {
    let resource = threshold.signal.resource();
    let mut text = format!("The node was low on resource: {resource}. ");
    if let Some(observation) = seen.get(&threshold.signal) {
        text.push_str(&format!(
            "Threshold quantity: {}, available: {}. ",
            threshold.amount.text(observation.capacity),
            available_text(threshold.signal, observation.available)
        ));
    }
    let mut annotations = BTreeMap::new();
    if !pod.known {
        return (text, annotations);
    }
    let larger = |kind: &str, name: &str, used: &str, request: &Quantity| {
        let request = request.canonical();
        format!(
            "{kind} {name} was using {used}, request is {request}, has larger consumption of {resource}. "
        )
    };
    if let Some(request) = pod.pod_level_request(resource).filter(|_| resource == "memory") {
        let (name, used) = (crate::podspec::name(&pod.pod), bytes_text(pod.memory));
        text.push_str(&larger("Pod", name, &used, request));
        annotations.insert("offending_pod".to_owned(), name.to_owned());
        annotations.insert("offending_pod_usage".to_owned(), used);
    }
    let (mut names, mut usages) = (Vec::new(), Vec::new());
    for container in &pod.containers {
        let used = match resource {
            "memory" => container.memory,
            "ephemeral-storage" => container.rootfs.bytes + container.logs.bytes,
            _ => continue,
        };
        let Some(requests) = pod.container_requests(&container.name) else {
            continue;
        };
        let request = requests.get(resource).cloned().unwrap_or_default();
        if Quantity::new(used, Format::BinarySI) > request {
            let used = bytes_text(used);
            text.push_str(&larger("Container", &container.name, &used, &request));
            names.push(container.name.as_str());
            usages.push(used);
        }
    }
    annotations.insert("offending_containers".to_owned(), names.join(","));
    annotations.insert("offending_containers_usage".to_owned(), usages.join(","));
    annotations.insert("starved_resource".to_owned(), resource.to_owned());
    (text, annotations)
}

/// Chooses the pod to evict for a threshold: the first in order that is not critical.
pub fn choose(
    threshold: &Threshold,
    layout: Layout,
    seen: &Observations,
    mut pods: Vec<PodUse>,
    max_grace_seconds: i64,
) -> Option<Eviction> {
    rank(threshold.signal, layout, &mut pods);
    let chosen = pods.iter().find(|p| !podspec::is_critical(&p.pod))?;
    let own = chosen
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.termination_grace_period_seconds);
    let (message, annotations) = message(threshold, seen, chosen);
    Some(Eviction {
        uid: chosen.uid().to_owned(),
        signal: threshold.signal.name(),
        message,
        annotations,
        disruption: true,
        grace_seconds: match threshold.is_hard() {
            true => HARD_GRACE_SECONDS,
            false => own.unwrap_or(max_grace_seconds).min(max_grace_seconds),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::rank::ContainerUse;
    use super::super::thresholds::Amount;
    use super::*;

    fn threshold(grace: u64, reclaim: Option<&str>) -> Threshold {
        let amount = |text: &str| {
            Amount::threshold("memory.available", text)
                .expect("valid")
                .expect("on")
        };
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
        let pod = serde_json::json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
        let pod = PodUse {
            known: true,
            memory: 500 << 20,
            containers: vec![ContainerUse {
                name: "c".into(),
                memory: 500 << 20,
                ..Default::default()
            }],
            ..PodUse::unmeasured(std::sync::Arc::new(serde_json::from_value(pod).expect("valid")))
        };
        let layout = Layout::default();
        let victim = choose(&threshold(0, None), layout, &left(50), vec![pod], 0).expect("a victim");
        assert_eq!(
            victim.message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 500Mi, \
             request is 0, has larger consumption of memory. "
        );
        assert_eq!(victim.annotations["offending_containers_usage"], "500Mi");
    }
}
