//! Nodes: addresses, silence, eviction, recovery, certificates.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::world::world;

fn taints(nodes: &[Value]) -> Vec<&str> {
    let taints = nodes
        .iter()
        .flat_map(|node| node["spec"]["taints"].as_array().into_iter().flatten());
    taints
        .filter(|taint| taint["effect"] == "NoExecute")
        .filter_map(|taint| taint["key"].as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_tainted_and_emptied_and_comes_back() {
    let world = world().await;
    for name in ["n1", "n2"] {
        world
            .create("Node", "", json!({"metadata": {"name": name}}))
            .await;
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        world.patch("Node", "", name, "status", ready).await;
    }
    let ranges = |nodes: &[Value]| nodes.iter().all(|node| node["spec"]["podCIDR"].is_string());
    world.until("pod ranges", "Node", "", ranges).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}],
        "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]}});
    world.create("Pod", "default", pod).await;
    // n2 goes on reporting: without a healthy node nothing is evicted.
    let beating = async {
        for beat in 0.. {
            let at = jiff::Timestamp::from_second(1_700_000_000 + beat)
                .expect("a time")
                .to_string();
            let ready = json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": at}]);
            world
                .patch(
                    "Node",
                    "",
                    "n2",
                    "status",
                    json!({"status": {"conditions": ready}}),
                )
                .await;
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    let lost = async {
        let unreachable = |nodes: &[Value]| taints(nodes) == ["node.kubernetes.io/unreachable"];
        world.until("the taint", "Node", "", unreachable).await;
        let leaving = |pods: &[Value]| pods.is_empty() || !pods[0]["metadata"]["deletionTimestamp"].is_null();
        world.until("the pod leaves", "Pod", "default", leaving).await;
        let ready = json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]);
        world
            .patch(
                "Node",
                "",
                "n1",
                "status",
                json!({"status": {"conditions": ready}}),
            )
            .await;
        world
            .until("no taint", "Node", "", |nodes| taints(nodes).is_empty())
            .await;
    };
    tokio::select! {
        () = beating => {}
        () = lost => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approved_request_is_signed() {
    let world = world().await;
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "system:node:n1");
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "system:nodes");
    let pem = params
        .serialize_request(&key)
        .and_then(|request| request.pem())
        .expect("a request");
    let spec = json!({"request": STANDARD.encode(pem), "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
        "usages": ["digital signature", "client auth"]});
    world
        .create(
            "CertificateSigningRequest",
            "",
            json!({"metadata": {"name": "n1"}, "spec": spec}),
        )
        .await;
    let approved = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "Test", "message": ""}]}});
    world
        .patch("CertificateSigningRequest", "", "n1", "approval", approved)
        .await;
    let signed = |all: &[Value]| all.iter().any(|one| one["status"]["certificate"].is_string());
    world
        .until("the certificate", "CertificateSigningRequest", "", signed)
        .await;
    assert!(world.authority.pem().certificate.contains("BEGIN CERTIFICATE"));
}
