//! Builders for plan tests: objects in one line, times as seconds.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::{Pod, ReplicaSet};

/// A time by its second.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a small number")
}

/// Decodes an object as the watch would.
pub(crate) fn decoded<T: serde::de::DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).expect("a well-formed test object")
}

/// A pod being described.
pub(crate) struct PodBuilder(Value);

/// A pod of ReplicaSet `web`.
pub(crate) fn pod(name: &str) -> PodBuilder {
    PodBuilder(json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": {"app": "web"},
            "creationTimestamp": at(0).to_string(),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "uid-web",
                "controller": true}]},
        "spec": {}, "status": {"phase": "Pending"},
    }))
}

impl PodBuilder {
    pub(crate) fn on(mut self, node: &str) -> Self {
        self.0["spec"]["nodeName"] = node.into();
        self
    }

    pub(crate) fn phase(mut self, phase: &str) -> Self {
        self.0["status"]["phase"] = phase.into();
        self
    }

    pub(crate) fn ready(mut self, since: i64) -> Self {
        self.0["status"]["phase"] = "Running".into();
        self.0["status"]["conditions"] =
            json!([{"type": "Ready", "status": "True", "lastTransitionTime": at(since).to_string()}]);
        self
    }

    pub(crate) fn deleting(mut self) -> Self {
        self.0["metadata"]["deletionTimestamp"] = at(0).to_string().into();
        self
    }

    pub(crate) fn cost(self, cost: i32) -> Self {
        self.set(
            "/metadata/annotations",
            json!({"controller.kubernetes.io/pod-deletion-cost": cost.to_string()}),
        )
    }

    /// Sets any field by its JSON pointer.
    pub(crate) fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        self.0.pointer_mut(parent).expect("the parent exists")[field] = value;
        self
    }
}

impl From<PodBuilder> for Pod {
    fn from(builder: PodBuilder) -> Pod {
        decoded(builder.0)
    }
}

/// ReplicaSet `name` for pods with `app: web`.
pub(crate) fn replica_set(name: &str, replicas: i32) -> ReplicaSet {
    decoded(json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}},
        "status": {},
    }))
}
