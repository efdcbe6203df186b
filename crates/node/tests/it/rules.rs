//! Rules of the node on real containers: processors, room for critical pods, the order of a shutdown.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, PostParams};
use mainstay_testkit::{UserInfo, admin, plane};
use serde_json::{Value, json};

use crate::machine::{Agent, BUSYBOX, Machine, eventually, on_machine};

const LIMIT: Duration = Duration::from_secs(60);

pub fn joined(machine: &Machine, ca_bundle: &str, client: kube::Client) -> mainstay_node::Settings {
    let mut settings = machine.settings("n1");
    settings.join.ca_bundle = ca_bundle.to_owned();
    settings.client = Some(client);
    settings.overrides.cpus = Some(2);
    settings
}

pub fn node_user() -> UserInfo {
    UserInfo {
        name: "system:node:n1".into(),
        groups: vec!["system:nodes".into(), "system:authenticated".into()],
        ..Default::default()
    }
}

fn pod(name: &str, resources: Value) -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"nodeName": "n1",
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "a", "image": BUSYBOX,
        "command": ["sleep", "1000"], "resources": resources}]}}),
    )
    .expect("a pod")
}

pub async fn in_phase(pods: &Api<Pod>, name: &str, phase: &str) -> Pod {
    eventually(&format!("{name} is {phase}"), LIMIT, async || {
        let pod = pods.get(name).await.ok()?;
        let now = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        (now == Some(phase)).then_some(pod)
    })
    .await
}

fn why(pod: &Pod) -> (String, String) {
    let status = pod.status.as_ref().expect("a status");
    let disruption = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "DisruptionTarget");
    (
        status.reason.clone().unwrap_or_default(),
        disruption.and_then(|c| c.message.clone()).unwrap_or_default(),
    )
}

/// The processors of the only container of a pod, as the kernel tells them.
fn processors(machine: &Machine, tier: &str, pod: &Pod) -> Option<String> {
    let uid = pod.metadata.uid.as_deref()?;
    let group = format!(
        "/sys/fs/cgroup/cpuset{}/kubepods{tier}/pod{uid}",
        machine.cgroup_root()
    );
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    let id = status.container_id.as_deref()?.split("://").nth(1)?.to_owned();
    let text = std::fs::read_to_string(format!("{group}/{id}/cpuset.cpus")).ok()?;
    Some(text.trim().to_owned())
}

#[test]
fn a_guaranteed_pod_has_its_processor_to_itself_until_it_is_gone() {
    on_machine(async |machine| {
        let plane = plane().await;
        let pods: Api<Pod> = Api::namespaced(admin(&plane), "default");
        let mut settings = joined(machine, plane.ca_pem(), plane.client(node_user()));
        settings.kubelet.cpu_manager_policy = "static".into();
        settings.kubelet.kube_reserved = [("cpu".to_owned(), "500m".to_owned())].into();
        let agent = Agent::start(settings);
        let create = async |name: &str, resources: Value| {
            pods.create(&PostParams::default(), &pod(name, resources))
                .await
                .expect("created");
            in_phase(&pods, name, "Running").await
        };
        let both = json!({"cpu": "1", "memory": "32Mi"});
        let common = create("common", json!({"requests": {"cpu": "10m"}})).await;
        assert_eq!(processors(machine, "/burstable", &common).as_deref(), Some("0-1"));
        let pinned = create("pinned", json!({"requests": both, "limits": both})).await;
        assert_eq!(processors(machine, "", &pinned).as_deref(), Some("1"));
        eventually("the other pod has moved", LIMIT, async || {
            let now = processors(machine, "/burstable", &common);
            (now.as_deref() == Some("0")).then_some(())
        })
        .await;
        pods.delete("pinned", &Default::default()).await.expect("deleted");
        eventually("the processor is everybody's again", LIMIT, async || {
            let now = processors(machine, "/burstable", &common);
            (now.as_deref() == Some("0-1")).then_some(())
        })
        .await;
        agent.stop().await;
        plane.stop().await;
    });
}

#[test]
fn a_critical_pod_makes_room_for_itself_and_a_shutdown_ends_pods_with_a_reason() {
    on_machine(async |machine| {
        let plane = plane().await;
        let pods: Api<Pod> = Api::namespaced(admin(&plane), "default");
        let nodes: Api<Node> = Api::all(admin(&plane));
        let mut settings = joined(machine, plane.ca_pem(), plane.client(node_user()));
        settings.kubelet.shutdown_grace_period = Duration::from_secs(20);
        let going_down = settings.going_down.clone();
        let agent = Agent::start(settings);
        let large = pod("large", json!({"requests": {"cpu": "1500m"}}));
        pods.create(&PostParams::default(), &large)
            .await
            .expect("created");
        let small = pod("small", json!({"requests": {"cpu": "100m"}}));
        pods.create(&PostParams::default(), &small)
            .await
            .expect("created");
        in_phase(&pods, "large", "Running").await;
        in_phase(&pods, "small", "Running").await;

        machine.manifest(
            "critical.yaml",
            &format!(
                "metadata: {{name: critical}}\nspec: {{containers: [{{name: a, image: '{BUSYBOX}', command: [sleep, '1000'], \
                 resources: {{requests: {{cpu: '1'}}}}}}], terminationGracePeriodSeconds: 1}}"
            ),
        );
        let preempted = in_phase(&pods, "large", "Failed").await;
        assert_eq!(
            why(&preempted),
            (
                "Preempting".into(),
                "Pod was preempted by Kubelet to accommodate a critical pod.".into()
            )
        );
        in_phase(&pods, "critical-n1", "Running").await;

        let patch = json!([{"op": "add", "path": "/status/capacity/example.com~1dongle", "value": "4"}]);
        let request = http::Request::patch("/api/v1/nodes/n1/status")
            .header("content-type", "application/json-patch+json")
            .body(patch.to_string().into_bytes())
            .expect("a request");
        admin(&plane).request_text(request).await.expect("patched");
        eventually("pods may use what was patched", LIMIT, async || {
            let node = nodes.get("n1").await.ok()?;
            let allocatable = node.status?.allocatable?;
            allocatable
                .get("example.com/dongle")
                .filter(|q| q.0 == "4")
                .map(drop)
        })
        .await;

        going_down.cancel();
        agent.stop().await;
        let ended = pods.get("small").await.expect("kept");
        let message = "Pod was terminated in response to imminent node shutdown.";
        assert_eq!(why(&ended), ("Terminated".into(), message.into()));
        plane.stop().await;
    });
}
