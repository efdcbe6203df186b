//! What a pod's worker is told: the pod as last seen, and whether and why it is to end.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::conditions::OF_NODE;
use crate::podspec;

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
    /// Grows with each version of the pod that says something new.
    pub(super) version: u64,
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
            order: Mutex::new(Order { pod, end, version: 0 }),
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

    /// Takes a newer version of the pod; the worker looks again, unless only what it reported itself is new.
    pub fn update(&self, pod: Arc<Pod>) {
        let mut order = self.order.lock();
        let end = end_of(&pod);
        let is_echo = is_echo(&order.pod, &pod);
        order.pod = pod;
        if is_echo {
            return;
        }
        order.version += 1;
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

/// Whether a newer version of a pod says nothing new to who runs it.
fn is_echo(known: &Pod, newer: &Pod) -> bool {
    let metadata = |pod: &Pod| ObjectMeta {
        resource_version: None,
        ..pod.metadata.clone()
    };
    podspec::is_over(known) == podspec::is_over(newer)
        && foreign_conditions(known).eq(foreign_conditions(newer))
        && known.spec == newer.spec
        && metadata(known) == metadata(newer)
}

/// Conditions that others than the node report: readiness gates wait for them.
fn foreign_conditions(pod: &Pod) -> impl Iterator<Item = &PodCondition> {
    let all = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    all.filter(|c| !OF_NODE.contains(&c.type_.as_str()))
}

fn end_of(pod: &Pod) -> Option<End> {
    pod.metadata.deletion_timestamp.as_ref().map(|_| End::Deleted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Whether a worker looks again when a pod of this version gets these fields.
    fn wakes(change: Value) -> bool {
        let mut pod = json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "1"}, "spec": {"containers": []},
            "status": {"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}]}});
        let read = |pod: &Value| Arc::new(serde_json::from_value::<Pod>(pod.clone()).expect("valid"));
        let inbox = Inbox::new(read(&pod));
        pod["metadata"]["resourceVersion"] = json!("2");
        for (pointer, value) in change.as_object().into_iter().flatten() {
            *pod.pointer_mut(pointer).expect("there") = value.clone();
        }
        inbox.update(read(&pod));
        assert_eq!(inbox.pod(), read(&pod));
        futures::FutureExt::now_or_never(inbox.wake.notified()).is_some()
    }

    #[test]
    fn a_worker_is_not_woken_by_what_it_reported_itself() {
        let ready = json!([{"type": "Ready", "status": "True"}]);
        assert!(!wakes(
            json!({"/status/phase": "Running", "/status/conditions": ready})
        ));
        assert!(wakes(json!({"/status/phase": "Failed"})));
        assert!(wakes(
            json!({"/status/conditions": [{"type": "example.com/gate", "status": "True"}]})
        ));
        assert!(wakes(
            json!({"/spec": {"containers": [], "activeDeadlineSeconds": 1}})
        ));
        assert!(wakes(
            json!({"/metadata": {"name": "p", "uid": "u", "labels": {"a": "b"}}})
        ));
    }
}
