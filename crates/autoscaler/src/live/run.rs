//! The loop: wake on changes and timers, decide with [`run_once`], apply, explain.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mainstay_base::clock::{SharedClock, rfc3339_seconds};
use mainstay_base::error::chain;
use mainstay_control::{CancellationToken, EventKind};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::apply::{Evicted, Writer};
use super::drain::{Leaving, Next, next_steps};
use super::groups::{GOING_TAINT, Source};
use super::observe::{Caches, tainted};
use crate::core::run_once;
use crate::model::{Decision, Observation, Options, Removal, ScaleDownResult, Stays};
use crate::state::State;

/// Changes are collected for this long before a pass.
const SETTLE: Duration = Duration::from_millis(200);
/// Drains are looked at this often.
const DRAIN_INTERVAL: Duration = Duration::from_secs(2);
/// How long a written size is believed although the watch shows another one.
const TRUST_WRITES_SECONDS: i64 = 15;
/// Entry of the record that holds the timers.
const STATE_KEY: &str = "state";
/// Entry of the record that explains pods and nodes.
const STATUS_KEY: &str = "status";

/// What the autoscaler works on.
#[derive(Clone)]
pub struct Config {
    /// The management cluster.
    pub management: kube::Client,
    /// The workload cluster (may be the same).
    pub workload: kube::Client,
    /// Where the cluster's pools and machines are.
    pub namespace: String,
    /// The Cluster's name.
    pub cluster: String,
    /// Options.
    pub options: Options,
    /// The longest time between passes while something is pending or unneeded.
    pub scan_interval: Duration,
}

/// The longest time between passes unless configured, as upstream's.
const SCAN_INTERVAL: Duration = Duration::from_secs(10);

impl Config {
    /// The default configuration for a cluster whose pools and machines are in `namespace` of the
    /// management cluster.
    pub fn new(management: kube::Client, workload: kube::Client, namespace: &str, cluster: &str) -> Self {
        Config {
            management,
            workload,
            namespace: namespace.to_owned(),
            cluster: cluster.to_owned(),
            options: Options::default(),
            scan_interval: SCAN_INTERVAL,
        }
    }
}

/// Starts the autoscaler of one cluster; it works until `stop` is cancelled.
pub fn start(config: Config, clock: SharedClock, stop: CancellationToken) -> JoinHandle<()> {
    let caches = Caches::start(&config.management, &config.workload, &config.namespace, &stop);
    let writer = Writer::new(config.management.clone(), config.workload.clone(), clock.clone());
    let mut autoscaler = Autoscaler {
        caches,
        writer,
        config,
        clock,
        state: State::default(),
        leaving: BTreeMap::new(),
        told: BTreeMap::new(),
        recorded: (String::new(), String::new()),
        written: BTreeMap::new(),
    };
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = autoscaler.run() => {}
        }
    })
}

struct Autoscaler {
    caches: Caches,
    writer: Writer,
    config: Config,
    clock: SharedClock,
    state: State,
    leaving: BTreeMap<String, Leaving>,
    /// What each class of pods was told last, so that events are not repeated.
    told: BTreeMap<Arc<str>, String>,
    recorded: (String, String),
    /// Sizes written that the watch may not have brought back yet, and when.
    written: BTreeMap<String, (usize, i64)>,
}

impl Autoscaler {
    async fn run(&mut self) {
        self.caches.ready().await;
        self.recover().await;
        let wake = Arc::new(Notify::new());
        let waker = wake.clone();
        self.caches.on_change(move || waker.notify_one());
        tracing::info!(cluster = self.config.cluster, "autoscaler ready");
        loop {
            let busy = self.pass().await;
            let longest = if !self.leaving.is_empty() {
                DRAIN_INTERVAL
            } else if busy {
                self.config.scan_interval
            } else {
                Duration::MAX
            };
            tokio::select! {
                () = wake.notified() => tokio::time::sleep(SETTLE).await,
                () = sleep(longest) => {}
            }
        }
    }

    /// Reads the timers of an earlier run and frees nodes whose removal it did not finish.
    async fn recover(&mut self) {
        let text = self.writer.read_record(STATE_KEY).await;
        self.state = text
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        let (_, sources) = self.caches.observe(&self.config.cluster, self.now());
        for name in tainted(&self.caches.nodes.list(), GOING_TAINT) {
            let ours = sources
                .iter()
                .any(|source| source.group.nodes.contains(name.as_str()));
            self.state.deleting_since.remove(&name);
            if let Some(node) = self.caches.node(&name).filter(|_| ours) {
                report(self.writer.mark_node(&node, None).await);
            }
        }
    }

