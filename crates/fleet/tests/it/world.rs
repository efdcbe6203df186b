//! A management plane, hosted planes, simulated hosts, and the nodes that simulated machines would register.

use std::{collections::HashMap, future::Future, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use k8s_openapi::{
    NamespaceResourceScope, api::core::v1::Node,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    discovery::ApiResource,
};
use mainstay_api::{ClusterDeployment, ComputeNode, OSImage, Probe};
use mainstay_base::clock::SystemClock;
use mainstay_control::{CancellationToken, ObjectKey};
use mainstay_controlplane::ControlPlane;
use mainstay_fleet::{
    ComposedImage, FleetConfig, ImageBuilder, ImageError, Keep, PlaneError, PlaneHost, PlaneRequest, Prober,
    RunningPlane,
};
use mainstay_machines::{ClusterAccess, context::AccessTable};
use mainstay_provider::{
    HostId,
    sim::{Durations, SimProvider},
};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// Longest time that a condition may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Hosted planes: in memory, one each.
#[derive(Default)]
struct Planes {
    running: tokio::sync::Mutex<HashMap<ObjectKey, ControlPlane>>,
}

#[async_trait]
impl PlaneHost for Planes {
    async fn ensure(&self, request: &PlaneRequest) -> Result<RunningPlane, PlaneError> {
        let mut running = self.running.lock().await;
        if !running.contains_key(&request.key) {
            let uid = request.uid.clone();
            let plane = mainstay_testkit::plane_with(SystemClock::shared(), |config| config.uid = uid).await;
            running.insert(request.key.clone(), plane);
        }
        let plane = &running[&request.key];
        let access = ClusterAccess {
            client: mainstay_testkit::admin(plane),
            approver: mainstay_testkit::admin(plane),
            api_servers: vec!["https://127.0.0.1:7443".into()],
            ca_bundle: plane.ca_pem().to_string(),
        };
        Ok(RunningPlane {
            access,
            endpoint: mainstay_api::Endpoint {
                host: "127.0.0.1".into(),
                port: 7443,
            },
            version: request.version.clone(),
            kubeconfig: "clusters: [{cluster: {server: 'https://127.0.0.1:7443'}}]".into(),
        })
    }

    async fn remove(&self, key: &ObjectKey, _uid: &str) -> Result<(), PlaneError> {
        if let Some(plane) = self.running.lock().await.remove(key) {
            plane.stop().await;
        }
        Ok(())
    }
}

/// Composes whatever commit the test says.
pub struct Images(Mutex<String>);

impl Images {
    pub fn set_commit(&self, commit: &str) {
        *self.0.lock() = commit.to_string();
    }
}

#[async_trait]
impl ImageBuilder for Images {
    async fn compose(&self, _image: &OSImage) -> Result<ComposedImage, ImageError> {
        let commit = self.0.lock().clone();
        Ok(ComposedImage {
            reference: "mainstay/node".into(),
            commit,
            ..Default::default()
        })
    }

    async fn retain(&self, _: &Keep) -> Result<(), ImageError> {
        Ok(())
    }
}

/// Asks the simulated host instead of the network.
struct SimProber(SimProvider);

#[async_trait]
impl Prober for SimProber {
    async fn probe(&self, host: &HostId, _address: &str, _probe: &Probe) -> Result<(), String> {
        if self.0.answers(host) {
            Ok(())
        } else {
            Err("no answer".into())
        }
    }
}

pub struct World {
    pub client: Client,
    pub provider: SimProvider,
    pub images: Arc<Images>,
    stop: CancellationToken,
    _plane: ControlPlane,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    pub async fn start() -> Self {
        let plane = mainstay_testkit::plane().await;
        let client = mainstay_testkit::admin(&plane);
        serve_kinds(&client).await;
        let clock = SystemClock::shared();
        let short = Duration::from_millis(50);
        let durations = Durations {
            provision: short,
            power: short,
            deprovision: short,
            stage_image: short,
        };
        let provider = SimProvider::with_durations(clock.clone(), durations);
        let images = Arc::new(Images(Mutex::new("c1".into())));
        let (stop, access) = (CancellationToken::new(), Arc::new(AccessTable::default()));
        let providers = [(
            "sim".to_string(),
            Arc::new(provider.clone()) as Arc<dyn mainstay_provider::Provider>,
        )];
        mainstay_fleet::start(FleetConfig {
            client: client.clone(),
            clock,
            providers: providers.into(),
            planes: Arc::new(Planes::default()),
            images: images.clone(),
            prober: Arc::new(SimProber(provider.clone())),
            access: access.clone(),
            seed: 7,
            shutdown: stop.clone(),
        });
        tokio::spawn(register_nodes(
            client.clone(),
            access,
            provider.clone(),
            stop.clone(),
        ));
        World {
            client,
            provider,
            images,
            stop,
            _plane: plane,
        }
    }

    /// Applies examples/local with the simulated provider instead of the local one.
    pub async fn apply_examples(&self) {
        self.apply_examples_with(&[]).await;
    }

    /// The same with repairs that take seconds instead of minutes.
    pub async fn apply_examples_with_fast_repairs(&self) {
        let changes = [
            ("initialDelaySeconds: 30", "initialDelaySeconds: 0"),
            ("periodSeconds: 10", "periodSeconds: 1"),
            ("failureThreshold: 3", "failureThreshold: 1"),
            ("{source: Probe, for: 30s}", "{source: Probe, for: 200ms}"),
            ("timeout: 2m, attempts: 1", "timeout: 300ms, attempts: 1"),
            ("timeout: 10m, attempts: 2", "timeout: 3s, attempts: 1"),
            ("timeout: 40m", "timeout: 5s"),
            ("initial: 1m, max: 1h", "initial: 100ms, max: 1s"),
            ("maxUnhealthy: 20%", "maxUnhealthy: 100%"),
        ];
        self.apply_examples_with(&changes).await;
    }

    async fn apply_examples_with(&self, changes: &[(&str, &str)]) {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/local");
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        for file in files {
            let mut text = std::fs::read_to_string(&file)
                .unwrap()
                .replace("provider: local", "provider: sim");
            for (from, to) in changes {
                text = text.replace(from, to);
            }
            for document in serde_yaml_ng::Deserializer::from_str(&text) {
                let object: Value = serde::Deserialize::deserialize(document).unwrap();
                self.create_any(object).await;
            }
        }
    }

    async fn create_any(&self, object: Value) {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let types = object.types.clone().unwrap();
        let (group, version) = types.api_version.split_once('/').unwrap();
        let kind = types.kind.clone();
        let plural = if kind.ends_with('y') {
            format!("{}ies", kind.to_lowercase().trim_end_matches('y'))
        } else {
            format!("{}s", kind.to_lowercase())
        };
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, &kind), &plural);
        let api: Api<DynamicObject> = match object.namespace() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), &namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let name = object.name_any();
        api.create(&PostParams::default(), &object)
            .await
            .unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
    }

    pub async fn list<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), "default");
        api.list(&Default::default()).await.unwrap().items
    }

    pub async fn get<K>(&self, name: &str) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        Api::namespaced(self.client.clone(), "default")
            .get(name)
            .await
            .unwrap()
    }

    pub async fn create<K>(&self, object: &K)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Serialize
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), "default");
        api.create(&PostParams::default(), object).await.unwrap();
    }

    pub async fn patch<K>(&self, name: &str, patch: Value)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), "default");
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    pub async fn delete<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        Api::<K>::namespaced(self.client.clone(), "default")
            .delete(name, &Default::default())
            .await
            .unwrap();
    }

    pub async fn until<F: Future<Output = bool>>(&self, what: &str, mut holds: impl FnMut() -> F) {
        let tries = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(LIMIT, tries).await.is_err() {
            panic!("not within {LIMIT:?}: {what}\n{}", self.describe().await);
        }
    }

    /// Every object that matters, as text, for a failed test.
    async fn describe(&self) -> String {
        let mut text = String::new();
        fn line<K: Serialize + ResourceExt>(object: &K) -> String {
            let value = serde_json::to_value(object).unwrap();
            format!("{} {}: {}\n", value["kind"], object.name_any(), value["status"])
        }
        self.list::<ClusterDeployment>()
            .await
            .iter()
            .for_each(|o| text += &line(o));
        self.list::<mainstay_api::NodePool>()
            .await
            .iter()
            .for_each(|o| text += &line(o));
        self.list::<mainstay_capi::MachineDeployment>()
            .await
            .iter()
            .for_each(|o| text += &line(o));
        self.list::<mainstay_capi::MachineSet>()
            .await
            .iter()
            .for_each(|o| text += &line(o));
        self.list::<mainstay_capi::Machine>()
            .await
            .iter()
            .for_each(|o| text += &line(o));
        self.list::<ComputeNode>()
            .await
            .iter()
            .for_each(|o| text += &line(o));
        self.list::<mainstay_api::Repair>()
            .await
            .iter()
            .for_each(|o| text += &line(o));
        self.list::<mainstay_api::Host>()
            .await
            .iter()
            .for_each(|o| text += &line(o));
        text
    }

    pub async fn ready(&self, cluster: &str) {
        self.until("the cluster is ready", || async {
            let object: ClusterDeployment = self.get(cluster).await;
            object.status.is_some_and(|status| status.phase == "Ready")
        })
        .await;
    }
}

