//! The ladder: one repair's next state and the action it asks for, as a pure function.
//!
//! Invariants: an action is asked for under an id that is recorded with it, so asking twice is harmless; a
//! step's record is never removed; a fault during probation goes to the next rung, never to the same; the
//! machine is given up only with proof that it no longer runs.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use mainstay_api::repair::{
    Action, FaultClass, Fencing, FencingProof, RepairPolicySpec, RepairSpec, RepairState, RepairStatus,
    RepairStep, Rung, WaitingFor,
};

use crate::gates::Closed;

/// What is known of the machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MachineView {
    /// It has the fault; None when nothing is known.
    pub faulty: Option<bool>,
    /// The machine still exists.
    pub exists: bool,
    /// The id of the last restart that was carried out.
    pub restarted: String,
    /// The id of the last service restart that the machine reports.
    pub services_restarted: String,
    /// The incarnation that runs.
    pub incarnation: i64,
    /// Boot id of the machine as last read; empty when unknown.
    pub boot_id: String,
    /// Whether the provider reads its power as on; None when nobody knows.
    pub powered: Option<bool>,
    /// The provider gave up on the action: its evidence or message.
    pub action_failed: Option<String>,
    /// Proof that nothing runs on the host.
    pub proof: Option<FencingProof>,
    /// The ticket is resolved.
    pub ticket_resolved: bool,
}

/// What the caller must do; each may be done again without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Restart the faulty service.
    RestartService {
        /// Request id.
        id: String,
    },
    /// Power-cycle the machine.
    Restart {
        /// Request id.
        id: String,
    },
    /// Install the machine anew at this incarnation.
    Reprovision {
        /// The incarnation.
        incarnation: i64,
    },
    /// Open the ticket and switch the host off.
    OpenTicket,
    /// The host is proven off: let another machine take its place.
    Replace,
}

/// The outcome of one pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Next {
    /// The repair's status.
    pub status: RepairStatus,
    /// What to do, in order, before the status is written.
    pub asks: Vec<Ask>,
    /// When to look again without a change.
    pub look_again: Option<Duration>,
}

/// Everything one pass depends on.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// The repair's name: makes ids.
    pub name: &'a str,
    /// What is repaired.
    pub spec: &'a RepairSpec,
    /// The rules.
    pub policy: &'a RepairPolicySpec,
    /// The machine.
    pub machine: &'a MachineView,
    /// The gate that is closed, if any.
    pub closed: Option<&'a Closed>,
    /// The time.
    pub now: Timestamp,
}

/// The longest a pass waits before it looks again at a running action.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

fn time(at: Timestamp) -> Option<Time> {
    Some(Time(at))
}

/// Takes one pass.
pub fn advance(pass: Pass<'_>, status: &RepairStatus) -> Next {
    let mut next = Next {
        status: status.clone(),
        asks: Vec::new(),
        look_again: None,
    };
    use RepairState::*;
    match status.state {
        Healthy | Cancelled => {}
        Ticketed => ticketed(pass, &mut next),
        _ if !pass.machine.exists => cancel(pass, &mut next),
        Suspect | Waiting => waiting(pass, &mut next),
        RestartingService | Restarting | Reprovisioning => acting(pass, &mut next),
        Probation => probation(pass, &mut next),
    }
    next
}

fn enter(pass: Pass<'_>, next: &mut Next, state: RepairState) {
    if next.status.state != state {
        next.status.since = time(pass.now);
    }
    next.status.state = state;
    next.status.waiting_for = None;
}

fn cancel(pass: Pass<'_>, next: &mut Next) {
    close_step(pass, next, "Cancelled", "the machine is gone");
    enter(pass, next, RepairState::Cancelled);
}

fn rung<'a>(pass: &Pass<'a>, status: &RepairStatus) -> Option<&'a Rung> {
    pass.policy
        .ladder
        .get(usize::try_from(status.rung).unwrap_or(usize::MAX))
}

