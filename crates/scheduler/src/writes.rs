//! The scheduler's writes: bindings, the PodScheduled condition, nominations, evictions of victims, events.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use mainstay_base::clock::{SharedClock, rfc3339_seconds};
use mainstay_control::{Error, EventKind, Recorder};
use mainstay_placement::Pod;
use serde_json::{Value, json};

use crate::world::PodView;

/// Writes for one profile's pods; cheap to clone.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    events: Recorder,
    clock: SharedClock,
}

impl Writer {
    /// Makes a writer whose events come from `component`.
    pub fn new(client: Client, component: &str, clock: SharedClock) -> Self {
        let events = Recorder::start(client.clone(), component, None, clock.clone());
        Writer {
            client,
            events,
            clock,
        }
    }

    /// Binds a pod to a node.
    ///
    /// # Errors
    /// The API's answer; a conflict means that somebody else bound or deleted the pod.
    pub async fn bind(&self, pod: &Pod, node: &str) -> Result<(), Error> {
        let (namespace, name) = (&pod.shape.namespace, &pod.name);
        let body = json!({"apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": &**name, "namespace": namespace, "uid": &*pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        let action = || format!("bind pod {namespace}/{name} to node {node}");
        let request = http::Request::post(format!("/api/v1/namespaces/{namespace}/pods/{name}/binding"))
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes())
            .map_err(|source| Error::api(action)(kube::Error::HttpError(source)))?;
        self.client
            .request::<Value>(request)
            .await
            .map_err(Error::api(action))?;
        let text = format!("Successfully assigned {namespace}/{name} to {node}");
        self.events
            .record(reference(pod), EventKind::Normal, "Scheduled", text);
        Ok(())
    }

    /// Says on the pod and in an event why it has no node, and which one is kept for it.
    ///
    /// # Errors
    /// The API's answer.
    pub async fn unschedulable(
        &self,
        pod: &Pod,
        seen: Option<&PodView>,
        message: &str,
        nominated: Option<&str>,
    ) -> Result<(), Error> {
        self.events
            .record(reference(pod), EventKind::Warning, "FailedScheduling", message);
        if seen.is_some_and(|seen| says(seen, message, nominated)) {
            return Ok(());
        }
        let mut status = json!({"conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": message,
            "lastProbeTime": null, "lastTransitionTime": self.transition(seen)}]});
        if let Some(node) = nominated {
            status["nominatedNodeName"] = node.into();
        }
        let pods: Api<PodView> = Api::namespaced(self.client.clone(), &pod.shape.namespace);
        let patch = Patch::Strategic(json!({"metadata": {"uid": &*pod.uid}, "status": status}));
        pods.patch_status(&pod.name, &PatchParams::default(), &patch)
            .await
            .map_err(Error::api(|| format!("set the condition of pod {}", pod.key())))?;
        Ok(())
    }

    /// Removes a victim.
    ///
    /// # Errors
    /// The API's answer; a pod that is gone already is no error.
    pub async fn evict_victim(&self, victim: &Pod, preemptor: &Pod, node: &str) -> Result<(), Error> {
        let condition = json!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "True",
            "reason": "PreemptionByScheduler",
            "message": "default-scheduler: preempting to accommodate a higher priority pod",
            "lastTransitionTime": rfc3339_seconds(self.clock.now())}]}});
        let pods: Api<PodView> = Api::namespaced(self.client.clone(), &victim.shape.namespace);
        let action = || format!("evict pod {} for pod {}", victim.key(), preemptor.key());
        let marked = pods
            .patch_status(
                &victim.name,
                &PatchParams::default(),
                &Patch::Strategic(condition),
            )
            .await;
        if let Err(error) = marked {
            return if mainstay_control::error::is_not_found(&error) {
                Ok(())
            } else {
                Err(Error::api(action)(error))
            };
        }
        let only = Preconditions {
            uid: Some(victim.uid.to_string()),
            resource_version: None,
        };
        let params = DeleteParams {
            preconditions: Some(only),
            ..DeleteParams::default()
        };
        match pods.delete(&victim.name, &params).await {
            Err(error) if !mainstay_control::error::is_not_found(&error) => Err(Error::api(action)(error)),
            _ => {
                let text = format!("Preempted by pod {} on node {node}", preemptor.uid);
                self.events
                    .record(reference(victim), EventKind::Normal, "Preempted", text);
                Ok(())
            }
        }
    }

    /// The condition's transition time: kept while its status stays False.
    fn transition(&self, seen: Option<&PodView>) -> String {
        let condition = seen.and_then(scheduled_condition);
        match condition {
            Some(condition) if condition.status == "False" => condition.last_transition_time.clone(),
            _ => rfc3339_seconds(self.clock.now()),
        }
    }
}

fn scheduled_condition(seen: &PodView) -> Option<&mainstay_placement::input::Condition> {
    seen.status
        .conditions
        .iter()
        .find(|condition| condition.r#type == "PodScheduled")
}

/// Tells whether the pod's status says this already.
fn says(seen: &PodView, message: &str, nominated: Option<&str>) -> bool {
    let named = nominated.is_none_or(|node| seen.status.nominated_node_name == node);
    named && scheduled_condition(seen).is_some_and(|own| own.status == "False" && own.message == message)
}

fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.shape.namespace.clone()),
        name: Some(pod.name.to_string()),
        uid: Some(pod.uid.to_string()),
        ..ObjectReference::default()
    }
}
