//! Clients as they are published, against a bare server: the oldest and the newest kubectl, helm 3 and 4, Python's client,
//! kube-rs's runtime. `scripts/setup-clients` installs them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use std::io::{BufRead as _, BufReader};

use crate::server::{Server, start_with};
use crate::tools::{Running, Said, free_port, kubectl, run, wait};

const LIMIT: Duration = Duration::from_secs(30);

/// A file or folder that `scripts/setup-clients` installed.
fn installed(name: &str) -> PathBuf {
    let folder = std::env::var_os("MAINSTAY_CLIENTS").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cache/mainstay/clients"),
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(
        path.exists(),
        "no {}: run scripts/setup-clients first",
        path.display()
    );
    path
}

/// A bare server: no controller makes the service accounts that the admission plug-in would want.
pub fn bare(folder: &Path, port: u16) -> Server {
    start_with(folder, port, &["--disable-admission-plugins=ServiceAccount"])
}

const FIRST: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: m}
data: {a: one, b: two}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: md}
spec:
  selector: {matchLabels: {app: md}}
  template:
    metadata: {labels: {app: md}}
    spec: {containers: [{name: c, image: 'x:1', ports: [{containerPort: 80}]}]}
";

/// Arguments, the exit code, and what must be said. `FIRST` and `SECOND` are files, the second with other values.
const STEPS: &[(&str, i32, &str)] = &[
    ("create configmap a --from-literal=k=v", 0, "configmap/a created"),
    (
        "create secret generic s --from-literal=k=v",
        0,
        "secret/s created",
    ),
    (
        "create secret docker-registry dr --docker-username=u --docker-password=p",
        0,
        "secret/dr created",
    ),
    ("create serviceaccount sa", 0, "serviceaccount/sa created"),
    ("create token sa --duration=10m", 0, "ey"),
    ("create role r --verb=get --resource=pods", 0, "created"),
    ("create rolebinding rb --role=r --user=u", 0, "created"),
    (
        "create clusterrole NAMESPACE --verb=get --resource=nodes",
        0,
        "created",
    ),
    (
        "create clusterrolebinding NAMESPACE --clusterrole=NAMESPACE --group=g",
        0,
        "created",
    ),
    ("create priorityclass NAMESPACE --value=10", 0, "created"),
    (
        "create quota q --hard=pods=10,services=20",
        0,
        "resourcequota/q created",
    ),
    (
        "create deployment d --image=x:1 --replicas=2 --port=80",
        0,
        "deployment.apps/d created",
    ),
    ("create job j --image=x:1 -- echo hello", 0, "job.batch/j created"),
    (
        "create cronjob cj --image=x:1 --schedule=@hourly",
        0,
        "cronjob.batch/cj created",
    ),
    ("create job jj --from=cronjob/cj", 0, "job.batch/jj created"),
    (
        "create pdb pdb --selector=app=d --min-available=50%",
        0,
        "created",
    ),
    ("get pdb pdb -o jsonpath={.spec.minAvailable}", 0, "50%"),
    (
        "create service clusterip svc --tcp=80:8080",
        0,
        "service/svc created",
    ),
    ("create service nodeport np --tcp=80", 0, "service/np created"),
    (
        "create service externalname en --external-name=x.example",
        0,
        "service/en created",
    ),
    (
        "create service loadbalancer lb --tcp=81:http",
        0,
        "service/lb created",
    ),
    (
        "get service lb -o jsonpath={.spec.ports[0].targetPort}",
        0,
        "http",
    ),
    (
        "create ingress ing --rule=x.example/foo*=svc:80,tls=secret",
        0,
        "created",
    ),
    (
        "run p --image=x:1 --labels=app=p --port=80 --env=A=b",
        0,
        "pod/p created",
    ),
    (
        "expose deployment d --port=80 --name=dsvc",
        0,
        "service/dsvc exposed",
    ),
    ("expose pod p --port=80", 0, "service/p exposed"),
    (
        "autoscale deployment d --min=1 --max=3 --cpu-percent=80",
        0,
        "autoscaled",
    ),
    ("get hpa d", 0, "/80%"),
    ("get all", 0, "cronjob.batch/cj"),
    ("get deployment d -o wide", 0, "IMAGES"),
    ("get quota q", 0, "pods: 1/10"),
    ("scale deployment d --replicas=3", 0, "deployment.apps/d scaled"),
    ("set image deployment/d x=x:2", 0, "image updated"),
    ("set env deployment/d A=b", 0, "env updated"),
    ("set resources deployment/d --requests=cpu=1", 0, "updated"),
    ("rollout pause deployment/d", 0, "paused"),
    ("rollout resume deployment/d", 0, "resumed"),
    ("rollout restart deployment/d", 0, "restarted"),
    (
        "patch deployment d --subresource=status --type=merge -p \
         {\"status\":{\"observedGeneration\":99,\"replicas\":3,\"updatedReplicas\":3,\"readyReplicas\":3,\"availableReplicas\":3,\
         \"conditions\":[{\"type\":\"Available\",\"status\":\"True\",\"reason\":\"x\",\"message\":\"y\"}]}}",
        0,
        "patched",
    ),
    (
        "rollout status deployment/d --timeout=20s",
        0,
        "successfully rolled out",
    ),
    (
        "wait --for=condition=Available deployment/d --timeout=20s",
        0,
        "condition met",
    ),
    (
        "patch deployment d --type=json -p [{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":1}]",
        0,
        "patched",
    ),
    (
        "patch deployment d -p {\"spec\":{\"template\":{\"spec\":{\"containers\":[{\"name\":\"x\",\"tty\":true}]}}}}",
        0,
        "patched",
    ),
    (
        "get deployment d -o jsonpath={.spec.template.spec.containers[0].image}",
        0,
        "x:2",
    ),
    ("apply -f FIRST", 0, "deployment.apps/md created"),
    ("diff -f SECOND", 1, "+  c: three"),
    ("apply -f SECOND", 0, "configmap/m configured"),
    (
        "get configmap m -o jsonpath={.data}",
        0,
        "{\"a\":\"one\",\"c\":\"three\"}",
    ),
    ("apply -f SECOND", 0, "deployment.apps/md unchanged"),
    (
        "apply --server-side --force-conflicts -f FIRST",
        0,
        "configmap/m serverside-applied",
    ),
    (
        "apply --server-side --field-manager=other -f SECOND",
        1,
        "conflict",
    ),
    ("apply --dry-run=server -f SECOND", 0, "(server dry run)"),
    ("replace -f SECOND", 0, "configmap/m replaced"),
    ("edit configmap m", 0, "configmap/m edited"),
    ("get configmap m -o jsonpath={.data.c}", 0, "four"),
    (
        "explain deployment.spec.template.spec.containers.ports",
        0,
        "containerPort",
    ),
    ("explain cronjob", 0, "CronJob"),
    ("annotate configmap m a=b", 0, "annotate"),
    ("label configmap m l=x", 0, "labeled"),
    ("get configmap -l l=x -o name", 0, "configmap/m"),
    ("describe deployment d", 0, "1 desired"),
    ("describe quota q", 0, "services"),
    ("auth can-i create pods", 0, "yes"),
    ("auth can-i create pods --as=nobody", 1, "no"),
    ("auth can-i --list", 0, "*.*"),
    (
        "wait --for=jsonpath={.data.a}=one configmap/m --timeout=20s",
        0,
        "condition met",
    ),
    ("api-resources", 0, "customresourcedefinitions"),
    ("certificate approve NAMESPACE", 0, "approved"),
    ("get csr NAMESPACE", 0, "Approved"),
    ("delete csr NAMESPACE", 0, "deleted"),
    ("delete -f FIRST", 0, "deleted"),
    ("wait --for=delete configmap/m --timeout=20s", 0, ""),
    ("delete pod p --now", 0, "deleted"),
    (
        "delete clusterrole,clusterrolebinding,priorityclass NAMESPACE",
        0,
        "deleted",
    ),
];

