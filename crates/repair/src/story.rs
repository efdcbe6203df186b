//! A repair in words: what just happened (events), where it stands and what comes next (`doctor`, `why`). Pure, on the
//! same records that the ladder decides on.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use mainstay_api::repair::{Action, Fault, RepairPolicySpec, RepairState, RepairStatus, RepairStep, Rung};
use mainstay_base::clock::rfc3339_seconds;

use crate::trigger::Health;

/// Something that happened to a repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// People may have to act, or a machine is being disrupted.
    pub warning: bool,
    /// CamelCase.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

fn change(warning: bool, reason: &'static str, message: String) -> Change {
    Change {
        warning,
        reason,
        message,
    }
}

/// The beginning of a repair.
pub fn begins(fault: &Fault, policy: &str) -> Change {
    let since = text(fault.first_seen.as_ref());
    let what = format!("{} {} {}", fault.name(), fault.reason, fault.message);
    let message = format!("begins by policy {policy}: {} since {since}", what.trim());
    change(true, "RepairBegins", message)
}

/// What one pass changed, in order.
pub fn changes(old: &RepairStatus, new: &RepairStatus) -> Vec<Change> {
    let mut found = Vec::new();
    for (place, step) in new.steps.iter().enumerate() {
        let before = old.steps.get(place);
        if before.is_none() {
            let message = format!("{:?} begins", step.action);
            found.push(change(true, "RepairStep", message));
        }
        let was_open = before.is_none_or(|step| step.ended_at.is_none());
        if was_open && step.ended_at.is_some() {
            let message = format!("{:?}: {} {}", step.action, step.result, step.evidence);
            let failed = !["Healthy", "Skipped", "DryRun"].contains(&step.result.as_str());
            found.push(change(failed, "RepairStepEnded", message.trim().to_string()));
        }
    }
    found.extend(gate(old, new));
    if old.state != new.state {
        found.extend(entered(new));
    }
    found
}

fn gate(old: &RepairStatus, new: &RepairStatus) -> Option<Change> {
    let waiting = new.waiting_for.as_ref()?;
    let same = |known: &mainstay_api::repair::WaitingFor| known.gate == waiting.gate;
    if old.waiting_for.as_ref().is_some_and(same) {
        return None;
    }
    let message = match &waiting.next_look {
        Some(at) => format!("waits for {} until {}", waiting.gate, rfc3339_seconds(at.0)),
        None => format!("waits for {}", waiting.gate),
    };
    Some(change(false, "RepairWaits", message))
}

fn entered(new: &RepairStatus) -> Option<Change> {
    let said = match new.state {
        RepairState::Probation => (
            false,
            "RepairHelped",
            "healthy again, now in probation".to_string(),
        ),
        RepairState::Healthy => (false, "RepairEnded", "over, healthy".to_string()),
        RepairState::Cancelled => (false, "RepairCancelled", "over, the machine is gone".to_string()),
        RepairState::Ticketed => {
            let ticket = new.ticket_ref.as_ref().map(|ticket| ticket.name.clone());
            let message = format!(
                "people must repair the host: ticket {}",
                ticket.unwrap_or_default()
            );
            (true, "RepairTicket", message)
        }
        _ => return None,
    };
    Some(change(said.0, said.1, said.2))
}

fn text(time: Option<&Time>) -> String {
    time.map(|time| rfc3339_seconds(time.0)).unwrap_or_default()
}

fn later(time: Option<&Time>, wait: std::time::Duration) -> String {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    let at = time.and_then(|time| time.0.checked_add(wait).ok());
    at.map(rfc3339_seconds).unwrap_or_default()
}

fn rung(policy: &RepairPolicySpec, place: u32) -> Option<&Rung> {
    policy.ladder.get(usize::try_from(place).unwrap_or(usize::MAX))
}

/// The action at a place of the ladder; above its end there are only people.
fn action(policy: &RepairPolicySpec, place: u32) -> Action {
    rung(policy, place).map_or(Action::BreakFix, |rung| rung.action)
}

/// What is tried when the present action does not help.
fn after(policy: &RepairPolicySpec, status: &RepairStatus) -> Action {
    let again = rung(policy, status.rung).is_some_and(|rung| status.attempt + 1 < rung.attempts);
    action(policy, status.rung + u32::from(!again))
}

/// Where an open repair stands and what happens next.
pub fn next(policy: &RepairPolicySpec, status: &RepairStatus) -> String {
    use RepairState::*;
    let coming = action(policy, status.rung);
    match status.state {
        Suspect => format!("{coming:?} begins with the next look"),
        Waiting => waiting(policy, status, coming),
        RestartingService | Restarting | Reprovisioning => acting(policy, status),
        Ticketed => ticketed(status),
        Probation => {
            let until = later(status.since.as_ref(), policy.probation.0);
            let worse = action(policy, status.rung + 1);
            format!("healthy again; watched until {until}, a new fault goes straight to {worse:?}")
        }
        Healthy | Cancelled => "nothing: the repair is over".to_string(),
    }
}

