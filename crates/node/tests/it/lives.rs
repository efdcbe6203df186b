//! Lives of pods: a deadline, a sidecar beside what it serves, a container that looks into another one.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};
use mainstay_testkit::{admin, plane};
use serde_json::{Value, json};

use crate::defence::is_unharmed;
use crate::joined::pod;
use crate::machine::{Agent, BUSYBOX, eventually, on_machine};
use crate::rules::{in_phase, joined, node_user};

const LIMIT: Duration = Duration::from_secs(60);

fn container(name: &str, script: &str, more: &Value) -> Value {
    let mut container = json!({"name": name, "image": BUSYBOX, "command": ["sh", "-c", script],
        "volumeMounts": [{"name": "m", "mountPath": "/m"}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        container[key] = value.clone();
    }
    container
}

/// The exit code of an ended container, with how often it was started again.
fn ended(statuses: Option<&Vec<ContainerStatus>>, name: &str) -> Option<(i32, i32)> {
    let found = statuses?.iter().find(|c| c.name == name)?;
    let state = found.state.as_ref()?.terminated.as_ref()?;
    Some((state.exit_code, found.restart_count))
}

/// A pod whose sidecar must have started before its other init container, is started again when it fails, and is told to
/// end after the main container has.
fn helped() -> Pod {
    let sidecar = "if [ ! -e /m/first ]; then touch /m/first; until [ -e /m/main ]; do sleep 0.1; done; exit 1; fi; \
                   trap 'touch /m/told; exit 0' TERM; touch /m/second; while true; do sleep 0.1; done";
    let started = json!({"restartPolicy": "Always", "startupProbe":
        {"exec": {"command": ["test", "-e", "/m/first"]}, "periodSeconds": 1, "failureThreshold": 30}});
    let main = "touch /m/main; until [ -e /m/second ]; do sleep 0.1; done; ! [ -e /m/told ]";
    pod(
        "helped",
        json!({"restartPolicy": "Never", "volumes": [{"name": "m", "emptyDir": {}}],
            "initContainers": [container("sidecar", sidecar, &started), container("init", "test -e /m/first", &json!({}))],
            "containers": [container("main", main, &json!({}))]}),
    )
}

#[test]
fn a_sidecar_comes_before_it_comes_back_and_goes_after_what_it_serves() {
    on_machine(async |machine| {
        let plane = plane().await;
        let pods: Api<Pod> = Api::namespaced(admin(&plane), "default");
        let agent = Agent::start(joined(machine, plane.ca_pem(), plane.client(node_user())));
        let create = async |pod: &Pod| {
            pods.create(&PostParams::default(), pod).await.expect("created");
        };
        create(&helped()).await;
        let brief = json!({"activeDeadlineSeconds": 2, "containers":
            [{"name": "a", "image": BUSYBOX, "command": ["sleep", "1000"]}]});
        create(&pod("brief", brief)).await;

        let helped = in_phase(&pods, "helped", "Succeeded").await;
        let status = helped.status.expect("a status");
        assert_eq!(
            [
                ended(status.init_container_statuses.as_ref(), "sidecar"),
                ended(status.init_container_statuses.as_ref(), "init"),
                ended(status.container_statuses.as_ref(), "main"),
            ],
            [Some((0, 1)), Some((0, 0)), Some((0, 0))],
            "{status:?}"
        );
        let overdue = in_phase(&pods, "brief", "Failed").await;
        let status = overdue.status.expect("a status");
        assert_eq!(
            (status.reason.as_deref(), status.message.as_deref()),
            (
                Some("DeadlineExceeded"),
                Some("Pod was active on the node longer than the specified deadline")
            )
        );
        assert!(
            ended(status.container_statuses.as_ref(), "a").is_some(),
            "{status:?}"
        );
        agent.stop().await;
        plane.stop().await;
    });
}

#[test]
fn an_ephemeral_container_sees_the_processes_of_its_target_and_leaves_it_alone() {
    on_machine(async |machine| {
        let plane = plane().await;
        let pods: Api<Pod> = Api::namespaced(admin(&plane), "default");
        let agent = Agent::start(joined(machine, plane.ca_pem(), plane.client(node_user())));
        let sleeps = json!({"containers": [{"name": "a", "image": BUSYBOX, "command": ["sleep", "4242"]},
            {"name": "b", "image": BUSYBOX, "command": ["sleep", "4343"]}]});
        pods.create(&PostParams::default(), &pod("p", sleeps))
            .await
            .expect("created");
        in_phase(&pods, "p", "Running").await;
        let look = "ps | grep -q '[s]leep 4242' && ! ps | grep -q '[s]leep 4343' && exit 7";
        let debugger = |name: &str, target: Option<&str>| json!({"name": name, "image": BUSYBOX, "command": ["sh", "-c", look], "targetContainerName": target});
        let patch =
            json!({"spec": {"ephemeralContainers": [debugger("into", Some("a")), debugger("beside", None)]}});
        pods.patch_subresource(
            "ephemeralcontainers",
            "p",
            &PatchParams::default(),
            &Patch::Strategic(patch),
        )
        .await
        .expect("the API server takes ephemeral containers");
        let codes = eventually("both have ended", LIMIT, async || {
            let status = pods.get("p").await.ok()?.status?;
            let all = status.ephemeral_container_statuses;
            Some([ended(all.as_ref(), "into")?, ended(all.as_ref(), "beside")?])
        })
        .await;
        assert_eq!(codes, [(7, 0), (1, 0)]);
        is_unharmed(&pods, "p").await;
        agent.stop().await;
        plane.stop().await;
    });
}