/// A kubectl with its kubeconfig, namespace and folder of manifests.
struct Kubectl<'a> {
    binary: PathBuf,
    server: &'a Server,
    namespace: &'a str,
    folder: &'a Path,
}

impl Kubectl<'_> {
    fn command(&self, arguments: &str) -> Command {
        let file = |name: &str| self.folder.join(name).to_string_lossy().into_owned();
        let mut command = Command::new(&self.binary);
        command.arg("--kubeconfig").arg(&self.server.kubeconfig);
        command.args(["--namespace", self.namespace]);
        command.env("KUBE_EDITOR", "sed -i s/three/four/");
        command.args(arguments.split_whitespace().map(|word| match word {
            "FIRST" | "SECOND" => file(word),
            word => word.replace("NAMESPACE", self.namespace),
        }));
        command
    }

    fn does(&self, (arguments, code, words): &(&str, i32, &str)) {
        let Said {
            code: ended,
            out,
            err,
            ..
        } = run(&mut self.command(arguments));
        assert!(
            ended == Some(*code) && (out.contains(words) || err.contains(words)),
            "{} {arguments}: {ended:?}\n{out}{err}",
            self.binary.display()
        );
    }

    /// `get -w` tells of what is there and of what comes.
    fn watches(&self) {
        let mut command = self.command("get configmap -w -o name");
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut watching = Running(child.expect("kubectl starts"));
        let out = watching.0.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(out).lines();
        let mut next = || lines.next().expect("the watch goes on").expect("a line");
        assert_eq!(next(), "configmap/a");
        self.does(&("create configmap later", 0, "created"));
        assert_eq!(next(), "configmap/later");
    }
}

