//! What the scheduler knows: the snapshot, the pods on it (bound and assumed), nominations, the queue.
//!
//! Fed by cache listeners, read by the scheduling loop; one lock around all of it, held for microseconds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use mainstay_placement::input::{NodeSpec, NodeStatus, PodSpec, PodStatus};
use mainstay_placement::pod::Namespaces;
use mainstay_placement::{Eviction, NodeInfo, Owner, Pod, Shape, Snapshot};

use crate::queue::Queue;

mainstay_control::projection! {
    /// What placement reads of a Pod.
    pub struct PodView = "" "v1" "Pod" "pods" namespaced {
        /// The spec.
        pub spec: PodSpec,
        /// The status.
        pub status: PodStatus,
    }
}

mainstay_control::projection! {
    /// What placement reads of a Node.
    pub struct NodeView = "" "v1" "Node" "nodes" cluster {
        /// The spec.
        pub spec: NodeSpec,
        /// The status.
        pub status: NodeStatus,
    }
}

mainstay_control::projection! {
    /// A namespace's labels.
    pub struct NamespaceView = "" "v1" "Namespace" "namespaces" cluster {}
}

impl PodView {
    /// Tells whether the pod is over.
    pub fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Converts to placement's form.
    pub fn to_pod(&self) -> Pod {
        let meta = &self.metadata;
        let labels = meta.labels.clone().unwrap_or_default();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let owner = meta
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true));
        let owner = owner.map(|owner| Owner {
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        });
        let annotations = meta.annotations.clone().unwrap_or_default();
        let eviction = Eviction::new(&annotations, owner, &self.spec.volumes, &self.status.phase);
        Pod {
            name: meta.name.as_deref().unwrap_or_default().into(),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            shape: Arc::new(Shape::new(namespace, &labels, &self.spec)),
            eviction: Arc::new(eviction),
            since: meta
                .creation_timestamp
                .as_ref()
                .map_or(0, |time| time.0.as_second()),
            deleted_at: meta.deletion_timestamp.as_ref().map(|time| time.0.as_second()),
        }
    }
}

impl NodeView {
    /// Converts to placement's form.
    pub fn to_info(&self) -> NodeInfo {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        NodeInfo::new(
            name,
            self.metadata.labels.clone().unwrap_or_default(),
            &self.spec,
            &self.status,
        )
    }
}

/// A pod that has, or is about to get, a node.
#[derive(Debug)]
struct Placed {
    pod: Arc<Pod>,
    node: String,
    assumed: bool,
}

/// A place kept free for a pod whose victims are stopping.
#[derive(Debug, Clone)]
pub struct Nomination {
    /// The node's name.
    pub node: String,
    /// The pod.
    pub pod: Arc<Pod>,
}

/// The scheduler's knowledge.
#[derive(Debug, Default)]
pub struct World {
    snapshot: Snapshot,
    placed: HashMap<Arc<str>, Placed>,
    by_node: HashMap<String, HashSet<Arc<str>>>,
    nominations: BTreeMap<Arc<str>, Nomination>,
    shapes: HashMap<u64, Arc<Shape>>,
    namespaces: Arc<Namespaces>,
    /// Pods to schedule.
    pub queue: Queue,
}

/// Shapes remembered for sharing; past this the table starts anew.
const SHAPES_LIMIT: usize = 20_000;

impl World {
    /// Makes an empty world around a queue.
    pub fn new(queue: Queue) -> Self {
        World {
            queue,
            ..World::default()
        }
    }

    /// The cluster as far as known, assumed pods included.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Takes a node as it is now.
    pub fn node_changed(&mut self, view: &NodeView, now: Duration) {
        let info = view.to_info();
        let known = self.snapshot.node(&info.name);
        if known.is_some_and(|node| *node.info == info) {
            return;
        }
        let is_new = known.is_none();
        let name = info.name.to_string();
        let at = self.snapshot.set_node(Arc::new(info));
        if is_new {
            let here = self.by_node.get(&name).into_iter().flatten();
            let pods: Vec<Arc<Pod>> = here
                .filter_map(|uid| self.placed.get(uid))
                .map(|placed| placed.pod.clone())
                .collect();
            pods.into_iter().for_each(|pod| self.snapshot.add_pod(at, pod));
        }
        self.queue.cluster_changed(now, |_| true);
    }

    /// Forgets a node.
    pub fn node_removed(&mut self, name: &str, now: Duration) {
        self.snapshot.remove_node(name);
        self.queue
            .cluster_changed(now, |pod| !pod.shape.spread_required.is_empty());
    }

    /// Takes a namespace's labels.
    pub fn namespace_changed(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) {
        let namespaces = Arc::make_mut(&mut self.namespaces);
        match labels {
            Some(labels) => drop(namespaces.insert(name.to_owned(), labels)),
            None => drop(namespaces.remove(name)),
        }
        self.snapshot.set_namespaces(self.namespaces.clone());
    }

