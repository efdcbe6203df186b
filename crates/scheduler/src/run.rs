//! The scheduling loop: take a pod, decide, assume, bind in the background.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use kube::api::{Api, Patch, PatchParams};
use mainstay_base::clock::SharedClock;
use mainstay_base::error::chain;
use mainstay_control::{Cache, CancellationToken, ObjectKey, Scope};
use mainstay_placement::{Pod, Snapshot};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;

use crate::budgets::{self, BudgetView};
use crate::config::Config;
use crate::cycle::{Cycle, Decision, decide};
use crate::extender::{Extender, ExtenderError};
use crate::queue::Queue;
use crate::volumes::{Claim, Unbound, Volumes};
use crate::world::{NamespaceView, NodeView, PodView, World};
use crate::writes::Writer;

/// Bindings under way at the same time; more would only queue at the API server.
const BINDINGS_AT_ONCE: usize = 64;
/// The longest sleep of the loop without a wake-up: timers of a fake clock are seen this late.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
const SHORTEST_SLEEP: Duration = Duration::from_millis(10);
/// What a claim that waits for its first consumer is told.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// Why the scheduler cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An extender cannot be used.
    #[error("the configuration of an extender cannot be used")]
    Extender(#[from] ExtenderError),
}

/// Starts the scheduler; it works until `stop` is cancelled.
///
/// # Errors
/// When the configuration cannot be used.
pub fn start(
    client: kube::Client,
    config: Config,
    clock: SharedClock,
    stop: CancellationToken,
) -> Result<JoinHandle<()>, Error> {
    let extenders = config
        .extenders
        .iter()
        .cloned()
        .map(Extender::new)
        .collect::<Result<Vec<_>, _>>()?;
    let queue = Queue::with_backoff(config.initial_backoff, config.max_backoff);
    let scheduler = Arc::new(Scheduler {
        world: Mutex::new(World::new(queue)),
        wake: Notify::new(),
        pods: Cache::start(&client, Scope::default(), stop.clone()),
        nodes: Cache::start(&client, Scope::default(), stop.clone()),
        namespaces: Cache::start(&client, Scope::default(), stop.clone()),
        budgets: budgets::start(&client, stop.clone()),
        volumes: Volumes::start(&client, &stop),
        writer: Writer::new(client.clone(), crate::config::DEFAULT_NAME, clock.clone()),
        bindings: Arc::new(Semaphore::new(BINDINGS_AT_ONCE)),
        client,
        config,
        extenders,
        clock,
    });
    scheduler.listen();
    Ok(tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = scheduler.run() => {}
        }
    }))
}

struct Scheduler {
    world: Mutex<World>,
    wake: Notify,
    pods: Cache<PodView>,
    nodes: Cache<NodeView>,
    namespaces: Cache<NamespaceView>,
    budgets: Cache<BudgetView>,
    volumes: Volumes,
    writer: Writer,
    bindings: Arc<Semaphore>,
    client: kube::Client,
    config: Config,
    extenders: Vec<Extender>,
    clock: SharedClock,
}

