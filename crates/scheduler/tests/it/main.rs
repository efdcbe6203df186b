//! The scheduler against an in-memory control plane.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use mainstay_base::clock::SystemClock;
use mainstay_control::CancellationToken;
use mainstay_scheduler::{Config, start};
use serde_json::{Value, json};

/// The longest any of these tests waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    client: Client,
    stop: CancellationToken,
    _plane: Box<dyn std::any::Any>,
}

async fn world() -> World {
    let plane = mainstay_testkit::plane().await;
    let client = mainstay_testkit::admin(&plane);
    let stop = CancellationToken::new();
    start(
        client.clone(),
        Config::default(),
        SystemClock::shared(),
        stop.clone(),
    )
    .expect("the scheduler starts");
    World {
        client,
        stop,
        _plane: Box::new(plane),
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    async fn node(&self, name: &str, resources: Value) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
        let node = serde_json::from_value(node).expect("a node");
        nodes
            .create(&PostParams::default(), &node)
            .await
            .expect("the node is made");
        let status = json!({"status": {"capacity": resources, "allocatable": resources,
            "conditions": [{"type": "Ready", "status": "True"}]}});
        nodes
            .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .expect("its status is set");
        let untainted = Patch::Merge(json!({"spec": {"taints": null}}));
        nodes
            .patch(name, &PatchParams::default(), &untainted)
            .await
            .expect("it counts as ready");
    }

    async fn pod(&self, name: &str, resources: Value, more: Value) {
        let mut spec = json!({"containers": [{"name": "c", "image": "i", "resources": resources}]});
        if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        let pod = serde_json::from_value(pod).expect("a pod");
        self.pods()
            .create(&PostParams::default(), &pod)
            .await
            .expect("the pod is made");
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Waits until `found` gives something for the pod.
    async fn until<T>(&self, pod: &str, found: impl Fn(&Pod) -> Option<T>) -> T {
        let pods = self.pods();
        let waiting = async {
            loop {
                if let Ok(Some(own)) = pods.get_opt(pod).await
                    && let Some(answer) = found(&own)
                {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .expect("it happens in time")
    }

    async fn node_of(&self, pod: &str) -> String {
        self.until(pod, |pod| pod.spec.as_ref()?.node_name.clone()).await
    }

    async fn refusal_of(&self, pod: &str) -> String {
        let message = |pod: &Pod| {
            let conditions = pod.status.as_ref()?.conditions.clone()?;
            conditions
                .into_iter()
                .find(|own| own.reason.as_deref() == Some("Unschedulable"))?
                .message
        };
        self.until(pod, message).await
    }

    async fn event(&self, pod: &str, reason: &str) -> Event {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let waiting = async {
            loop {
                let list = events
                    .list(&ListParams::default())
                    .await
                    .expect("a list of events");
                let about = |event: &Event| {
                    event.involved_object.name.as_deref() == Some(pod)
                        && event.reason.as_deref() == Some(reason)
                };
                if let Some(event) = list.items.into_iter().find(about) {
                    return event;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting)
            .await
            .expect("the event comes in time")
    }
}

fn small() -> Value {
    json!({"requests": {"cpu": "1", "memory": "1Gi"}})
}

#[tokio::test]
async fn pods_are_spread_over_nodes_and_say_so() {
    let world = world().await;
    let size = json!({"cpu": "2", "memory": "4Gi", "pods": "10"});
    world.node("a", size.clone()).await;
    world.node("b", size).await;
    world.pod("p", small(), json!({})).await;
    world.pod("q", small(), json!({})).await;
    let mut nodes = [world.node_of("p").await, world.node_of("q").await];
    let event = world.event("p", "Scheduled").await;
    assert_eq!(
        event.message.as_deref(),
        Some(format!("Successfully assigned default/p to {}", nodes[0]).as_str())
    );
    nodes.sort();
    assert_eq!(nodes, ["a", "b"]);
}

#[tokio::test]
async fn an_unsatisfiable_pod_is_told_the_seeds_text_and_runs_when_a_node_can() {
    let world = world().await;
    for name in ["a", "b", "c"] {
        world
            .node(name, json!({"cpu": "4", "memory": "8Gi", "pods": "10"}))
            .await;
    }
    let foo =
        json!({"limits": {"example.com/reclaimed-cpu": "2"}, "requests": {"example.com/reclaimed-cpu": "2"}});
    world.pod("p", foo, json!({})).await;
    let expected = "0/3 nodes are available: 3 Insufficient example.com/reclaimed-cpu. preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod.";
    assert_eq!(world.refusal_of("p").await, expected);
    let event = world.event("p", "FailedScheduling").await;
    assert_eq!(
        (event.type_.as_deref(), event.message.as_deref()),
        (Some("Warning"), Some(expected))
    );
    let nodes: Api<Node> = Api::all(world.client.clone());
    let more = json!({"status": {"capacity": {"example.com/reclaimed-cpu": "4"},
        "allocatable": {"example.com/reclaimed-cpu": "4"}}});
    nodes
        .patch_status("b", &PatchParams::default(), &Patch::Merge(more))
        .await
        .expect("the resource is published");
    assert_eq!(world.node_of("p").await, "b");
}

#[tokio::test]
async fn a_pod_of_high_priority_pushes_another_one_out() {
    let world = world().await;
    world
        .node("a", json!({"cpu": "1", "memory": "4Gi", "pods": "10"}))
        .await;
    let classes: Api<k8s_openapi::api::scheduling::v1::PriorityClass> = Api::all(world.client.clone());
    let high = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": "high"}, "value": 1000});
    let high = serde_json::from_value(high).expect("a class");
    classes
        .create(&PostParams::default(), &high)
        .await
        .expect("the class is made");
    world
        .pod("low", small(), json!({"terminationGracePeriodSeconds": 0}))
        .await;
    world.node_of("low").await;
    world
        .pod("high", small(), json!({"priorityClassName": "high"}))
        .await;
    assert_eq!(world.node_of("high").await, "a");
    assert!(world.pods().get_opt("low").await.expect("an answer").is_none());
}

#[tokio::test]
async fn a_pod_of_another_scheduler_is_left_alone() {
    let world = world().await;
    world
        .node("a", json!({"cpu": "4", "memory": "4Gi", "pods": "10"}))
        .await;
    world
        .pod("other", small(), json!({"schedulerName": "mine"}))
        .await;
    world.pod("p", small(), json!({})).await;
    assert_eq!(world.node_of("p").await, "a");
    let other = world.pods().get("other").await.expect("the pod");
    assert_eq!(other.spec.and_then(|spec| spec.node_name), None);
}