    /// Takes a pod as it is now; `mine` tells whether this scheduler places it.
    pub fn pod_changed(&mut self, view: &PodView, mine: bool, now: Duration) {
        let uid = view.metadata.uid.clone().unwrap_or_default();
        if view.is_finished() {
            return self.pod_removed(&uid, now);
        }
        let pod = self.share(view.to_pod());
        if !view.spec.node_name.is_empty() {
            self.queue.remove(&uid);
            self.nominations.remove(&*uid);
            return self.put(pod, &view.spec.node_name, false, now);
        }
        let waits =
            mine && view.metadata.deletion_timestamp.is_none() && view.spec.scheduling_gates.is_empty();
        if !waits {
            self.nominations.remove(&*uid);
            return self.queue.remove(&uid);
        }
        if !view.status.nominated_node_name.is_empty() {
            let node = view.status.nominated_node_name.clone();
            self.nominations.insert(
                pod.uid.clone(),
                Nomination {
                    node,
                    pod: pod.clone(),
                },
            );
        }
        if !self.placed.contains_key(&pod.uid) {
            self.queue.add(pod);
        }
    }

    /// Forgets a pod.
    pub fn pod_removed(&mut self, uid: &str, now: Duration) {
        self.queue.remove(uid);
        self.nominations.remove(uid);
        if self.take(uid).is_some() {
            self.queue.cluster_changed(now, |_| true);
        }
    }

    /// Counts a pod on a node before the API knows.
    pub fn assume(&mut self, pod: &Arc<Pod>, node: &str, now: Duration) {
        self.nominations.remove(&pod.uid);
        self.put(pod.clone(), node, true, now);
    }

    /// Takes an assumption back; the pod is tried again after a rest.
    pub fn forget(&mut self, uid: &str, now: Duration) {
        if self.placed.get(uid).is_some_and(|placed| placed.assumed) {
            self.take(uid);
            self.queue.rest(uid, now);
            self.queue.cluster_changed(now, |_| true);
        }
    }

    /// Keeps a place for a pod.
    pub fn nominate(&mut self, pod: &Arc<Pod>, node: &str) {
        let nomination = Nomination {
            node: node.to_owned(),
            pod: pod.clone(),
        };
        self.nominations.insert(pod.uid.clone(), nomination);
    }

    /// The node that is kept for a pod.
    pub fn nominated(&self, uid: &str) -> Option<&str> {
        self.nominations
            .get(uid)
            .map(|nomination| nomination.node.as_str())
    }

    /// The cluster as this pod must see it: places kept for pods of at least its priority count as taken.
    pub fn view_for(&self, pod: &Pod) -> Snapshot {
        let mut view = self.snapshot.clone();
        for (uid, kept) in &self.nominations {
            let counts = **uid != *pod.uid && kept.pod.shape.priority >= pod.shape.priority;
            if let Some(at) = counts.then(|| view.position(&kept.node)).flatten() {
                view.add_pod(at, kept.pod.clone());
            }
        }
        view
    }

    fn put(&mut self, pod: Arc<Pod>, node: &str, assumed: bool, now: Duration) {
        let uid = pod.uid.clone();
        let known = self.take(&uid);
        if let Some(at) = self.snapshot.position(node) {
            self.snapshot.add_pod(at, pod.clone());
        }
        self.by_node
            .entry(node.to_owned())
            .or_default()
            .insert(uid.clone());
        let changed = known.is_none_or(|known| known.node != node || known.pod.shape != pod.shape);
        self.placed.insert(
            uid,
            Placed {
                pod,
                node: node.to_owned(),
                assumed,
            },
        );
        if changed {
            self.queue
                .cluster_changed(now, |pod| !pod.shape.affinity.is_empty());
        }
    }

    fn take(&mut self, uid: &str) -> Option<Placed> {
        let placed = self.placed.remove(uid)?;
        if let Some(at) = self.snapshot.position(&placed.node) {
            self.snapshot.remove_pod(at, uid);
        }
        if let Some(here) = self.by_node.get_mut(&placed.node) {
            here.remove(uid);
            if here.is_empty() {
                self.by_node.remove(&placed.node);
            }
        }
        Some(placed)
    }

    /// Lets equal pods share their shape.
    fn share(&mut self, mut pod: Pod) -> Arc<Pod> {
        if self.shapes.len() >= SHAPES_LIMIT {
            self.shapes.clear();
        }
        let shared = self
            .shapes
            .entry(pod.shape.fingerprint())
            .or_insert_with(|| pod.shape.clone());
        if **shared == *pod.shape {
            pod.shape = shared.clone();
        }
        Arc::new(pod)
    }
}