/// The rung that a fresh repair begins at.
pub fn first_rung(policy: &RepairPolicySpec, class: FaultClass, start_at: Option<Action>) -> u32 {
    let wanted = match (class, start_at) {
        (FaultClass::HardwareFault, None) => Action::BreakFix,
        (_, Some(action)) => action,
        (_, None) => return 0,
    };
    let found = policy.ladder.iter().position(|rung| rung.action == wanted);
    u32::try_from(found.unwrap_or(policy.ladder.len())).unwrap_or(u32::MAX)
}

/// Begins a repair that was not there.
pub fn begin(
    policy: &RepairPolicySpec,
    class: FaultClass,
    start_at: Option<Action>,
    now: Timestamp,
) -> RepairStatus {
    RepairStatus {
        state: RepairState::Suspect,
        rung: first_rung(policy, class, start_at),
        since: time(now),
        ..Default::default()
    }
}

fn wait_at(pass: Pass<'_>, next: &mut Next, gate: &str, next_look: Timestamp) {
    let since = match &next.status.waiting_for {
        Some(waiting) if waiting.gate == gate => waiting.since.clone(),
        _ => time(pass.now),
    };
    enter(pass, next, RepairState::Waiting);
    next.status.waiting_for = Some(WaitingFor {
        gate: gate.to_string(),
        since,
        next_look: time(next_look),
    });
    let left = next_look
        .duration_since(pass.now)
        .max(SignedDuration::from_secs(1));
    next.look_again = Some(left.unsigned_abs());
}

fn waiting(pass: Pass<'_>, next: &mut Next) {
    match pass.machine.faulty {
        Some(false) => {
            // It recovered before anything was done, or late after the last action.
            let state = if next.status.steps.is_empty() {
                RepairState::Healthy
            } else {
                RepairState::Probation
            };
            return enter(pass, next, state);
        }
        None => {
            next.look_again = Some(LOOK_AGAIN);
            return;
        }
        Some(true) => {}
    }
    let backoff = next
        .status
        .waiting_for
        .as_ref()
        .filter(|waiting| waiting.gate == "backoff");
    if let Some(until) = backoff
        .and_then(|waiting| waiting.next_look.as_ref())
        .map(|time| time.0)
        && until > pass.now
    {
        next.look_again = Some(until.duration_since(pass.now).unsigned_abs());
        return;
    }
    if let Some(closed) = pass.closed {
        return wait_at(pass, next, closed.gate, closed.next_look);
    }
    act(pass, next);
}

/// Asks for the present rung's action.
fn act(pass: Pass<'_>, next: &mut Next) {
    let action = rung(&pass, &next.status).map_or(Action::BreakFix, |rung| rung.action);
    let id = format!("{}-{}", pass.name, next.status.steps.len() + 1);
    let step = RepairStep {
        action,
        task_id: id.clone(),
        started_at: time(pass.now),
        evidence: pass.machine.boot_id.clone(),
        ..Default::default()
    };
    // A proof is of one action's end: the next one needs its own.
    next.status.fencing_proof = None;
    if action == Action::RestartService && pass.machine.powered == Some(false) {
        return skip(pass, next, step);
    }
    if pass.policy.dry_run {
        let already = next
            .status
            .steps
            .last()
            .is_some_and(|last| last.action == action && last.result == "DryRun");
        if !already {
            next.status.steps.push(RepairStep {
                ended_at: time(pass.now),
                result: "DryRun".into(),
                ..step
            });
        }
        return enter(pass, next, RepairState::Waiting);
    }
    next.status.steps.push(step);
    let state = match action {
        Action::RestartService => {
            next.asks.push(Ask::RestartService { id });
            RepairState::RestartingService
        }
        Action::Restart => {
            next.asks.push(Ask::Restart { id });
            RepairState::Restarting
        }
        Action::Reprovision => {
            next.asks.push(Ask::Reprovision {
                incarnation: pass.machine.incarnation + 1,
            });
            RepairState::Reprovisioning
        }
        Action::BreakFix => {
            next.asks.push(Ask::OpenTicket);
            RepairState::Ticketed
        }
    };
    enter(pass, next, state);
    if action == Action::Reprovision {
        // Recorded so that a pass after a crash asks for the same incarnation.
        let step = next.status.steps.last_mut().expect("it was just pushed");
        step.task_id = format!("incarnation-{}", pass.machine.incarnation + 1);
    }
    next.look_again = Some(LOOK_AGAIN);
}

