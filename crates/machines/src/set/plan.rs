//! The decision of one MachineSet pass: machines to create, machines to delete and why.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use mainstay_api::conditions;
use mainstay_capi::{DELETE_MACHINE_ANNOTATION, Machine, MachineSetStatus, REMEDIATE_MACHINE_ANNOTATION};

use super::Seen;
use crate::{
    deployment,
    rules::set::{Deletable, Remediable, sort_for_deletion, sort_for_remediation},
};

/// Machines created in one pass at most; the next pass follows the first of their events.
const CREATED_PER_PASS: usize = 50;

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Makes a machine.
    Create,
    /// Deletes one.
    Delete {
        /// Which.
        machine: String,
        /// Why: `surplus` or `remediation`.
        reason: &'static str,
    },
}

/// The steps and the status that follows from what was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// In order.
    pub steps: Vec<Step>,
    /// The set's status.
    pub status: MachineSetStatus,
    /// When a machine turns available by time alone.
    pub look_again: Option<Duration>,
}

/// Decides one pass. Deleting machines count until they are gone, so a replacement waits for its place.
pub fn plan(seen: &Seen, now: Timestamp) -> Plan {
    let mut steps = Vec::new();
    if seen.set.metadata.deletion_timestamp.is_none() {
        steps = remediations(seen);
        let wanted = usize::try_from(seen.set.spec.replicas.unwrap_or(1)).unwrap_or(0);
        let have = seen.machines.len();
        if have < wanted {
            steps.extend(std::iter::repeat_n(
                Step::Create,
                (wanted - have).min(CREATED_PER_PASS),
            ));
        } else if have > wanted {
            steps.extend(surplus(seen, have - wanted, now));
        }
    }
    let (status, look_again) = status(seen, now);
    Plan {
        steps,
        status,
        look_again,
    }
}

fn is_false(machine: &Machine, kind: &str) -> bool {
    let conditions = machine.status.iter().flat_map(|status| &status.conditions);
    conditions
        .into_iter()
        .any(|condition| condition.type_ == kind && condition.status == "False")
}

fn deleting(machine: &Machine) -> bool {
    machine.metadata.deletion_timestamp.is_some()
}

fn created(machine: &Machine) -> Timestamp {
    machine
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(Timestamp::MIN, |time| time.0)
}

fn surplus(seen: &Seen, count: usize, now: Timestamp) -> Vec<Step> {
    let mut machines: Vec<Deletable> = seen
        .machines
        .iter()
        .map(|machine| Deletable {
            name: machine.name_any(),
            created: created(machine),
            deleting: deleting(machine),
            annotated: machine.annotations().contains_key(DELETE_MACHINE_ANNOTATION),
            updating: false,
            unhealthy: machine
                .status
                .as_ref()
                .is_none_or(|status| status.node_ref.is_none())
                || is_false(machine, "NodeHealthy")
                || is_false(machine, "HealthCheckSucceeded"),
        })
        .collect();
    let order = seen
        .set
        .spec
        .deletion
        .as_ref()
        .map_or("", |deletion| deletion.order.as_str());
    sort_for_deletion(&mut machines, order, now);
    let going = machines
        .into_iter()
        .take(count)
        .filter(|machine| !machine.deleting);
    going
        .map(|machine| Step::Delete {
            machine: machine.name,
            reason: "surplus",
        })
        .collect()
}

fn remediations(seen: &Seen) -> Vec<Step> {
    let mut faulty: Vec<Remediable> = seen
        .machines
        .iter()
        .filter(|machine| is_false(machine, "OwnerRemediated") && !deleting(machine))
        .map(|machine| Remediable {
            name: machine.name_any(),
            created: created(machine),
            annotated: machine.annotations().contains_key(REMEDIATE_MACHINE_ANNOTATION),
        })
        .collect();
    sort_for_remediation(&mut faulty);
    let in_flight = seen.machines.iter().filter(|machine| deleting(machine)).count();
    let limit = seen
        .max_in_flight
        .map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(0));
    let free = limit.saturating_sub(in_flight);
    let going = faulty.into_iter().take(free);
    going
        .map(|machine| Step::Delete {
            machine: machine.name,
            reason: "remediation",
        })
        .collect()
}

