//! Upstream's own programs, built from the Go modules of `interop/` by `scripts/build-interop`: their controllers and
//! scheduler on our server, ours and the node agent on theirs; client-go's informers over restarts; clusterctl. Behind feature `interop`,
//! which `make interop` turns on.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use kube::{Api, Client, Config, ResourceExt as _};
use mainstay_base::clock::{SystemClock, rfc3339_micros, rfc3339_seconds};
use mainstay_checks::site::upstream::{self, program};
use mainstay_control::CancellationToken;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::server::start_with;
use crate::tools::{Running, apply, free_port, kubectl, mainstay, run, try_kubectl, wait};

/// Upstream's programs take their time on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);
const SPACE: &str = "interop";
/// Lines of each log that a failed test shows.
const LOG_LINES: usize = 60;

/// A folder for a test's files; the ends of the logs in it are shown when the test fails.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a folder for the test"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let files = std::fs::read_dir(self.path()).into_iter().flatten().flatten();
        for file in files.filter(|_| std::thread::panicking()).map(|file| file.path()) {
            if file.extension().is_some_and(|extension| extension == "log") {
                let text = std::fs::read_to_string(&file).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let last = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
                eprintln!("{}:\n{last}", file.display());
            }
        }
    }
}

fn started(name: &str, folder: &Path, flags: &[String]) -> Running {
    let log =
        std::fs::File::create(folder.join(format!("{name}.log"))).expect("the test's folder is writable");
    let child = Command::new(program(name).expect("it is built"))
        .args(flags)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    Running(child.expect("the program starts"))
}

async fn client(kubeconfig: &Path) -> Client {
    let parsed = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("a usable kubeconfig")).expect("a client")
}

