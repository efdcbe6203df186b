//! Events of the agent: dropped until the node has joined, never waited for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use mainstay_control::events::{EventKind, Recorder};
use parking_lot::Mutex;

/// Records events as `kubelet`.
#[derive(Debug, Default)]
pub struct Events(Mutex<Option<Recorder>>);

impl Events {
    /// Sets where events go from now on.
    pub fn set(&self, recorder: Recorder) {
        *self.0.lock() = Some(recorder);
    }

    fn record(&self, about: ObjectReference, kind: EventKind, reason: &str, message: String) {
        if let Some(recorder) = self.0.lock().as_ref() {
            recorder.record(about, kind, reason, message);
        }
    }

    /// An event about a pod with annotations of its own.
    pub fn annotated_pod(
        &self,
        pod: &Pod,
        annotations: BTreeMap<String, String>,
        kind: EventKind,
        reason: &str,
        message: String,
    ) {
        if let Some(recorder) = self.0.lock().as_ref() {
            recorder.record_annotated(reference(pod, None), annotations, kind, reason, message);
        }
    }

    /// An event about a pod.
    pub fn pod(&self, pod: &Pod, kind: EventKind, reason: &str, message: impl Into<String>) {
        self.record(reference(pod, None), kind, reason, message.into());
    }

    /// An event about a container of a pod.
    pub fn container(
        &self,
        pod: &Pod,
        name: &str,
        kind: EventKind,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.record(reference(pod, Some(name)), kind, reason, message.into());
    }

    /// An event about the node itself.
    pub fn node(&self, name: &str, kind: EventKind, reason: &str, message: impl Into<String>) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(name.to_owned()),
            // The kubelet names nodes by name here too: tools select by it.
            uid: Some(name.to_owned()),
            ..Default::default()
        };
        self.record(about, kind, reason, message.into());
    }
}

fn reference(pod: &Pod, container: Option<&str>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path: container.map(|name| format!("spec.containers{{{name}}}")),
    }
}