/// Since when a machine is ready; None when it is not.
fn ready_since(machine: &Machine) -> Option<Timestamp> {
    let conditions = &machine.status.as_ref()?.conditions;
    let ready = conditions::find(conditions, "Ready").filter(|ready| ready.status == "True")?;
    (!deleting(machine)).then_some(ready.last_transition_time.0)
}

fn status(seen: &Seen, now: Timestamp) -> (MachineSetStatus, Option<Duration>) {
    let old = seen.set.status.clone().unwrap_or_default();
    let min_ready = i64::from(seen.set.spec.template.spec.min_ready_seconds.unwrap_or(0));
    let waits: Vec<i64> = seen
        .machines
        .iter()
        .filter_map(ready_since)
        .map(|since| min_ready - now.duration_since(since).as_secs())
        .collect();
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let available = waits.iter().filter(|wait| **wait <= 0).count();
    let next = waits.iter().filter(|wait| **wait > 0).min();
    let mut conditions = old.conditions;
    let wanted = seen.set.spec.replicas.unwrap_or(1);
    let all_ready = count(waits.len()) >= wanted;
    let reason = if all_ready { "Ready" } else { "NotReady" };
    let message = format!("{} of {wanted} machines are ready", waits.len());
    conditions::set(
        &mut conditions,
        conditions::condition("MachinesReady", all_ready, reason, message, now),
    );
    let status = MachineSetStatus {
        selector: deployment::selector_text(&seen.set.spec.selector),
        replicas: count(seen.machines.len()),
        ready_replicas: count(waits.len()),
        available_replicas: count(available),
        up_to_date_replicas: count(seen.machines.len()),
        observed_generation: seen.set.metadata.generation.unwrap_or(0),
        conditions,
    };
    (status, next.map(|wait| Duration::from_secs(wait.unsigned_abs())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use mainstay_capi::{MachineSet, MachineSetSpec, MachineSpec, MachineStatus, NodeRef};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn machine(name: &str, condition: Option<(&str, bool)>) -> Machine {
        let mut machine = Machine::new(name, MachineSpec::default());
        let mut status = MachineStatus {
            node_ref: Some(NodeRef { name: name.into() }),
            ..Default::default()
        };
        if let Some((kind, value)) = condition {
            status
                .conditions
                .push(conditions::condition(kind, value, "Test", "", at(0)));
        }
        machine.status = Some(status);
        machine
    }

    fn check(replicas: i32, machines: Vec<Machine>, max_in_flight: Option<i32>, want: Expect) {
        let set = MachineSet::new(
            "s",
            MachineSetSpec {
                replicas: Some(replicas),
                ..Default::default()
            },
        );
        let plan = plan(
            &Seen {
                set,
                machines,
                max_in_flight,
            },
            at(100),
        );
        let lines: Vec<String> = plan.steps.iter().map(|step| format!("{step:?}")).collect();
        want.assert_eq(&lines.join("\n"));
    }

    #[test]
    fn missing_machines_are_made() {
        check(2, vec![machine("a", None)], None, expect!["Create"]);
    }

    #[test]
    fn an_unhealthy_machine_goes_first() {
        check(
            1,
            vec![machine("a", None), machine("b", Some(("NodeHealthy", false)))],
            None,
            expect![[r#"Delete { machine: "b", reason: "surplus" }"#]],
        );
    }

    #[test]
    fn remediation_keeps_to_its_limit() {
        let mut going = machine("c", None);
        going.metadata.deletion_timestamp = Some(Time(at(50)));
        let machines = vec![
            machine("a", Some(("OwnerRemediated", false))),
            machine("b", None),
            going,
        ];
        check(3, machines.clone(), Some(1), expect![""]);
        check(
            3,
            machines,
            Some(2),
            expect![[r#"Delete { machine: "a", reason: "remediation" }"#]],
        );
    }
}