/// Asks again until the answer is yes.
async fn until(what: &str, mut ask: impl AsyncFnMut() -> Result<bool, kube::Error>) {
    let asking = async {
        let mut last = String::new();
        loop {
            match ask().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) if error.to_string() == last => {}
                Err(error) => {
                    last = error.to_string();
                    eprintln!("{what}: {last}");
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let reached = tokio::time::timeout(LIMIT, asking).await;
    assert!(reached.is_ok(), "waited {LIMIT:?} for {what}");
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object of the kind")
}

/// Plays a kubelet: renews a lease, reports a ready node, starts what is bound to it, ends what is deleted.
async fn kubelet(client: Client) {
    let nodes: Api<Node> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let pods: Api<Pod> = Api::all(client);
    let clock = SystemClock::shared();
    let params = PatchParams::apply("kubelet").force();
    loop {
        let now = rfc3339_seconds(clock.now());
        let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
            "lastHeartbeatTime": now, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let amounts = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        let status = json!({"status": {"conditions": [ready], "capacity": amounts, "allocatable": amounts}});
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n1"},
            "spec": {"holderIdentity": "n1", "leaseDurationSeconds": 40, "renewTime": rfc3339_micros(clock.now())}});
        // The namespace of leases and the node come with time; what fails is tried again.
        let _ = leases.patch("n1", &params, &Patch::Apply(lease)).await;
        let _ = nodes
            .patch_status("n1", &PatchParams::default(), &Patch::Strategic(status))
            .await;
        for pod in pods.list(&ListParams::default()).await.into_iter().flatten() {
            let api: Api<Pod> =
                Api::namespaced(pods.clone().into_client(), &pod.namespace().unwrap_or_default());
            attend(&api, &pod, &now).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

async fn attend(api: &Api<Pod>, pod: &Pod, now: &str) {
    let status = pod.status.clone().unwrap_or_default();
    let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    if pod.metadata.deletion_timestamp.is_some() {
        let _ = api
            .delete(&pod.name_any(), &DeleteParams::default().grace_period(0))
            .await;
    } else if bound && status.phase.as_deref() == Some("Pending") {
        let once = pod.labels().contains_key("once");
        let (phase, ready) = if once {
            ("Succeeded", "False")
        } else {
            ("Running", "True")
        };
        let address = format!(
            "10.244.0.{}",
            2 + pod.name_any().bytes().map(usize::from).sum::<usize>() % 200
        );
        let change = json!({"status": {"phase": phase, "podIP": address, "podIPs": [{"ip": address}], "startTime": now,
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": now}]}});
        let _ = api
            .patch_status(
                &pod.name_any(),
                &PatchParams::default(),
                &Patch::Strategic(change),
            )
            .await;
    }
}

fn template(labels: Value) -> Value {
    let container = json!({"name": "c", "image": "x:1", "resources": {"requests": {"cpu": "100m"}}});
    json!({"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]}})
}

/// What controllers and a scheduler must bring about, whoever made them and whoever made the server.
async fn a_cluster_works(client: Client) {
    let post = PostParams::default();
    let spaces: Api<Namespace> = Api::all(client.clone());
    spaces
        .create(&post, &object(json!({"metadata": {"name": SPACE}})))
        .await
        .expect("a namespace");
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), SPACE);
    until("the default service account", async || {
        Ok(accounts.get_opt("default").await?.is_some())
    })
    .await;
    let nodes: Api<Node> = Api::all(client.clone());
    nodes
        .create(&post, &object(json!({"metadata": {"name": "n1"}})))
        .await
        .expect("a node");
    let playing = tokio::spawn(kubelet(client.clone()));
    until("a node without taints", async || {
        Ok(nodes
            .get("n1")
            .await?
            .spec
            .is_none_or(|spec| spec.taints.unwrap_or_default().is_empty()))
    })
    .await;
    a_deployment_with_a_service(&client).await;
    a_job(&client).await;
    spaces
        .delete(SPACE, &DeleteParams::default())
        .await
        .expect("the namespace goes");
    until("the namespace to be gone", async || {
        Ok(spaces.get_opt(SPACE).await?.is_none())
    })
    .await;
    playing.abort();
}

async fn a_deployment_with_a_service(client: &Client) {
    let post = PostParams::default();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), SPACE);
    let mut pods = template(json!({"app": "web"}));
    pods["spec"]["restartPolicy"] = "Always".into();
    let spec = json!({"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": pods});
    let made: Deployment = object(json!({"metadata": {"name": "web"}, "spec": spec}));
    deployments.create(&post, &made).await.expect("a deployment");
    let services: Api<Service> = Api::namespaced(client.clone(), SPACE);
    let service =
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    services.create(&post, &object(service)).await.expect("a service");
    until("two available pods", async || {
        let status = deployments.get("web").await?.status.unwrap_or_default();
        Ok(status.available_replicas == Some(2))
    })
    .await;
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), SPACE);
    until("two endpoints", async || {
        let list = slices
            .list(&ListParams::default().labels("kubernetes.io/service-name=web"))
            .await?;
        let endpoints = list
            .items
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten());
        let ready =
            endpoints.filter(|one| one.conditions.as_ref().is_some_and(|now| now.ready == Some(true)));
        Ok(ready.count() == 2)
    })
    .await;
    // A changed template is rolled out, then one pod is enough.
    let change = Patch::Strategic(
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "x:2"}]}}}}),
    );
    deployments
        .patch("web", &PatchParams::default(), &change)
        .await
        .expect("a new template");
    until("the new template everywhere", async || {
        let status = deployments.get("web").await?.status.unwrap_or_default();
        Ok(status.updated_replicas == Some(2)
            && status.replicas == Some(2)
            && status.observed_generation == Some(2))
    })
    .await;
    let change = Patch::Merge(json!({"spec": {"replicas": 1}}));
    deployments
        .patch("web", &PatchParams::default(), &change)
        .await
        .expect("a smaller deployment");
    let pods: Api<Pod> = Api::namespaced(client.clone(), SPACE);
    let labels = ListParams::default().labels("app=web");
    until("one pod", async || Ok(pods.list(&labels).await?.items.len() == 1)).await;
    deployments
        .delete("web", &DeleteParams::background())
        .await
        .expect("the deployment goes");
    until("no pod", async || Ok(pods.list(&labels).await?.items.is_empty())).await;
}

