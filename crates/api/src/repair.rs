//! RepairPolicy (rules and budgets), Repair (one fault episode of one host) and BreakFixTicket (hand-off to people).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{common::NameRef, duration::GoDuration};

/// Annotation of a Node that asks the machine to restart its services; the value is the request's id.
pub const RESTART_SERVICES_ANNOTATION: &str = "mainstay.dev/restart-services";
/// Annotation of a Node by which the machine reports the request that it has carried out.
pub const SERVICES_RESTARTED_ANNOTATION: &str = "mainstay.dev/services-restarted";

/// Which faults are repaired, how and how fast.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "RepairPolicy",
    namespaced,
    category = "mainstay"
)]
#[kube(derive = "PartialEq", derive = "Default")]
#[kube(printcolumn(name = "MaxInFlight", type_ = "integer", json_path = ".spec.maxInFlight"))]
#[kube(printcolumn(name = "DryRun", type_ = "boolean", json_path = ".spec.dryRun"))]
#[kube(printcolumn(name = "Paused", type_ = "boolean", json_path = ".spec.paused"))]
#[serde(rename_all = "camelCase")]
pub struct RepairPolicySpec {
    /// Which nodes, by their labels; empty means all.
    #[serde(default)]
    pub node_selector: LabelSelector,
    /// Faults that start a repair.
    #[serde(default)]
    pub triggers: Vec<Trigger>,
    /// Actions, mildest first.
    #[serde(default = "default_ladder")]
    pub ladder: Vec<Rung>,
    /// When too much is broken to act.
    #[serde(default)]
    pub breaker: Breaker,
    /// Repairs under way at once, per pool.
    #[serde(default = "one")]
    pub max_in_flight: u32,
    /// After a success a new fault within this time goes to the next rung.
    #[serde(default = "default_probation")]
    pub probation: GoDuration,
    /// Waits between attempts.
    #[serde(default)]
    pub backoff: RepairBackoff,
    /// Proof that the old machine is gone before another may take its place.
    #[serde(default)]
    pub fencing: Fencing,
    /// Times of the week at which machines may be disrupted; empty means always.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<String>,
    /// Writes what it would do and does nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Does nothing.
    #[serde(default)]
    pub paused: bool,
}

fn one() -> u32 {
    1
}

fn default_probation() -> GoDuration {
    GoDuration::seconds(24 * 3600)
}

/// The ladder of a policy that names none: service 2m ×1, restart 10m ×2, reprovision 40m ×1, break-fix.
pub fn default_ladder() -> Vec<Rung> {
    let rung = |action, minutes: u64, attempts| Rung {
        action,
        timeout: GoDuration::seconds(minutes * 60),
        attempts,
    };
    vec![
        rung(Action::RestartService, 2, 1),
        rung(Action::Restart, 10, 2),
        rung(Action::Reprovision, 40, 1),
        rung(Action::BreakFix, 0, 1),
    ]
}

/// Where a fault is seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Source {
    /// A condition of the Node.
    #[default]
    NodeCondition,
    /// The liveness probe of the ComputeNode.
    Probe,
    /// An alert of Prometheus.
    Alert,
    /// The Node's Lease is not renewed.
    Lease,
}

/// What kind of fault it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FaultClass {
    /// Goes up the ladder.
    #[default]
    AutoRepairable,
    /// Straight to a ticket.
    HardwareFault,
    /// Reported only: machines cannot repair it.
    Software,
}

/// An action of the ladder.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum Action {
    /// Restarts the faulty service on the machine.
    #[default]
    RestartService,
    /// Power-cycles the machine.
    Restart,
    /// Wipes and installs the machine anew.
    Reprovision,
    /// Takes the host out and opens a ticket.
    BreakFix,
}

/// A fault that starts a repair.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trigger {
    /// Where it is seen.
    pub source: Source,
    /// Condition type or alert name.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Condition status that means trouble.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// Only these reasons; empty means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// How long it must last.
    #[serde(default, rename = "for")]
    pub lasting: GoDuration,
    /// What kind of fault it is.
    #[serde(default)]
    pub class: FaultClass,
    /// First action; absent means the ladder's first (hardware faults: BreakFix).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_at: Option<Action>,
}

/// One step of the ladder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rung {
    /// What is done.
    pub action: Action,
    /// The machine must be healthy again within this time.
    #[serde(default)]
    pub timeout: GoDuration,
    /// Tries before the next rung.
    #[serde(default = "one")]
    pub attempts: u32,
}

/// Stops repairs when too much is broken: then the cause is probably not the machines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Breaker {
    /// Number or share of unhealthy machines per scope (rounded up, at least 1).
    #[serde(default = "twenty_percent")]
    pub max_unhealthy: IntOrString,
    /// Groups that are counted: `pool`, `zone`, `cluster`.
    #[serde(default = "all_scopes")]
    pub scope: Vec<String>,
    /// Stays open at least this long.
    #[serde(default = "ten_minutes")]
    pub cooldown: GoDuration,
    /// `Auto` or `Manual` (annotation `mainstay.dev/reset-breaker`).
    #[serde(default = "auto")]
    pub reset: String,
}

fn twenty_percent() -> IntOrString {
    IntOrString::String("20%".to_string())
}

fn all_scopes() -> Vec<String> {
    ["pool", "zone", "cluster"].map(String::from).to_vec()
}

fn ten_minutes() -> GoDuration {
    GoDuration::seconds(600)
}

fn auto() -> String {
    "Auto".to_string()
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker {
            max_unhealthy: twenty_percent(),
            scope: all_scopes(),
            cooldown: ten_minutes(),
            reset: auto(),
        }
    }
}

