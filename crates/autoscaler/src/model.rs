//! What the autoscaler decides on: node groups, waiting pods, the cluster, options; and what it decides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mainstay_placement::drain::{DrainRules, Owners};
use mainstay_placement::pack::Class;
use mainstay_placement::{Budgets, Node, Snapshot};

use crate::expander::Expander;

/// One set of equal machines whose size may change.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// The name; ties are decided by its order.
    pub id: String,
    /// The fewest machines.
    pub min: usize,
    /// The most machines.
    pub max: usize,
    /// How many there should be now.
    pub target: usize,
    /// What a new machine would look like, daemon pods included.
    pub template: Node,
    /// The price of a machine per hour, in any unit.
    pub price_per_hour: Option<f64>,
    /// Names of its nodes in the cluster.
    pub nodes: BTreeSet<Arc<str>>,
    /// Pauses, missing templates and the like: why it may not grow now.
    pub not_ready: Option<String>,
    /// What differs from the options for this group.
    pub overrides: Overrides,
}

/// Options that a group sets for itself.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Overrides {
    /// See [`Options::utilization_threshold`].
    pub utilization_threshold: Option<f64>,
    /// See [`Options::unneeded_seconds`].
    pub unneeded_seconds: Option<i64>,
    /// See [`Options::unready_seconds`].
    pub unready_seconds: Option<i64>,
    /// See [`Options::delay_after_add_seconds`]; the shortest of all groups counts.
    pub delay_after_add_seconds: Option<i64>,
    /// See [`Options::provision_seconds`].
    pub provision_seconds: Option<i64>,
    /// See [`Options::startup_seconds`].
    pub startup_seconds: Option<i64>,
}

/// Everything one pass looks at.
#[derive(Debug)]
pub struct Observation {
    /// Seconds since the epoch.
    pub now: i64,
    /// The groups.
    pub groups: Vec<Group>,
    /// Nodes with their pods.
    pub snapshot: Snapshot,
    /// Nodes that pods cannot use yet or now (not ready, or with taints of a start), and when each was made.
    pub not_usable: BTreeMap<Arc<str>, i64>,
    /// Nodes that are annotated to stay.
    pub kept_nodes: BTreeSet<Arc<str>>,
    /// Waiting pods that the scheduler found no place for, equal ones together.
    pub pending: Vec<Class>,
    /// Disruption budgets.
    pub budgets: Budgets,
    /// What is known about controllers.
    pub owners: Arc<dyn Owners + Send + Sync>,
}

impl Observation {
    /// Tells whether a node of a group is there but still starting: it will take pods soon, like one under way.
    pub fn is_starting(&self, group: &Group, node: &str, options: &Options) -> bool {
        let limit = group.overrides.startup_seconds.unwrap_or(options.startup_seconds);
        self.not_usable
            .get(node)
            .is_some_and(|made| self.now - made < limit)
    }
}