async fn a_job(client: &Client) {
    let jobs: Api<Job> = Api::namespaced(client.clone(), SPACE);
    let spec = json!({"completions": 2, "parallelism": 1, "template": template(json!({"once": "yes"}))});
    let made = jobs
        .create(
            &PostParams::default(),
            &object(json!({"metadata": {"name": "sum"}, "spec": spec})),
        )
        .await;
    made.expect("a job");
    until("a complete job", async || {
        let status = jobs.get("sum").await?.status.unwrap_or_default();
        let complete = status
            .conditions
            .unwrap_or_default()
            .iter()
            .any(|one| one.type_ == "Complete" && one.status == "True");
        Ok(complete && status.succeeded == Some(2))
    })
    .await;
}

fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime")
}

/// Upstream's controllers and scheduler work on our server, whatever they send and ask for.
fn theirs_on_ours(content_type: &str) {
    let folder = Folder::new();
    let server = start_with(&folder.path().join("data"), free_port(), &[]);
    let config = server.kubeconfig.to_string_lossy();
    let flags = |name: &str| {
        let mut flags: Vec<String> = [
            "kubeconfig",
            "authentication-kubeconfig",
            "authorization-kubeconfig",
        ]
        .iter()
        .map(|flag| format!("--{flag}={config}"))
        .collect();
        flags.push(format!("--secure-port={}", free_port()));
        flags.push(format!("--cert-dir={}", folder.path().join(name).display()));
        flags.push(format!("--kube-api-content-type={content_type}"));
        flags
    };
    let mut controllers = flags("kcm");
    controllers.push("--controllers=*,-serviceaccount-token-controller".into());
    let _controllers = started("kube-controller-manager", folder.path(), &controllers);
    // The scheduler has no flag for it: its configuration does.
    let mut scheduler = flags("scheduler");
    scheduler
        .retain(|flag| !flag.starts_with("--kubeconfig") && !flag.starts_with("--kube-api-content-type"));
    let connection =
        json!({"kubeconfig": config, "contentType": content_type, "acceptContentTypes": content_type});
    let file = folder.path().join("scheduler.json");
    let text = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", "clientConnection": connection});
    std::fs::write(&file, text.to_string()).expect("the test's folder is writable");
    scheduler.push(format!("--config={}", file.display()));
    let _scheduler = started("kube-scheduler", folder.path(), &scheduler);
    runtime().block_on(async { a_cluster_works(client(&server.kubeconfig).await).await });
}

#[test]
fn upstreams_controllers_and_scheduler_work_on_our_server_in_json() {
    theirs_on_ours("application/json");
}

#[test]
fn upstreams_controllers_and_scheduler_work_on_our_server_in_protobuf() {
    theirs_on_ours("application/vnd.kubernetes.protobuf");
}

#[test]
fn our_controllers_and_scheduler_work_on_upstreams_server() {
    let folder = Folder::new();
    let _server = upstream::start(folder.path(), free_port()).expect("upstream's API server starts");
    let kubeconfig = folder.path().join("admin.kubeconfig");
    wait("upstream's API server", LIMIT, || {
        let said = try_kubectl(&kubeconfig, &["get", "--raw", "/readyz"]);
        said.well.then_some(())
    });
    runtime().block_on(async {
        let client = client(&kubeconfig).await;
        let (stop, clock) = (CancellationToken::new(), SystemClock::shared());
        let config = mainstay_workloads::Config::default();
        let controllers = mainstay_workloads::start(client.clone(), config, clock.clone(), stop.clone());
        let config = mainstay_scheduler::Config::default();
        let scheduler = mainstay_scheduler::start(client.clone(), config, clock, stop.clone());
        let scheduler = scheduler.expect("the scheduler starts");
        a_cluster_works(client).await;
        stop.cancel();
        controllers.stop().await;
        scheduler.await.expect("the scheduler ends");
    });
}

#[test]
fn our_node_agent_works_on_upstreams_server() {
    assert!(mainstay().is_file());
    let said = run(Command::new(env!("CARGO_BIN_EXE_checks")).args(["trial", "upstream"]));
    assert!(said.well, "{}{}", said.out, said.err);
}

/// What an informer told, line by line.
type Lines = Arc<Mutex<Vec<String>>>;

