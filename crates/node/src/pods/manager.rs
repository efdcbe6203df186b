//! All pods of the node: gives each a worker, wakes it when the runtime changed, removes what belongs to none.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use mainstay_control::events::EventKind;
use mainstay_nodepolicy::resize::{self, Pending};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::status_writer::StatusQueue;
use super::worker::{End, Inbox, Worker};
use crate::admission::{self, Decision, Refusal};
use crate::context::Shared;
use crate::cri::CriError;
use crate::node_cgroups::{self, Tiers};
use crate::{node_view, podspec};

struct Entry {
    inbox: Arc<Inbox>,
    task: JoinHandle<()>,
    /// The node did not take it.
    refused: bool,
}

/// The pods of the node.
pub struct Manager {
    shared: Arc<Shared>,
    /// Statuses on their way.
    pub queue: Arc<StatusQueue>,
    entries: Mutex<HashMap<String, Entry>>,
    api_synced: AtomicBool,
    files_read: AtomicBool,
    /// Asks for a listing of the runtime before its turn.
    pub(super) list_wanted: Notify,
    tiers: Mutex<Tiers>,
    /// The classes will be weighed in a moment.
    weighing: AtomicBool,
}

impl Manager {
    /// Makes a manager without pods.
    pub fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Manager {
            queue: Arc::new(StatusQueue::new(shared.tally.clone())),
            shared,
            entries: Mutex::default(),
            api_synced: AtomicBool::new(false),
            files_read: AtomicBool::new(false),
            list_wanted: Notify::new(),
            tiers: Mutex::default(),
            weighing: AtomicBool::new(false),
        })
    }

    /// What this manager works with.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The API server's list is complete: what the runtime has beyond it is an orphan.
    pub fn api_is_synced(&self) {
        self.api_synced.store(true, Ordering::Relaxed);
        self.list_wanted.notify_one();
    }

    /// The manifest folder has been read.
    pub fn files_are_read(&self) {
        if !self.files_read.swap(true, Ordering::Relaxed) {
            self.list_wanted.notify_one();
        }
    }

    /// Takes a new or changed pod.
    pub fn update(self: &Arc<Self>, pod: Pod) {
        self.take(Arc::new(pod), true);
    }

    /// Takes a pod; `may_ask` tells whether the Node may be read again before it is refused.
    fn take(self: &Arc<Self>, pod: Arc<Pod>, may_ask: bool) {
        let uid = podspec::uid(&pod).to_owned();
        let mut entries = self.entries.lock();
        entries.retain(|_, entry| !entry.task.is_finished());
        if let Some(entry) = entries.get(&uid) {
            self.resize(&entries, &pod);
            entry.inbox.update(pod);
            return;
        }
        self.shared.allocations.admit(&pod);
        let inbox = Arc::new(Inbox::new(pod.clone()));
        let mut after = Vec::new();
        let mut refused = false;
        if is_known_to_run(&pod) {
            if !podspec::is_over(&pod) {
                let given = self.shared.allocations.given(&pod);
                admission::adopt(&self.shared, &given);
                self.resize(&entries, &pod);
            }
        } else {
            match self.decide(&entries, &pod) {
                Decision::Refuse { ask_again: true, .. } if may_ask => {
                    tokio::spawn(self.clone().ask_again(pod));
                    return;
                }
                Decision::Refuse { refusal, .. } => {
                    refused = true;
                    self.refuse(&inbox, &refusal);
                }
                Decision::Admit { after: uids } => {
                    after = uids
                        .iter()
                        .filter_map(|u| Some(entries.get(u)?.inbox.clone()))
                        .collect();
                }
            }
        }
        for victim in &after {
            self.preempt(victim);
        }
        let worker = Worker::new(self.shared.clone(), self.queue.clone(), inbox.clone());
        let task = tokio::spawn(worker.run(after));
        let entry = Entry { inbox, task, refused };
        entries.insert(uid, entry);
        drop(entries);
        self.weigh_classes_soon();
    }

    fn decide(&self, entries: &HashMap<String, Entry>, pod: &Pod) -> Decision {
        let others = self.others(entries, podspec::uid(pod));
        let others: Vec<&Pod> = others.iter().map(|p| &**p).collect();
        admission::decide(&self.shared, pod, &others)
    }

    /// The pods that take room beside one, with the resources that they were given.
    fn others(&self, entries: &HashMap<String, Entry>, uid: &str) -> Vec<Arc<Pod>> {
        let active = entries.values().filter(|e| !e.refused && !e.inbox.has_finished());
        let mut others: Vec<Arc<Pod>> = active.map(|e| e.inbox.pod()).collect();
        others.retain(|p| !podspec::is_over(p) && podspec::uid(p) != uid);
        others.sort_by(|a, b| podspec::uid(a).cmp(podspec::uid(b)));
        others.iter().map(|p| self.shared.allocations.given(p)).collect()
    }

    /// Looks whether a running pod asks for other resources than it was given, and whether it can have them; its worker
    /// acts on the answer.
    fn resize(&self, entries: &HashMap<String, Entry>, pod: &Arc<Pod>) {
        let uid = podspec::uid(pod);
        let pending = || self.shared.allocations.of(uid).pending;
        let before = pending();
        self.weigh_resize(entries, pod);
        if pending() != before
            && let Some(entry) = entries.get(uid)
        {
            entry.inbox.wake.notify_one();
        }
    }

    fn weigh_resize(&self, entries: &HashMap<String, Entry>, pod: &Arc<Pod>) {
        let (uid, allocations) = (podspec::uid(pod), &self.shared.allocations);
        if podspec::is_over(pod) || !resize::differs(pod, &allocations.of(uid).given) {
            allocations.hold(uid, None);
            return;
        }
        if !self.knows_all() {
            let text = "the node does not know all of its pods yet";
            allocations.hold(uid, Some(Pending::Deferred(text.to_owned())));
            return;
        }
        let others = self.others(entries, uid);
        let others: Vec<&Pod> = others.iter().map(|p| &**p).collect();
        let Some(pending) = admission::resize(&self.shared, pod, &others) else {
            allocations.give(pod);
            let text = format!("Pod resize started: {}", resize::summary(pod, ""));
            self.shared
                .events
                .pod(pod, EventKind::Normal, "ResizeStarted", text);
            return;
        };
        let reason = pending.reason();
        let text = format!("Pod resize {reason}: {}", resize::summary(pod, pending.message()));
        if allocations.hold(uid, Some(pending)) {
            let event = format!("Resize{reason}");
            self.shared.events.pod(pod, EventKind::Warning, &event, text);
        }
    }

    /// Looks again at resizes that had to wait for room.
    fn retry_resizes(&self) {
        if !self.knows_all() {
            return;
        }
        let deferred = self.shared.allocations.deferred();
        let entries = self.entries.lock();
        for entry in deferred.iter().filter_map(|uid| entries.get(uid)) {
            self.resize(&entries, &entry.inbox.pod());
        }
    }

    fn refuse(&self, inbox: &Inbox, refusal: &Refusal) {
        let message = refusal.message.clone();
        self.shared
            .tally
            .refused
            .count([crate::tally::refusal(&refusal.reason)]);
        self.shared
            .events
            .pod(&inbox.pod(), EventKind::Warning, &refusal.reason, message);
        inbox.end(End::Failed {
            message: format!("Pod was rejected: {}", refusal.message),
            reason: refusal.reason.clone(),
            grace_seconds: Some(0),
            disruption: None,
        });
    }

    /// Ends a pod that makes room for a critical one.
    fn preempt(&self, victim: &Inbox) {
        const MESSAGE: &str = "Preempted in order to admit critical pod";
        const CONDITION: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";
        self.shared
            .events
            .pod(&victim.pod(), EventKind::Warning, "Preempting", MESSAGE);
        victim.end(End::Failed {
            reason: "Preempting".to_owned(),
            message: MESSAGE.to_owned(),
            grace_seconds: None,
            disruption: Some(CONDITION.to_owned()),
        });
    }

    /// Reads the Node before a pod is refused for its labels: they may have changed a moment ago.
    async fn ask_again(self: Arc<Self>, pod: Arc<Pod>) {
        let name = self.shared.settings.node_name();
        let answer = match self.shared.api.client() {
            Some(client) => kube::Api::<Node>::all(client).get(name).await.ok(),
            None => None,
        };
        if let Some(node) = answer {
            self.shared.own_node.set(node);
        }
        self.take(pod, false);
    }

    /// Weighs the classes once for all pods that come in a row: it reads every pod of the node.
    fn weigh_classes_soon(self: &Arc<Self>) {
        if !self.weighing.swap(true, Ordering::Relaxed) {
            let manager = self.clone();
            tokio::spawn(async move {
                manager.weighing.store(false, Ordering::Relaxed);
                manager.weigh_classes();
            });
        }
    }

    /// Weighs the class cgroups by the requests of the pods that run.
    fn weigh_classes(&self) {
        let Some(tree) = &self.shared.cgroups else { return };
        let pods = self.pods_as_given();
        let kubelet = &self.shared.settings.kubelet;
        let memory = node_view::allocatable(&self.shared).get("memory").copied();
        let percent = kubelet.qos_reserved_memory_percent();
        let active = pods.iter().filter(|p| !podspec::is_over(p)).map(|p| &**p);
        let mut tiers = node_cgroups::tiers(active, memory, percent);
        if let Some(policy) = &self.shared.node_side.memory_qos {
            policy.protect_classes(&mut tiers);
        }
        let mut held = self.tiers.lock();
        if *held == tiers {
            return;
        }
        match self.shared.tally.of_cgroup("update", || tree.set_tiers(&tiers)) {
            Ok(()) => *held = tiers,
            Err(error) => {
                let error = mainstay_base::error::chain(&error);
                tracing::warn!(error, "could not weigh the cgroups of the classes");
            }
        }
    }

    /// The pod's object is gone.
    pub fn remove(&self, uid: &str) {
        self.queue.forget(uid);
        if let Some(entry) = self.entries.lock().get(uid) {
            entry.inbox.end(End::Gone);
        }
    }

    /// Ends a pod from the node's side (eviction, preemption, shutdown).
    pub fn end(&self, uid: &str, end: End) {
        if let Some(entry) = self.entries.lock().get(uid) {
            entry.inbox.end(end);
        }
    }

    /// Waits until nothing of these pods runs.
    pub async fn have_ended(&self, uids: &[String]) {
        let inboxes: Vec<Arc<Inbox>> = {
            let entries = self.entries.lock();
            uids.iter()
                .filter_map(|uid| Some(entries.get(uid)?.inbox.clone()))
                .collect()
        };
        for inbox in inboxes {
            inbox.has_ended().await;
        }
    }

    /// Whether a pod is ending or unknown.
    pub fn is_ending(&self, uid: &str) -> bool {
        let entries = self.entries.lock();
        entries.get(uid).is_none_or(|e| e.inbox.is_ending())
    }

    /// Whether both sources have told all they have.
    pub fn knows_all(&self) -> bool {
        self.api_synced.load(Ordering::Relaxed) && self.files_read.load(Ordering::Relaxed)
    }

    /// UIDs of known pods whose source the filter accepts.
    pub fn uids(&self, keep: impl Fn(&Pod) -> bool) -> HashSet<String> {
        let entries = self.entries.lock();
        let kept = entries.iter().filter(|(_, e)| keep(&e.inbox.pod()));
        kept.map(|(uid, _)| uid.clone()).collect()
    }

    /// UIDs of pods whose containers run or may run again.
    pub fn uids_in_use(&self) -> HashSet<String> {
        let entries = self.entries.lock();
        let used = entries
            .iter()
            .filter(|(_, e)| !e.inbox.has_finished() && !podspec::is_over(&e.inbox.pod()));
        used.map(|(uid, _)| uid.clone()).collect()
    }

    /// All pods that have not ended.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        let entries = self.entries.lock();
        entries
            .values()
            .filter(|e| !e.task.is_finished())
            .map(|e| e.inbox.pod())
            .collect()
    }

    /// The same, with the resources that they were given in the place of those that they ask for.
    pub fn pods_as_given(&self) -> Vec<Arc<Pod>> {
        let mut pods = self.pods();
        pods.iter_mut()
            .for_each(|pod| *pod = self.shared.allocations.given(pod));
        pods
    }

    /// A pod by name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let mut pods = self.pods();
        pods.retain(|p| podspec::namespace(p) == namespace && podspec::name(p) == name);
        // A static pod that was replaced may still be ending.
        pods.into_iter()
            .max_by_key(|p| p.metadata.deletion_timestamp.is_none())
    }

    /// Ends all workers; containers run on.
    pub fn stop(&self) {
        for (_, entry) in self.entries.lock().drain() {
            entry.task.abort();
        }
    }

    /// Lets a pod's worker look again.
    pub(super) fn wake(&self, uid: &str) {
        if let Some(entry) = self.entries.lock().get(uid) {
            entry.inbox.wake.notify_one();
        }
    }

    /// Looks again at what changes while all pods stay as they are in the runtime.
    pub(super) fn settle(&self) {
        self.retry_resizes();
        self.weigh_classes();
    }

    /// Stops and removes sandboxes of pods that neither source knows.
    pub(super) async fn remove_orphans(&self, uids: impl Iterator<Item = &String>) {
        if !self.knows_all() {
            return;
        }
        let known = self.uids(|_| true);
        if let Some(tree) = &self.shared.cgroups {
            for (class, uid) in tree.pods() {
                if !known.contains(&uid) {
                    let remove = || tree.remove_pod(class, &uid);
                    self.shared.tally.of_cgroup("destroy", remove);
                }
            }
        }
        for uid in uids.filter(|uid| !known.contains(*uid)) {
            match self.remove_orphan(uid).await {
                Ok(()) => self.shared.tally.orphans.count([]),
                Err(error) => {
                    tracing::warn!(uid, error = error.message(), "could not remove an orphaned pod");
                }
            }
        }
    }

    async fn remove_orphan(&self, uid: &str) -> Result<(), CriError> {
        let cri = &self.shared.cri;
        let view = super::observe::observe(cri, uid, &mut super::observe::EndedCache::default()).await?;
        tracing::info!(uid, "removing a pod that no source knows");
        for container in view.running() {
            let grace = Duration::from_secs(container.grace_seconds.unwrap_or(30).max(1) as u64);
            cri.stop_container(&container.id, grace).await?;
        }
        for sandbox in &view.sandboxes {
            cri.stop_sandbox(&sandbox.id).await?;
            cri.remove_sandbox(&sandbox.id).await?;
        }
        if let Err(error) = crate::volumes::tear_down(&self.shared.settings.dirs.root, uid) {
            tracing::warn!(uid, %error, "could not remove an orphan's volumes");
        }
        if let Some(tree) = &self.shared.cgroups {
            use mainstay_semantics::qos::Class;
            for class in [Class::Guaranteed, Class::Burstable, Class::BestEffort] {
                tree.remove_pod(class, uid);
            }
        }
        Ok(())
    }
}

/// Whether the node has taken this pod before (admission is asked once).
fn is_known_to_run(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let begun = status.is_some_and(|s| s.start_time.is_some());
    begun || podspec::is_over(pod) || pod.metadata.deletion_timestamp.is_some()
}
