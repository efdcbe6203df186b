//! What a pod's worker is told: the pod as last seen, and whether and why it is to end.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

/// Why a pod is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Its object is being deleted; it is removed when all has stopped.
    Deleted,
    /// Its object is already gone.
    Gone,
    /// The node ends or refuses it; the object stays, failed.
    Failed {
        /// CamelCase reason.
        reason: String,
        /// Details.
        message: String,
        /// Longest grace in seconds; `None`: the pod's own.
        grace_seconds: Option<i64>,
        /// Message of the condition that the node took the pod's place away.
        disruption: Option<String>,
    },
}

/// What a worker is to do.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) pod: Arc<Pod>,
    pub(super) end: Option<End>,
}

/// What a worker is told; written by the manager.
#[derive(Debug)]
pub struct Inbox {
    order: Mutex<Order>,
    /// Something changed: look again.
    pub wake: Arc<Notify>,
    pub(super) ending: Notify,
    pub(super) finished: watch::Sender<bool>,
}

impl Inbox {
    /// An inbox for a new pod.
    pub fn new(pod: Arc<Pod>) -> Self {
        let end = end_of(&pod);
        Inbox {
            order: Mutex::new(Order { pod, end }),
            wake: Arc::new(Notify::new()),
            ending: Notify::new(),
            finished: watch::Sender::new(false),
        }
    }

    /// Whether nothing of the pod runs and nothing will.
    pub fn has_finished(&self) -> bool {
        *self.finished.borrow()
    }

    /// Waits until nothing of the pod runs.
    pub async fn has_ended(&self) {
        // The sender lives as long as `self`, so this only ends when it is so.
        let _ = self.finished.subscribe().wait_for(|finished| *finished).await;
    }

    pub(super) fn order(&self) -> Order {
        self.order.lock().clone()
    }

    /// The pod as known.
    pub fn pod(&self) -> Arc<Pod> {
        self.order.lock().pod.clone()
    }

    /// Takes a newer version of the pod; the worker looks again.
    pub fn update(&self, pod: Arc<Pod>) {
        let mut order = self.order.lock();
        let end = end_of(&pod);
        order.pod = pod;
        if end.is_some() && !matches!(order.end, Some(End::Gone | End::Deleted)) {
            order.end = end;
            self.ending.notify_one();
        }
        self.wake.notify_one();
    }

    /// Ends the pod.
    pub fn end(&self, end: End) {
        let mut order = self.order.lock();
        let stronger = match (&order.end, &end) {
            (None, _) | (_, End::Gone) => true,
            (Some(End::Failed { .. }), End::Deleted) => true,
            (Some(_), _) => false,
        };
        if stronger {
            order.end = Some(end);
            self.ending.notify_one();
            self.wake.notify_one();
        }
    }

    /// Whether the pod is ending.
    pub fn is_ending(&self) -> bool {
        self.order.lock().end.is_some()
    }
}

fn end_of(pod: &Pod) -> Option<End> {
    pod.metadata.deletion_timestamp.as_ref().map(|_| End::Deleted)
}
