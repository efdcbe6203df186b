//! What is measured and what it needs: containerd, an API server and the agent, each a process in the namespaces that
//! this process was started in.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Node, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::{Client, config::Kubeconfig};
use mainstay_base::clock::{Clock, SystemClock};
use mainstay_controlplane::Certificates;
use mainstay_cri::Cri;
use serde_json::{Value, json};

use super::{has_machine, patience};
use crate::bench::up::{Process, binary, client, free_port, ready, server, until_file, used};

/// The cgroup below which everything of the run in this folder is.
pub fn cgroup(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    format!("mainstay-checks-{}", name.trim_start_matches('.'))
}

/// The node's name.
pub const NODE: &str = "n1";
/// The image of all pods.
pub const IMAGE: &str = "mainstay.local/busybox:1";
const PAUSE: &str = "mainstay.local/pause:1";
const ENDPOINT: &str = "unix:///run/containerd/containerd.sock";
const LIMIT: Duration = Duration::from_secs(60);

/// Writes that the API server has counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Writes {
    /// Of leases.
    pub leases: u64,
    /// Of everything else.
    pub others: u64,
}

/// How containerd is to treat cgroups and scores.
#[derive(Debug, Clone, Copy, Default)]
pub struct Runtime {
    /// Whether it asks systemd for cgroups.
    pub systemd: bool,
    /// Whether the whole kernel is its own: processes may be made less likely victims than they are, and hugepages of
    /// containers are limited.
    pub unrestricted: bool,
}

/// Everything that runs.
pub struct World {
    folder: PathBuf,
    api: Client,
    port: u16,
    agent: Option<Process>,
    server: Option<Process>,
    /// What upstream's API server needs beside it.
    _others: Vec<Process>,
    _containerd: Process,
    joining: Joining,
}

/// How the agent joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Joining {
    /// By a join file and a certificate that is there already.
    Certificate,
    /// As upstream's nodes: by the kubeconfig of a bootstrap token and a request for a certificate.
    Bootstrap,
}

fn sh(script: &str) -> Result<()> {
    let output = Command::new("sh").args(["-ec", script]).output()?;
    if !output.status.success() {
        bail!("{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Removes the cgroups of the run in this folder.
pub fn remove_cgroups(folder: &Path) -> Result<()> {
    let group = cgroup(folder);
    let names = format!("/sys/fs/cgroup/{group} /sys/fs/cgroup/*/{group}");
    sh(&format!(
        "for h in {names}; do if [ -d $h ]; then find $h -depth -type d -exec rmdir {{}} + 2>/dev/null || true; fi; done"
    ))
}

/// Folders that programs know by fixed names become this run's own.
fn private_folders(folder: &Path) -> Result<()> {
    let f = folder.display();
    sh(&format!(
        "mkdir -p {f}/etc {f}/etc-work {f}/lib {f}/log {f}/tmp
         mount -t overlay overlay -o lowerdir=/etc,upperdir={f}/etc,workdir={f}/etc-work /etc
         mount --bind {f}/lib /var/lib; mount --bind {f}/log /var/log
         mount -t tmpfs tmpfs /run; mkdir -p /run/lock"
    ))
}

fn pod_network() -> Result<()> {
    sh("mkdir -p /etc/cni/net.d; ip link set lo up")?;
    let network = json!({
        "cniVersion": "0.4.0", "name": "checks", "plugins": [{
            "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/22"}]], "routes": [{"dst": "0.0.0.0/0"}]},
        }],
    });
    std::fs::write("/etc/cni/net.d/10-checks.conflist", network.to_string())?;
    Ok(())
}

fn containerd_config(folder: &Path, runtime: Runtime) -> String {
    let folder = folder.display();
    let (systemd, restrict) = (runtime.systemd, !runtime.unrestricted);
    format!(
        r#"version = 2
root = "{folder}/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = {restrict}
disable_hugetlb_controller = {restrict}
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = {systemd}
"#
    )
}

