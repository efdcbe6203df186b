//! The autoscaler and the scheduler against an in-memory control plane that is both clusters at once.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use mainstay_api::NodePool;
use mainstay_autoscaler::live::{Config, start};
use mainstay_autoscaler::model::Options;
use mainstay_base::clock::SystemClock;
use mainstay_capi::Machine;
use mainstay_control::CancellationToken;
use serde_json::{Value, json};

/// The longest any of these tests waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);
const DELETE_MACHINE: &str = "cluster.x-k8s.io/delete-machine";

struct World {
    client: Client,
    stop: CancellationToken,
    _plane: Box<dyn std::any::Any>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A cluster `demo` with one pool of one to four machines of two cores, of which one exists.
async fn world() -> World {
    let plane = mainstay_testkit::plane().await;
    let client = mainstay_testkit::admin(&plane);
    let world = World {
        client: client.clone(),
        stop: CancellationToken::new(),
        _plane: Box::new(plane),
    };
    let crds = mainstay_api::crds().into_iter().chain(mainstay_capi::crds());
    let api: Api<
        k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    > = Api::all(client.clone());
    for crd in crds
        .filter(|crd| ["NodePool", "Machine", "MachineDeployment"].contains(&crd.spec.names.kind.as_str()))
    {
        api.create(&PostParams::default(), &crd)
            .await
            .expect("the kind is defined");
    }
    let pools: Api<NodePool> = Api::namespaced(client.clone(), "default");
    world
        .until("the kinds are served", || async {
            pools.list(&ListParams::default()).await.ok()
        })
        .await;
    let pool = json!({"apiVersion": "mainstay.dev/v1alpha1", "kind": "NodePool", "metadata": {"name": "a"},
        "spec": {"clusterName": "demo", "replicas": 1, "autoscaling": {"min": 1, "max": 4}}});
    let pool = serde_json::from_value(pool).expect("a pool");
    pools
        .create(&PostParams::default(), &pool)
        .await
        .expect("the pool is made");
    world.machine("m1", "n1").await;
    let stop = world.stop.clone();
    mainstay_scheduler::start(
        client.clone(),
        Default::default(),
        SystemClock::shared(),
        stop.clone(),
    )
    .expect("the scheduler starts");
    let options = Options {
        unneeded_seconds: 1,
        delay_after_add_seconds: 1,
        ..Options::default()
    };
    let config = Config {
        management: client.clone(),
        workload: client,
        namespace: "default".into(),
        cluster: "demo".into(),
        options,
        scan_interval: Duration::from_millis(300),
    };
    start(config, SystemClock::shared(), stop);
    world
}

impl World {
    async fn until<T, F: Future<Output = Option<T>>>(&self, what: &str, look: impl Fn() -> F) -> T {
        let waiting = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, waiting).await;
        found.unwrap_or_else(|_| panic!("in time: {what}"))
    }

    /// Does what the provider and the node agent would: a Machine of the pool, and its ready Node.
    async fn machine(&self, machine: &str, node: &str) {
        let machines: Api<Machine> = Api::namespaced(self.client.clone(), "default");
        let object = json!({"apiVersion": "cluster.x-k8s.io/v1beta2", "kind": "Machine",
            "metadata": {"name": machine, "labels": {"mainstay.dev/pool": "a"}},
            "spec": {"clusterName": "demo", "bootstrap": {"dataSecretName": "x"},
                "infrastructureRef": {"apiGroup": "mainstay.dev", "kind": "ComputeNode", "name": machine}}});
        let object = serde_json::from_value(object).expect("a machine");
        self.until("the machine is made", || async {
            machines.create(&PostParams::default(), &object).await.ok()
        })
        .await;
        let status = Patch::Merge(json!({"status": {"nodeRef": {"name": node}}}));
        machines
            .patch_status(machine, &PatchParams::default(), &status)
            .await
            .expect("it has a node");
        let nodes: Api<Node> = Api::all(self.client.clone());
        let object = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": node, "labels": {"kubernetes.io/hostname": node}}});
        let object = serde_json::from_value(object).expect("a node");
        nodes
            .create(&PostParams::default(), &object)
            .await
            .expect("the node is made");
        let size = json!({"cpu": "2", "memory": "4Gi", "pods": "10"});
        let status = Patch::Merge(json!({"status": {"capacity": size, "allocatable": size,
            "conditions": [{"type": "Ready", "status": "True"}]}}));
        nodes
            .patch_status(node, &PatchParams::default(), &status)
            .await
            .expect("its status is set");
        let untainted = Patch::Merge(json!({"spec": {"taints": null}}));
        nodes
            .patch(node, &PatchParams::default(), &untainted)
            .await
            .expect("it counts as ready");
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn pod(&self, name: &str, cpu: &str, selector: Value) {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "web-uid", "controller": true}]},
            "spec": {"nodeSelector": selector, "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}});
        let object = serde_json::from_value(object).expect("a pod");
        self.pods()
            .create(&PostParams::default(), &object)
            .await
            .expect("the pod is made");
    }

    async fn bound(&self, pod: &str) -> String {
        let pods = self.pods();
        self.until("the pod has a node", || async {
            pods.get(pod).await.ok()?.spec?.node_name
        })
        .await
    }

    async fn pool_has(&self, replicas: i32) {
        let pools: Api<NodePool> = Api::namespaced(self.client.clone(), "default");
        self.until("the pool has the size", || async {
            (pools.get("a").await.ok()?.spec.replicas == Some(replicas)).then_some(())
        })
        .await;
    }

    async fn event(&self, reason: &str, about: &str) -> String {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        self.until("the event", || async {
            let list = events.list(&ListParams::default()).await.ok()?;
            let wanted = |event: &Event| {
                event.reason.as_deref() == Some(reason)
                    && event.involved_object.name.as_deref() == Some(about)
            };
            list.items.into_iter().find(wanted)?.message
        })
        .await
    }
}

