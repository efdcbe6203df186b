//! The decision of one MachineDeployment pass: which set is the present one, how many machines each has now.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use mainstay_api::conditions;
use mainstay_capi::{MachineDeployment, MachineDeploymentStatus, MachineFields, MachineSet};

use super::Seen;
use crate::rules::{
    amount::NotAnAmount,
    rollout::{SetCounts, Targets, limits, on_delete_step, rolling_step},
    template::{Candidate, differences, find_new},
};

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Makes the set for the present template.
    CreateSet {
        /// Its name: the deployment's and the hash.
        name: String,
        /// Hash of what makes machines differ.
        hash: String,
        /// First number of machines.
        replicas: i32,
    },
    /// Changes how many machines a set has.
    Scale {
        /// The set.
        set: String,
        /// Its machines.
        replicas: i32,
    },
    /// Copies what needs no new machines.
    CopyInPlace {
        /// The set.
        set: String,
    },
    /// Removes an empty old set.
    DeleteSet {
        /// The set.
        set: String,
    },
}

/// The steps and the status that follows from what was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// The deployment's status.
    pub status: MachineDeploymentStatus,
}

/// Decides one pass.
///
/// # Errors
/// When surge or unavailable is neither a number nor a percentage.
pub fn plan(seen: &Seen, now: Timestamp) -> Result<Plan, NotAnAmount> {
    let deployment = &seen.deployment;
    let replicas = deployment.spec.replicas.unwrap_or(1);
    let candidates: Vec<Candidate> = seen.sets.iter().map(|set| candidate(set, deployment)).collect();
    let after = deployment.spec.rollout.after.as_ref().map(|time| time.0);
    let (present, _) = find_new(&candidates, after, now);
    let present = present.map(|candidate| candidate.name.clone());
    let hash = template_hash(deployment, after.filter(|after| *after <= now));
    let new = match &present {
        Some(name) => counts(
            seen.sets
                .iter()
                .find(|set| set.name_any() == *name)
                .expect("it was chosen from these"),
        ),
        None => empty(format!("{}-{hash}", deployment.name_any()), now),
    };
    let olds: Vec<SetCounts> = seen
        .sets
        .iter()
        .map(counts)
        .filter(|set| set.name != new.name)
        .collect();
    let targets = targets(deployment, replicas, &new, &olds)?;
    let mut steps = Vec::new();
    if present.is_none() {
        steps.push(Step::CreateSet {
            name: new.name.clone(),
            hash,
            replicas: targets[&new.name],
        });
    }
    for set in &seen.sets {
        steps.extend(set_steps(set, deployment, &new, &targets));
    }
    Ok(Plan {
        steps,
        status: status(seen, &new, replicas, now),
    })
}

fn set_steps(
    set: &MachineSet,
    deployment: &MachineDeployment,
    new: &SetCounts,
    targets: &Targets,
) -> Vec<Step> {
    let (name, counts) = (set.name_any(), counts(set));
    let target = targets.get(&name).copied().unwrap_or(counts.spec);
    let mut steps = Vec::new();
    if target != counts.spec {
        steps.push(Step::Scale {
            set: name.clone(),
            replicas: target,
        });
    } else if name != new.name && counts.spec == 0 && counts.status == 0 && new.available >= new.spec {
        steps.push(Step::DeleteSet { set: name.clone() });
    }
    if name == new.name && differs_in_place(set, deployment) {
        steps.push(Step::CopyInPlace { set: name });
    }
    steps
}

fn targets(
    deployment: &MachineDeployment,
    replicas: i32,
    new: &SetCounts,
    olds: &[SetCounts],
) -> Result<Targets, NotAnAmount> {
    let strategy = &deployment.spec.rollout.strategy;
    if strategy.kind == "OnDelete" {
        return Ok(on_delete_step(replicas, new, olds));
    }
    let rolling = &strategy.rolling_update;
    let limits = limits(
        replicas,
        rolling.max_surge.as_ref(),
        rolling.max_unavailable.as_ref(),
    )?;
    Ok(rolling_step(replicas, &limits, new, olds))
}

/// The template as machines of this deployment must have it.
fn wanted(deployment: &MachineDeployment) -> MachineFields {
    let cluster_name = deployment.spec.cluster_name.clone();
    MachineFields {
        cluster_name,
        ..deployment.spec.template.spec.clone()
    }
}

fn candidate(set: &MachineSet, deployment: &MachineDeployment) -> Candidate {
    Candidate {
        name: set.name_any(),
        created: created(set),
        replicas: set.spec.replicas.unwrap_or(0),
        template_matches: differences(&set.spec.template.spec, &wanted(deployment)).is_empty(),
    }
}

fn differs_in_place(set: &MachineSet, deployment: &MachineDeployment) -> bool {
    let (have, want) = (&set.spec.template, &deployment.spec.template);
    let labels_missing = want
        .metadata
        .labels
        .iter()
        .any(|(key, value)| have.metadata.labels.get(key) != Some(value));
    labels_missing
        || have.metadata.annotations != want.metadata.annotations
        || have.spec != wanted(deployment)
        || set.spec.deletion != deployment.spec.deletion
}

fn created(set: &MachineSet) -> Timestamp {
    set.metadata
        .creation_timestamp
        .as_ref()
        .map_or(Timestamp::MIN, |time| time.0)
}

