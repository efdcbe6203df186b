//! Node life cycle: notices nodes that stopped reporting, taints nodes by their conditions, evicts pods that do not
//! tolerate it, and clears pods away whose node is gone. Watches Nodes, their Leases and pods; alone writes the
//! not-ready, unreachable and pressure taints, the conditions of silent nodes, and Ready=False on their pods.

mod evict;
mod health;
mod podgc;
mod zones;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mainstay_control::{Error, EventKind, ObjectKey, events};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::context::{Context, LEASE_NAMESPACE};
use crate::kinds::{Node, Pod};
use crate::owner::is_ended;
use crate::pods::set_condition;
use health::{Heartbeat, Step};
use zones::Zones;

/// When nodes count as lost, and how fast their pods are evicted.
#[derive(Debug, Clone)]
pub struct Health {
    /// Silence after which a node's conditions become Unknown (upstream's default was 40 s until 1.32, now 50 s).
    pub grace: Duration,
    /// Silence allowed to a node that has never reported.
    pub startup_grace: Duration,
    /// How often nodes are looked at.
    pub period: Duration,
    /// Nodes per second and zone whose pods may start to be evicted.
    pub eviction_rate: f64,
    /// The same in a large zone of which many nodes are lost.
    pub secondary_rate: f64,
    /// Share of lost nodes from which a zone counts as disrupted.
    pub unhealthy_share: f64,
    /// Zones up to this size do not evict at all while disrupted.
    pub large_zone: usize,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            grace: Duration::from_secs(40),
            startup_grace: Duration::from_secs(60),
            period: Duration::from_secs(5),
            eviction_rate: 0.1,
            secondary_rate: 0.01,
            unhealthy_share: 0.55,
            large_zone: 50,
        }
    }
}

/// Starts the three loops.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let evictions = evict::start(context.clone());
        let loops = async {
            let caches = &context.caches;
            tokio::join!(caches.nodes.ready(), caches.leases.ready(), caches.pods.ready());
            let mut monitor = Monitor::new(context.clone());
            let mut orphans = podgc::Orphans::default();
            let mut ticks = tokio::time::interval(context.config.node_health.period);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                monitor.pass().await;
                orphans.pass(&context).await;
            }
        };
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = loops => {}
        }
        // The eviction controller ends with the same token; a panic in it has been reported already.
        let _ = evictions.await;
    })
}

/// What the monitor remembers between passes.
struct Monitor {
    context: Arc<Context>,
    heartbeats: HashMap<String, Heartbeat>,
    zones: Zones,
}

impl Monitor {
    fn new(context: Arc<Context>) -> Self {
        let zones = Zones::new(context.config.node_health.clone());
        Monitor {
            context,
            heartbeats: HashMap::new(),
            zones,
        }
    }

    /// Looks at all nodes once. A failed write is tried again by the next pass, since nothing is remembered as done.
    async fn pass(&mut self) {
        let nodes = self.context.caches.nodes.list();
        let monotonic = self.context.clock.monotonic();
        self.observe(&nodes, monotonic);
        let silence = |node: &Node| {
            self.heartbeats
                .get(name(node))
                .map(|beat| beat.silence(monotonic))
        };
        let now = self.context.clock.now();
        let health = &self.context.config.node_health;
        let mut plans: Vec<_> = nodes
            .iter()
            .map(|node| {
                (
                    node.clone(),
                    health::plan(node, silence(node).unwrap_or_default(), health, now),
                )
            })
            .collect();
        self.zones.limit(&mut plans, monotonic);
        for (node, steps) in plans {
            for step in steps {
                if let Err(error) = self.apply(&node, step).await {
                    let problem = mainstay_base::error::chain(&error);
                    tracing::warn!(
                        node = name(&node),
                        problem,
                        "node health not written, trying again"
                    );
                }
            }
        }
    }

    /// Notes which nodes have given a sign of life since the last pass. Only changes count, by our own clock: the
    /// nodes' clocks are not trusted.
    fn observe(&mut self, nodes: &[Arc<Node>], monotonic: Duration) {
        self.heartbeats
            .retain(|known, _| nodes.iter().any(|node| name(node) == known));
        for node in nodes {
            let lease = self
                .context
                .caches
                .leases
                .get(&ObjectKey::namespaced(LEASE_NAMESPACE, name(node)));
            let renewed = lease.and_then(|lease| lease.spec.renew_time);
            let beat = self
                .heartbeats
                .entry(name(node).to_string())
                .or_insert_with(|| Heartbeat::new(monotonic));
            beat.see(renewed, health::reported(node), monotonic);
        }
    }

    async fn apply(&self, node: &Node, step: Step) -> Result<(), Error> {
        let key = ObjectKey::of(node);
        let version = &node.metadata.resource_version;
        match step {
            Step::Conditions(conditions) => {
                let patch =
                    json!({"metadata": {"resourceVersion": version}, "status": {"conditions": conditions}});
                self.context.patch::<Node>(&key, Some("status"), patch).await?;
                let message = format!("Node {} status is now: NodeNotReady", key.name);
                self.context.events.record(
                    events::reference(node),
                    EventKind::Normal,
                    "NodeNotReady",
                    message,
                );
            }
            Step::Taints(taints) => {
                // The status may have been written a moment ago: taints are decided on the spec alone.
                let patch = json!({"metadata": {"uid": node.metadata.uid}, "spec": {"taints": taints}});
                self.context.patch::<Node>(&key, None, patch).await?;
            }
            Step::PodsNotReady => self.pods_not_ready(&key.name).await?,
        }
        Ok(())
    }

    /// Takes the pods of a silent node out of their Services.
    async fn pods_not_ready(&self, node: &str) -> Result<(), Error> {
        let there = |pod: &Pod| pod.spec.node_name.as_deref() == Some(node) && !is_ended(pod);
        for pod in self.context.caches.pods.select(there) {
            let ready = crate::kinds::condition(&pod.status.conditions, "Ready")
                .filter(|ready| ready.status == "True");
            let Some(mut ready) = ready.cloned() else { continue };
            ready.status = "False".into();
            ready.last_transition_time = None;
            let mut conditions = pod.status.conditions.clone();
            set_condition(&mut conditions, ready, self.context.clock.now());
            let patch = json!({
                "metadata": {"resourceVersion": pod.metadata.resource_version}, "status": {"conditions": conditions},
            });
            self.context
                .patch::<Pod>(&ObjectKey::of(&*pod), Some("status"), patch)
                .await?;
            self.context.events.record(
                events::reference(&*pod),
                EventKind::Warning,
                "NodeNotReady",
                "Node is not ready",
            );
        }
        Ok(())
    }
}

/// A node's name.
fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}