#[tokio::test]
async fn a_pending_pod_grows_the_pool_and_an_idle_node_goes_again() {
    let world = world().await;
    for name in ["p", "q", "r"] {
        world.pod(name, "900m", json!({})).await;
    }
    world.pool_has(2).await;
    world.machine("m2", "n2").await;
    let nodes = [
        world.bound("p").await,
        world.bound("q").await,
        world.bound("r").await,
    ];
    let late = ["p", "q", "r"][nodes
        .iter()
        .position(|node| node == "n2")
        .expect("one is on the new node")];
    assert_eq!(
        world.event("TriggeredScaleUp", late).await,
        "pod triggered scale-up: [{a 1->2 (max: 4)}]"
    );
    world
        .pods()
        .delete(late, &DeleteParams::default().grace_period(0))
        .await
        .expect("the pod is deleted");
    world.pool_has(1).await;
    let machines: Api<Machine> = Api::namespaced(world.client.clone(), "default");
    let marked = |machine: Machine| {
        machine
            .metadata
            .annotations
            .unwrap_or_default()
            .contains_key(DELETE_MACHINE)
    };
    assert!(
        marked(machines.get("m2").await.expect("the machine")),
        "the idle machine is the one to go"
    );
    assert!(!marked(machines.get("m1").await.expect("the machine")));
    let nodes: Api<Node> = Api::all(world.client.clone());
    let spec = nodes.get("n2").await.expect("the node").spec.expect("a spec");
    assert_eq!(spec.unschedulable, Some(true));
}

#[tokio::test]
async fn a_pod_that_no_group_can_take_is_told_why() {
    let world = world().await;
    world.pod("huge", "64", json!({})).await;
    let text = world.event("NotTriggerScaleUp", "huge").await;
    assert_eq!(text, "pod didn't trigger scale-up: 1 Insufficient cpu");
    world.pod("picky", "1", json!({"disk": "ssd"})).await;
    let text = world.event("NotTriggerScaleUp", "picky").await;
    assert_eq!(
        text,
        "pod didn't trigger scale-up: 1 node(s) didn't match Pod's node affinity/selector"
    );
}

#[tokio::test]
async fn an_underused_node_is_drained_before_its_machine_goes() {
    let world = world().await;
    world.pod("p", "600m", json!({})).await;
    world.bound("p").await;
    let pools: Api<NodePool> = Api::namespaced(world.client.clone(), "default");
    let two = Patch::Merge(json!({"spec": {"replicas": 2}}));
    pools
        .patch("a", &PatchParams::default(), &two)
        .await
        .expect("the pool is enlarged");
    world.machine("m2", "n2").await;
    world.pod("q", "600m", json!({})).await;
    let pods = world.pods();
    world.pool_has(1).await;
    let left: Vec<String> = {
        let list = pods.list(&ListParams::default()).await.expect("the pods");
        list.items
            .into_iter()
            .filter_map(|pod| pod.metadata.name)
            .collect()
    };
    assert_eq!(
        left.len(),
        1,
        "the pod of the node that goes was evicted: {left:?}"
    );
}
