//! The autoscaler's writes: sizes, marks on nodes and machines, evictions, events, its record.

use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use mainstay_base::clock::SharedClock;
use mainstay_capi::DELETE_MACHINE_ANNOTATION;
use mainstay_control::{Error, EventKind, Recorder};
use mainstay_placement::Pod;
use mainstay_scheduler::world::NodeView;
use serde_json::{Value, json};

use super::groups::{GOING_TAINT, Kind, Source};
use super::views::{DeploymentView, MachineView, PoolView};

/// Where timers and explanations are kept, in the workload cluster.
pub const RECORD_NAMESPACE: &str = "kube-system";
/// See [`RECORD_NAMESPACE`].
pub const RECORD_NAME: &str = "mainstay-autoscaler";

/// How an eviction was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evicted {
    /// The pod goes, or is gone.
    Going,
    /// A disruption budget says not now.
    NotNow,
}

/// Writes to both clusters.
#[derive(Clone)]
pub struct Writer {
    management: Client,
    workload: Client,
    pool_events: Recorder,
    pod_events: Recorder,
}

impl Writer {
    /// Makes a writer; events come from `cluster-autoscaler`, the name people look for.
    pub fn new(management: Client, workload: Client, clock: SharedClock) -> Self {
        Writer {
            pool_events: Recorder::start(management.clone(), "cluster-autoscaler", None, clock.clone()),
            pod_events: Recorder::start(workload.clone(), "cluster-autoscaler", None, clock),
            management,
            workload,
        }
    }

    /// Writes a group's size through its scale subresource.
    ///
    /// # Errors
    /// The API's answer.
    pub async fn resize(&self, source: &Source, replicas: usize) -> Result<(), Error> {
        let action = || {
            format!(
                "set the size of {}/{} to {replicas}",
                source.namespace, source.name
            )
        };
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let params = PatchParams::default();
        let done = match source.kind {
            Kind::Pool => {
                let api: Api<PoolView> = Api::namespaced(self.management.clone(), &source.namespace);
                api.patch_scale(&source.name, &params, &patch).await
            }
            Kind::Deployment => {
                let api: Api<DeploymentView> = Api::namespaced(self.management.clone(), &source.namespace);
                api.patch_scale(&source.name, &params, &patch).await
            }
        };
        done.map(drop).map_err(Error::api(action))
    }

    /// Asks the machine controllers to take this machine first.
    ///
    /// # Errors
    /// The API's answer.
    pub async fn choose_machine(&self, namespace: &str, machine: &str, now: &str) -> Result<(), Error> {
        let api: Api<MachineView> = Api::namespaced(self.management.clone(), namespace);
        let patch = Patch::Merge(json!({"metadata": {"annotations": {DELETE_MACHINE_ANNOTATION: now}}}));
        let done = api.patch(machine, &PatchParams::default(), &patch).await;
        done.map(drop).map_err(Error::api(|| {
            format!("mark machine {namespace}/{machine} for deletion")
        }))
    }

    /// Keeps new pods away from a node that goes, or lets them come again.
    ///
    /// # Errors
    /// The API's answer.
    pub async fn mark_node(&self, node: &NodeView, going: Option<i64>) -> Result<(), Error> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let mut taints: Vec<Value> = node
            .spec
            .taints
            .iter()
            .filter(|taint| taint.key != GOING_TAINT)
            .filter_map(|taint| serde_json::to_value(taint).ok())
            .collect();
        if let Some(since) = going {
            taints.push(json!({"key": GOING_TAINT, "value": since.to_string(), "effect": "NoSchedule"}));
        }
        let body = json!({"metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints, "unschedulable": going.is_some()}});
        let api: Api<NodeView> = Api::all(self.workload.clone());
        let done = api
            .patch(name, &PatchParams::default(), &Patch::Merge(body))
            .await;
        done.map(drop).map_err(Error::api(|| format!("mark node {name}")))
    }

    /// Evicts a pod under its disruption budgets.
    ///
    /// # Errors
    /// The API's answer, except "gone already" and "not now".
    pub async fn evict(&self, namespace: &str, name: &str) -> Result<Evicted, Error> {
        let action = || format!("evict pod {namespace}/{name}");
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"namespace": namespace, "name": name}});
        let request = http::Request::post(format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction"))
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes())
            .map_err(|source| Error::api(action)(kube::Error::HttpError(source)))?;
        match self.workload.request::<Value>(request).await {
            Ok(_) => Ok(Evicted::Going),
            Err(error) => match mainstay_control::error::status_code(&error) {
                Some(404 | 409) => Ok(Evicted::Going),
                Some(429) => Ok(Evicted::NotNow),
                _ => Err(Error::api(action)(error)),
            },
        }
    }

    /// Records an event on a group.
    pub fn tell_group(&self, source: &Source, kind: EventKind, reason: &str, message: impl Into<String>) {
        let (api_version, name) = match source.kind {
            Kind::Pool => (mainstay_api::API_VERSION, "NodePool"),
            Kind::Deployment => ("cluster.x-k8s.io/v1beta2", "MachineDeployment"),
        };
        let about = ObjectReference {
            api_version: Some(api_version.to_owned()),
            kind: Some(name.to_owned()),
            namespace: Some(source.namespace.clone()),
            name: Some(source.name.clone()),
            uid: Some(source.uid.clone()),
            ..ObjectReference::default()
        };
        self.pool_events.record(about, kind, reason, message);
    }

    /// Records an event on a pod.
    pub fn tell_pod(&self, pod: &Pod, kind: EventKind, reason: &str, message: impl Into<String>) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.shape.namespace.clone()),
            name: Some(pod.name.to_string()),
            uid: Some(pod.uid.to_string()),
            ..ObjectReference::default()
        };
        self.pod_events.record(about, kind, reason, message);
    }

    /// Records an event on a node.
    pub fn tell_node(&self, node: &str, kind: EventKind, reason: &str, message: impl Into<String>) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        };
        self.pod_events.record(about, kind, reason, message);
    }

    /// Reads one entry of the record.
    pub async fn read_record(&self, key: &str) -> Option<String> {
        let api: Api<ConfigMap> = Api::namespaced(self.workload.clone(), RECORD_NAMESPACE);
        api.get_opt(RECORD_NAME).await.ok().flatten()?.data?.remove(key)
    }

    /// Writes the record.
    ///
    /// # Errors
    /// The API's answer.
    pub async fn write_record(&self, data: Value) -> Result<(), Error> {
        let api: Api<ConfigMap> = Api::namespaced(self.workload.clone(), RECORD_NAMESPACE);
        let action = || format!("write config map {RECORD_NAMESPACE}/{RECORD_NAME}");
        let patch = Patch::Merge(json!({"data": data}));
        match api.patch(RECORD_NAME, &PatchParams::default(), &patch).await {
            Err(error) if mainstay_control::error::is_not_found(&error) => {
                let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": RECORD_NAME, "namespace": RECORD_NAMESPACE}, "data": data});
                let object = serde_json::from_value(object)
                    .map_err(|error| Error::api(action)(kube::Error::SerdeError(error)))?;
                api.create(&Default::default(), &object)
                    .await
                    .map(drop)
                    .map_err(Error::api(action))
            }
            other => other.map(drop).map_err(Error::api(action)),
        }
    }
}