/// Makes the definitions and waits until they are served.
pub async fn serve_kinds(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in mainstay_api::crds().into_iter().chain(mainstay_capi::crds()) {
        let name = crd.name_any();
        api.create(&PostParams::default(), &crd)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let established = async {
            loop {
                let conditions = api
                    .get(&name)
                    .await
                    .unwrap()
                    .status
                    .and_then(|status| status.conditions);
                if conditions
                    .iter()
                    .flatten()
                    .any(|c| c.type_ == "Established" && c.status == "True")
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, established)
            .await
            .unwrap_or_else(|_| panic!("{name} is not served"));
    }
}

/// What is booted on a machine.
pub fn booted(node: &ComputeNode) -> String {
    node.status
        .as_ref()
        .and_then(|status| status.image.clone())
        .map(|image| image.booted)
        .unwrap_or_default()
}

/// Plays the node agents: a provisioned machine that answers has a ready Node.
async fn register_nodes(
    client: Client,
    access: Arc<AccessTable>,
    provider: SimProvider,
    stop: CancellationToken,
) {
    use mainstay_machines::ClusterClients;
    let computes: Api<ComputeNode> = Api::namespaced(client, "default");
    while !stop.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let Some(access) = access.access(&ObjectKey::namespaced("default", "demo")) else {
            continue;
        };
        let nodes: Api<Node> = Api::all(access.client);
        for compute in computes
            .list(&Default::default())
            .await
            .map(|list| list.items)
            .unwrap_or_default()
        {
            let provisioned = compute
                .status
                .as_ref()
                .is_some_and(|status| status.initialization.provisioned);
            let Some(host) = compute.spec.host_ref.clone().filter(|_| provisioned) else {
                continue;
            };
            let alive = provider.answers(&HostId::new("default", &host.name));
            if compute.metadata.deletion_timestamp.is_none() {
                register(&nodes, &compute, if alive { "True" } else { "Unknown" }).await;
            }
        }
    }
}

async fn register(nodes: &Api<Node>, compute: &ComputeNode, ready: &str) {
    let name = compute.name_any();
    if nodes.get_opt(&name).await.ok().flatten().is_none() {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "spec": {"providerID": compute.spec.provider_id}});
        let node: Node = serde_json::from_value(node).unwrap();
        let _ = nodes.create(&PostParams::default(), &node).await;
    }
    let condition = json!({"type": "Ready", "status": ready, "reason": "Test", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z", "lastHeartbeatTime": "2026-01-01T00:00:00Z"});
    let status = json!({"status": {"conditions": [condition]}});
    let _ = nodes
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
        .await;
}