impl Scheduler {
    /// Feeds the world from the caches. Listeners hold the scheduler weakly: it ends with its loop.
    fn listen(self: &Arc<Self>) {
        let feed = |change: Box<dyn Fn(&Scheduler, &mut World) + '_>, me: &std::sync::Weak<Self>| {
            let Some(me) = me.upgrade() else { return };
            change(&me, &mut me.world.lock());
            me.wake.notify_one();
        };
        let me = Arc::downgrade(self);
        self.pods.listen(move |change| {
            feed(
                Box::new(|me, world| match (&change.new, &change.old) {
                    (Some(view), _) => {
                        let mine = me.config.profile(&view.spec.scheduler_name).is_some();
                        world.pod_changed(view, mine, me.clock.monotonic());
                    }
                    (None, Some(old)) => {
                        world.pod_removed(
                            old.metadata.uid.as_deref().unwrap_or_default(),
                            me.clock.monotonic(),
                        );
                    }
                    (None, None) => {}
                }),
                &me,
            );
        });
        let me = Arc::downgrade(self);
        self.nodes.listen(move |change| {
            feed(
                Box::new(|me, world| match &change.new {
                    Some(view) => world.node_changed(view, me.clock.monotonic()),
                    None => world.node_removed(&change.key.name, me.clock.monotonic()),
                }),
                &me,
            );
        });
        let me = Arc::downgrade(self);
        self.namespaces.listen(move |change| {
            let labels = change
                .new
                .as_ref()
                .map(|view| view.metadata.labels.clone().unwrap_or_default());
            feed(
                Box::new(move |_, world| world.namespace_changed(&change.key.name, labels.clone())),
                &me,
            );
        });
        let me = Arc::downgrade(self);
        self.volumes.on_change(move || {
            feed(
                Box::new(|me, world| {
                    world
                        .queue
                        .cluster_changed(me.clock.monotonic(), |pod| !pod.shape.claims.is_empty());
                }),
                &me,
            );
        });
    }

    async fn run(self: Arc<Self>) {
        self.nodes.ready().await;
        self.pods.ready().await;
        self.namespaces.ready().await;
        self.budgets.ready().await;
        self.volumes.ready().await;
        tracing::info!("scheduler ready");
        let mut start = 0usize;
        loop {
            let Some((pod, view, stopping)) = self.take() else {
                self.sleep().await;
                continue;
            };
            start = start.wrapping_add(1);
            self.schedule(&pod, view, stopping, start).await;
        }
    }

    /// Takes the next pod with the cluster as it must see it.
    fn take(&self) -> Option<(Arc<Pod>, Snapshot, bool)> {
        let mut world = self.world.lock();
        let now = self.clock.monotonic();
        world.queue.flush(now);
        let pod = world.queue.next(now)?;
        let view = world.view_for(&pod);
        let kept = world.nominated(&pod.uid).and_then(|node| view.node(node));
        let stopping = kept.is_some_and(|node| {
            let lower = |other: &Arc<Pod>| other.shape.priority < pod.shape.priority;
            node.pods
                .iter()
                .any(|other| other.deleted_at.is_some() && lower(other))
        });
        Some((pod, view, stopping))
    }

    async fn sleep(&self) {
        let due = self.world.lock().queue.next_due();
        let wait = due.map_or(LONGEST_SLEEP, |due| {
            due.saturating_sub(self.clock.monotonic())
                .clamp(SHORTEST_SLEEP, LONGEST_SLEEP)
        });
        tokio::select! {
            () = self.wake.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }

    async fn schedule(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        snapshot: Snapshot,
        victims_stopping: bool,
        start: usize,
    ) {
        let Some(seen) = self
            .pods
            .get(&ObjectKey::namespaced(&pod.shape.namespace, &*pod.name))
        else {
            return self.with_world(|world, _| world.queue.remove(&pod.uid));
        };
        let profile = self.config.profile(&seen.spec.scheduler_name).unwrap_or(0);
        let (volumes, unbound) = self.volumes.resolve(&pod.shape);
        let nodes = snapshot.nodes().len().max(1);
        let cycle = Cycle {
            snapshot: &snapshot,
            options: &self.config.options(profile),
            extenders: &self.extenders,
            volumes: &volumes,
            budgets: &budgets::current(&self.budgets),
            start: start % nodes,
            victims_stopping,
        };
        match decide(&cycle, pod).await {
            Decision::Bind { node } => self.bind(pod, node, unbound).await,
            Decision::Preempt {
                node,
                victims,
                message,
            } => {
                self.preempt(pod, &seen, &node, &victims, &message).await;
            }
            Decision::Unschedulable { message } => {
                self.with_world(|world, now| world.queue.unschedulable(&pod.uid, now));
                self.report(pod, &seen, &message, None).await;
            }
            Decision::Failed { message } => {
                self.with_world(|world, now| world.queue.rest(&pod.uid, now));
                self.report(pod, &seen, &message, None).await;
            }
        }
    }

    /// Counts the pod on its node at once and binds in the background.
    async fn bind(self: &Arc<Self>, pod: &Arc<Pod>, node: String, unbound: Vec<Unbound>) {
        if !unbound.is_empty() {
            self.with_world(|world, now| world.queue.unschedulable(&pod.uid, now));
            return self.select_node(pod, &node, &unbound).await;
        }
        self.with_world(|world, now| world.assume(pod, &node, now));
        let Ok(permit) = self.bindings.clone().acquire_owned().await else {
            return;
        };
        let (me, pod) = (self.clone(), pod.clone());
        tokio::spawn(async move {
            let bound = std::panic::AssertUnwindSafe(me.write_binding(&pod, &node))
                .catch_unwind()
                .await;
            drop(permit);
            let problem = match bound {
                Ok(Ok(())) => return me.with_world(|world, _| world.queue.remove(&pod.uid)),
                Ok(Err(problem)) => problem,
                Err(_) => "the binding task panicked".to_owned(),
            };
            tracing::warn!(
                pod = pod.key(),
                node,
                problem,
                "binding failed, the pod is tried again"
            );
            me.with_world(|world, now| world.forget(&pod.uid, now));
            me.wake.notify_one();
        });
    }

    async fn write_binding(&self, pod: &Pod, node: &str) -> Result<(), String> {
        let binder = self
            .extenders
            .iter()
            .find(|extender| extender.binds() && extender.is_concerned(&pod.shape));
        match binder {
            Some(extender) => extender.bind(pod, node).await.map_err(|error| chain(&error)),
            None => self.writer.bind(pod, node).await.map_err(|error| chain(&error)),
        }
    }

    /// Tells unbound claims which node was chosen; the pod is tried again when they are bound.
    async fn select_node(&self, pod: &Pod, node: &str, unbound: &[Unbound]) {
        let claims: Api<Claim> = Api::namespaced(self.client.clone(), &pod.shape.namespace);
        for Unbound { claim } in unbound {
            let patch = Patch::Merge(json!({"metadata": {"annotations": {SELECTED_NODE: node}}}));
            if let Err(error) = claims.patch(claim, &PatchParams::default(), &patch).await {
                tracing::warn!(
                    claim,
                    problem = chain(&error),
                    "could not choose a node for a claim"
                );
            }
        }
    }

    async fn preempt(&self, pod: &Arc<Pod>, seen: &PodView, node: &str, victims: &[Arc<Pod>], message: &str) {
        self.with_world(|world, _| world.nominate(pod, node));
        for victim in victims {
            if let Err(error) = self.writer.evict_victim(victim, pod, node).await {
                tracing::warn!(
                    victim = victim.key(),
                    problem = chain(&error),
                    "victim not evicted"
                );
            }
        }
        self.with_world(|world, now| world.queue.unschedulable(&pod.uid, now));
        self.report(pod, seen, message, Some(node)).await;
    }

    async fn report(&self, pod: &Pod, seen: &PodView, message: &str, nominated: Option<&str>) {
        if let Err(error) = self
            .writer
            .unschedulable(pod, Some(seen), message, nominated)
            .await
        {
            tracing::debug!(pod = pod.key(), problem = chain(&error), "condition not written");
        }
    }

    fn with_world<R>(&self, act: impl FnOnce(&mut World, Duration) -> R) -> R {
        act(&mut self.world.lock(), self.clock.monotonic())
    }
}
