//! A control plane with the controllers running, and waiting for what shall become true.

use std::time::Duration;

use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use mainstay_base::clock::SystemClock;
use mainstay_controlplane::ControlPlane;
use mainstay_testkit::{UserInfo, admin, plane};
use mainstay_workloads::{Config, Handle, NodeHealth, start};
use serde_json::{Value, json};

/// The longest wait for anything.
const LIMIT: Duration = Duration::from_secs(30);

pub struct World {
    pub client: kube::Client,
    pub authority: std::sync::Arc<mainstay_pki::Authority>,
    _plane: ControlPlane,
    _controllers: Handle,
}

/// A plane with controllers; nodes are lost after two seconds of silence.
pub async fn world() -> World {
    let plane = plane().await;
    let user = UserInfo::component("system:kube-controller-manager");
    let now = jiff::Timestamp::from_second(1_790_000_000).expect("a time");
    let authority = std::sync::Arc::new(mainstay_pki::Authority::create("test", now).expect("an authority"));
    let config = Config {
        ca_pem: "pem".into(),
        signer: Some(authority.clone()),
        pod_cidr: Some("10.244.0.0/16".parse().expect("a range")),
        routes: None,
        node_health: NodeHealth {
            grace: Duration::from_secs(2),
            period: Duration::from_millis(200),
            ..NodeHealth::default()
        },
    };
    let controllers = start(
        plane.client(user),
        config,
        SystemClock::shared(),
        Default::default(),
    );
    World {
        client: admin(&plane),
        authority,
        _plane: plane,
        _controllers: controllers,
    }
}

/// The API of a kind, for example `apps/v1 Deployment deployments`.
fn resource(kind: &str) -> ApiResource {
    let (version, kind) = match kind {
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => ("apps/v1", kind),
        "Job" | "CronJob" => ("batch/v1", kind),
        "EndpointSlice" => ("discovery.k8s.io/v1", kind),
        "Lease" => ("coordination.k8s.io/v1", kind),
        "PodDisruptionBudget" => ("policy/v1", kind),
        "CertificateSigningRequest" => ("certificates.k8s.io/v1", kind),
        "ClusterRole" => ("rbac.authorization.k8s.io/v1", kind),
        _ => ("v1", kind),
    };
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

impl World {
    /// The API of a kind in a namespace; empty for cluster scope.
    pub fn api(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        match namespace {
            "" => Api::all_with(self.client.clone(), &resource(kind)),
            _ => Api::namespaced_with(self.client.clone(), namespace, &resource(kind)),
        }
    }

    pub async fn create(&self, kind: &str, namespace: &str, mut object: Value) {
        let types = resource(kind);
        object["apiVersion"] = types.api_version.clone().into();
        object["kind"] = kind.into();
        let object = serde_json::from_value(object).expect("an object");
        self.api(kind, namespace)
            .create(&PostParams::default(), &object)
            .await
            .expect("a create");
    }

    pub async fn patch(&self, kind: &str, namespace: &str, name: &str, part: &str, patch: Value) {
        let (api, params, patch) = (
            self.api(kind, namespace),
            PatchParams::default(),
            Patch::Merge(patch),
        );
        match part {
            "" => api.patch(name, &params, &patch).await.expect("a patch"),
            part => api
                .patch_subresource(part, name, &params, &patch)
                .await
                .expect("a patch"),
        };
    }

    pub async fn list(&self, kind: &str, namespace: &str) -> Vec<Value> {
        let list = self
            .api(kind, namespace)
            .list(&ListParams::default())
            .await
            .expect("a list");
        list.items.into_iter().map(|object| json!(object)).collect()
    }

    pub async fn get(&self, kind: &str, namespace: &str, name: &str) -> Value {
        json!(self.api(kind, namespace).get_opt(name).await.expect("a get"))
    }

    /// Waits until `holds` says so of all objects of a kind.
    pub async fn until(&self, what: &str, kind: &str, namespace: &str, holds: impl Fn(&[Value]) -> bool) {
        let mut last = Vec::new();
        let wait = async {
            loop {
                last = self.list(kind, namespace).await;
                if holds(&last) {
                    return;
                }
                // The API offers no wait for a condition over a list; the pause only bounds the polling.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let outcome = tokio::time::timeout(LIMIT, wait).await;
        outcome.unwrap_or_else(|_| panic!("not so after {LIMIT:?}: {what}; last seen {}", json!(last)));
    }

    /// Plays the kubelet: every live pod of the namespace becomes ready with an address.
    pub async fn run_pods(&self, namespace: &str) {
        for (number, pod) in self.list("Pod", namespace).await.into_iter().enumerate() {
            let leaving = !pod["metadata"]["deletionTimestamp"].is_null();
            if pod["status"]["phase"] == "Pending" && !leaving {
                let name = pod["metadata"]["name"].as_str().expect("a name");
                let ip = format!("10.1.0.{}", number + 1);
                let ready = json!([{"type": "Ready", "status": "True"}]);
                let status =
                    json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": ready});
                self.patch("Pod", namespace, name, "status", json!({"status": status}))
                    .await;
            }
        }
    }

    /// Waits like [`World::until`] while pods are made to run.
    pub async fn until_running(
        &self,
        what: &str,
        kind: &str,
        namespace: &str,
        holds: impl Fn(&[Value]) -> bool,
    ) {
        let running = async {
            loop {
                self.run_pods(namespace).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = running => {}
            () = self.until(what, kind, namespace, holds) => {}
        }
    }
}
