//! Which observations are faults: conditions, probes and leases against a policy's triggers.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use mainstay_api::{
    ComputeNode,
    conditions::{find, types},
    repair::{Fault, RepairPolicySpec, Source, Trigger},
};
use mainstay_machines::context::{NodeView, NodeViewCondition};

/// One thing that was observed about a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Where.
    pub source: Source,
    /// Condition type, or empty for probe and lease.
    pub kind: String,
    /// Status.
    pub status: String,
    /// Reason.
    pub reason: String,
    /// Message.
    pub message: String,
    /// Since when the status lasts.
    pub since: Timestamp,
}

/// What the observations say about a machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Health {
    /// No trigger matches.
    Healthy,
    /// A trigger matches but not for long enough; look again then.
    Suspect(SignedDuration),
    /// A fault that counts, with the trigger it matched.
    Faulty(Box<Fault>, Box<Trigger>),
    /// Nothing is known: neither starts nor ends a repair.
    Unknown,
}

/// What the liveness probe says, once it has said anything.
pub(crate) fn probe(node: &ComputeNode) -> Option<Observation> {
    let conditions = &node.status.as_ref()?.conditions;
    let probe = find(conditions, types::PROBE_PASSED)?;
    Some(Observation {
        source: Source::Probe,
        kind: String::new(),
        status: probe.status.clone(),
        reason: probe.reason.clone(),
        message: probe.message.clone(),
        since: probe.last_transition_time.0,
    })
}

fn condition(source: Source, kind: &str, condition: &NodeViewCondition) -> Observation {
    Observation {
        source,
        kind: kind.to_string(),
        status: condition.status.clone(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        since: condition.last_transition_time.unwrap_or(Timestamp::MIN),
    }
}

/// Everything observed about one machine and its Node.
pub fn observations(compute: &ComputeNode, node: Option<&NodeView>) -> Vec<Observation> {
    let mut seen: Vec<Observation> = probe(compute).into_iter().collect();
    if let Some(node) = node {
        let conditions = &node.status.conditions;
        seen.extend(
            conditions
                .iter()
                .map(|c| condition(Source::NodeCondition, &c.kind, c)),
        );
        // An expired Lease shows as Ready=Unknown, set by whoever watches the Leases.
        seen.extend(
            node.condition("Ready")
                .map(|ready| condition(Source::Lease, "", ready)),
        );
    }
    seen
}

/// Judges one machine by everything observed. While it is not provisioned or being deleted nothing is known.
pub fn health(
    policy: &RepairPolicySpec,
    compute: &ComputeNode,
    node: Option<&NodeView>,
    now: Timestamp,
) -> Health {
    let status = compute.status.as_ref();
    let provisioned = status.is_some_and(|status| status.initialization.provisioned);
    if !provisioned || compute.metadata.deletion_timestamp.is_some() {
        return Health::Unknown;
    }
    judge(policy, &observations(compute, node), now)
}

fn matches(trigger: &Trigger, seen: &Observation) -> bool {
    let status = if trigger.status.is_empty() {
        default_status(trigger.source)
    } else {
        &trigger.status
    };
    trigger.source == seen.source
        && (trigger.kind.is_empty() || trigger.kind == seen.kind)
        && status == seen.status
        && (trigger.reasons.is_empty() || trigger.reasons.contains(&seen.reason))
}

/// The status that means trouble when a trigger names none.
fn default_status(source: Source) -> &'static str {
    match source {
        Source::Probe => "False",
        Source::Lease => "Unknown",
        Source::NodeCondition | Source::Alert => "True",
    }
}

/// Judges a machine; of several faults the one that lasts longest counts.
pub fn judge(policy: &RepairPolicySpec, seen: &[Observation], now: Timestamp) -> Health {
    if seen.is_empty() {
        return Health::Unknown;
    }
    let mut suspect: Option<SignedDuration> = None;
    let mut faulty: Option<(&Observation, &Trigger)> = None;
    for observation in seen {
        for trigger in policy
            .triggers
            .iter()
            .filter(|trigger| matches(trigger, observation))
        {
            let needed = SignedDuration::try_from(trigger.lasting.0).unwrap_or(SignedDuration::MAX);
            let left = needed - now.duration_since(observation.since);
            if left.is_positive() {
                suspect = Some(suspect.map_or(left, |known| known.min(left)));
            } else if faulty.is_none_or(|(known, _)| observation.since < known.since) {
                faulty = Some((observation, trigger));
            }
        }
    }
    match (faulty, suspect) {
        (Some((seen, trigger)), _) => {
            Health::Faulty(Box::new(fault(seen, trigger)), Box::new(trigger.clone()))
        }
        (None, Some(left)) => Health::Suspect(left),
        (None, None) => Health::Healthy,
    }
}

fn fault(seen: &Observation, trigger: &Trigger) -> Fault {
    Fault {
        source: seen.source,
        kind: seen.kind.clone(),
        reason: seen.reason.clone(),
        message: seen.message.clone(),
        class: trigger.class,
        first_seen: Some(Time(seen.since)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_api::GoDuration;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn policy() -> RepairPolicySpec {
        let deadlock = Trigger {
            kind: "KernelDeadlock".into(),
            reasons: vec!["DockerHung".into()],
            lasting: GoDuration::seconds(60),
            ..Default::default()
        };
        RepairPolicySpec {
            triggers: vec![deadlock],
            ..Default::default()
        }
    }

    fn seen(status: &str, reason: &str) -> Vec<Observation> {
        vec![Observation {
            source: Source::NodeCondition,
            kind: "KernelDeadlock".into(),
            status: status.into(),
            reason: reason.into(),
            message: String::new(),
            since: at(0),
        }]
    }

    #[test]
    fn a_condition_counts_only_with_its_reason_and_after_its_time() {
        assert_eq!(
            judge(&policy(), &seen("True", "DockerHung"), at(59)),
            Health::Suspect(SignedDuration::from_secs(1))
        );
        assert!(matches!(
            judge(&policy(), &seen("True", "DockerHung"), at(60)),
            Health::Faulty(..)
        ));
        assert_eq!(judge(&policy(), &seen("True", "Other"), at(600)), Health::Healthy);
        assert_eq!(
            judge(&policy(), &seen("Unknown", "DockerHung"), at(600)),
            Health::Healthy
        );
        assert_eq!(judge(&policy(), &[], at(600)), Health::Unknown);
    }
}
