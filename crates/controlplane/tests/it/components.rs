//! Least privilege that works: every component gets by with its own role, and is refused nothing.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use mainstay_access::hooks::{Audit, Audited};
use mainstay_base::clock::SystemClock;
use mainstay_control::CancellationToken;
use mainstay_controlplane::ControlPlane;
use mainstay_testkit::{UserInfo, admin, plane_with};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// How long anything here may take before the test fails.
const LIMIT: Duration = Duration::from_secs(30);

/// Remembers what components were refused.
#[derive(Default)]
struct Refusals(Mutex<Vec<String>>);

impl Refusals {
    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Audit for Refusals {
    fn log(&self, event: &Audited<'_>) {
        if event.code == 403 && event.user.name.starts_with("system:") {
            let info = event.info;
            let line = format!(
                "{} {} {}/{} {}",
                event.user.name, info.verb, info.group, info.resource, info.subresource
            );
            let mut lines = self.0.lock();
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
}

fn parse<K: serde::de::DeserializeOwned>(object: Value) -> K {
    serde_json::from_value(object).expect("a whole object")
}

async fn eventually<F: Future<Output = bool>>(what: &str, refusals: &Refusals, holds: impl Fn() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(LIMIT, wait).await.is_err() {
        panic!("{what}: not within {LIMIT:?}; refused: {:#?}", refusals.0.lock());
    }
}

fn start(plane: &ControlPlane, stop: &CancellationToken) {
    let client = |name: &str| plane.client(UserInfo::component(name));
    let clock = SystemClock::shared();
    let workloads = mainstay_workloads::Config {
        ca_pem: "-----BEGIN CERTIFICATE-----".into(),
        pod_cidr: Some("10.244.0.0/16".parse().expect("a range")),
        ..Default::default()
    };
    mainstay_workloads::start(
        client("system:kube-controller-manager"),
        workloads,
        clock.clone(),
        stop.clone(),
    );
    let scheduler = mainstay_scheduler::Config::default();
    mainstay_scheduler::start(
        client("system:kube-scheduler"),
        scheduler,
        clock.clone(),
        stop.clone(),
    )
    .expect("a usable configuration");
    mainstay_tenancy::controller::start(client("system:mainstay:tenancy"), clock, stop.clone());
}

/// A node that is ready and has room, written by itself.
async fn node(plane: &ControlPlane) -> Client {
    let client = plane.client(UserInfo::new("system:node:n1", ["system:nodes"]));
    let nodes: Api<Node> = Api::all(client.clone());
    nodes
        .create(
            &PostParams::default(),
            &parse(json!({"metadata": {"name": "n1"}})),
        )
        .await
        .expect("registered");
    let room = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
        "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"status": {"capacity": room, "allocatable": room, "conditions": [ready]}});
    nodes
        .patch_status("n1", &PatchParams::default(), &Patch::Strategic(status))
        .await
        .expect("its own status");
    let leases: Api<k8s_openapi::api::coordination::v1::Lease> =
        Api::namespaced(client.clone(), "kube-node-lease");
    let now = mainstay_base::clock::rfc3339_micros(mainstay_base::clock::Clock::now(&*SystemClock::shared()));
    let lease = json!({"metadata": {"name": "n1"}, "spec": {"holderIdentity": "n1", "leaseDurationSeconds": 40, "renewTime": now}});
    leases
        .create(&PostParams::default(), &parse(lease))
        .await
        .expect("its own lease");
    client
}

/// Reports the node's pods as running.
async fn run_pods(node: &Client) {
    let bound = ListParams::default().fields("spec.nodeName=n1");
    let pods: Api<Pod> = Api::all(node.clone());
    for pod in pods.list(&bound).await.expect("its own pods").items {
        let (namespace, name) = (
            pod.metadata.namespace.expect("set"),
            pod.metadata.name.expect("set"),
        );
        let own: Api<Pod> = Api::namespaced(node.clone(), &namespace);
        let ready = json!({"type": "Ready", "status": "True"});
        let status = json!({"status": {"phase": "Running", "podIP": "10.244.0.5", "conditions": [ready]}});
        own.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status))
            .await
            .expect("its own pod");
    }
}

#[tokio::test]
async fn components_are_refused_nothing() {
    let refusals = Arc::new(Refusals::default());
    let audit = refusals.clone();
    let plane = plane_with(SystemClock::shared(), |config| {
        config.audit = vec![audit];
        config.disabled_admission.clear();
    })
    .await;
    let stop = CancellationToken::new();
    start(&plane, &stop);
    let node = node(&plane).await;
    let client = admin(&plane);
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces
        .create(
            &PostParams::default(),
            &parse(json!({"metadata": {"name": "app"}})),
        )
        .await
        .expect("made");
    let (accounts, maps): (Api<ServiceAccount>, Api<ConfigMap>) = (
        Api::namespaced(client.clone(), "app"),
        Api::namespaced(client.clone(), "app"),
    );
    eventually("account and root CA", &refusals, || async {
        accounts.get("default").await.is_ok() && maps.get("kube-root-ca.crt").await.is_ok()
    })
    .await;

    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}});
    let spec = json!({"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "app");
    deployments
        .create(
            &PostParams::default(),
            &parse(json!({"metadata": {"name": "web"}, "spec": spec})),
        )
        .await
        .expect("made");
    let services: Api<Service> = Api::namespaced(client.clone(), "app");
    let service =
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    services
        .create(&PostParams::default(), &parse(service))
        .await
        .expect("made");
    let job = json!({"metadata": {"name": "once"}, "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    let jobs: Api<Job> = Api::namespaced(client.clone(), "app");
    jobs.create(&PostParams::default(), &parse(job))
        .await
        .expect("made");

    eventually("two replicas available", &refusals, || async {
        run_pods(&node).await;
        let status = deployments
            .get("web")
            .await
            .expect("there")
            .status
            .unwrap_or_default();
        status.available_replicas == Some(2)
    })
    .await;
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "app");
    eventually("endpoints", &refusals, || async {
        let found = slices.list(&ListParams::default()).await.expect("a list").items;
        found
            .iter()
            .any(|slice| slice.endpoints.iter().flatten().count() == 2)
    })
    .await;

    assert_eq!(refusals.taken(), Vec::<String>::new());
    namespaces
        .delete("app", &DeleteParams::default())
        .await
        .expect("accepted");
    let pods: Api<Pod> = Api::namespaced(client.clone(), "app");
    eventually("the namespace ends", &refusals, || async {
        for pod in pods.list(&ListParams::default()).await.expect("a list").items {
            let name = pod.metadata.name.expect("set");
            let own: Api<Pod> = Api::namespaced(node.clone(), "app");
            // The node reports the end of a pod that was asked to go; pods that are not its own go by themselves.
            if pod.spec.and_then(|spec| spec.node_name).is_some() {
                let _gone = own.delete(&name, &DeleteParams::default().grace_period(0)).await;
            }
        }
        namespaces.get_opt("app").await.expect("an answer").is_none()
    })
    .await;
    // Nothing can be made in a namespace that ends: whoever tries late is refused, by whatever role.
    let mut refused = refusals.taken();
    refused.retain(|line| !line.contains(" create "));
    assert_eq!(refused, Vec::<String>::new());
    stop.cancel();
    plane.stop().await;
}
