//! In-place resize on real containers: the kernel's limits follow the spec, and a pod that cannot have more says so.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::api::{Api, Patch, PatchParams, PostParams};
use mainstay_testkit::{admin, plane};
use serde_json::{Value, json};

use crate::machine::{Agent, BUSYBOX, Machine, eventually, on_machine};
use crate::rules::{in_phase, joined, node_user};

const LIMIT: Duration = Duration::from_secs(60);

fn resources(cpu: &str, cpu_limit: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": "16Mi"}, "limits": {"cpu": cpu_limit, "memory": memory}})
}

fn pod(resources: &Value) -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {"nodeName": "n1",
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "a", "image": BUSYBOX,
        "command": ["sleep", "1000"], "resources": resources,
        "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]}]}}),
    )
    .expect("a pod")
}

async fn resize(pods: &Api<Pod>, resources: Value) {
    let patch = json!({"spec": {"containers": [{"name": "a", "resources": resources}]}});
    let patch = Patch::Strategic(patch);
    pods.patch_subresource("resize", "p", &PatchParams::default(), &patch)
        .await
        .expect("the API server takes a resize");
}

fn container_id(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    Some(status.container_id.as_deref()?.split("://").nth(1)?.to_owned())
}

/// Quota (thousandths of a processor) and memory limit that the kernel keeps for the pod and for its container.
fn kernel(machine: &Machine, pod: &Pod) -> Option<[(i64, i64); 2]> {
    let uid = pod.metadata.uid.as_deref()?;
    let group = format!("{}/kubepods/burstable/pod{uid}", machine.cgroup_root());
    let read = |group: &str| {
        let number =
            |file: String| -> Option<i64> { std::fs::read_to_string(file).ok()?.trim().parse().ok() };
        let quota = number(format!("/sys/fs/cgroup/cpu{group}/cpu.cfs_quota_us"))?;
        let memory = number(format!("/sys/fs/cgroup/memory{group}/memory.limit_in_bytes"))?;
        Some((quota / 100, memory >> 20))
    };
    Some([read(&group)?, read(&format!("{group}/{}", container_id(pod)?))?])
}

fn condition<'p>(pod: &'p Pod, kind: &str) -> Option<&'p PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == kind)
}

/// CPU limit that the status reports as the container's.
fn reported(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    let limits = status.resources.as_ref()?.limits.as_ref()?;
    limits.get("cpu").map(|q| q.0.as_str())
}

async fn until(what: &str, pods: &Api<Pod>, holds: impl Fn(&Pod) -> bool) -> Pod {
    eventually(what, LIMIT, async || pods.get("p").await.ok().filter(&holds)).await
}

#[test]
fn a_container_is_resized_in_place_restarted_or_told_to_wait() {
    on_machine(async |machine| {
        let plane = plane().await;
        let pods: Api<Pod> = Api::namespaced(admin(&plane), "default");
        let settings = joined(machine, plane.ca_pem(), plane.client(node_user()));
        let agent = Agent::start(settings.clone());
        let first = resources("100m", "200m", "64Mi");
        pods.create(&PostParams::default(), &pod(&first))
            .await
            .expect("created");
        let begun = in_phase(&pods, "p", "Running").await;
        assert_eq!(kernel(machine, &begun), Some([(200, 64), (200, 64)]));

        resize(&pods, resources("100m", "300m", "64Mi")).await;
        let grown = until("the status shows more", &pods, |p| {
            reported(p) == Some("300m") && condition(p, "PodResizeInProgress").is_none()
        })
        .await;
        assert_eq!(kernel(machine, &grown), Some([(300, 64), (300, 64)]));
        assert_eq!(container_id(&grown), container_id(&begun), "the container ran on");

        resize(&pods, resources("5", "6", "64Mi")).await;
        let waits = until("there are two processors", &pods, |p| {
            condition(p, "PodResizePending").is_some()
        })
        .await;
        let pending = condition(&waits, "PodResizePending").expect("just seen");
        let message = pending.message.as_deref().unwrap_or_default();
        assert_eq!(pending.reason.as_deref(), Some("Deferred"));
        assert!(
            message
                .starts_with("Node didn't have enough resource: cpu, requested: 5000, used: 0, capacity: "),
            "{message}"
        );
        agent.stop().await;

        let agent = Agent::start(settings);
        let file = machine.path("kubelet/pods");
        eventually("the new agent knows what was given", LIMIT, async || {
            file.exists().then_some(())
        })
        .await;
        resize(&pods, resources("100m", "200m", "96Mi")).await;
        let restarted = until("more memory wants a restart", &pods, |p| {
            container_id(p).is_some_and(|id| Some(id) != container_id(&begun))
                && condition(p, "PodResizePending").is_none()
                && reported(p) == Some("200m")
        })
        .await;
        assert_eq!(kernel(machine, &restarted), Some([(200, 96), (200, 96)]));
        agent.stop().await;
        plane.stop().await;
    });
}