fn waiting(policy: &RepairPolicySpec, status: &RepairStatus, coming: Action) -> String {
    if policy.paused {
        return format!("nothing until the policy is no longer paused; then {coming:?}");
    }
    match &status.waiting_for {
        Some(gate) => {
            let since = gate
                .since
                .as_ref()
                .map(|time| format!(" since {}", rfc3339_seconds(time.0)));
            let (since, look) = (since.unwrap_or_default(), text(gate.next_look.as_ref()));
            format!("held by {}{since}; next look {look}, then {coming:?}", gate.gate)
        }
        None => format!("{coming:?} begins with the next look"),
    }
}

fn acting(policy: &RepairPolicySpec, status: &RepairStatus) -> String {
    let step = status.steps.last().cloned().unwrap_or_default();
    let RepairStep {
        action, started_at, ..
    } = &step;
    let limit = rung(policy, status.rung)
        .map(|rung| rung.timeout.0)
        .unwrap_or_default();
    format!(
        "{action:?} runs since {}; unless healthy by {}: {:?}",
        text(started_at.as_ref()),
        later(started_at.as_ref(), limit),
        after(policy, status)
    )
}

fn ticketed(status: &RepairStatus) -> String {
    let ticket = status.ticket_ref.as_ref().map(|ticket| ticket.name.clone());
    let ticket = ticket.unwrap_or_default();
    match &status.fencing_proof {
        None => format!("waits for proof that the host is off; people have ticket {ticket}"),
        Some(proof) => format!(
            "another machine takes its place ({} read {}); the host comes back when ticket {ticket} is resolved",
            proof.kind,
            text(proof.at.as_ref())
        ),
    }
}

/// What will happen to a machine without a repair; none when it is well.
pub fn suspicion(policy: &str, health: &Health, now: Timestamp) -> Option<String> {
    match health {
        Health::Suspect(left) => {
            let at = now.checked_add(*left).unwrap_or(Timestamp::MAX);
            let at = rfc3339_seconds(at);
            Some(format!(
                "unless it is well again by {at} a repair begins (policy {policy})"
            ))
        }
        Health::Faulty(fault, _) => Some(format!(
            "a repair begins with the next look (policy {policy}, {})",
            fault.name()
        )),
        Health::Healthy | Health::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_api::repair::{WaitingFor, default_ladder};

    fn time(seconds: i64) -> Option<Time> {
        Some(Time(Timestamp::from_second(seconds).expect("in range")))
    }

    fn step(action: Action, result: &str) -> RepairStep {
        RepairStep {
            action,
            started_at: time(0),
            ended_at: time(60).filter(|_| !result.is_empty()),
            result: result.into(),
            ..Default::default()
        }
    }

    fn policy() -> RepairPolicySpec {
        RepairPolicySpec {
            ladder: default_ladder(),
            probation: mainstay_api::GoDuration::seconds(3600),
            ..Default::default()
        }
    }

    #[test]
    fn an_open_action_says_until_when_and_what_then() {
        let mut status = RepairStatus {
            state: RepairState::Restarting,
            rung: 1,
            steps: vec![step(Action::Restart, "")],
            ..Default::default()
        };
        let said = |status: &RepairStatus| next(&policy(), status);
        assert_eq!(
            said(&status),
            "Restart runs since 1970-01-01T00:00:00Z; unless healthy by 1970-01-01T00:10:00Z: Restart"
        );
        status.attempt = 1;
        assert!(said(&status).ends_with(": Reprovision"), "{}", said(&status));
        status.state = RepairState::Waiting;
        status.waiting_for = Some(WaitingFor {
            gate: "budget".into(),
            since: time(0),
            next_look: time(30),
        });
        assert_eq!(
            said(&status),
            "held by budget since 1970-01-01T00:00:00Z; next look 1970-01-01T00:00:30Z, then Restart"
        );
        status.rung = 99;
        assert!(said(&status).ends_with("then BreakFix"));
    }

    #[test]
    fn events_tell_each_step_once() {
        let reasons = |old: &RepairStatus, new: &RepairStatus| {
            let all = changes(old, new).into_iter().map(|change| change.reason);
            all.collect::<Vec<_>>().join(" ")
        };
        let begun = RepairStatus {
            state: RepairState::Restarting,
            steps: vec![step(Action::RestartService, "Skipped"), step(Action::Restart, "")],
            ..Default::default()
        };
        let none = RepairStatus::default();
        assert_eq!(reasons(&none, &begun), "RepairStep RepairStepEnded RepairStep");
        assert_eq!(reasons(&begun, &begun), "");
        let mut helped = begun.clone();
        helped.state = RepairState::Probation;
        helped.steps[1] = step(Action::Restart, "Healthy");
        assert_eq!(reasons(&begun, &helped), "RepairStepEnded RepairHelped");
    }
}
