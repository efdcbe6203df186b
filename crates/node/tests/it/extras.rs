//! What pods may ask for beside processors and memory: another runtime and its overhead, hugepages, bandwidth.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::api::{Api, ListParams, PostParams};
use mainstay_node::cri::runtime_v1 as v1;
use mainstay_testkit::{admin, plane};
use serde_json::{Value, json};

use crate::joined::pod;
use crate::machine::{Agent, BUSYBOX, Machine, eventually, on_machine, on_machine_with};
use crate::rules::{in_phase, joined, node_user};

const LIMIT: Duration = Duration::from_secs(60);

/// A pod of one container with these resources, and more fields.
fn sleeper(name: &str, resources: &Value, more: &Value) -> Pod {
    let mut spec = json!({"containers": [{"name": "a", "image": BUSYBOX, "command": ["sleep", "1000"],
        "resources": resources}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    pod(name, spec)
}

async fn add_class(classes: &Api<RuntimeClass>, class: Value) {
    let class = serde_json::from_value(class).expect("a class");
    classes
        .create(&PostParams::default(), &class)
        .await
        .expect("created");
}

/// The runtime's handler of a pod's sandbox.
async fn handler(machine: &Machine, uid: &str) -> Option<String> {
    let everything = v1::ListPodSandboxRequest { filter: None };
    let items = machine.cri().list_sandboxes(everything).await.ok()?.items;
    let is_own = |s: &v1::PodSandbox| s.metadata.as_ref().is_some_and(|m| m.uid == uid);
    Some(items.into_iter().find(is_own)?.runtime_handler)
}

#[test]
fn a_runtime_class_chooses_the_runtime_and_its_overhead_counts() {
    on_machine(async |machine| {
        let plane = plane().await;
        let pods: Api<Pod> = Api::namespaced(admin(&plane), "default");
        let classes: Api<RuntimeClass> = Api::all(admin(&plane));
        add_class(
            &classes,
            json!({"metadata": {"name": "heavy"}, "handler": "other",
            "overhead": {"podFixed": {"cpu": "50m", "memory": "32Mi"}}}),
        )
        .await;
        add_class(
            &classes,
            json!({"metadata": {"name": "absent"}, "handler": "nowhere"}),
        )
        .await;
        let agent = Agent::start(joined(machine, plane.ca_pem(), plane.client(node_user())));
        let both = json!({"limits": {"cpu": "100m", "memory": "64Mi"}});
        for (name, class) in [("heavy", "heavy"), ("lost", "absent")] {
            let pod = sleeper(name, &both, &json!({"runtimeClassName": class}));
            pods.create(&PostParams::default(), &pod).await.expect("created");
        }
        let uid = in_phase(&pods, "heavy", "Running")
            .await
            .metadata
            .uid
            .expect("a uid");
        assert_eq!(handler(machine, &uid).await.as_deref(), Some("other"));
        let read = |controller: &str, file: &str| {
            let root = machine.cgroup_root();
            let path = format!("/sys/fs/cgroup/{controller}{root}/kubepods/pod{uid}/{file}");
            std::fs::read_to_string(path).expect("a cgroup").trim().to_owned()
        };
        assert_eq!(
            [
                read("cpu", "cpu.shares"),
                read("cpu", "cpu.cfs_quota_us"),
                read("memory", "memory.limit_in_bytes"),
            ],
            ["153", "15000", "100663296"]
        );
        let events: Api<Event> = Api::all(admin(&plane));
        let told = eventually("the other one's class is not the runtime's", LIMIT, async || {
            let listed = events.list(&ListParams::default()).await.ok()?.items;
            let about = |e: &Event| e.involved_object.name.as_deref() == Some("lost");
            let mut failed = listed.into_iter().filter(about);
            failed
                .find(|e| e.reason.as_deref() == Some("FailedCreatePodSandBox"))?
                .message
        })
        .await;
        assert!(
            told.contains("no runtime for \"nowhere\" is configured"),
            "{told}"
        );
        let lost = pods.get("lost").await.expect("there").status.expect("a status");
        assert_eq!(lost.phase.as_deref(), Some("Pending"));
        agent.stop().await;
        plane.stop().await;
    });
}

const HUGEPAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// Hugepages of this computer for as long as this value lives.
struct Hugepages(String);

impl Hugepages {
    fn more(count: i64) -> (Self, i64) {
        let before = std::fs::read_to_string(HUGEPAGES).expect("the kernel has hugepages of 2 MiB");
        let wanted = before.trim().parse::<i64>().expect("a number") + count;
        std::fs::write(HUGEPAGES, wanted.to_string()).expect("may be set");
        let now = std::fs::read_to_string(HUGEPAGES).expect("still there");
        assert_eq!(now.trim(), wanted.to_string(), "memory is too much in pieces");
        (Hugepages(before), wanted)
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        let _ = std::fs::write(HUGEPAGES, self.0.trim());
    }
}

#[test]
fn hugepages_are_counted_given_and_refused() {
    on_machine(async |machine| {
        let (_kept, count) = Hugepages::more(4);
        let plane = plane().await;
        let pods: Api<Pod> = Api::namespaced(admin(&plane), "default");
        let nodes: Api<Node> = Api::all(admin(&plane));
        let agent = Agent::start(joined(machine, plane.ca_pem(), plane.client(node_user())));
        let page = 2 << 20;
        let status = eventually("the node has them", LIMIT, async || {
            let status = nodes.get("n1").await.ok()?.status?;
            let text = |of: &Option<std::collections::BTreeMap<_, _>>| -> Option<String> {
                let quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity =
                    of.as_ref()?.get("hugepages-2Mi")?;
                Some(quantity.0.clone())
            };
            Some([text(&status.capacity)?, text(&status.allocatable)?])
        })
        .await;
        let whole = format!("{}Mi", count * 2);
        assert_eq!(status, [whole.clone(), whole]);

        let asks = |pages: i64| {
            let own = json!({"cpu": "100m", "memory": "32Mi", "hugepages-2Mi": (pages * page).to_string()});
            json!({"limits": own})
        };
        let mut given = sleeper(
            "given",
            &asks(2),
            &json!({"restartPolicy": "Never",
            "volumes": [{"name": "h", "emptyDir": {"medium": "HugePages"}}]}),
        );
        let container = &mut given.spec.as_mut().expect("a spec").containers[0];
        container.volume_mounts =
            serde_json::from_value(json!([{"name": "h", "mountPath": "/h"}])).expect("a mount");
        let script = "grep ' /h hugetlbfs .*pagesize=2M' /proc/mounts && sleep 1000";
        container.command = Some(["sh", "-c", script].map(str::to_owned).into());
        pods.create(&PostParams::default(), &given)
            .await
            .expect("created");
        in_phase(&pods, "given", "Running").await;

        let more = sleeper("more", &asks(count - 1), &json!({}));
        pods.create(&PostParams::default(), &more).await.expect("created");
        let refused = in_phase(&pods, "more", "Failed").await.status.expect("a status");
        let wanted = format!(
            "Pod was rejected: Node didn't have enough resource: hugepages-2Mi, requested: {}, used: {}, capacity: {}",
            (count - 1) * page,
            2 * page,
            count * page
        );
        assert_eq!(
            (refused.reason.as_deref(), refused.message.as_deref()),
            (Some("OutOfhugepages-2Mi"), Some(wanted.as_str()))
        );
        let given = pods.get("given").await.expect("there").status.expect("a status");
        assert_eq!(given.phase.as_deref(), Some("Running"), "{given:?}");
        agent.stop().await;
        plane.stop().await;
    });
}

/// A network whose plug-ins shape traffic as the annotations say; read before the usual one.
fn shaped(folder: &Path) {
    let conf = json!({"cniVersion": "0.4.0", "name": "shaped", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "ipam": {"type": "host-local",
            "dataDir": folder.join("cni-data"), "ranges": [[{"subnet": "10.88.0.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}},
    ]});
    std::fs::create_dir_all(folder.join("cni")).expect("made");
    std::fs::write(folder.join("cni/05-shaped.conflist"), conf.to_string()).expect("written");
}

/// What the runtime lets through before it shapes: containerd asks for 2^32 bits, and more.
const BURST: usize = 600 << 20;

/// Moves bytes until the burst is used up, then until three seconds in a row were as fast as is allowed, in megabits a
/// second. `step` moves some bytes and tells how many.
fn settles_at(allowed: f64, mut step: impl FnMut() -> usize) {
    const WINDOW: Duration = Duration::from_secs(1);
    let (begun, mut all, mut as_allowed) = (Instant::now(), 0, 0);
    while as_allowed < 3 {
        let (from, mut bytes) = (Instant::now(), 0);
        while from.elapsed() < WINDOW {
            bytes += step();
        }
        all += bytes;
        let rate = bytes as f64 * 8.0 / 1e6 / from.elapsed().as_secs_f64();
        let fits = all > BURST && (0.75..1.25).contains(&(rate / allowed));
        as_allowed = if fits { as_allowed + 1 } else { 0 };
        assert!(
            begun.elapsed() < LIMIT * 4,
            "{rate} Mbit/s instead of {allowed} after {all} bytes"
        );
    }
}

fn receive(allowed: f64) {
    let listener = TcpListener::bind("10.88.0.1:5001").expect("the bridge has the address");
    let (mut stream, _) = listener.accept().expect("the pod connects");
    let mut buffer = vec![0; 1 << 16];
    settles_at(allowed, || stream.read(&mut buffer).expect("the pod sends"));
}

fn send(ip: &str, allowed: f64) {
    let mut stream = TcpStream::connect((ip, 5002)).expect("the pod listens");
    let buffer = vec![0; 1 << 16];
    settles_at(allowed, || stream.write(&buffer).expect("the pod reads"));
}

#[test]
fn traffic_between_a_pod_and_its_node_is_as_fast_as_its_annotations_say() {
    on_machine_with(shaped, async |machine| {
        let plane = plane().await;
        let pods: Api<Pod> = Api::namespaced(admin(&plane), "default");
        let agent = Agent::start(joined(machine, plane.ca_pem(), plane.client(node_user())));
        let container = |name: &str, script: &str| json!({"name": name, "image": BUSYBOX, "command": ["sh", "-c", script]});
        let mut talker = pod(
            "talker",
            json!({"containers": [
                container("out", "until nc 10.88.0.1 5001 < /dev/zero; do sleep 0.2; done; sleep 1000"),
                container("in", "nc -l -p 5002 > /dev/null; sleep 1000"),
            ]}),
        );
        let limits = [("egress", "16M"), ("ingress", "24M")];
        let annotations =
            limits.map(|(way, rate)| (format!("kubernetes.io/{way}-bandwidth"), rate.to_owned()));
        talker.metadata.annotations = Some(annotations.into());
        pods.create(&PostParams::default(), &talker)
            .await
            .expect("created");
        let running = in_phase(&pods, "talker", "Running").await;
        let ip = running.status.and_then(|s| s.pod_ip).expect("an address");
        // One thread each: both ways are used at once, as they would be.
        let out = tokio::task::spawn_blocking(|| receive(16.0));
        let into = tokio::task::spawn_blocking(move || send(&ip, 24.0));
        out.await.expect("egress is shaped");
        into.await.expect("ingress is shaped");
        agent.stop().await;
        plane.stop().await;
    });
}
