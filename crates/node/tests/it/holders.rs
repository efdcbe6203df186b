//! What the kernel counts by no cgroup and tells nobody: ports, open files, and ends of containers that nobody asked for.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use mainstay_testkit::{admin, plane};
use serde_json::json;

use crate::defence::{eviction, is_unharmed};
use crate::machine::{Agent, BUSYBOX, Machine, eventually, on_machine, sh};
use crate::rules::{in_phase, joined, node_user};

const LIMIT: Duration = Duration::from_secs(60);
/// Well below the time between two listings that nothing asks for.
const AT_ONCE: Duration = Duration::from_secs(8);

fn pod(name: &str, script: &str, host_network: bool) -> Pod {
    let container = json!({"name": "a", "image": BUSYBOX, "command": ["sh", "-c", script]});
    crate::joined::pod(
        name,
        json!({"hostNetwork": host_network, "containers": [container]}),
    )
}

/// Lets one pod hold much and another a little of what the threshold is about; the first goes, the second stays.
async fn the_one_that_holds_most_goes(machine: &Machine, threshold: (&str, String), much: Pod, little: Pod) {
    let plane = plane().await;
    let pods: Api<Pod> = Api::namespaced(admin(&plane), "default");
    let mut settings = joined(machine, plane.ca_pem(), plane.client(node_user()));
    let (signal, amount) = threshold;
    settings.kubelet.eviction_hard = Some([(signal.to_owned(), amount)].into());
    let agent = Agent::start(settings);
    for pod in [&little, &much] {
        pods.create(&PostParams::default(), pod).await.expect("created");
        let name = pod.metadata.name.as_deref().expect("named");
        eventually("it has begun", LIMIT, async || {
            let status = pods.get(name).await.ok()?.status?;
            let begun = ["Running", "Failed"].contains(&status.phase.as_deref()?);
            begun.then_some(())
        })
        .await;
    }
    let gone = in_phase(&pods, "much", "Failed").await;
    let (reason, message) = eviction(&gone);
    assert_eq!(reason, "Evicted");
    let resource = signal.trim_end_matches(".available");
    let begins = format!("The node was low on resource: {resource}. Threshold quantity: ");
    assert!(message.starts_with(&begins), "{message}");
    is_unharmed(&pods, "little").await;
    agent.stop().await;
    plane.stop().await;
}

#[test]
fn the_pod_that_takes_the_nodes_ports_is_evicted() {
    on_machine(async |machine| {
        let listen = |first: u16, last: u16| {
            format!("for p in $(seq {first} {last}); do nc -l -p $p & done; sleep 1000 & wait")
        };
        sh(&format!(
            "ip netns exec {} sysctl -q -w net.ipv4.ip_local_port_range='40000 40099'",
            machine.name
        ));
        let much = pod("much", &listen(40020, 40059), true);
        let little = pod("little", &listen(40000, 40004), true);
        the_one_that_holds_most_goes(machine, ("ports.available", "70".to_owned()), much, little).await;
    });
}

#[test]
fn the_pod_that_takes_the_nodes_files_is_evicted() {
    /// Many more than what else happens on this computer opens meanwhile.
    const FILES: i64 = 16_000;
    on_machine(async |machine| {
        let open = |files: i64| {
            format!("ulimit -n 17000; mkdir /f; cd /f; touch $(seq {files}); tail -f $(seq {files}) & wait")
        };
        let now = std::fs::read_to_string("/proc/sys/fs/file-nr").expect("the kernel counts");
        let now: Vec<i64> = now
            .split_whitespace()
            .map(|n| n.parse().expect("a number"))
            .collect();
        let left = now[2] - (now[0] - now[1]);
        let threshold = ("files.available", (left - FILES / 2).to_string());
        let (much, little) = (pod("much", &open(FILES), false), pod("little", &open(50), false));
        the_one_that_holds_most_goes(machine, threshold, much, little).await;
    });
}

fn container_id(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    Some(status.container_id.as_deref()?.split("://").nth(1)?.to_owned())
}

#[test]
fn a_container_that_is_killed_from_outside_is_started_again_at_once() {
    on_machine(async |machine| {
        let plane = plane().await;
        let pods: Api<Pod> = Api::namespaced(admin(&plane), "default");
        let agent = Agent::start(joined(machine, plane.ca_pem(), plane.client(node_user())));
        let steady = pod("steady", "sleep 1000", false);
        pods.create(&PostParams::default(), &steady)
            .await
            .expect("created");
        in_phase(&pods, "steady", "Running").await;
        let first = container_id(&pods.get("steady").await.expect("there")).expect("it runs");
        machine.ctr(&format!("tasks kill -s SIGKILL {first}"));
        let second = eventually("it is started again", AT_ONCE, async || {
            container_id(&pods.get("steady").await.ok()?).filter(|now| *now != first)
        })
        .await;
        machine.ctr(&format!("tasks kill -s SIGKILL {second}"));
        eventually("the next end is told", AT_ONCE, async || {
            let status = pods.get("steady").await.ok()?.status?;
            let state = status.container_statuses?.first()?.state.clone()?;
            let reason = state.waiting?.reason?;
            (reason == "CrashLoopBackOff").then_some(())
        })
        .await;
        agent.stop().await;
        plane.stop().await;
    });
}
