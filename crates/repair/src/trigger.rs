//! Which observations are faults: conditions, probes and leases against a policy's triggers.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use mainstay_api::repair::{Fault, RepairPolicySpec, Source, Trigger};

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
