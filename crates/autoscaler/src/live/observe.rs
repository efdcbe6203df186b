//! From caches to one [`Observation`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mainstay_control::{Cache, CancellationToken, ObjectKey, Scope};
use mainstay_placement::drain::AllPresent;
use mainstay_placement::pack::Class;
use mainstay_placement::{Pod, Snapshot};
use mainstay_scheduler::budgets::{self, BudgetView};
use mainstay_scheduler::world::{NodeView, PodView};

use super::groups::{Management, Source, Workload, groups, is_start_taint};
use super::views::{DaemonView, DeploymentView, MachineView, PoolView};
use crate::model::Observation;

/// Keeps a node whatever its use.
const KEPT: &str = "cluster-autoscaler.kubernetes.io/scale-down-disabled";

/// The caches of both clusters.
#[derive(Debug, Clone)]
pub struct Caches {
    /// The workload cluster's pods.
    pub pods: Cache<PodView>,
    /// The workload cluster's nodes.
    pub nodes: Cache<NodeView>,
    daemons: Cache<DaemonView>,
    budgets: Cache<BudgetView>,
    pools: Cache<PoolView>,
    deployments: Cache<DeploymentView>,
    machines: Cache<MachineView>,
}

impl Caches {
    /// Starts the watches: everything of the workload cluster, one namespace of the management cluster.
    pub fn start(
        management: &kube::Client,
        workload: &kube::Client,
        namespace: &str,
        stop: &CancellationToken,
    ) -> Self {
        let scope = Scope::default;
        Caches {
            pods: Cache::start(workload, scope(), stop.clone()),
            nodes: Cache::start(workload, scope(), stop.clone()),
            daemons: Cache::start(workload, scope(), stop.clone()),
            budgets: budgets::start(workload, stop.clone()),
            pools: Cache::start_in(management, namespace, scope(), stop.clone()),
            deployments: Cache::start_in(management, namespace, scope(), stop.clone()),
            machines: Cache::start_in(management, namespace, scope(), stop.clone()),
        }
    }

    /// Waits until every cache has its first list.
    pub async fn ready(&self) {
        tokio::join!(
            self.pods.ready(),
            self.nodes.ready(),
            self.daemons.ready(),
            self.budgets.ready(),
            self.pools.ready(),
            self.deployments.ready(),
            self.machines.ready(),
        );
    }

    /// Calls `wake` for each change that may change a decision.
    pub fn on_change(&self, wake: impl Fn() + Clone + Send + Sync + 'static) {
        fn changed<P: mainstay_control::Projection>(
            cache: &Cache<P>,
            wake: impl Fn() + Send + Sync + 'static,
        ) {
            cache.listen(move |_| wake());
        }
        changed(&self.pods, wake.clone());
        changed(&self.nodes, wake.clone());
        changed(&self.pools, wake.clone());
        changed(&self.deployments, wake.clone());
        changed(&self.machines, wake);
    }

    /// Finds a node.
    pub fn node(&self, name: &str) -> Option<Arc<NodeView>> {
        self.nodes.get(&ObjectKey::cluster(name))
    }

    /// Puts everything together for one pass.
    pub fn observe(&self, cluster: &str, now: i64) -> (Observation, Vec<Source>) {
        let nodes = self.sorted_nodes();
        let (snapshot, pending) = placed_and_pending(&nodes, &self.pods.list());
        let management = Management {
            pools: self.pools.list(),
            deployments: self.deployments.list(),
            machines: self.machines.list(),
        };
        let daemons = self.daemons.list();
        let workload = Workload {
            snapshot: &snapshot,
            nodes: &nodes,
            daemons: &daemons,
        };
        let sources = groups(&management, &workload, cluster);
        let seen = Observation {
            now,
            groups: sources.iter().map(|source| source.group.clone()).collect(),
            not_usable: nodes.iter().filter_map(not_usable).collect(),
            kept_nodes: nodes.iter().filter_map(kept).collect(),
            snapshot,
            pending,
            budgets: budgets::current(&self.budgets),
            owners: Arc::new(AllPresent),
        };
        (seen, sources)
    }

    fn sorted_nodes(&self) -> Vec<Arc<NodeView>> {
        let mut nodes = self.nodes.list();
        nodes.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        nodes
    }
}

/// The name and age of a node that pods cannot use: it does not report ready, or has a taint of its start.
fn not_usable(node: &Arc<NodeView>) -> Option<(Arc<str>, i64)> {
    let starts = |taint: &mainstay_semantics::toleration::Taint| is_start_taint(&taint.key);
    if node.status.is_ready() && !node.spec.taints.iter().any(starts) {
        return None;
    }
    let made = node.metadata.creation_timestamp.as_ref();
    let name = node.metadata.name.as_deref().unwrap_or_default();
    Some((Arc::from(name), made.map_or(0, |time| time.0.as_second())))
}

fn kept(node: &Arc<NodeView>) -> Option<Arc<str>> {
    let set = node.metadata.annotations.as_ref()?.get(KEPT)? == "true";
    set.then(|| Arc::from(node.metadata.name.as_deref().unwrap_or_default()))
}

/// Builds the snapshot of what runs, and the classes of pods the scheduler gave up on.
fn placed_and_pending(nodes: &[Arc<NodeView>], pods: &[Arc<PodView>]) -> (Snapshot, Vec<Class>) {
    let mut snapshot = Snapshot::new();
    for node in nodes {
        snapshot.set_node(Arc::new(node.to_info()));
    }
    let mut pending: Vec<Arc<Pod>> = Vec::new();
    for view in pods.iter().filter(|view| !view.is_finished()) {
        if view.spec.node_name.is_empty() {
            if is_unschedulable(view) {
                pending.push(Arc::new(view.to_pod()));
            }
        } else if let Some(at) = snapshot.position(&view.spec.node_name) {
            snapshot.add_pod(at, Arc::new(view.to_pod()));
        }
    }
    (snapshot, classes(pending))
}

fn is_unschedulable(view: &PodView) -> bool {
    let refused = view.status.conditions.iter().any(|condition| {
        condition.r#type == "PodScheduled"
            && condition.status == "False"
            && condition.reason == "Unschedulable"
    });
    refused && view.metadata.deletion_timestamp.is_none() && view.status.nominated_node_name.is_empty()
}

/// Groups equal pods of one controller; a pod without a controller is alone. Ordered by name.
fn classes(mut pods: Vec<Arc<Pod>>) -> Vec<Class> {
    pods.sort_by(|a, b| (&a.shape.namespace, &a.name).cmp(&(&b.shape.namespace, &b.name)));
    let mut known: BTreeMap<(String, u64), usize> = BTreeMap::new();
    let mut classes: Vec<Class> = Vec::new();
    for pod in pods {
        let owner = pod
            .eviction
            .controller
            .as_ref()
            .map_or(&*pod.uid, |owner| &owner.uid);
        let key = (owner.to_owned(), pod.shape.fingerprint());
        match known.get(&key) {
            Some(at) => classes[*at].count += 1,
            None => {
                known.insert(key, classes.len());
                classes.push(Class { pod, count: 1 });
            }
        }
    }
    classes
}

/// Names of nodes that carry a taint.
pub fn tainted(nodes: &[Arc<NodeView>], key: &str) -> BTreeSet<String> {
    let has = |node: &&Arc<NodeView>| node.spec.taints.iter().any(|taint| taint.key == key);
    nodes
        .iter()
        .filter(has)
        .filter_map(|node| node.metadata.name.clone())
        .collect()
}
