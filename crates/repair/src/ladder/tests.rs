//! The ladder as a table: what was seen, what follows.

use super::*;
use expect_test::{Expect, expect};
use mainstay_api::repair::{Fault, default_ladder};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn policy() -> RepairPolicySpec {
    RepairPolicySpec {
        ladder: default_ladder(),
        max_in_flight: 1,
        probation: mainstay_api::GoDuration::seconds(3600),
        ..Default::default()
    }
}

/// A machine with a fault that only `cured_by` helps against, driven until the repair ends or people have it.
fn run(policy: &RepairPolicySpec, cured_by: Option<Action>) -> String {
    let spec = RepairSpec {
        fault: Fault {
            kind: "Probe".into(),
            ..Default::default()
        },
        ..Default::default()
    };
    let mut machine = MachineView {
        faulty: Some(true),
        exists: true,
        incarnation: 1,
        ..Default::default()
    };
    let mut status = begin(policy, FaultClass::AutoRepairable, None, at(0));
    let (mut now, mut log) = (0, Vec::new());
    for _ in 0..5000 {
        let pass = Pass {
            name: "r",
            spec: &spec,
            policy,
            machine: &machine,
            closed: None,
            now: at(now),
        };
        let next = advance(pass, &status);
        for ask in &next.asks {
            let action = match ask {
                Ask::RestartService { id } => {
                    machine.services_restarted.clone_from(id);
                    Action::RestartService
                }
                Ask::Restart { id } => {
                    machine.restarted.clone_from(id);
                    machine.boot_id.push('+');
                    machine.powered = Some(true);
                    Action::Restart
                }
                Ask::Reprovision { incarnation } => {
                    machine.incarnation = *incarnation;
                    Action::Reprovision
                }
                Ask::OpenTicket => {
                    machine.proof = Some(FencingProof {
                        kind: "PowerOff".into(),
                        at: None,
                    });
                    Action::BreakFix
                }
                Ask::Replace => {
                    machine.exists = false;
                    Action::BreakFix
                }
            };
            machine.faulty = Some(!(Some(action) == cured_by || machine.faulty == Some(false)));
        }
        if next.status.state != status.state || !next.asks.is_empty() {
            log.push(format!("{now:>5}s {:?} {:?}", next.status.state, next.asks));
        }
        status = next.status;
        let over = matches!(status.state, RepairState::Healthy | RepairState::Cancelled);
        if over || (status.state == RepairState::Ticketed && !machine.exists) {
            break;
        }
        now += next
            .look_again
            .map_or(1, |wait| i64::try_from(wait.as_secs()).unwrap().max(1));
    }
    let steps: Vec<String> = status
        .steps
        .iter()
        .map(|s| format!("{:?} {}", s.action, s.result))
        .collect();
    format!("{}\nsteps: {}", log.join("\n"), steps.join(", "))
}

fn check(cured_by: Option<Action>, want: Expect) {
    want.assert_eq(&run(&policy(), cured_by));
}