/// Options; the defaults are cluster-autoscaler's.
#[derive(Debug, Clone)]
pub struct Options {
    /// How one of several groups is chosen, in order.
    pub expanders: Vec<Expander>,
    /// Several groups may grow in one pass.
    pub all_groups_at_once: bool,
    /// New nodes are shared among similar groups.
    pub balance_similar_groups: bool,
    /// Labels that may differ between similar groups.
    pub balancing_ignored_labels: Vec<String>,
    /// The most nodes one pass adds to a group.
    pub max_nodes_per_scale_up: usize,
    /// The most nodes at all; 0 means no limit.
    pub max_nodes_total: usize,
    /// The most cores at all (thousandths); `None` means no limit.
    pub max_cpu_milli: Option<i64>,
    /// The most memory at all.
    pub max_memory_bytes: Option<i64>,
    /// The fewest cores that stay (thousandths).
    pub min_cpu_milli: i64,
    /// The least memory that stays.
    pub min_memory_bytes: i64,
    /// Pods below this priority never make the cluster grow.
    pub expendable_priority: i32,
    /// How long a new machine may take to become a node.
    pub provision_seconds: i64,
    /// How long a node that is not usable counts as one that is still starting.
    pub startup_seconds: i64,
    /// Rest of a group after a failure: first, longest, forgotten after.
    pub backoff_seconds: (i64, i64, i64),
    /// Whether nodes are removed at all.
    pub scale_down: bool,
    /// A node at or below this share of its allocatable may go.
    pub utilization_threshold: f64,
    /// How long a node must be unneeded (strictly longer).
    pub unneeded_seconds: i64,
    /// How long an unready node must be unneeded.
    pub unready_seconds: i64,
    /// Rest after a scale-up, a deletion, a failed deletion.
    pub delay_after_add_seconds: i64,
    /// See [`Options::delay_after_add_seconds`].
    pub delay_after_delete_seconds: i64,
    /// See [`Options::delay_after_add_seconds`].
    pub delay_after_failure_seconds: i64,
    /// The most nodes deleted in one pass.
    pub max_deletions: usize,
    /// The most of them that need a drain.
    pub max_drains: usize,
    /// How long a node that cannot go is not looked at again.
    pub recheck_seconds: i64,
    /// A deletion that takes longer is tried again.
    pub deletion_retry_seconds: i64,
    /// Which pods hold nodes back.
    pub drain: DrainRules,
    /// Daemon pods do not count as use.
    pub ignore_daemons_in_utilization: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            expanders: vec![Expander::LeastWaste],
            all_groups_at_once: true,
            balance_similar_groups: false,
            balancing_ignored_labels: Vec::new(),
            max_nodes_per_scale_up: 1000,
            max_nodes_total: 0,
            max_cpu_milli: None,
            max_memory_bytes: None,
            min_cpu_milli: 0,
            min_memory_bytes: 0,
            expendable_priority: -10,
            provision_seconds: 900,
            startup_seconds: 900,
            backoff_seconds: (300, 1800, 10_800),
            scale_down: true,
            utilization_threshold: 0.5,
            unneeded_seconds: 600,
            unready_seconds: 1200,
            delay_after_add_seconds: 600,
            delay_after_delete_seconds: 0,
            delay_after_failure_seconds: 180,
            max_deletions: 10,
            max_drains: 1,
            recheck_seconds: 300,
            deletion_retry_seconds: 300,
            drain: DrainRules::default(),
            ignore_daemons_in_utilization: false,
        }
    }
}

/// How the first half of a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ScaleUpResult {
    /// Every pod has a place, or will have when machines under way arrive.
    #[default]
    NotNeeded,
    /// At least one group grows.
    Successful,
    /// Pods wait and no group can help.
    NoOptionsAvailable,
}

impl ScaleUpResult {
    /// Upstream's name.
    pub fn as_str(self) -> &'static str {
        match self {
            ScaleUpResult::NotNeeded => "NotNeeded",
            ScaleUpResult::Successful => "Successful",
            ScaleUpResult::NoOptionsAvailable => "NoOptionsAvailable",
        }
    }
}

/// How the second half of a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ScaleDownResult {
    /// A scale-up or a deletion was too recent.
    InCooldown,
    /// No node is in a group that may shrink.
    NoCandidates,
    /// Nothing can go yet.
    #[default]
    NoNodeDeleted,
    /// Nodes go.
    NodeDeleteStarted,
}

impl ScaleDownResult {
    /// Upstream's name.
    pub fn as_str(self) -> &'static str {
        match self {
            ScaleDownResult::InCooldown => "InCooldown",
            ScaleDownResult::NoCandidates => "NoCandidates",
            ScaleDownResult::NoNodeDeleted => "NoNodeDeleted",
            ScaleDownResult::NodeDeleteStarted => "NodeDeleteStarted",
        }
    }
}

