//! Which set is the present one, and which template changes make new machines necessary.

use jiff::Timestamp;
use mainstay_capi::{ContractRef, MachineFields};

/// Why a machine is not up to date; empty means it is. All other fields are copied to running machines.
pub fn differences(have: &MachineFields, want: &MachineFields) -> Vec<String> {
    let mut found = Vec::new();
    if have.version != want.version {
        found.push(format!("Version {}, {} required", have.version, want.version));
    }
    if have.failure_domain != want.failure_domain {
        found.push(format!(
            "Failure domain {}, {} required",
            have.failure_domain, want.failure_domain
        ));
    }
    if have.bootstrap != want.bootstrap {
        found.push(outdated(&want.bootstrap.config_ref));
    }
    if have.infrastructure_ref != want.infrastructure_ref {
        found.push(outdated(&want.infrastructure_ref));
    }
    found
}

fn outdated(reference: &ContractRef) -> String {
    format!(
        "{} is not up-to-date",
        reference.kind.trim_end_matches("Template")
    )
}

/// What the choice of the present set depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Name.
    pub name: String,
    /// Creation time.
    pub created: Timestamp,
    /// Wanted machines.
    pub replicas: i32,
    /// Its template asks for the machines that the deployment asks for.
    pub template_matches: bool,
}

/// Splits sets into the present one (none: make one) and the old ones. Of several matching sets the one with
/// most machines wins, then the oldest; once `rollout_after` has passed only sets made since then match.
pub fn find_new(
    sets: &[Candidate],
    rollout_after: Option<Timestamp>,
    now: Timestamp,
) -> (Option<&Candidate>, Vec<&Candidate>) {
    let fresh = |set: &Candidate| match rollout_after {
        Some(after) if after <= now => set.created >= after,
        _ => true,
    };
    let present = sets
        .iter()
        .filter(|set| set.template_matches && fresh(set))
        .min_by(|a, b| (-a.replicas, a.created, &a.name).cmp(&(-b.replicas, b.created, &b.name)));
    let olds = sets
        .iter()
        .filter(|set| present.is_none_or(|new| new.name != set.name))
        .collect();
    (present, olds)
}
