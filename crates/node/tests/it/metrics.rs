//! What Prometheus reads of the node: series of what really happened.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{Api, Patch, PatchParams, PostParams};
use mainstay_node::Settings;
use mainstay_testkit::{admin, plane};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::machine::{Agent, BUSYBOX, eventually, on_machine};
use crate::rules::{in_phase, joined, node_user};
use crate::standalone::{free_port, request};

const LIMIT: Duration = Duration::from_secs(60);

/// Lets everyone read the node's API, on a port of its own.
pub fn open(settings: &mut Settings) -> u16 {
    settings.kubelet.authorization.mode = "AlwaysAllow".into();
    settings.kubelet.authentication.anonymous.enabled = true;
    settings.kubelet.port = free_port();
    settings.kubelet.port
}

/// The text of a path of the node's API.
pub async fn read(port: u16, path: &str) -> String {
    let text = format!("GET {path} HTTP/1.1\r\nhost: n1\r\nconnection: close\r\n\r\n");
    let answer = request(port, &text).await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    body.to_owned()
}

/// The value of the series that is written so.
pub fn value(text: &str, series: &str) -> Option<f64> {
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found?.parse().ok()
}

async fn create<T>(api: &Api<T>, object: Value)
where
    T: DeserializeOwned + serde::Serialize + Clone + std::fmt::Debug,
{
    let object: T = serde_json::from_value(object).expect("an object");
    api.create(&PostParams::default(), &object)
        .await
        .expect("created");
}

/// A claim that is bound to a folder of this machine.
async fn bound_claim(client: &kube::Client, folder: &std::path::Path) {
    std::fs::create_dir_all(folder).expect("made");
    let amount = json!({"storage": "1Gi"});
    let here =
        json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]});
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    create(
        &volumes,
        json!({"metadata": {"name": "disk"}, "spec": {"capacity": amount, "accessModes": ["ReadWriteOnce"],
            "claimRef": {"namespace": "default", "name": "mine"}, "local": {"path": folder}, "nodeAffinity": {"required": {"nodeSelectorTerms": [here]}}}}),
    )
    .await;
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), "default");
    create(
        &claims,
        json!({"metadata": {"name": "mine"}, "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": "disk",
            "storageClassName": "", "resources": {"requests": amount}}}),
    )
    .await;
    let status = Patch::Merge(json!({"status": {"phase": "Bound"}}));
    claims
        .patch_status("mine", &PatchParams::default(), &status)
        .await
        .expect("bound");
}

#[test]
fn a_pods_start_its_claim_and_its_probes_are_told() {
    on_machine(async |machine| {
        let plane = plane().await;
        let mut settings = joined(machine, plane.ca_pem(), plane.client(node_user()));
        let port = open(&mut settings);
        let agent = Agent::start(settings);
        bound_claim(&admin(&plane), &machine.path("disk")).await;
        let pods: Api<Pod> = Api::namespaced(admin(&plane), "default");
        create(
            &pods,
            json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "a", "image": BUSYBOX, "command": ["sh", "-c", "echo > /d/x; sleep 1000"],
                    "readinessProbe": {"exec": {"command": ["cat", "/d/x"]}, "periodSeconds": 1},
                    "volumeMounts": [{"name": "d", "mountPath": "/d"}]}],
                "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "mine"}}]}}),
        )
        .await;
        let pod = in_phase(&pods, "p", "Running").await;
        let uid = pod.metadata.uid.expect("a UID");
        let probed = format!(
            "prober_probe_total{{container=\"a\",namespace=\"default\",pod=\"p\",pod_uid=\"{uid}\",probe_type=\"Readiness\",result=\"successful\"}}"
        );
        eventually("the probe is told", LIMIT, async || {
            value(&read(port, "/metrics/probes").await, &probed).filter(|count| *count > 0.0)
        })
        .await;
        let told = read(port, "/metrics").await;
        for (series, least, most) in [
            ("kubelet_started_pods_total", 1.0, 1.0),
            (
                "kubelet_started_containers_total{container_type=\"container\"}",
                1.0,
                1.0,
            ),
            ("kubelet_pod_start_duration_seconds_count", 1.0, 1.0),
            ("kubelet_pod_worker_start_duration_seconds_count", 1.0, 1.0),
            (
                "kubelet_pod_worker_duration_seconds_count{operation_type=\"create\"}",
                1.0,
                1.0,
            ),
            (
                "kubelet_cgroup_manager_duration_seconds_count{operation_type=\"create\"}",
                1.0,
                9.0,
            ),
            (
                "kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"}",
                1.0,
                1.0,
            ),
            (
                "kubelet_runtime_operations_duration_seconds_count{operation_type=\"exec_sync\"}",
                1.0,
                1e3,
            ),
            ("kubelet_pleg_relist_duration_seconds_count", 1.0, 1e3),
            ("kubelet_pleg_last_seen_seconds", 1.7e9, 1e10),
            ("kubelet_desired_pods{static=\"\"}", 1.0, 1.0),
            ("kubelet_pod_status_sync_duration_seconds_count", 1.0, 9.0),
            ("kubelet_server_expiration_renew_errors", 0.0, 0.0),
            ("process_start_time_seconds", 1.7e9, 1e10),
        ] {
            let found = value(&told, series).unwrap_or_else(|| panic!("no {series} in {told}"));
            assert!((least..=most).contains(&found), "{series} {found}");
        }
        let of_claim = |what: &str| {
            let series = format!(
                "kubelet_volume_stats_{what}{{namespace=\"default\",persistentvolumeclaim=\"mine\"}}"
            );
            value(&told, &series).unwrap_or_else(|| panic!("no {series} in {told}"))
        };
        let [all, free, used] = ["capacity_bytes", "available_bytes", "used_bytes"].map(of_claim);
        assert!(used > 0.0 && free + used <= all, "{all} {free} {used}");
        assert_eq!(
            of_claim("inodes"),
            of_claim("inodes_free") + of_claim("inodes_used")
        );
        // The second of two readings that are some seconds apart tells a rate.
        let rate = eventually("a rate", LIMIT, async || {
            let summary: Value = serde_json::from_str(&read(port, "/stats/summary").await).ok()?;
            summary["node"]["cpu"]["usageNanoCores"].as_u64()
        })
        .await;
        assert!(rate > 0);
        let health = read(port, "/metrics/slis").await;
        assert_eq!(
            value(
                &health,
                "kubernetes_healthcheck{name=\"runtime\",type=\"healthz\"}"
            ),
            Some(1.0)
        );
        agent.stop().await;
        plane.stop().await;
    });
}
