//! Removals under way: evict, wait until the node is empty, then shrink the group. Pure except for the plan's
//! execution in `run`.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstay_placement::Snapshot;
use mainstay_placement::drain::is_empty;

/// How long a drain may take before it is given up: pods get ten minutes to stop, evictions two to be accepted.
pub const GIVE_UP_SECONDS: i64 = 720;

/// One node on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// Its group.
    pub group: String,
    /// Since when.
    pub since: i64,
}

/// What to do next about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// These pods are to be evicted (again).
    Evict(Vec<(String, Arc<str>)>),
    /// It is empty: the machine may go.
    Shrink,
    /// It took too long: let pods come again.
    GiveUp,
    /// The node is gone by itself.
    Forget,
}

/// Decides the next step of every removal under way.
pub fn next_steps(
    leaving: &BTreeMap<String, Leaving>,
    snapshot: &Snapshot,
    now: i64,
) -> Vec<(String, Leaving, Next)> {
    let step = |(name, leaving): (&String, &Leaving)| {
        let next = match snapshot.node(name) {
            None => Next::Forget,
            Some(node) if is_empty(node) => Next::Shrink,
            Some(_) if now - leaving.since > GIVE_UP_SECONDS => Next::GiveUp,
            Some(node) => {
                let stays = |pod: &&Arc<mainstay_placement::Pod>| {
                    !pod.eviction.is_daemon() && !pod.eviction.is_mirror && pod.deleted_at.is_none()
                };
                let pods = node.pods.iter().filter(stays);
                Next::Evict(
                    pods.map(|pod| (pod.shape.namespace.clone(), pod.name.clone()))
                        .collect(),
                )
            }
        };
        (name.clone(), leaving.clone(), next)
    };
    leaving.iter().map(step).collect()
}
