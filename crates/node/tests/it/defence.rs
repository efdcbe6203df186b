//! The node defends itself: against a pod that takes the memory, one that forks without end, one that floods its log.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{Api, ListParams, PostParams};
use mainstay_testkit::{admin, plane};
use serde_json::{Value, json};

use crate::machine::{Agent, BUSYBOX, Machine, eventually, on_machine};
use crate::metrics;
use crate::rules::{in_phase, joined, node_user};

const LIMIT: Duration = Duration::from_secs(60);
/// What all pods together may use in the test of memory.
const FOR_PODS: i64 = 400 << 20;
/// Grows by 100 MB a second in a memory-backed volume.
const HOG: &str = "i=0; while true; do head -c 5242880 /dev/zero > /m/$i; i=$((i+1)); sleep 0.05; done";

/// A pod of one container on n1 with a volume of its own at /m.
pub fn pod(name: &str, script: &str, resources: Value, volume: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"}, "spec": {
        "nodeName": "n1", "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "a", "image": BUSYBOX, "command": ["sh", "-c", script], "resources": resources,
            "volumeMounts": [{"name": "m", "mountPath": "/m"}]}],
        "volumes": [{"name": "m", "emptyDir": volume}]}}))
    .expect("a pod")
}

/// Waits until a condition of the node has this status.
pub async fn node_is(nodes: &Api<Node>, kind: &str, status: &str) {
    eventually(&format!("{kind} is {status}"), LIMIT, async || {
        let conditions = nodes.get("n1").await.ok()?.status?.conditions?;
        let found = conditions.into_iter().find(|c| c.type_ == kind)?;
        (found.status == status).then_some(())
    })
    .await;
}

/// Reason and message of an evicted pod, after a check of its condition.
pub fn eviction(pod: &Pod) -> (String, String) {
    let status = pod.status.as_ref().expect("a status");
    let conditions = status.conditions.iter().flatten();
    let mut disrupted = conditions.filter(|c| c.type_ == "DisruptionTarget" && c.status == "True");
    assert_eq!(
        disrupted.next().and_then(|c| c.reason.as_deref()),
        Some("TerminationByKubelet"),
        "{status:?}"
    );
    let text = |of: &Option<String>| of.clone().unwrap_or_default();
    (text(&status.reason), text(&status.message))
}

/// Checks that a pod runs and has never been started again.
pub async fn is_unharmed(pods: &Api<Pod>, name: &str) {
    let status = pods.get(name).await.expect("there").status.expect("a status");
    let restarts = status
        .container_statuses
        .iter()
        .flatten()
        .map(|c| c.restart_count);
    assert_eq!(
        (status.phase.as_deref(), restarts.sum::<i32>()),
        (Some("Running"), 0),
        "{name}"
    );
}

fn memory_total() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("meminfo");
    let number = text.split_whitespace().nth(1).expect("a number");
    number.parse::<i64>().expect("a number") << 10
}

#[test]
fn a_memory_hog_is_evicted_its_neighbour_is_not_and_the_node_recovers() {
    on_machine(async |machine| {
        let plane = plane().await;
        let pods: Api<Pod> = Api::namespaced(admin(&plane), "default");
        let nodes: Api<Node> = Api::all(admin(&plane));
        let mut settings = joined(machine, plane.ca_pem(), plane.client(node_user()));
        let reserved = (memory_total() - FOR_PODS).to_string();
        settings.kubelet.system_reserved = [("memory".to_owned(), reserved)].into();
        settings.kubelet.eviction_pressure_transition_period = Duration::from_secs(5);
        let port = metrics::open(&mut settings);
        let agent = Agent::start(settings);
        let create = async |pod: Pod| {
            pods.create(&PostParams::default(), &pod).await.expect("created");
        };
        let memory = json!({"medium": "Memory"});
        let keeps = "head -c 41943040 /dev/zero > /m/x; sleep 1000";
        let requests = json!({"requests": {"memory": "64Mi"}});
        create(pod("neighbour", keeps, requests, memory.clone())).await;
        in_phase(&pods, "neighbour", "Running").await;
        create(pod(
            "hog",
            HOG,
            json!({"requests": {"memory": "1Mi"}}),
            memory.clone(),
        ))
        .await;
        node_is(&nodes, "MemoryPressure", "True").await;
        let (reason, message) = eviction(&in_phase(&pods, "hog", "Failed").await);
        assert_eq!(reason, "Evicted");
        let expected = "The node was low on resource: memory. Threshold quantity: 100Mi, available: ";
        assert!(message.starts_with(expected), "{message}");
        assert!(message.contains(". Container a was using "), "{message}");
        assert!(
            message.ends_with(", request is 1Mi, has larger consumption of memory. "),
            "{message}"
        );

        node_is(&nodes, "MemoryPressure", "False").await;
        create(pod("later", "sleep 1000", json!({}), json!({}))).await;
        in_phase(&pods, "later", "Running").await;
        is_unharmed(&pods, "neighbour").await;
        let events: Api<Event> = Api::all(admin(&plane));
        let told = eventually("the events", LIMIT, async || {
            let listed = events.list(&ListParams::default()).await.ok()?.items;
            let reasons: Vec<String> = listed.into_iter().filter_map(|e| e.reason).collect();
            let both = ["EvictionThresholdMet", "Evicted"]
                .iter()
                .all(|r| reasons.iter().any(|o| o == r));
            both.then_some(reasons)
        })
        .await;
        assert_eq!(told.iter().filter(|r| *r == "Evicted").count(), 1, "{told:?}");
        let series = "kubelet_evictions{eviction_signal=\"allocatableMemory.available\"}";
        let own = metrics::read(port, "/metrics").await;
        assert_eq!(metrics::value(&own, series), Some(1.0), "{own}");
        agent.stop().await;
        plane.stop().await;
    });
}