    /// Does one pass; tells whether a timer is running.
    async fn pass(&mut self) -> bool {
        let (mut seen, mut sources) = self.caches.observe(&self.config.cluster, self.now());
        self.trust_writes(&mut sources);
        self.continue_drains(&seen, &mut sources).await;
        seen.groups = sources.iter().map(|source| source.group.clone()).collect();
        for group in &mut seen.groups {
            let shrinking = self
                .leaving
                .values()
                .filter(|leaving| leaving.group == group.id)
                .count();
            group.target = group.target.saturating_sub(shrinking);
        }
        let before: BTreeMap<String, usize> = seen
            .groups
            .iter()
            .map(|group| (group.id.clone(), group.target))
            .collect();
        let pending = !seen.pending.is_empty();
        let classes = seen.pending.clone();
        let decision = run_once(&mut seen, &mut self.state, &self.config.options);
        self.grow(&seen, &sources, &before, &decision, &classes).await;
        for removal in &decision.remove {
            self.begin_removal(removal, &mut sources).await;
        }
        self.explain(&decision);
        self.record(&decision).await;
        let ripening = decision.staying.values().any(|staying| {
            matches!(
                staying.reason,
                Stays::NotUnneededLongEnough | Stays::NotUnreadyLongEnough
            )
        });
        pending
            || ripening
            || !self.state.unneeded_since.is_empty()
            || !self.state.ordered.is_empty()
            || decision.scale_down == ScaleDownResult::InCooldown
    }

    /// A size just written counts until the watch shows it, or for a while.
    fn trust_writes(&mut self, sources: &mut [Source]) {
        let now = self.now();
        for source in sources {
            let id = &source.group.id;
            let Some((size, at)) = self.written.get(id).copied() else {
                continue;
            };
            if source.group.target == size || now - at > TRUST_WRITES_SECONDS {
                self.written.remove(id);
            } else {
                source.group.target = size;
            }
        }
    }

    async fn grow(
        &mut self,
        seen: &Observation,
        sources: &[Source],
        before: &BTreeMap<String, usize>,
        decision: &Decision,
        classes: &[mainstay_placement::pack::Class],
    ) {
        let mut texts = Vec::new();
        for source in sources {
            let id = &source.group.id;
            let Some(group) = seen.groups.iter().find(|group| group.id == *id) else {
                continue;
            };
            let changed = decision.increase.contains_key(id) || decision.give_up.contains_key(id);
            if !changed {
                continue;
            }
            let shrinking = self
                .leaving
                .values()
                .filter(|leaving| leaving.group == *id)
                .count();
            if let Err(error) = self.writer.resize(source, group.target + shrinking).await {
                tracing::warn!(group = id, problem = chain(&error), "size not written");
                self.state
                    .failed(id, seen.now, self.config.options.backoff_seconds);
                self.state
                    .ordered
                    .retain(|order| order.group != *id || order.at != seen.now);
                continue;
            }
            self.written
                .insert(id.clone(), (group.target + shrinking, self.now()));
            let text = format!("{id} {}->{} (max: {})", before[id], group.target, group.max);
            if let Some(lost) = decision.give_up.get(id) {
                let message = format!("{lost} machine(s) did not become nodes in time; size {text}");
                self.writer
                    .tell_group(source, EventKind::Warning, "ScaleUpTimedOut", message);
            }
            if decision.increase.contains_key(id) {
                let message = format!("scale-up: {text} for {} pod(s)", decision.pods_helped);
                self.writer
                    .tell_group(source, EventKind::Normal, "ScaledUpGroup", message);
                texts.push(format!("{{{text}}}"));
            }
        }
        if texts.is_empty() {
            return;
        }
        let message = format!("pod triggered scale-up: [{}]", texts.join(" "));
        let unhelped = |uid: &Arc<str>| {
            decision
                .unhelped
                .iter()
                .any(|own| own.class.as_ref().is_some_and(|class| class.pod.uid == *uid))
        };
        for class in classes.iter().filter(|class| !unhelped(&class.pod.uid)) {
            self.tell(&class.pod, EventKind::Normal, "TriggeredScaleUp", message.clone());
        }
    }

    fn tell(&mut self, pod: &mainstay_placement::Pod, kind: EventKind, reason: &str, message: String) {
        if self.told.get(&pod.uid) != Some(&message) {
            self.writer.tell_pod(pod, kind, reason, message.clone());
            self.told.insert(pod.uid.clone(), message);
        }
    }

    async fn begin_removal(&mut self, removal: &Removal, sources: &mut [Source]) {
        let Some(node) = self.caches.node(&removal.node) else {
            return;
        };
        if let Err(error) = self.writer.mark_node(&node, Some(self.now())).await {
            tracing::warn!(
                node = &*removal.node,
                problem = chain(&error),
                "removal not begun"
            );
            self.state.deleting_since.remove(&*removal.node);
            self.state.last_failure = Some(self.now());
            return;
        }
        let message = format!(
            "marked for removal: its {} pod(s) fit elsewhere",
            removal.evict.len()
        );
        self.writer
            .tell_node(&removal.node, EventKind::Normal, "ScaleDown", message);
        if removal.repeated {
            return self.shrink(&removal.node, &removal.group, sources, true).await;
        }
        let leaving = Leaving {
            group: removal.group.clone(),
            since: self.now(),
        };
        self.leaving.insert(removal.node.to_string(), leaving);
    }