/// Passes over a service restart that nothing on the machine could carry out.
fn skip(pass: Pass<'_>, next: &mut Next, step: RepairStep) {
    next.status.steps.push(RepairStep {
        ended_at: time(pass.now),
        result: "Skipped".into(),
        evidence: "the machine is off: it has no service to restart".into(),
        ..step
    });
    next.status.rung += 1;
    next.status.attempt = 0;
    act(pass, next);
}

/// The action of the open step, to be asked for again after a crash.
fn ask_of(step: &RepairStep) -> Option<Ask> {
    let id = step.task_id.clone();
    match step.action {
        Action::RestartService => Some(Ask::RestartService { id }),
        Action::Restart => Some(Ask::Restart { id }),
        Action::Reprovision => {
            let incarnation = step.task_id.strip_prefix("incarnation-")?.parse().ok()?;
            Some(Ask::Reprovision { incarnation })
        }
        Action::BreakFix => Some(Ask::OpenTicket),
    }
}

/// The action itself is over (whether it helped is another question).
fn carried_out(step: &RepairStep, machine: &MachineView) -> bool {
    match ask_of(step) {
        Some(Ask::RestartService { id }) => machine.services_restarted == id,
        Some(Ask::Restart { id }) => machine.restarted == id,
        Some(Ask::Reprovision { incarnation }) => machine.incarnation >= incarnation,
        _ => true,
    }
}

fn close_step(pass: Pass<'_>, next: &mut Next, result: &str, evidence: &str) {
    if let Some(step) = next
        .status
        .steps
        .last_mut()
        .filter(|step| step.ended_at.is_none())
    {
        step.ended_at = time(pass.now);
        step.result = result.to_string();
        step.evidence = evidence.to_string();
    }
}

/// Records that what ran before the action cannot run any more: another boot has taken its place. While a step is
/// open its evidence is the boot id from before.
fn prove(pass: Pass<'_>, next: &mut Next, step: &RepairStep, done: bool) {
    let (before, now) = (&step.evidence, &pass.machine.boot_id);
    let known = !before.is_empty() && !now.is_empty();
    let replaces = matches!(step.action, Action::Restart | Action::Reprovision);
    if done && replaces && known && before != now && next.status.fencing_proof.is_none() {
        next.status.fencing_proof = Some(FencingProof {
            kind: "BootIDChanged".into(),
            at: time(pass.now),
        });
    }
}

fn acting(pass: Pass<'_>, next: &mut Next) {
    let Some(step) = next.status.steps.last().cloned() else {
        return act(pass, next);
    };
    let done = carried_out(&step, pass.machine);
    prove(pass, next, &step, done);
    if done && pass.machine.faulty == Some(false) {
        let evidence = match &next.status.fencing_proof {
            Some(_) => format!("boot id {} became {}", step.evidence, pass.machine.boot_id),
            None => String::new(),
        };
        close_step(pass, next, "Healthy", &evidence);
        return enter(pass, next, RepairState::Probation);
    }
    if let Some(evidence) = &pass.machine.action_failed {
        close_step(pass, next, "Failed", evidence);
        return escalate(pass, next);
    }
    let timeout = rung(&pass, &next.status)
        .map(|rung| rung.timeout.0)
        .unwrap_or_default();
    let timeout = SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX);
    let started = step.started_at.as_ref().map_or(pass.now, |time| time.0);
    if pass.now.duration_since(started) >= timeout {
        let result = if done { "StillFaulty" } else { "TimedOut" };
        let evidence = match done {
            true => format!("the fault is still there: {}", pass.spec.fault.name()),
            false => "the action has not ended".to_string(),
        };
        close_step(pass, next, result, &evidence);
        return escalate(pass, next);
    }
    if !done {
        next.asks.extend(ask_of(&step));
    }
    next.look_again = Some(LOOK_AGAIN);
}