/// A signing request for a certificate request that openssl makes.
fn request(name: &str) -> String {
    let request = openssl(name);
    format!(
        "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\n\
         spec: {{request: {request}, signerName: kubernetes.io/kube-apiserver-client, usages: [client auth]}}\n"
    )
}

fn openssl(name: &str) -> String {
    let script = format!(
        "openssl req -new -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN={name} 2>/dev/null | base64 -w0"
    );
    let said = run(Command::new("bash").args(["-c", &script]));
    assert!(said.well && !said.out.is_empty(), "openssl: {}", said.err);
    said.out
}

fn a_kubectl_does_everything(binary: &str) {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("the test's folder is writable");
    };
    write("FIRST", FIRST);
    write(
        "SECOND",
        &FIRST.replace("b: two", "c: three").replace("x:1", "x:2"),
    );
    write("request", &request("clients"));
    let server = bare(&folder.path().join("data"), free_port());
    let file = folder.path().join("request");
    kubectl(&server.kubeconfig, &["create", "namespace", "clients"]);
    kubectl(&server.kubeconfig, &["create", "-f", &file.to_string_lossy()]);
    let client = Kubectl {
        binary: installed(binary),
        server: &server,
        namespace: "clients",
        folder: folder.path(),
    };
    for step in STEPS {
        client.does(step);
        if step.0.starts_with("create configmap a ") {
            client.watches();
        }
    }
}

#[test]
fn the_oldest_kubectl_does_everything() {
    a_kubectl_does_everything("oldest/kubectl");
}

#[test]
fn the_newest_kubectl_does_everything() {
    a_kubectl_does_everything("newest/kubectl");
}

const CHART: &[(&str, &str)] = &[
    (
        "Chart.yaml",
        "apiVersion: v2\nname: tiny\nversion: 0.1.0\nkubeVersion: '>=1.27.0'\n",
    ),
    ("values.yaml", "colour: red\n"),
    (
        "templates/all.yaml",
        "
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}, labels: {app: tiny}}
data: {colour: {{ .Values.colour }}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: 0
  selector: {matchLabels: {app: tiny}}
  template:
    metadata: {labels: {app: tiny}, annotations: {colour: {{ .Values.colour }}}}
    spec: {containers: [{name: c, image: 'x:1'}]}
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec: {selector: {app: tiny}, ports: [{port: 80}]}
",
    ),
];

#[test]
fn helm_installs_upgrades_and_rolls_back() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let chart = folder.path().join("chart");
    std::fs::create_dir_all(chart.join("templates")).expect("the test's folder is writable");
    for (name, text) in CHART {
        std::fs::write(chart.join(name), text).expect("the test's folder is writable");
    }
    let server = bare(&folder.path().join("data"), free_port());
    for helm in ["oldest/helm", "newest/helm"] {
        let does = |arguments: &[&str], colour: &str| {
            let mut command = Command::new(installed(helm));
            command
                .arg("--kubeconfig")
                .arg(&server.kubeconfig)
                .args(arguments);
            let said = run(command
                .args(["--namespace", "default"])
                .current_dir(folder.path()));
            assert!(said.well, "{helm} {arguments:?}: {}{}", said.out, said.err);
            let path = [
                "get",
                "configmap",
                "r",
                "--ignore-not-found",
                "-o",
                "jsonpath={.data.colour}",
            ];
            assert_eq!(kubectl(&server.kubeconfig, &path), colour, "{helm} {arguments:?}");
        };
        does(&["install", "r", "chart"], "red");
        does(&["upgrade", "r", "chart", "--set", "colour=blue"], "blue");
        does(&["rollback", "r", "1"], "red");
        does(&["history", "r"], "red");
        does(&["uninstall", "r"], "");
    }
}

