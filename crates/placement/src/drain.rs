//! Drain: may a node's pods be evicted, and is there another place for them?
//!
//! The order of the rules is upstream's (cluster-autoscaler drainability); the names of reasons too.

use std::sync::Arc;

use crate::disruption::Budgets;
use crate::filter::Filter;
use crate::node::Node;
use crate::pod::{Owner, Pod};
use crate::snapshot::Snapshot;

/// Which pods hold a node back, and what is known about owners.
#[derive(Debug, Clone)]
pub struct DrainRules {
    /// Pods of `kube-system` without a budget hold a node back (until [`DrainRules::system_pod_seconds`]).
    pub skip_system_pods: bool,
    /// Pods with local storage hold a node back.
    pub skip_local_storage: bool,
    /// Pods of controllers that Kubernetes does not ship hold a node back.
    pub skip_custom_controllers: bool,
    /// Controllers with fewer replicas than this keep their pods.
    pub min_replicas: i64,
    /// How long a system pod without a budget holds a node back.
    pub system_pod_seconds: i64,
    /// A pod that should have been gone for this long no longer counts.
    pub long_terminating_seconds: i64,
}

impl Default for DrainRules {
    fn default() -> Self {
        DrainRules {
            skip_system_pods: true,
            skip_local_storage: true,
            skip_custom_controllers: true,
            min_replicas: 0,
            system_pod_seconds: 3600,
            long_terminating_seconds: 60,
        }
    }
}

/// What an owner looks like to the drain rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerState {
    /// It exists; replicas where it has some.
    Present(Option<i64>),
    /// It is gone.
    Missing,
}

/// Why a pod may not be evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Block {
    /// Its controller is gone.
    ControllerNotFound,
    /// Its controller has too few replicas.
    MinReplicasReached,
    /// Nothing would make it again.
    NotReplicated,
    /// It would lose local data.
    LocalStorageRequested,
    /// It is annotated as not safe to evict.
    NotSafeToEvictAnnotation,
    /// A system pod without a budget.
    UnmovableKubeSystemPod,
    /// Its budget is spent.
    NotEnoughPdb,
}

impl Block {
    /// Upstream's name of the reason.
    pub fn as_str(self) -> &'static str {
        match self {
            Block::ControllerNotFound => "ControllerNotFound",
            Block::MinReplicasReached => "MinReplicasReached",
            Block::NotReplicated => "NotReplicated",
            Block::LocalStorageRequested => "LocalStorageRequested",
            Block::NotSafeToEvictAnnotation => "NotSafeToEvictAnnotation",
            Block::UnmovableKubeSystemPod => "UnmovableKubeSystemPod",
            Block::NotEnoughPdb => "NotEnoughPdb",
        }
    }
}

/// What a drain does with one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It does not matter: a mirror, or long dead.
    Skip,
    /// A daemon: it goes with the node and needs no other place.
    Daemon,
    /// It is evicted and must fit elsewhere.
    Move,
    /// It is over; it goes with the node.
    Finished,
    /// It asked to be left alone until it completes.
    Wait,
    /// It may not be evicted.
    Blocked(Block),
}

/// The controllers that Kubernetes ships and that make their pods again.
const REPLICATING: [&str; 5] = [
    "ReplicationController",
    "ReplicaSet",
    "Job",
    "StatefulSet",
    "Deployment",
];
const SYSTEM_NAMESPACE: &str = "kube-system";

/// What the rules look at beside the pod.
#[derive(Debug)]
pub struct DrainContext<'a> {
    /// The rules.
    pub rules: &'a DrainRules,
    /// Disruption budgets.
    pub budgets: &'a Budgets,
    /// What is known about owners.
    pub owners: &'a dyn Owners,
    /// Seconds since the epoch.
    pub now: i64,
}

/// Knowledge about controllers.
pub trait Owners: std::fmt::Debug {
    /// Tells whether a controller of this namespace exists, and its replicas.
    fn state(&self, namespace: &str, owner: &Owner) -> OwnerState;
}

/// Every controller exists.
#[derive(Debug, Clone, Copy)]
pub struct AllPresent;

impl Owners for AllPresent {
    fn state(&self, _: &str, _: &Owner) -> OwnerState {
        OwnerState::Present(None)
    }
}

/// Decides what a drain does with a pod.
pub fn verdict(pod: &Pod, context: &DrainContext<'_>) -> Verdict {
    let facts = &pod.eviction;
    let long_gone = |at: i64| context.now - at > context.rules.long_terminating_seconds;
    if facts.is_mirror || pod.deleted_at.is_some_and(long_gone) {
        return Verdict::Skip;
    }
    if let Some(block) = owner_block(pod, context) {
        return Verdict::Blocked(block);
    }
    if facts.is_daemon() {
        return Verdict::Daemon;
    }
    match facts.safe_to_evict.as_deref() {
        Some("true") => return Verdict::Move,
        _ if facts.is_finished => return Verdict::Finished,
        Some("on-completion") => return Verdict::Wait,
        _ => {}
    }
    block(pod, context).map_or(Verdict::Move, Verdict::Blocked)
}