#[test]
fn a_hang_is_over_after_the_restart_and_its_probation() {
    check(
        Some(Action::Restart),
        expect![[r#"
            0s RestartingService [RestartService { id: "r-1" }]
          120s Waiting []
          180s Restarting [Restart { id: "r-2" }]
          185s Probation []
         3785s Healthy []
        steps: RestartService StillFaulty, Restart Healthy"#]],
    );
}

#[test]
fn broken_hardware_climbs_to_a_ticket_with_proof_before_its_replacement() {
    check(
        None,
        expect![[r#"
            0s RestartingService [RestartService { id: "r-1" }]
          120s Waiting []
          180s Restarting [Restart { id: "r-2" }]
          780s Waiting []
          900s Restarting [Restart { id: "r-3" }]
         1500s Waiting []
         1740s Reprovisioning [Reprovision { incarnation: 2 }]
         4140s Waiting []
         4620s Ticketed [OpenTicket]
         4626s Ticketed [Replace]
        steps: RestartService StillFaulty, Restart StillFaulty, Restart StillFaulty, Reprovision StillFaulty, BreakFix Ticketed"#]],
    );
}

#[test]
fn a_hardware_fault_begins_with_the_ticket() {
    let status = begin(&policy(), FaultClass::HardwareFault, None, at(0));
    assert_eq!(policy().ladder[status.rung as usize].action, Action::BreakFix);
}

#[test]
fn a_fault_in_probation_goes_to_the_next_rung() {
    let status = RepairStatus {
        state: RepairState::Probation,
        rung: 1,
        steps: vec![RepairStep {
            action: Action::Restart,
            ended_at: time(at(0)),
            ..Default::default()
        }],
        ..Default::default()
    };
    let machine = MachineView {
        faulty: Some(true),
        exists: true,
        incarnation: 1,
        ..Default::default()
    };
    let (spec, policy) = (RepairSpec::default(), policy());
    let pass = Pass {
        name: "r",
        spec: &spec,
        policy: &policy,
        machine: &machine,
        closed: None,
        now: at(9),
    };
    let next = advance(pass, &status);
    assert_eq!(next.asks, [Ask::Reprovision { incarnation: 2 }]);
}

#[test]
fn an_unknown_state_neither_starts_nor_ends_a_repair() {
    let (spec, policy) = (RepairSpec::default(), policy());
    let machine = MachineView {
        faulty: None,
        exists: true,
        ..Default::default()
    };
    let status = begin(&policy, FaultClass::AutoRepairable, None, at(0));
    let pass = Pass {
        name: "r",
        spec: &spec,
        policy: &policy,
        machine: &machine,
        closed: None,
        now: at(9),
    };
    let next = advance(pass, &status);
    assert_eq!((next.status.state, next.asks), (RepairState::Suspect, vec![]));
}

#[test]
fn a_dry_run_records_and_does_nothing() {
    let mut policy = policy();
    policy.dry_run = true;
    let (spec, machine) = (
        RepairSpec::default(),
        MachineView {
            faulty: Some(true),
            exists: true,
            ..Default::default()
        },
    );
    let status = begin(&policy, FaultClass::AutoRepairable, None, at(0));
    let pass = Pass {
        name: "r",
        spec: &spec,
        policy: &policy,
        machine: &machine,
        closed: None,
        now: at(9),
    };
    let next = advance(pass, &status);
    assert_eq!(
        (next.asks, next.status.steps[0].result.as_str()),
        (vec![], "DryRun")
    );
}

#[test]
fn a_machine_that_is_off_gets_no_service_restart() {
    let (spec, policy) = (RepairSpec::default(), policy());
    let mut machine = MachineView {
        faulty: Some(true),
        exists: true,
        powered: Some(false),
        boot_id: "a".into(),
        ..Default::default()
    };
    let status = begin(&policy, FaultClass::AutoRepairable, None, at(0));
    let pass = |machine: &MachineView, status: &RepairStatus, now: i64| {
        let pass = Pass {
            name: "r",
            spec: &spec,
            policy: &policy,
            machine,
            closed: None,
            now: at(now),
        };
        advance(pass, status)
    };
    let next = pass(&machine, &status, 9);
    assert_eq!(next.asks, [Ask::Restart { id: "r-2".into() }]);
    assert_eq!(next.status.steps[0].result, "Skipped");
    // The other boot id proves that what hung is gone; the record says so.
    machine.restarted = "r-2".into();
    machine.boot_id = "b".into();
    machine.faulty = Some(false);
    let next = pass(&machine, &next.status, 19);
    assert_eq!(next.status.state, RepairState::Probation);
    assert_eq!(next.status.steps[1].evidence, "boot id a became b");
    let proof = next.status.fencing_proof.map(|proof| proof.kind);
    assert_eq!(proof.as_deref(), Some("BootIDChanged"));
}

#[test]
fn a_service_restart_that_nobody_confirms_times_out() {
    let (spec, policy) = (RepairSpec::default(), policy());
    let machine = MachineView {
        faulty: Some(true),
        exists: true,
        ..Default::default()
    };
    let mut status = begin(&policy, FaultClass::AutoRepairable, None, at(0));
    for now in [0, 120] {
        let pass = Pass {
            name: "r",
            spec: &spec,
            policy: &policy,
            machine: &machine,
            closed: None,
            now: at(now),
        };
        status = advance(pass, &status).status;
    }
    assert_eq!(status.steps[0].result, "TimedOut");
}
