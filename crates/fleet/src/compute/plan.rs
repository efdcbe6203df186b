//! The next step of one machine, as a pure function of what was seen.
//!
//! Invariants: a host is never given to two machines; a provisioning is only asked for with join data of the
//! same incarnation; every request has an id that stays the same until it has ended.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use mainstay_api::{ComputeNode, ComputeNodeStatus, host::HostTask};
use mainstay_provider::{RequestId, Task, TaskState};

/// A failed task is tried again after this time.
pub const RETRY_AFTER: SignedDuration = SignedDuration::from_secs(20);
/// Prefixes of task ids, by what the task does.
const PROVISION: &str = "provision";
const RESTART: &str = "restart";

/// Everything the plan depends on.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The machine.
    pub node: ComputeNode,
    /// A host carries its name or the other way round.
    pub host: Option<String>,
    /// Commit of the image that a provisioning would install.
    pub commit: Option<String>,
    /// Incarnation that the join data was made for; None while there is none.
    pub join_incarnation: Option<i64>,
    /// The task named in status, as the provider tells it.
    pub task: Option<Task>,
    /// The object that owns it is gone or it is being deleted.
    pub deleting: bool,
    /// The host is out for repair and proven off: it need not be wiped before its machine goes.
    pub fenced: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Choose and claim a host.
    Claim,
    /// Ask for the installation.
    Provision {
        /// Request id.
        id: RequestId,
        /// Commit to install.
        commit: String,
    },
    /// Ask for a restart.
    Restart {
        /// Request id.
        id: RequestId,
    },
    /// The task has ended well: record what runs now.
    Finish,
    /// The task has ended badly.
    Fail {
        /// What went wrong.
        message: String,
        /// The hardware is to blame.
        evidence: Option<String>,
    },
    /// Ask for the wipe.
    Deprovision {
        /// Request id.
        id: RequestId,
    },
    /// Give the host back and let the object go.
    Release,
    /// Nothing to do but wait: reason and message.
    Wait(&'static str, String),
    /// Everything is as it should be.
    Rest,
}

fn status(seen: &Seen) -> ComputeNodeStatus {
    seen.node.status.clone().unwrap_or_default()
}

/// Makes the id of a request: what, which machine, which turn.
fn request(seen: &Seen, what: &str, turn: &str) -> RequestId {
    RequestId(format!("{what}-{}-{turn}", seen.node.uid().unwrap_or_default()))
}

/// The attempt after the one that failed: attempts count up behind the last dot.
fn next_attempt(seen: &Seen, base: RequestId) -> RequestId {
    let last = status(seen).task.map(|task| task.id).unwrap_or_default();
    match last
        .strip_prefix(&format!("{base}."))
        .and_then(|attempt| attempt.parse::<u32>().ok())
    {
        Some(attempt) => RequestId(format!("{base}.{}", attempt + 1)),
        None => RequestId(format!("{base}.1")),
    }
}

/// The step word that marks a failed task in status.
pub const FAILED: &str = "Failed";

/// Decides the next step.
pub fn plan(seen: &Seen, now: Timestamp) -> Step {
    if seen.deleting && seen.fenced {
        return Step::Release;
    }
    if let Some(step) = running_task(seen, now) {
        return step;
    }
    if seen.deleting {
        return match &seen.host {
            Some(_) if deprovisioned(seen) => Step::Release,
            Some(_) => Step::Deprovision {
                id: next_attempt(seen, request(seen, "deprovision", "0")),
            },
            None => Step::Release,
        };
    }
    if seen.host.is_none() || seen.node.spec.host_ref.is_none() {
        return Step::Claim;
    }
    let (spec, status) = (&seen.node.spec, status(seen));
    if status.incarnation < spec.incarnation.max(1) {
        return provision(seen);
    }
    match &spec.restart {
        Some(asked) if asked.id != status.restarted => Step::Restart {
            id: next_attempt(seen, request(seen, RESTART, &asked.id)),
        },
        _ => Step::Rest,
    }
}

fn deprovisioned(seen: &Seen) -> bool {
    let done = seen
        .task
        .as_ref()
        .is_some_and(|task| task.state == TaskState::Done);
    done && status(seen)
        .task
        .is_some_and(|task| task.id.starts_with("deprovision-"))
}

fn provision(seen: &Seen) -> Step {
    let wanted = seen.node.spec.incarnation.max(1);
    let Some(commit) = seen.commit.clone() else {
        return Step::Wait(
            "WaitingForImage",
            "the image has not been composed yet".to_string(),
        );
    };
    if seen.join_incarnation != Some(wanted) {
        return Step::Wait(
            "WaitingForBootstrapData",
            format!("no join data for incarnation {wanted} yet"),
        );
    }
    let id = next_attempt(seen, request(seen, PROVISION, &wanted.to_string()));
    Step::Provision { id, commit }
}