/// Goes on to the next attempt or rung after the back-off.
fn escalate(pass: Pass<'_>, next: &mut Next) {
    next.status.attempt += 1;
    if rung(&pass, &next.status).is_none_or(|rung| next.status.attempt >= rung.attempts) {
        next.status.rung += 1;
        next.status.attempt = 0;
    }
    let failures = u32::try_from(next.status.steps.len())
        .unwrap_or(u32::MAX)
        .saturating_sub(1)
        .min(20);
    let grown = pass.policy.backoff.initial.0.saturating_mul(1_u32 << failures);
    let wait = SignedDuration::try_from(grown.min(pass.policy.backoff.max.0)).unwrap_or(SignedDuration::MAX);
    let until = pass.now.checked_add(wait).unwrap_or(Timestamp::MAX);
    wait_at(pass, next, "backoff", until);
}

fn probation(pass: Pass<'_>, next: &mut Next) {
    let since = next.status.since.as_ref().map_or(pass.now, |time| time.0);
    let length = SignedDuration::try_from(pass.policy.probation.0).unwrap_or(SignedDuration::MAX);
    let left = length - pass.now.duration_since(since);
    match pass.machine.faulty {
        Some(true) => {
            let last = next
                .status
                .steps
                .last()
                .map(|step| step.action)
                .unwrap_or_default();
            next.status.rung = rung_after(pass.policy, last, next.status.rung);
            next.status.attempt = 0;
            enter(pass, next, RepairState::Waiting);
            waiting(pass, next);
        }
        _ if !left.is_positive() => enter(pass, next, RepairState::Healthy),
        _ => next.look_again = Some(left.unsigned_abs()),
    }
}

fn rung_after(policy: &RepairPolicySpec, last: Action, present: u32) -> u32 {
    let above = policy.ladder.iter().position(|rung| rung.action > last);
    let above = above.unwrap_or(policy.ladder.len());
    u32::try_from(above).unwrap_or(u32::MAX).max(present)
}

/// With people: first the proof that the old machine is off, then its replacement, then the ticket's end.
fn ticketed(pass: Pass<'_>, next: &mut Next) {
    if pass.machine.ticket_resolved {
        close_step(pass, next, "Ticketed", "the ticket is resolved");
        return enter(pass, next, RepairState::Healthy);
    }
    next.look_again = Some(LOOK_AGAIN * 6);
    if next.status.fencing_proof.is_some() {
        if pass.machine.exists {
            next.asks.push(Ask::Replace);
        }
        return;
    }
    let proof = pass.machine.proof.clone().or_else(|| {
        let best_effort = pass.policy.fencing == Fencing::BestEffort;
        best_effort.then(|| FencingProof {
            kind: "LeaseExpired".into(),
            at: time(pass.now),
        })
    });
    match proof {
        Some(proof) => {
            next.status.fencing_proof = Some(proof);
            next.status.waiting_for = None;
            close_step(pass, next, "Ticketed", &pass.spec.fault.message);
            next.look_again = Some(Duration::from_secs(1));
        }
        None => {
            next.asks.push(Ask::OpenTicket);
            let since = next.status.since.clone();
            next.status.waiting_for = Some(WaitingFor {
                gate: "fencing".into(),
                since,
                next_look: None,
            });
            next.look_again = Some(LOOK_AGAIN);
        }
    }
}

#[cfg(test)]
mod tests;
