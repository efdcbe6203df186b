//! MachineHealthCheck: is a machine unhealthy, and may anything be done about it.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mainstay_capi::{HealthChecks, TriggerIf};

use super::amount::{NotAnAmount, Round, resolve};

/// The answer of the short circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Remediation may happen.
    pub allowed: bool,
    /// Further machines that may become unhealthy before it may not.
    pub remaining: i32,
}

/// Default of nodeStartupTimeoutSeconds.
const NODE_STARTUP_SECONDS: i64 = 600;

/// Decides whether unhealthy machines may be remediated. Machines that are not judged yet count as unhealthy.
pub fn short_circuit(expected: i32, healthy: i32, trigger: &TriggerIf) -> Result<Allowance, NotAnAmount> {
    let unhealthy = expected - healthy;
    let (low, high) = match trigger.unhealthy_in_range.as_str() {
        "" => {
            let all = IntOrString::String("100%".to_string());
            let limit = trigger.unhealthy_less_than_or_equal_to.as_ref().unwrap_or(&all);
            (0, resolve(limit, expected, Round::Down)?)
        }
        range => parse_range(range)?,
    };
    let allowed = (low..=high).contains(&unhealthy);
    Ok(Allowance {
        allowed,
        remaining: if allowed { (high - unhealthy).max(0) } else { 0 },
    })
}

fn parse_range(text: &str) -> Result<(i32, i32), NotAnAmount> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let ends = inner.and_then(|inner| inner.split_once('-'));
    let parsed = ends.and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    parsed.ok_or_else(|| NotAnAmount {
        text: text.to_string(),
    })
}

/// One condition as the rules need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenCondition {
    /// Type.
    pub kind: String,
    /// Status.
    pub status: String,
    /// Last transition.
    pub since: Timestamp,
}

/// What is known of a machine's Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeenNode {
    /// The machine never had one.
    Never,
    /// It had one that no longer exists.
    Gone,
    /// Its conditions.
    There(Vec<SeenCondition>),
}

/// One machine as the health check sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Creation time.
    pub created: Timestamp,
    /// Since when its infrastructure is ready.
    pub infrastructure_ready: Option<Timestamp>,
    /// Is a control-plane machine.
    pub control_plane: bool,
    /// Carries the remediate-machine annotation.
    pub remediate_annotation: bool,
    /// Its Node.
    pub node: SeenNode,
    /// Its own conditions.
    pub conditions: Vec<SeenCondition>,
    /// Since when the cluster's infrastructure is ready.
    pub cluster_infrastructure_ready: Option<Timestamp>,
    /// Since when the control plane is initialized.
    pub control_plane_initialized: Option<Timestamp>,
}

/// The verdict on one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is wrong.
    Healthy,
    /// It cannot be judged yet; look again then (None: at the next change).
    NotYet(Option<SignedDuration>),
    /// Reason and message.
    Unhealthy(&'static str, String),
}

/// Judges one machine. A condition must last strictly longer than its timeout.
pub fn judge(target: &Target, checks: &HealthChecks, now: Timestamp) -> Verdict {
    if target.remediate_annotation {
        return Verdict::Unhealthy(
            "HasRemediateAnnotation",
            "the remediate-machine annotation is set".into(),
        );
    }
    if target.cluster_infrastructure_ready.is_none() {
        return Verdict::NotYet(None);
    }
    let mut next: Option<SignedDuration> = None;
    if let Some(verdict) = judge_conditions(
        &target.conditions,
        &checks.unhealthy_machine_conditions,
        ("UnhealthyMachine", "machine"),
        now,
        &mut next,
    ) {
        return verdict;
    }
    if target.control_plane_initialized.is_none() && !target.control_plane {
        return Verdict::NotYet(None);
    }
    match &target.node {
        SeenNode::Gone => Verdict::Unhealthy("NodeDeleted", "the machine's Node no longer exists".into()),
        SeenNode::Never => judge_startup(target, checks, now),
        SeenNode::There(conditions) => {
            let rules = &checks.unhealthy_node_conditions;
            let verdict = judge_conditions(conditions, rules, ("UnhealthyNode", "node"), now, &mut next);
            verdict.unwrap_or(match next {
                Some(wait) => Verdict::NotYet(Some(wait)),
                None => Verdict::Healthy,
            })
        }
    }
}

fn judge_conditions(
    seen: &[SeenCondition],
    rules: &[mainstay_capi::UnhealthyCondition],
    (reason, whose): (&'static str, &str),
    now: Timestamp,
    next: &mut Option<SignedDuration>,
) -> Option<Verdict> {
    for rule in rules {
        let matching = seen
            .iter()
            .find(|condition| condition.kind == rule.kind && condition.status == rule.status);
        let Some(condition) = matching else { continue };
        let timeout = SignedDuration::from_secs(rule.timeout_seconds);
        let lasting = now.duration_since(condition.since);
        if lasting > timeout {
            let message = format!(
                "condition {} on the {whose} has status {} for more than {} s",
                rule.kind, rule.status, rule.timeout_seconds
            );
            return Some(Verdict::Unhealthy(reason, message));
        }
        let wait = timeout - lasting + SignedDuration::from_secs(1);
        *next = Some(next.map_or(wait, |known| known.min(wait)));
    }
    None
}

fn judge_startup(target: &Target, checks: &HealthChecks, now: Timestamp) -> Verdict {
    let limit = checks
        .node_startup_timeout_seconds
        .unwrap_or(NODE_STARTUP_SECONDS);
    if limit == 0 {
        return Verdict::NotYet(None);
    }
    let starts = [
        Some(target.created),
        target.infrastructure_ready,
        target.cluster_infrastructure_ready,
        target.control_plane_initialized,
    ];
    let start = starts.into_iter().flatten().max().unwrap_or(target.created);
    let (limit, lasting) = (SignedDuration::from_secs(limit), now.duration_since(start));
    if lasting > limit {
        let message = format!("no Node within {} s", limit.as_secs());
        return Verdict::Unhealthy("NodeStartupTimeout", message);
    }
    Verdict::NotYet(Some(limit - lasting + SignedDuration::from_secs(1)))
}