/// Why pods of one class did not get new nodes, group by group.
#[derive(Debug, Clone, Default)]
pub struct Unhelped {
    /// The class; its count is what is left without help.
    pub class: Option<Class>,
    /// Groups whose nodes would not take the pods, with the scheduler's reasons.
    pub rejected: BTreeMap<String, Vec<String>>,
    /// Groups that cannot grow, with the reason.
    pub skipped: BTreeMap<String, String>,
}

impl Unhelped {
    /// The text of the event NotTriggerScaleUp.
    pub fn text(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in self.rejected.values().flatten().chain(self.skipped.values()) {
            *counts.entry(reason).or_default() += 1;
        }
        let parts: Vec<String> = counts
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        let parts = if parts.is_empty() {
            "no node group is known".to_owned()
        } else {
            parts.join(", ")
        };
        format!("pod didn't trigger scale-up: {parts}")
    }
}

/// Why a node stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stays {
    /// Its group is at its minimum.
    NodeGroupMinSizeReached,
    /// It is used too much.
    NotUnderutilized,
    /// It has not been unneeded for long enough.
    NotUnneededLongEnough,
    /// It has not been unready for long enough.
    NotUnreadyLongEnough,
    /// It was looked at a moment ago and could not go.
    RecentlyUnremovable,
    /// Its pods fit nowhere else.
    NoPlaceToMovePods,
    /// A pod may not be evicted.
    BlockedByPod,
    /// A pod asked to complete first.
    BlockedByOnCompletionPod,
    /// It is going already.
    CurrentlyBeingDeleted,
    /// It is annotated to stay.
    ScaleDownDisabledAnnotation,
    /// The cluster would have too little cpu or memory in total.
    MinimalResourceLimitExceeded,
}

impl Stays {
    /// Upstream's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Stays::NodeGroupMinSizeReached => "NodeGroupMinSizeReached",
            Stays::NotUnderutilized => "NotUnderutilized",
            Stays::NotUnneededLongEnough => "NotUnneededLongEnough",
            Stays::NotUnreadyLongEnough => "NotUnreadyLongEnough",
            Stays::RecentlyUnremovable => "RecentlyUnremovable",
            Stays::NoPlaceToMovePods => "NoPlaceToMovePods",
            Stays::BlockedByPod => "BlockedByPod",
            Stays::BlockedByOnCompletionPod => "BlockedByOnCompletionPod",
            Stays::CurrentlyBeingDeleted => "CurrentlyBeingDeleted",
            Stays::ScaleDownDisabledAnnotation => "ScaleDownDisabledAnnotation",
            Stays::MinimalResourceLimitExceeded => "MinimalResourceLimitExceeded",
        }
    }
}

/// Why a node stays, with the pod that holds it if one does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staying {
    /// The reason.
    pub reason: Stays,
    /// The pod that blocks, as `namespace/name`, and why.
    pub pod: Option<(String, &'static str)>,
}

/// A node that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The node.
    pub node: Arc<str>,
    /// Its group.
    pub group: String,
    /// Pods to evict, as (namespace, name, uid).
    pub evict: Vec<(String, Arc<str>, Arc<str>)>,
    /// The deletion was started before and is only repeated: sizes have been changed already.
    pub repeated: bool,
}

/// What one pass decided.
#[derive(Debug, Clone, Default)]
pub struct Decision {
    /// How the scale-up ended.
    pub scale_up: ScaleUpResult,
    /// Groups that grow, and by how much.
    pub increase: BTreeMap<String, usize>,
    /// Groups whose machines never became nodes: how many to give up.
    pub give_up: BTreeMap<String, usize>,
    /// How many pods the new nodes are for.
    pub pods_helped: usize,
    /// How many pods could have got another group, which was not chosen this time.
    pub pods_waiting_for_next: usize,
    /// Classes for which nothing is done, and why.
    pub unhelped: Vec<Unhelped>,
    /// How the scale-down ended.
    pub scale_down: ScaleDownResult,
    /// Nodes that go.
    pub remove: Vec<Removal>,
    /// Why other nodes stay.
    pub staying: BTreeMap<Arc<str>, Staying>,
}