const PYTHON: &str = r#"
import sys
from kubernetes import client, config, watch
config.load_kube_config(sys.argv[1])
api = client.CoreV1Api()
meta = client.V1ObjectMeta(name="py", labels={"py": "y"})
made = api.create_namespaced_config_map("default", client.V1ConfigMap(metadata=meta, data={"n": "1"}))
api.patch_namespaced_config_map("py", "default", {"data": {"n": "2"}})
now = api.read_namespaced_config_map("py", "default")
now.data["n"] = "3"
api.replace_namespaced_config_map("py", "default", now)
try:
    api.replace_namespaced_config_map("py", "default", made)
except client.ApiException as error:
    print(error.status)
api.delete_namespaced_config_map("py", "default")
watcher = watch.Watch()
since = made.metadata.resource_version
for event in watcher.stream(api.list_namespaced_config_map, "default", label_selector="py=y", resource_version=since, timeout_seconds=30):
    print(event["type"], event["object"].data["n"])
    if event["type"] == "DELETED":
        watcher.stop()
"#;

#[test]
fn pythons_client_creates_changes_watches_and_deletes() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let server = bare(folder.path(), free_port());
    let said = run(Command::new("python3")
        .args(["-c", PYTHON])
        .arg(&server.kubeconfig)
        .env("PYTHONPATH", installed("python")));
    assert_eq!(
        said.out, "409\nMODIFIED 2\nMODIFIED 3\nDELETED 3\n",
        "{}",
        said.err
    );
}

mod runtime {
    //! kube-rs's watcher and reflector.

    use futures::StreamExt as _;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
    use kube::config::{KubeConfigOptions, Kubeconfig};
    use kube::runtime::reflector::{self, ObjectRef};
    use kube::runtime::{WatchStreamExt as _, watcher};
    use kube::{Api, Client, Config};
    use serde_json::json;

    use super::*;

    async fn changes(client: Client, config: watcher::Config) {
        let api: Api<ConfigMap> = Api::namespaced(client, "default");
        let object = |name: &str| {
            let value = json!({"metadata": {"name": name, "labels": {"rt": "y"}}, "data": {"n": "1"}});
            serde_json::from_value::<ConfigMap>(value).expect("a ConfigMap")
        };
        let create = async |name: &str| {
            let made = api.create(&PostParams::default(), &object(name)).await;
            made.expect("it is created");
        };
        create("before").await;
        let (store, writer) = reflector::store();
        let stream = watcher(api.clone(), config.labels("rt=y"));
        let mut seen = Box::pin(reflector::reflector(writer, stream).applied_objects());
        let mut next = async || seen.next().await.expect("the watch goes on").expect("no error");
        assert_eq!(next().await.metadata.name.as_deref(), Some("before"));
        create("after").await;
        assert_eq!(next().await.metadata.name.as_deref(), Some("after"));
        let change = Patch::Merge(json!({"data": {"n": "2"}}));
        let patched = api.patch("after", &PatchParams::default(), &change).await;
        patched.expect("it is patched");
        assert_eq!(next().await.data.unwrap_or_default()["n"], "2");
        let delete = DeleteParams::default();
        api.delete("before", &delete).await.expect("it is deleted");
        create("last").await;
        assert_eq!(next().await.metadata.name.as_deref(), Some("last"));
        let reference = |name: &str| ObjectRef::<ConfigMap>::new(name).within("default");
        assert!(store.get(&reference("before")).is_none() && store.get(&reference("after")).is_some());
        for name in ["after", "last"] {
            api.delete(name, &delete).await.expect("it is deleted");
        }
    }

    #[test]
    fn kube_rs_reflects_what_happens() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let server = bare(folder.path(), free_port());
        wait("the server", LIMIT, || {
            crate::tools::try_kubectl(&server.kubeconfig, &["get", "namespace", "default"])
                .well
                .then_some(())
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let work = async {
            let parsed = Kubeconfig::read_from(&server.kubeconfig).expect("a kubeconfig");
            let config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await;
            let client = Client::try_from(config.expect("a usable kubeconfig")).expect("a client");
            changes(client.clone(), watcher::Config::default()).await;
            changes(client, watcher::Config::default().streaming_lists()).await;
        };
        runtime.expect("a runtime").block_on(async {
            tokio::time::timeout(2 * LIMIT, work)
                .await
                .expect("every event comes");
        });
    }
}