fn listen(kubeconfig: &Path, content_type: &str) -> (Running, Lines) {
    let mut command = Command::new(program("informers").expect("it is built"));
    command
        .arg("-kubeconfig")
        .arg(kubeconfig)
        .args(["-content-type", content_type]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut running = Running(child.expect("the program starts"));
    let out = running.0.stdout.take().expect("it is piped");
    let lines = Lines::default();
    let into = lines.clone();
    std::thread::spawn(move || {
        BufReader::new(out)
            .lines()
            .map_while(Result::ok)
            .for_each(|line| into.lock().push(line))
    });
    (running, lines)
}

/// Replays what was told: every object is added once, changed from what it was, and deleted once.
fn replayed(lines: &[String]) -> BTreeMap<String, String> {
    let mut present: BTreeMap<String, (String, String)> = BTreeMap::new();
    for line in lines {
        let [what, name, old, new, value] = *line.split(' ').collect::<Vec<_>>() else {
            assert_eq!(line, "SYNCED");
            continue;
        };
        let before = match what {
            "DELETE" => present.remove(name),
            _ => present.insert(name.to_string(), (new.to_string(), value.to_string())),
        };
        match (what, before) {
            ("ADD", None) | ("DELETE", Some(_)) => {}
            ("UPDATE", Some((revision, _))) => {
                assert_eq!(revision, old, "{line}: it was at {revision}");
                assert_ne!(revision, new, "{line}: nothing had changed");
            }
            (_, before) => panic!("{line}: before it was {before:?}"),
        }
    }
    present
        .into_iter()
        .map(|(name, (_, value))| (name, value))
        .collect()
}

#[test]
fn informers_see_every_event_once_over_restarts() {
    let folder = Folder::new();
    let port = free_port();
    let mut server = start_with(folder.path(), port, &[]);
    let config = server.kubeconfig.clone();
    // A restarted server writes the kubeconfig again; the informers keep what they have read.
    let kept = folder.path().join("kept.kubeconfig");
    std::fs::copy(&config, &kept).expect("the test's folder is writable");
    let (_json, in_json) = listen(&kept, "application/json");
    let (_protobuf, in_protobuf) = listen(&kept, "application/vnd.kubernetes.protobuf");
    let map = |name: &str, number: usize| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{\"n\": '{number}'}}\n")
    };
    for life in 0..4 {
        for number in 0..10 {
            let name = format!("l{life}-{number}");
            apply(&config, folder.path(), &map(&name, number));
            apply(&config, folder.path(), &map("changing", life * 10 + number));
            if number % 2 == 0 {
                kubectl(&config, &["delete", "configmap", &name]);
            }
        }
        server.process.0.kill().expect("it runs");
        server.process.0.wait().expect("it ends");
        server = start_with(folder.path(), port, &[]);
    }
    apply(&config, folder.path(), &map("last", 1));
    for (lines, content) in [(in_json, "JSON"), (in_protobuf, "protobuf")] {
        wait("the last event", LIMIT, || {
            lines
                .lock()
                .iter()
                .any(|line| line.starts_with("ADD last"))
                .then_some(())
        });
        let lines = lines.lock().clone();
        let present = replayed(&lines);
        let wanted = (0..4)
            .flat_map(|life| [1, 3, 5, 7, 9].map(|number| (format!("l{life}-{number}"), number.to_string())));
        let mut wanted: BTreeMap<String, String> = wanted.collect();
        wanted.extend([("changing".into(), "39".into()), ("last".into(), "1".into())]);
        let seen: BTreeMap<_, _> = present
            .into_iter()
            .filter(|(name, _)| name != "kube-root-ca.crt")
            .collect();
        assert_eq!(seen, wanted, "in {content}");
        let deleted = lines.iter().filter(|line| line.starts_with("DELETE")).count();
        assert_eq!(deleted, 20, "in {content}: {lines:#?}");
    }
}

