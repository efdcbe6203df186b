//! What every controller of this crate gets: clients, the clock, and the Nodes of each cluster.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use kube::Client;
use mainstay_base::{clock::SharedClock, ids};
use mainstay_control::{Cache, CancellationToken, Change, ObjectKey, Scope, projection, queue::Queue};
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;

projection! {
    /// A Node of a workload cluster, as far as machines are concerned.
    pub struct NodeView = "" "v1" "Node" "nodes" cluster {
        pub spec: NodeViewSpec,
        pub status: NodeViewStatus,
    }
}

/// Spec of a [`NodeView`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeViewSpec {
    /// Ties the Node to its machine.
    #[serde(rename = "providerID")]
    pub provider_id: String,
    /// Is cordoned.
    pub unschedulable: bool,
    /// Taints.
    pub taints: Vec<k8s_openapi::api::core::v1::Taint>,
}

/// Status of a [`NodeView`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeViewStatus {
    /// Conditions.
    pub conditions: Vec<NodeViewCondition>,
    /// Facts.
    pub node_info: Option<k8s_openapi::api::core::v1::NodeSystemInfo>,
}

/// One condition of a Node, without its heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeViewCondition {
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Status.
    pub status: String,
    /// Reason.
    pub reason: String,
    /// Message.
    pub message: String,
    /// When the status changed.
    pub last_transition_time: Option<jiff::Timestamp>,
}

impl NodeView {
    /// Finds a condition.
    pub fn condition(&self, kind: &str) -> Option<&NodeViewCondition> {
        self.status
            .conditions
            .iter()
            .find(|condition| condition.kind == kind)
    }

    /// Status of the Ready condition; `Unknown` when there is none.
    pub fn ready(&self) -> &str {
        self.condition("Ready")
            .map_or("Unknown", |condition| condition.status.as_str())
    }
}

/// How a workload cluster is reached.
#[derive(Clone)]
pub struct ClusterAccess {
    /// Client of the fleet controllers.
    pub client: Client,
    /// Client that may approve certificate requests.
    pub approver: Client,
    /// URLs for machines.
    pub api_servers: Vec<String>,
    /// PEM certificates for machines.
    pub ca_bundle: String,
}

impl std::fmt::Debug for ClusterAccess {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ClusterAccess")
            .field("api_servers", &self.api_servers)
            .finish_non_exhaustive()
    }
}

/// Gives access to workload clusters; the wiring implements it.
pub trait ClusterClients: Send + Sync + 'static {
    /// Access to the Cluster `cluster` (namespace and name in the management cluster); none while its control
    /// plane does not serve.
    fn access(&self, cluster: &ObjectKey) -> Option<ClusterAccess>;
}

/// Access that can be switched on and off, for wiring and tests.
#[derive(Debug, Default)]
pub struct AccessTable {
    known: Mutex<HashMap<ObjectKey, ClusterAccess>>,
}

impl AccessTable {
    /// Sets the access of a cluster.
    pub fn insert(&self, cluster: ObjectKey, access: ClusterAccess) {
        self.known.lock().insert(cluster, access);
    }

    /// Takes it away.
    pub fn remove(&self, cluster: &ObjectKey) {
        self.known.lock().remove(cluster);
    }
}

impl ClusterClients for AccessTable {
    fn access(&self, cluster: &ObjectKey) -> Option<ClusterAccess> {
        self.known.lock().get(cluster).cloned()
    }
}

/// A watched workload cluster.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Its Nodes.
    pub nodes: Cache<NodeView>,
    stop: CancellationToken,
}

/// Told of a change of a workload Node, with its cluster.
type NodeListener = Box<dyn Fn(&ObjectKey, &Change<NodeView>) + Send + Sync>;

/// What the controllers share.
pub struct Context {
    /// Client of the management cluster.
    pub client: Client,
    /// The time.
    pub clock: SharedClock,
    /// Workload clusters.
    pub clusters: Arc<dyn ClusterClients>,
    /// Ends everything.
    pub stop: CancellationToken,
    watched: Mutex<HashMap<ObjectKey, Watched>>,
    rng: Mutex<fastrand::Rng>,
    /// Woken with the cluster's key and the Node's change.
    node_changes: Arc<RwLock<Vec<NodeListener>>>,
    /// Queue of the machine controller.
    pub machine_queue: OnceLock<Arc<Queue<ObjectKey>>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Context").finish_non_exhaustive()
    }
}

impl Context {
    /// Puts the parts together. `seed` starts the generator of name suffixes.
    pub fn new(
        client: Client,
        clock: SharedClock,
        clusters: Arc<dyn ClusterClients>,
        stop: CancellationToken,
        seed: u64,
    ) -> Arc<Self> {
        Arc::new(Context {
            client,
            clock,
            clusters,
            stop,
            watched: Mutex::default(),
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
            node_changes: Arc::default(),
            machine_queue: OnceLock::new(),
        })
    }

    /// Adds one that is told of changes of workload Nodes, with their cluster's key.
    pub fn on_node_change(&self, listener: impl Fn(&ObjectKey, &Change<NodeView>) + Send + Sync + 'static) {
        let mut listeners = self.node_changes.write();
        listeners.push(Box::new(listener));
    }

    /// A random suffix for a name.
    pub fn suffix(&self) -> String {
        ids::suffix(&mut self.rng.lock(), 5)
    }

    /// The Nodes of a cluster; the first call starts to watch them. None while the cluster does not serve.
    pub fn watch(&self, cluster: &ObjectKey) -> Option<Watched> {
        let Some(access) = self.clusters.access(cluster) else {
            self.forget(cluster);
            return None;
        };
        let mut watched = self.watched.lock();
        if let Some(known) = watched.get(cluster) {
            return Some(known.clone());
        }
        let stop = self.stop.child_token();
        let nodes: Cache<NodeView> = Cache::start(&access.client, Scope::default(), stop.clone());
        let (listeners, of) = (self.node_changes.clone(), cluster.clone());
        nodes.listen(move |change| {
            let listeners = listeners.read();
            listeners.iter().for_each(|listener| listener(&of, change));
        });
        let new = Watched { nodes, stop };
        watched.insert(cluster.clone(), new.clone());
        Some(new)
    }

    /// Stops to watch a cluster that is gone.
    pub fn forget(&self, cluster: &ObjectKey) {
        if let Some(watched) = self.watched.lock().remove(cluster) {
            watched.stop.cancel();
        }
    }
}