/// A number of a pod's cgroup.
fn pids(machine: &Machine, uid: &str, file: &str) -> Option<String> {
    let root = machine.cgroup_root();
    let path = format!("/sys/fs/cgroup/pids{root}/kubepods/besteffort/pod{uid}/{file}");
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

#[test]
fn a_fork_bomb_stays_within_its_pod() {
    on_machine(async |machine| {
        let plane = plane().await;
        let pods: Api<Pod> = Api::namespaced(admin(&plane), "default");
        let mut settings = joined(machine, plane.ca_pem(), plane.client(node_user()));
        settings.kubelet.pod_pids_limit = 40;
        let agent = Agent::start(settings);
        // The inner shell gives up at the first fork that fails; what it has forked stays.
        let bomb = "sh -c 'i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done; echo all 200 live'; sleep 1000";
        let made = pods
            .create(&PostParams::default(), &pod("bomb", bomb, json!({}), json!({})))
            .await;
        let uid = made.expect("created").metadata.uid.expect("a uid");
        let log = machine.path(&format!("log/pods/default_bomb_{uid}/a/0.log"));
        let log = eventually("the kernel refuses a fork", LIMIT, async || {
            let text = std::fs::read_to_string(&log).ok()?;
            text.contains("can't fork").then_some(text)
        })
        .await;
        assert!(!log.contains("all 200 live"), "{log}");
        assert_eq!(pids(machine, &uid, "pids.max").as_deref(), Some("40"));
        let now: u32 = pids(machine, &uid, "pids.current")
            .expect("a cgroup")
            .parse()
            .expect("a number");
        assert!((30..=40).contains(&now), "{now} processes");
        let quiet = pod("quiet", "sleep 1000", json!({}), json!({}));
        pods.create(&PostParams::default(), &quiet)
            .await
            .expect("created");
        in_phase(&pods, "quiet", "Running").await;
        is_unharmed(&pods, "bomb").await;
        let log = machine.path(&format!("log/pods/default_bomb_{uid}/a/0.log"));
        let log = std::fs::read_to_string(log).expect("a log");
        assert!(
            log.contains("can't fork") && !log.contains("all 200 live"),
            "{log}"
        );
        agent.stop().await;
        plane.stop().await;
    });
}

/// The files of a log, and the number in the newest line of the one being written.
fn log_files(folder: &Path) -> Option<(Vec<String>, u64)> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
    let names: Vec<String> = names.filter(|n| !n.ends_with(".tmp")).collect();
    let text = std::fs::read_to_string(folder.join("0.log")).ok()?;
    let newest = text.lines().last()?.split_whitespace().nth(4)?.parse().ok()?;
    Some((names, newest))
}

#[test]
fn a_flood_of_log_lines_rotates_within_its_limits() {
    on_machine(async |machine| {
        let plane = plane().await;
        let pods: Api<Pod> = Api::namespaced(admin(&plane), "default");
        let mut settings = joined(machine, plane.ca_pem(), plane.client(node_user()));
        settings.kubelet.container_log_max_size = "64Ki".into();
        settings.kubelet.container_log_max_files = 3;
        settings.kubelet.container_log_monitor_interval = Duration::from_millis(300);
        let agent = Agent::start(settings);
        let flood = "i=0; while true; do n=0; while [ $n -lt 50 ]; do i=$((i+1)); n=$((n+1)); \
                     echo line $i of a pod that says much too much; done; sleep 0.02; done";
        let made = pods
            .create(&PostParams::default(), &pod("flood", flood, json!({}), json!({})))
            .await;
        let uid = made.expect("created").metadata.uid.expect("a uid");
        let folder = machine.path(&format!("log/pods/default_flood_{uid}/a"));
        // As long as it takes for the oldest to have gone several times.
        let (mut packed, mut most, mut last) = (std::collections::BTreeSet::new(), 0, 0);
        eventually("five packed parts have come, and gone", LIMIT, async || {
            let (names, newest) = log_files(&folder)?;
            most = most.max(names.len());
            assert!(names.len() <= 3, "{names:?}");
            last = last.max(newest);
            packed.extend(names.into_iter().filter(|n| n.ends_with(".gz")));
            (packed.len() >= 5).then_some(())
        })
        .await;
        assert_eq!(most, 3, "the log, one part as it was, one packed");
        eventually("the runtime writes to the new file", LIMIT, async || {
            log_files(&folder).filter(|(_, newest)| *newest > last)
        })
        .await;
        is_unharmed(&pods, "flood").await;
        agent.stop().await;
        plane.stop().await;
    });
}