/// Waits between attempts, doubling.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RepairBackoff {
    /// After the first failure.
    pub initial: GoDuration,
    /// The longest.
    pub max: GoDuration,
}

impl Default for RepairBackoff {
    fn default() -> Self {
        RepairBackoff {
            initial: GoDuration::seconds(60),
            max: GoDuration::seconds(3600),
        }
    }
}

/// Whether proof is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Fencing {
    /// No replacement, no forced pod release without proof.
    #[default]
    Required,
    /// Proof is collected where possible.
    BestEffort,
}

/// What is repaired: the host, and the machine that ran on it when the fault was seen.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "Repair",
    namespaced,
    status = "RepairStatus"
)]
#[kube(category = "mainstay", derive = "PartialEq", derive = "Default")]
#[kube(printcolumn(name = "Host", type_ = "string", json_path = ".spec.hostRef.name"))]
#[kube(printcolumn(name = "Fault", type_ = "string", json_path = ".spec.fault.type"))]
#[kube(printcolumn(name = "State", type_ = "string", json_path = ".status.state"))]
#[kube(printcolumn(name = "WaitingFor", type_ = "string", json_path = ".status.waitingFor.gate"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
pub struct RepairSpec {
    /// The host.
    #[serde(default)]
    pub host_ref: NameRef,
    /// The ComputeNode.
    #[serde(default)]
    pub compute_node_ref: NameRef,
    /// The Machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_ref: Option<NameRef>,
    /// The policy that started it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_ref: Option<NameRef>,
    /// What was seen.
    pub fault: Fault,
}

/// What was seen, and when first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Where.
    pub source: Source,
    /// Condition type or alert name.
    #[serde(rename = "type")]
    pub kind: String,
    /// Reason as reported.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Message as reported.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What kind of fault it is.
    #[serde(default)]
    pub class: FaultClass,
    /// Start of the fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<Time>,
}

impl Fault {
    /// The fault's name for people: the condition or alert, else where it was seen.
    pub fn name(&self) -> String {
        match self.kind.as_str() {
            "" => format!("{:?}", self.source),
            kind => kind.to_string(),
        }
    }
}

/// Where a repair is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RepairState {
    /// Seen, not yet lasting long enough.
    #[default]
    Suspect,
    /// Held back by a gate or between attempts.
    Waiting,
    /// The service restart runs.
    RestartingService,
    /// The power cycle runs.
    Restarting,
    /// The reprovision runs.
    Reprovisioning,
    /// People have it.
    Ticketed,
    /// Healthy again, watched.
    Probation,
    /// Over, healthy.
    Healthy,
    /// Over, by a person or because the machine went away.
    Cancelled,
}

/// Where the repair is and everything that was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RepairStatus {
    /// State.
    pub state: RepairState,
    /// Current step of the ladder, from 0.
    pub rung: u32,
    /// Attempts made on this rung.
    pub attempt: u32,
    /// What holds it back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<WaitingFor>,
    /// Since when the present state lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Every action, in order; never shortened.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<RepairStep>,
    /// Proof that the old machine no longer runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fencing_proof: Option<FencingProof>,
    /// The ticket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket_ref: Option<NameRef>,
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A gate that holds an action back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WaitingFor {
    /// `pause`, `breaker`, `budget`, `quorum`, `window`, `capacity`, `backoff`, `fencing`.
    pub gate: String,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Next look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_look: Option<Time>,
}

/// One action of a repair.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RepairStep {
    /// What was done.
    pub action: Action,
    /// Identifier at the provider.
    #[serde(rename = "taskID", skip_serializing_if = "String::is_empty")]
    pub task_id: String,
    /// Begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// End.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// `Healthy`, `StillFaulty`, `TimedOut`, `Failed`, `Skipped`, `DryRun`; empty while it runs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub result: String,
    /// What was seen; while the action runs, the boot id from before.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub evidence: String,
}

/// Proof that nothing runs on the old machine any more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FencingProof {
    /// `PowerOff`, `InstanceGone`, `BootIDChanged` or `LeaseExpired`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When it was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

/// Hardware for people to repair.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "mainstay.dev",
    version = "v1alpha1",
    kind = "BreakFixTicket",
    namespaced
)]
#[kube(status = "BreakFixTicketStatus", category = "mainstay", shortname = "ticket")]
#[kube(derive = "PartialEq", derive = "Default")]
#[kube(printcolumn(name = "Host", type_ = "string", json_path = ".spec.hostRef.name"))]
#[kube(printcolumn(name = "Rack", type_ = "string", json_path = ".spec.rack"))]
#[kube(printcolumn(name = "Fault", type_ = "string", json_path = ".spec.summary"))]
#[kube(printcolumn(name = "State", type_ = "string", json_path = ".status.state"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
pub struct BreakFixTicketSpec {
    /// The host.
    pub host_ref: NameRef,
    /// The repair that gave up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repair_ref: Option<NameRef>,
    /// One line for people.
    pub summary: String,
    /// Where the host stands.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rack: String,
    /// Lowest rack unit.
    #[serde(default)]
    pub unit: u16,
    /// Serial number.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// Last day of warranty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warranty_until: Option<String>,
    /// Everything that was tried and seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// A person sets this when the host works again; it is then inspected and returns to the pool.
    #[serde(default)]
    pub resolved: bool,
}

/// Where the ticket is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BreakFixTicketStatus {
    /// `Open` or `Closed`.
    pub state: String,
    /// When it was closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<Time>,
}