#[test]
fn clusterctl_describes_a_cluster_and_gives_its_kubeconfig() {
    let folder = Folder::new();
    let server = start_with(folder.path(), free_port(), &[]);
    runtime().block_on(async { a_workload_cluster(client(&server.kubeconfig).await).await });
    let does = |arguments: &[&str]| {
        let mut command = Command::new(program("clusterctl").expect("it is built"));
        command
            .args(arguments)
            .arg("--kubeconfig")
            .arg(&server.kubeconfig)
            .env("HOME", folder.path());
        let said = run(command.env("CLUSTERCTL_DISABLE_VERSIONCHECK", "true"));
        assert!(said.well, "clusterctl {arguments:?}: {}{}", said.out, said.err);
        said.out
    };
    let described = does(&[
        "describe",
        "cluster",
        "demo",
        "--show-conditions",
        "all",
        "--grouping=false",
    ]);
    for part in [
        "Cluster default/demo",
        "KubeadmControlPlane default/demo-cp",
        "MachineDeployment default/demo-a",
        "Machine default/demo-a-1",
        "Available",
    ] {
        assert!(described.contains(part), "no {part}:\n{described}");
    }
    assert_eq!(does(&["get", "kubeconfig", "demo"]).trim(), "the kubeconfig");
}

async fn a_workload_cluster(client: Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in mainstay_capi::crds() {
        definitions
            .create(&PostParams::default(), &definition)
            .await
            .expect("the definition is taken");
    }
    let available = json!([{"type": "Available", "status": "True", "reason": "Fine", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let labels = json!({"cluster.x-k8s.io/cluster-name": "demo"});
    let mut uids: BTreeMap<&str, Value> = BTreeMap::new();
    let reference =
        |group: &str, kind: &str, name: &str| json!({"apiGroup": group, "kind": kind, "name": name});
    let control = reference("controlplane.cluster.x-k8s.io", "KubeadmControlPlane", "demo-cp");
    let template = json!({"metadata": {"labels": labels}, "spec": {"clusterName": "demo", "bootstrap": {"dataSecretName": "x"},
        "infrastructureRef": reference("mainstay.dev", "ComputeNode", "x")}});
    let selector = json!({"matchLabels": labels});
    let of_machines =
        json!({"clusterName": "demo", "replicas": 1, "selector": selector, "template": template});
    let configuration = json!({"kubeadmConfigSpec": {}, "machineTemplate": {"spec": {"infrastructureRef": reference("mainstay.dev", "ComputeNodeTemplate", "x")}},
        "version": "v1.36.3", "replicas": 1});
    for (group, kind, name, owner, spec) in [
        (
            "cluster.x-k8s.io",
            "Cluster",
            "demo",
            "",
            json!({"controlPlaneRef": control}),
        ),
        (
            "controlplane.cluster.x-k8s.io",
            "KubeadmControlPlane",
            "demo-cp",
            "demo",
            configuration,
        ),
        (
            "cluster.x-k8s.io",
            "MachineDeployment",
            "demo-a",
            "demo",
            of_machines.clone(),
        ),
        (
            "cluster.x-k8s.io",
            "MachineSet",
            "demo-a-set",
            "demo-a",
            of_machines,
        ),
        (
            "cluster.x-k8s.io",
            "Machine",
            "demo-a-1",
            "demo-a-set",
            template["spec"].clone(),
        ),
    ] {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1beta2", kind));
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &resource);
        let owners: Vec<&Value> = uids.get(owner).into_iter().collect();
        let text = json!({"apiVersion": format!("{group}/v1beta2"), "kind": kind, "spec": spec,
            "metadata": {"name": name, "labels": labels, "ownerReferences": owners}});
        let made = api
            .create(&PostParams::default(), &object(text))
            .await
            .expect("the object is taken");
        let owner = json!({"apiVersion": format!("{group}/v1beta2"), "kind": kind, "name": name, "uid": made.uid(), "controller": true});
        uids.insert(name, owner);
        let status = Patch::Merge(json!({"status": {"conditions": available}}));
        api.patch_status(name, &PatchParams::default(), &status)
            .await
            .expect("the status is taken");
    }
    let secrets: Api<Secret> = Api::namespaced(client, "default");
    let secret = json!({"metadata": {"name": "demo-kubeconfig", "labels": labels}, "stringData": {"value": "the kubeconfig"}});
    secrets
        .create(&PostParams::default(), &object(secret))
        .await
        .expect("a secret");
}
