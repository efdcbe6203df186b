//! One pass of the eviction manager, from a look at the machine to its evictions; what it sees and does goes through
//! [`Machine`], so that tables run the very pass that the agent runs.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use super::decide::{Eviction, HARD_GRACE_SECONDS, Memory, Observations, choose, decide, is_enough};
use super::own_limits;
use super::rank::PodUse;
use super::thresholds::{Condition, Layout, Signal, Threshold};

/// What can be removed before pods have to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reclaim {
    /// Ended containers.
    DeadContainers,
    /// Images that no container uses.
    UnusedImages,
}

/// What can be removed from the filesystem that a signal is about.
pub fn reclaims(signal: Signal, layout: Layout) -> &'static [Reclaim] {
    const BOTH: &[Reclaim] = &[Reclaim::DeadContainers, Reclaim::UnusedImages];
    if signal.condition() != Condition::Disk {
        return &[];
    }
    let nodefs = matches!(signal, Signal::NodefsBytes | Signal::NodefsInodes);
    let imagefs = matches!(signal, Signal::ImagefsBytes | Signal::ImagefsInodes);
    match (layout.dedicated_imagefs, layout.split) {
        (true, false) if nodefs => &[],
        (true, true) if imagefs => &[Reclaim::UnusedImages],
        (true, true) => &[Reclaim::DeadContainers],
        _ => BOTH,
    }
}

/// What the configuration says.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Thresholds as configured.
    pub thresholds: Vec<Threshold>,
    /// How long a condition outlasts its pressure.
    pub transition: Duration,
    /// Longest grace of a soft eviction.
    pub max_grace_seconds: i64,
}

/// Which pods are to be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Those with limits of their own.
    Limited,
    /// All, as far as the signal needs it.
    All(Signal),
}

/// The machine that is defended.
pub trait Machine: Sync {
    /// Where images and writable layers are, and what is left of everything.
    fn look(&self) -> impl Future<Output = (Layout, Observations)> + Send;
    /// Active pods with what they use.
    fn pods(&self, wanted: Wanted) -> impl Future<Output = Vec<PodUse>> + Send;
    /// Removes what nobody needs.
    fn reclaim(&self, what: Reclaim) -> impl Future<Output = ()> + Send;
    /// Takes the conditions that hold now.
    fn publish(&self, conditions: &BTreeSet<Condition>);
    /// Tells that a resource is being reclaimed.
    fn tell_starved(&self, resource: &str);
    /// Ends a pod; false when that may not be.
    fn evict(&self, eviction: &Eviction) -> bool;
}

async fn enforce_own_limits(machine: &impl Machine, layout: Layout) -> Vec<Eviction> {
    let pods = machine.pods(Wanted::Limited).await;
    let over = pods.iter().filter_map(|pod| {
        let (signal, message) = own_limits::exceeded(pod, layout)?;
        (!crate::podspec::is_critical(&pod.pod)).then(|| Eviction {
            uid: pod.uid().to_owned(),
            signal,
            message,
            grace_seconds: HARD_GRACE_SECONDS,
            annotations: Default::default(),
            disruption: false,
        })
    });
    over.filter(|eviction| machine.evict(eviction)).collect()
}

/// Looks, publishes the conditions, and evicts: pods beyond their own limits, else at most one pod for what the node
/// lacks most, if removing what nobody needs did not help. `now` is monotonic.
pub async fn synchronize(
    rules: &Rules,
    memory: &mut Memory,
    machine: &impl Machine,
    now: Duration,
) -> Vec<Eviction> {
    let (layout, seen) = machine.look().await;
    let (thresholds, _) = super::thresholds::with_containerfs(rules.thresholds.clone(), layout);
    let decision = decide(memory, &thresholds, &seen, rules.transition, now);
    machine.publish(&decision.conditions);
    let over = enforce_own_limits(machine, layout).await;
    let Some(threshold) = decision.act_on.filter(|_| over.is_empty()) else {
        return over;
    };
    machine.tell_starved(threshold.signal.resource());
    let reclaims = reclaims(threshold.signal, layout);
    for what in reclaims {
        machine.reclaim(*what).await;
    }
    // Measured before the second look: that takes a while, in which a victim's space may have come back.
    let pods = machine.pods(Wanted::All(threshold.signal)).await;
    if !reclaims.is_empty() && is_enough(&thresholds, &machine.look().await.1) {
        return Vec::new();
    }
    let chosen = choose(&threshold, layout, &seen, pods, rules.max_grace_seconds);
    chosen
        .into_iter()
        .filter(|eviction| machine.evict(eviction))
        .collect()
}