fn counts(set: &MachineSet) -> SetCounts {
    let status = set.status.clone().unwrap_or_default();
    SetCounts {
        name: set.name_any(),
        created: created(set),
        spec: set.spec.replicas.unwrap_or(0),
        status: status.replicas,
        available: status.available_replicas,
    }
}

fn empty(name: String, now: Timestamp) -> SetCounts {
    SetCounts {
        name,
        created: now,
        spec: 0,
        status: 0,
        available: 0,
    }
}

/// Hash (FNV-1a, 64 bit) of the fields that make machines differ, so that one template has one set name.
fn template_hash(deployment: &MachineDeployment, after: Option<Timestamp>) -> String {
    let spec = wanted(deployment);
    let text = format!(
        "{}|{}|{:?}|{:?}|{after:?}",
        spec.version, spec.failure_domain, spec.bootstrap, spec.infrastructure_ref
    );
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{:010x}", hash & 0xff_ffff_ffff)
}

/// Prints match labels as a selector.
pub fn selector_text(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter().flatten();
    labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",")
}

fn status(seen: &Seen, new: &SetCounts, replicas: i32, now: Timestamp) -> MachineDeploymentStatus {
    let deployment = &seen.deployment;
    let old = deployment.status.clone().unwrap_or_default();
    let of = |count: fn(&mainstay_capi::MachineSetStatus) -> i32| -> i32 {
        seen.sets
            .iter()
            .filter_map(|set| set.status.as_ref())
            .map(count)
            .sum()
    };
    let (total, available) = (of(|s| s.replicas), of(|s| s.available_replicas));
    let done = total == replicas && available >= replicas && new.status == replicas;
    let mut conditions = old.conditions;
    let message = format!(
        "{available} of {replicas} machines are available, {} have the present template",
        new.status
    );
    let enough = available >= replicas;
    let reason = if enough { "Available" } else { "NotAvailable" };
    conditions::set(
        &mut conditions,
        conditions::condition("Available", enough, reason, message.clone(), now),
    );
    let rolling = if done { "NotRollingOut" } else { "RollingOut" };
    conditions::set(
        &mut conditions,
        conditions::condition("RollingOut", !done, rolling, message, now),
    );
    MachineDeploymentStatus {
        selector: selector_text(&deployment.spec.selector),
        replicas: total,
        ready_replicas: of(|s| s.ready_replicas),
        available_replicas: available,
        up_to_date_replicas: new.status,
        phase: match () {
            () if total < replicas => "ScalingUp",
            () if total > replicas => "ScalingDown",
            () => "Running",
        }
        .to_string(),
        observed_generation: deployment.metadata.generation.unwrap_or(0),
        conditions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use mainstay_capi::{MachineDeploymentSpec, MachineSetSpec, MachineSetStatus};

    fn deployment(version: &str, replicas: i32) -> MachineDeployment {
        let mut spec = MachineDeploymentSpec {
            replicas: Some(replicas),
            ..Default::default()
        };
        spec.template.spec.version = version.into();
        MachineDeployment::new("d", spec)
    }

    fn set(name: &str, version: &str, machines: i32, available: i32) -> MachineSet {
        let mut spec = MachineSetSpec {
            replicas: Some(machines),
            ..Default::default()
        };
        spec.template.spec.version = version.into();
        let mut set = MachineSet::new(name, spec);
        set.status = Some(MachineSetStatus {
            replicas: machines,
            available_replicas: available,
            ..Default::default()
        });
        set
    }

    fn check(deployment: MachineDeployment, sets: Vec<MachineSet>, want: Expect) {
        let plan = plan(&Seen { deployment, sets }, Timestamp::UNIX_EPOCH).unwrap();
        let lines: Vec<String> = plan.steps.iter().map(|step| format!("{step:?}")).collect();
        want.assert_eq(&format!("{}\n{}", lines.join("\n"), plan.status.phase));
    }

    #[test]
    fn a_new_deployment_makes_its_set_with_all_machines() {
        check(
            deployment("v1", 3),
            vec![],
            expect![[r#"
                CreateSet { name: "d-44a19bf7ff", hash: "44a19bf7ff", replicas: 3 }
                ScalingUp"#]],
        );
    }

    #[test]
    fn a_new_version_surges_by_one_before_it_shrinks_the_old_set() {
        let one = vec![set("old", "v1", 3, 3)];
        let plan = plan(
            &Seen {
                deployment: deployment("v2", 3),
                sets: one,
            },
            Timestamp::UNIX_EPOCH,
        )
        .unwrap();
        assert!(
            matches!(&plan.steps[..], [Step::CreateSet { replicas: 1, .. }]),
            "{:?}",
            plan.steps
        );
        check(
            deployment("v2", 3),
            vec![set("old", "v1", 3, 3), set("new", "v2", 1, 1)],
            expect![[r#"
                Scale { set: "old", replicas: 2 }
                ScalingDown"#]],
        );
    }

    #[test]
    fn a_new_set_that_does_not_come_up_stops_the_rollout() {
        check(
            deployment("v2", 3),
            vec![set("old", "v1", 3, 3), set("new", "v2", 1, 0)],
            expect![[r#"

            ScalingDown"#]],
        );
    }

    #[test]
    fn an_empty_old_set_is_removed_when_the_new_one_is_complete() {
        check(
            deployment("v2", 3),
            vec![set("old", "v1", 0, 0), set("new", "v2", 3, 3)],
            expect![[r#"
                DeleteSet { set: "old" }
                Running"#]],
        );
    }
}