async fn start_containerd(folder: &Path, runtime: Runtime) -> Result<Process> {
    let config = folder.join("containerd.toml");
    std::fs::write(&config, containerd_config(folder, runtime))?;
    let log = std::fs::File::create(folder.join("containerd.log"))?;
    let mut command = Command::new("containerd");
    command.arg("-c").arg(&config);
    let containerd = Process(command.stdout(Stdio::null()).stderr(log).spawn()?);
    let cri = Cri::new(ENDPOINT)?;
    let clock = SystemClock::new();
    while cri.version().await.is_err() {
        if clock.monotonic() > patience(LIMIT) {
            bail!("containerd does not start");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let archives = mainstay_os::images::make(Path::new("/usr/bin/busybox"), &folder.join("images"))?;
    for archive in archives {
        let archive = archive.display();
        sh(&format!(
            "ctr -a /run/containerd/containerd.sock -n k8s.io images import {archive}"
        ))?;
    }
    Ok(containerd)
}

/// The agent's configuration.
fn configuration(folder: &Path, more: &Value) -> Value {
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": ENDPOINT, "cgroupRoot": format!("/{}", cgroup(folder)), "port": 0, "healthzPort": 0,
        "maxPods": 120,
        // The disk is the computer's: how full it is must not decide.
        "evictionHard": {"memory.available": "100Mi"},
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    config
}

impl World {
    /// Starts containerd and the API server.
    pub async fn start(folder: &Path) -> Result<World> {
        Self::start_with(folder, Runtime::default()).await
    }

    /// The same with a runtime of this kind.
    pub async fn start_with(folder: &Path, runtime: Runtime) -> Result<World> {
        let start = |data: &Path, port| Ok((server(data, port)?, Vec::new()));
        let world = World::start_on(folder, runtime, start, Joining::Certificate).await?;
        world.identify()?;
        Ok(world)
    }

    /// Starts containerd and upstream's API server and controllers, which let the agent join by a bootstrap token.
    pub async fn start_on_upstream(folder: &Path) -> Result<World> {
        let start = |data: &Path, port| {
            let (server, etcd) = super::upstream::start(data, port)?;
            Ok((server, vec![etcd]))
        };
        let mut world = World::start_on(folder, Runtime::default(), start, Joining::Bootstrap).await?;
        let data = folder.join("data");
        super::upstream::let_nodes_join(&world.api).await?;
        let kubeconfig = super::upstream::bootstrap_kubeconfig(world.port, &world.authority()?);
        std::fs::write(folder.join("bootstrap.conf"), kubeconfig)?;
        world._others.push(super::upstream::signer(&data)?);
        Ok(world)
    }

    async fn start_on(
        folder: &Path,
        runtime: Runtime,
        start: impl Fn(&Path, u16) -> Result<(Process, Vec<Process>)>,
        joining: Joining,
    ) -> Result<World> {
        std::fs::create_dir_all(folder)?;
        if !has_machine() {
            private_folders(folder)?;
        }
        pod_network()?;
        let containerd = start_containerd(folder, runtime).await?;
        let (data, port) = (folder.join("data"), free_port()?);
        let (server, others) = start(&data, port)?;
        until_file(&data.join("admin.kubeconfig")).await?;
        let api = client(&data.join("admin.kubeconfig")).await?;
        ready(&api).await?;
        let world = World {
            folder: folder.to_owned(),
            api,
            port,
            agent: None,
            server: Some(server),
            _others: others,
            _containerd: containerd,
            joining,
        };
        world.fill().await?;
        Ok(world)
    }

    /// A client of the administrator.
    pub fn client(&self) -> &Client {
        &self.api
    }

    /// A client of containerd's CRI.
    pub fn cri(&self) -> Result<Cri> {
        Ok(Cri::new(ENDPOINT)?)
    }

    /// The folder of this run.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What controllers would make for pods, which get a token and the cluster's certificate like everywhere.
    async fn fill(&self) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::default_namespaced(self.api.clone());
        let account = serde_json::from_value(json!({"metadata": {"name": "default"}}))?;
        accounts.create(&PostParams::default(), &account).await?;
        let maps: Api<ConfigMap> = Api::default_namespaced(self.api.clone());
        let map = json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": self.authority()?}});
        maps.create(&PostParams::default(), &serde_json::from_value(map)?)
            .await?;
        Ok(())
    }

    fn authority(&self) -> Result<String> {
        let kubeconfig = Kubeconfig::read_from(self.folder.join("data/admin.kubeconfig"))?;
        let cluster = kubeconfig.clusters.first().and_then(|c| c.cluster.as_ref());
        let data = cluster.and_then(|c| c.certificate_authority_data.clone());
        let bytes: k8s_openapi::ByteString = serde_json::from_value(json!(data.context("no authority")?))?;
        Ok(String::from_utf8(bytes.0)?)
    }

    /// Gives the node the certificate that it would get by joining.
    fn identify(&self) -> Result<()> {
        let now = SystemClock::new().now();
        let certificates = Certificates::open(Some(&self.folder.join("data/pki")), now)?;
        let groups = ["system:nodes".to_owned()];
        let pem = certificates.client(&format!("system:node:{NODE}"), &groups, &[], now)?;
        std::fs::create_dir_all("/var/lib/kubelet/pki")?;
        let text = format!("{}{}", pem.certificate, pem.key);
        std::fs::write("/var/lib/kubelet/pki/kubelet-client-current.pem", text)?;
        Ok(())
    }

    /// Ends the API server as a power cut does.
    pub fn kill_server(&mut self) {
        self.server = None;
    }

    /// Starts the API server again on its data.
    pub async fn restart_server(&mut self) -> Result<()> {
        self.server = Some(server(&self.folder.join("data"), self.port)?);
        ready(&self.api).await
    }

    /// Ends the agent as a power cut does.
    pub fn kill_agent(&mut self) {
        self.agent = None;
    }

    /// Starts the agent, after ending the one before, and waits until its node is ready. `more`: fields of its
    /// configuration beyond those that every run needs.
    pub async fn start_agent(&mut self, more: &Value) -> Result<()> {
        if let Some(agent) = self.agent.take() {
            agent.stop()?;
        }
        let config = self.folder.join("kubelet.json");
        std::fs::write(&config, configuration(&self.folder, more).to_string())?;
        let mut log = std::fs::OpenOptions::new();
        let log = log
            .create(true)
            .append(true)
            .open(self.folder.join("agent.log"))?;
        let mut command = Command::new(binary()?);
        command.args(["node", "--log", "warn", "--machine-facts", "/nonexistent"]);
        match self.joining {
            Joining::Certificate => {
                let join = self.folder.join("join.json");
                std::fs::write(&join, self.join()?.to_string())?;
                command.arg("--join").arg(join);
            }
            Joining::Bootstrap => {
                let first = self.folder.join("bootstrap.conf");
                command.arg("--bootstrap-kubeconfig").arg(first);
                command.arg("--kubeconfig").arg(self.node_kubeconfig());
                command.args(["--hostname-override", NODE, "-v", "2"]);
            }
        }
        command.arg("--config").arg(&config);
        self.agent = Some(Process(command.stdout(Stdio::null()).stderr(log).spawn()?));
        self.until_ready().await
    }

    /// The kubeconfig that the agent makes when it has joined by a bootstrap token.
    pub fn node_kubeconfig(&self) -> PathBuf {
        self.folder.join("kubelet.conf")
    }

    fn join(&self) -> Result<Value> {
        let server = format!("https://127.0.0.1:{}", self.port);
        Ok(json!({"apiServers": [server], "caBundle": self.authority()?, "nodeName": NODE}))
    }

    /// What the agent has said so far.
    pub fn agent_log(&self) -> String {
        std::fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default()
    }

    async fn until_ready(&self) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.api.clone());
        let clock = SystemClock::new();
        loop {
            let node = nodes.get_opt(NODE).await?;
            let conditions = node.and_then(|n| n.status).and_then(|s| s.conditions);
            let is_ready =
                |c: &k8s_openapi::api::core::v1::NodeCondition| c.type_ == "Ready" && c.status == "True";
            if conditions.is_some_and(|all| all.iter().any(is_ready)) {
                return Ok(());
            }
            if clock.monotonic() > patience(LIMIT) {
                let log = self.agent_log();
                bail!("the node is not ready within {LIMIT:?}; the agent said:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The agent's process.
    pub fn agent_pid(&self) -> Result<u32> {
        Ok(self.agent.as_ref().context("no agent runs")?.0.id())
    }

    /// CPU seconds of the agent so far.
    pub fn agent_cpu(&self) -> Result<f64> {
        Ok(used(self.agent_pid()?)?.1)
    }

    /// Megabytes of the agent: resident, and of them its own.
    pub fn agent_memory(&self) -> Result<(f64, f64)> {
        let pid = self.agent_pid()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next());
        let anonymous: f64 = kilobytes.context("no RssAnon")?.parse()?;
        Ok((used(pid)?.0, anonymous / 1024.0))
    }

    /// Writes that came over the network so far; only the agent writes while the node is idle.
    pub async fn writes(&self) -> Result<Writes> {
        let request = hyper::Request::get("/metrics").body(Vec::new())?;
        let text = self.api.request_text(request).await?;
        let mut writes = Writes::default();
        for line in text.lines().filter(|l| l.starts_with("apiserver_request_total{")) {
            let read = ["GET", "LIST", "WATCH"];
            if read.iter().any(|verb| line.contains(&format!("verb=\"{verb}\""))) {
                continue;
            }
            let count: u64 = line.rsplit(' ').next().unwrap_or("0").parse()?;
            match line.contains("resource=\"leases\"") {
                true => writes.leases += count,
                false => writes.others += count,
            }
        }
        Ok(writes)
    }
}