fn owner_block(pod: &Pod, context: &DrainContext<'_>) -> Option<Block> {
    let owner = pod.eviction.controller.as_ref()?;
    if !REPLICATING.contains(&owner.kind.as_str()) {
        return None;
    }
    match context.owners.state(&pod.shape.namespace, owner) {
        OwnerState::Missing => Some(Block::ControllerNotFound),
        OwnerState::Present(Some(replicas)) if replicas < context.rules.min_replicas => {
            Some(Block::MinReplicasReached)
        }
        OwnerState::Present(_) => None,
    }
}

fn block(pod: &Pod, context: &DrainContext<'_>) -> Option<Block> {
    let (facts, rules) = (&pod.eviction, context.rules);
    let replicated = facts
        .controller
        .as_ref()
        .is_some_and(|owner| !rules.skip_custom_controllers || REPLICATING.contains(&owner.kind.as_str()));
    if !replicated {
        return Some(Block::NotReplicated);
    }
    let young = context.now - pod.since < rules.system_pod_seconds;
    let system = pod.shape.namespace == SYSTEM_NAMESPACE && !context.budgets.cover(&pod.shape);
    if rules.skip_system_pods && system && young {
        return Some(Block::UnmovableKubeSystemPod);
    }
    if facts.safe_to_evict.as_deref() == Some("false") {
        return Some(Block::NotSafeToEvictAnnotation);
    }
    if rules.skip_local_storage && facts.has_local_storage {
        return Some(Block::LocalStorageRequested);
    }
    (!context.budgets.allow(&pod.shape)).then_some(Block::NotEnoughPdb)
}

/// Tells whether no pod of the node needs another place (budgets and owners are not looked at).
pub fn is_empty(node: &Node) -> bool {
    node.pods.iter().all(|pod| {
        let facts = &pod.eviction;
        let waits = facts.safe_to_evict.as_deref() == Some("on-completion");
        facts.is_mirror || facts.is_daemon() || facts.is_finished || waits
    })
}

/// What draining a node would do.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Drain {
    /// Pods that need another place.
    pub moving: Vec<Arc<Pod>>,
    /// Daemons, which go with the node.
    pub daemons: Vec<Arc<Pod>>,
    /// A pod that asked to complete first.
    pub waiting: Option<Arc<Pod>>,
    /// Finished pods and mirrors, which go with the node.
    pub dropped: usize,
}

/// Sorts a node's pods by what a drain does with them. Several pods of one spent budget are noticed: each
/// eviction counts.
///
/// # Errors
/// The first pod that may not be evicted, and why.
pub fn plan(node: &Node, context: &DrainContext<'_>) -> Result<Drain, (Arc<Pod>, Block)> {
    let mut drain = Drain::default();
    let mut budgets = context.budgets.clone();
    for pod in &node.pods {
        match verdict(pod, context) {
            Verdict::Skip | Verdict::Finished => drain.dropped += 1,
            Verdict::Daemon => drain.daemons.push(pod.clone()),
            Verdict::Wait => drain.waiting = Some(pod.clone()),
            Verdict::Blocked(block) => return Err((pod.clone(), block)),
            Verdict::Move => {
                if !budgets.allow(&pod.shape) {
                    return Err((pod.clone(), Block::NotEnoughPdb));
                }
                budgets.take(&pod.shape);
                drain.moving.push(pod.clone());
            }
        }
    }
    Ok(drain)
}

/// Moves pods from the node at `from` to other nodes that `allowed` accepts, one by one, first fit beginning
/// behind the last place found. The snapshot keeps the moves.
///
/// # Errors
/// The first pod without a place; the snapshot is then as before.
pub fn move_pods(
    snapshot: &mut Snapshot,
    from: usize,
    pods: &[Arc<Pod>],
    allowed: &dyn Fn(usize) -> bool,
    hint: &mut usize,
) -> Result<(), Arc<Pod>> {
    let before = snapshot.clone();
    for pod in pods {
        snapshot.remove_pod(from, &pod.uid);
        let nodes = snapshot.nodes().len();
        let filter = Filter::new(&pod.shape, snapshot);
        let fits = |at: &usize| *at != from && allowed(*at) && filter.passes(&snapshot.nodes()[*at]);
        let Some(at) = (0..nodes).map(|offset| (*hint + offset) % nodes).find(fits) else {
            *snapshot = before;
            return Err(pod.clone());
        };
        *hint = at;
        snapshot.add_pod(at, pod.clone());
    }
    Ok(())
}