    async fn continue_drains(&mut self, seen: &Observation, sources: &mut [Source]) {
        for (node, leaving, next) in next_steps(&self.leaving, &seen.snapshot, seen.now) {
            match next {
                Next::Forget => drop(self.leaving.remove(&node)),
                Next::Shrink => self.shrink(&node, &leaving.group, sources, false).await,
                Next::GiveUp => self.give_up(&node).await,
                Next::Evict(pods) => {
                    for (namespace, name) in pods {
                        match self.writer.evict(&namespace, &name).await {
                            Ok(Evicted::Going) => {}
                            Ok(Evicted::NotNow) => {
                                tracing::debug!(node, pod = &*name, "eviction has to wait for a budget");
                            }
                            Err(error) => tracing::warn!(node, problem = chain(&error), "pod not evicted"),
                        }
                    }
                }
            }
        }
    }

    /// Lets the group give up the node's machine: it is annotated first, so that no other one goes.
    async fn shrink(&mut self, node: &str, group: &str, sources: &mut [Source], repeated: bool) {
        let Some(source) = sources.iter_mut().find(|source| source.group.id == group) else {
            return;
        };
        let Some(machine) = source.machines.get(node) else {
            tracing::warn!(node, group, "no machine is known for the node; it is not removed");
            return self.give_up(node).await;
        };
        let now = rfc3339_seconds(self.clock.now());
        if let Err(error) = self.writer.choose_machine(&source.namespace, machine, &now).await {
            return tracing::warn!(machine, problem = chain(&error), "machine not marked");
        }
        let wanted = source
            .group
            .target
            .saturating_sub(usize::from(!repeated))
            .max(source.group.min);
        if let Err(error) = self.writer.resize(source, wanted).await {
            return tracing::warn!(group, problem = chain(&error), "size not written");
        }
        source.group.target = wanted;
        self.written.insert(group.to_owned(), (wanted, self.now()));
        self.leaving.remove(node);
        let message = format!("scale-down: removing node {node} (machine {machine}), size {wanted}");
        self.writer
            .tell_group(source, EventKind::Normal, "ScaledDownGroup", message);
    }

    async fn give_up(&mut self, node: &str) {
        self.leaving.remove(node);
        self.state.deleting_since.remove(node);
        self.state.last_failure = Some(self.now());
        if let Some(view) = self.caches.node(node) {
            report(self.writer.mark_node(&view, None).await);
        }
        self.writer.tell_node(
            node,
            EventKind::Warning,
            "ScaleDownFailed",
            "its pods could not be moved in time",
        );
    }

    fn explain(&mut self, decision: &Decision) {
        for unhelped in &decision.unhelped {
            if let Some(class) = &unhelped.class {
                self.tell(
                    &class.pod,
                    EventKind::Normal,
                    "NotTriggerScaleUp",
                    unhelped.text(),
                );
            }
        }
        let pods = &self.caches.pods;
        let alive: std::collections::BTreeSet<String> = if self.told.is_empty() {
            Default::default()
        } else {
            pods.list()
                .iter()
                .filter_map(|pod| pod.metadata.uid.clone())
                .collect()
        };
        self.told.retain(|uid, _| alive.contains(&**uid));
    }

    /// Keeps timers and explanations where people and the next run find them; writes only what changed.
    async fn record(&mut self, decision: &Decision) {
        let state = serde_json::to_string(&self.state).unwrap_or_default();
        let status = status_text(decision);
        if (&state, &status) == (&self.recorded.0, &self.recorded.1) {
            return;
        }
        match self
            .writer
            .write_record(json!({STATE_KEY: state, STATUS_KEY: status}))
            .await
        {
            Ok(()) => self.recorded = (state, status),
            Err(error) => tracing::debug!(problem = chain(&error), "record not written"),
        }
    }

    fn now(&self) -> i64 {
        self.clock.now().as_second()
    }
}

async fn sleep(time: Duration) {
    if time == Duration::MAX {
        return std::future::pending().await;
    }
    tokio::time::sleep(time).await;
}

fn report(done: Result<(), mainstay_control::Error>) {
    if let Err(error) = done {
        tracing::warn!(problem = chain(&error), "write failed");
    }
}

/// Why pods did not get nodes and why nodes stay, one line each.
fn status_text(decision: &Decision) -> String {
    let mut lines = Vec::new();
    for unhelped in &decision.unhelped {
        let Some(class) = &unhelped.class else { continue };
        lines.push(format!(
            "pod {} (and {} like it): {}",
            class.pod.key(),
            class.count.saturating_sub(1),
            unhelped.text()
        ));
    }
    for (node, staying) in &decision.staying {
        let pod = staying
            .pod
            .as_ref()
            .map(|(pod, why)| format!(" pod {pod} {why}").trim_end().to_owned());
        lines.push(format!(
            "node {node} stays: {}{}",
            staying.reason.as_str(),
            pod.unwrap_or_default()
        ));
    }
    lines.join("\n")
}
