//! MachineSet: which machines go first, which are remediated first and how many at once.

use std::cmp::Ordering;

use jiff::Timestamp;

/// What the order of deletion depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletable {
    /// Name: breaks ties, ascending.
    pub name: String,
    /// Creation time.
    pub created: Timestamp,
    /// Is being deleted already.
    pub deleting: bool,
    /// Carries the delete-machine annotation.
    pub annotated: bool,
    /// Is being updated in place.
    pub updating: bool,
    /// Has no Node, or a health condition is False.
    pub unhealthy: bool,
}

/// Ages count up to this scale, in days.
const AGE_SCALE_DAYS: f64 = 10.0;
/// Highest priority that age can give, and the priority of unhealthy machines.
const UNHEALTHY: f64 = 50.0;

/// Priority of a machine; the highest goes first.
fn priority(machine: &Deletable, order: &str, now: Timestamp) -> f64 {
    let by_age = || {
        let days = now.duration_since(machine.created).as_secs_f64() / 86_400.0;
        if days <= 0.0 {
            0.0
        } else {
            UNHEALTHY * (1.0 - (-days / AGE_SCALE_DAYS).exp())
        }
    };
    match () {
        () if machine.deleting => 100.0,
        () if machine.annotated => 80.0,
        () if machine.updating => 75.0,
        () if machine.unhealthy => UNHEALTHY,
        () => match order {
            "Oldest" => by_age(),
            "Newest" => UNHEALTHY - by_age(),
            _ => 20.0,
        },
    }
}

/// Sorts machines so that those to delete first stand first. `order` is `Random`, `Newest` or `Oldest`.
pub fn sort_for_deletion(machines: &mut [Deletable], order: &str, now: Timestamp) {
    machines.sort_by(|a, b| {
        let by_priority = priority(b, order, now).partial_cmp(&priority(a, order, now));
        by_priority
            .unwrap_or(Ordering::Equal)
            .then_with(|| a.name.cmp(&b.name))
    });
}

/// What the order of remediation depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remediable {
    /// Name.
    pub name: String,
    /// Creation time.
    pub created: Timestamp,
    /// Carries the remediate-machine annotation.
    pub annotated: bool,
}

/// Sorts machines for remediation: annotated first, then newest first, then by name.
pub fn sort_for_remediation(machines: &mut [Remediable]) {
    machines.sort_by(|a, b| {
        b.annotated
            .cmp(&a.annotated)
            .then(b.created.cmp(&a.created))
            .then_with(|| a.name.cmp(&b.name))
    });
}