/// What follows from the task in status; None when it is over and recorded.
fn running_task(seen: &Seen, now: Timestamp) -> Option<Step> {
    let recorded = status(seen).task?;
    if recorded.step == FAILED {
        let left = RETRY_AFTER - now.duration_since(recorded.started_at.0);
        return left.is_positive().then(|| {
            Step::Wait(
                "Retrying",
                format!("the last attempt failed; next one in {} s", left.as_secs() + 1),
            )
        });
    }
    let installing = recorded.id.starts_with(PROVISION) || recorded.id.starts_with(RESTART);
    match seen.task.as_ref().map(|task| &task.state) {
        Some(TaskState::Running { step }) => Some(Step::Wait("Provisioning", step.clone())),
        Some(TaskState::Failed { message, evidence }) => Some(Step::Fail {
            message: message.clone(),
            evidence: evidence.clone(),
        }),
        Some(TaskState::Done) if installing && !seen.deleting => Some(Step::Finish),
        Some(TaskState::Done) => None,
        // The provider has forgotten it: it never began, so the same id is asked for again.
        None => None,
    }
}

/// The task as it stands in status.
pub fn recorded(task: &Task, now: Timestamp) -> HostTask {
    let step = match &task.state {
        TaskState::Running { step } => step.clone(),
        TaskState::Done => "Done".to_string(),
        TaskState::Failed { .. } => FAILED.to_string(),
    };
    HostTask::new(task.id.0.clone(), step, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use mainstay_api::{ComputeNodeSpec, NameRef, compute::RestartRequest};
    use mainstay_provider::{HostId, TaskKind};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn seen() -> Seen {
        let spec = ComputeNodeSpec {
            host_ref: Some(NameRef::new("h1")),
            incarnation: 1,
            ..Default::default()
        };
        let mut node = ComputeNode::new("n", spec);
        node.metadata.uid = Some("u".into());
        node.status = Some(ComputeNodeStatus::default());
        Seen {
            node,
            host: Some("h1".into()),
            commit: Some("c1".into()),
            join_incarnation: Some(1),
            ..Default::default()
        }
    }

    fn with_task(mut seen: Seen, id: &str, state: TaskState) -> Seen {
        let task = Task {
            id: RequestId(id.into()),
            host: HostId::new("default", "h1"),
            kind: TaskKind::Provision,
            state,
            started_at: at(0),
            deadline: at(900),
        };
        seen.node.status.as_mut().unwrap().task = Some(recorded(&task, at(0)));
        seen.task = Some(task);
        seen
    }

    fn check(seen: &Seen, want: Expect) {
        want.assert_eq(&format!("{:?}", plan(seen, at(5))));
    }

    #[test]
    fn a_machine_claims_waits_installs_and_rests() {
        let mut fresh = seen();
        fresh.host = None;
        check(&fresh, expect!["Claim"]);
        check(
            &Seen {
                join_incarnation: None,
                ..seen()
            },
            expect![[r#"Wait("WaitingForBootstrapData", "no join data for incarnation 1 yet")"#]],
        );
        check(
            &seen(),
            expect![[r#"Provision { id: RequestId("provision-u-1.1"), commit: "c1" }"#]],
        );
        check(
            &with_task(seen(), "provision-u-1.1", TaskState::Done),
            expect!["Finish"],
        );
        let mut done = seen();
        done.node.status.as_mut().unwrap().incarnation = 1;
        check(&done, expect!["Rest"]);
    }

    #[test]
    fn a_failed_task_is_reported_then_waited_for_then_tried_under_a_new_id() {
        let failed = TaskState::Failed {
            message: "no disk".into(),
            evidence: None,
        };
        let mut seen = with_task(seen(), "provision-u-1.1", TaskState::Done);
        seen.task.as_mut().unwrap().state = failed;
        check(&seen, expect![[r#"Fail { message: "no disk", evidence: None }"#]]);
        seen.node.status.as_mut().unwrap().task.as_mut().unwrap().step = FAILED.into();
        check(
            &seen,
            expect![[r#"Wait("Retrying", "the last attempt failed; next one in 16 s")"#]],
        );
        let later = plan(&seen, at(60));
        expect![[r#"Provision { id: RequestId("provision-u-1.2"), commit: "c1" }"#]]
            .assert_eq(&format!("{later:?}"));
    }

    #[test]
    fn a_higher_incarnation_installs_again_and_a_restart_happens_once() {
        let mut again = seen();
        again.node.status.as_mut().unwrap().incarnation = 1;
        again.node.spec.restart = Some(RestartRequest { id: "r7".into() });
        check(
            &again,
            expect![[r#"Restart { id: RequestId("restart-u-r7.1") }"#]],
        );
        again.node.status.as_mut().unwrap().restarted = "r7".into();
        check(&again, expect!["Rest"]);
        again.node.spec.incarnation = 2;
        again.join_incarnation = Some(2);
        check(
            &again,
            expect![[r#"Provision { id: RequestId("provision-u-2.1"), commit: "c1" }"#]],
        );
    }

    #[test]
    fn a_machine_is_wiped_before_its_host_is_released() {
        let going = Seen {
            deleting: true,
            ..seen()
        };
        check(
            &going,
            expect![[r#"Deprovision { id: RequestId("deprovision-u-0.1") }"#]],
        );
        check(
            &with_task(going, "deprovision-u-0.1", TaskState::Done),
            expect!["Release"],
        );
    }
}
