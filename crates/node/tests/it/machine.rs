//! A containerd with everything of its own (state, socket, network namespace, cgroups), removed at the end.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use mainstay_base::clock::SystemClock;
use mainstay_node::cri::Cri;
use mainstay_node::{KubeletConfiguration, NodeConfig, Settings};
use tokio_util::sync::CancellationToken;

/// Two machines at a time: most of a test is waiting, and two cores carry no more.
static TURNS: [Mutex<()>; 2] = [Mutex::new(()), Mutex::new(())];

/// Waits for the turn that is free first.
fn turn() -> MutexGuard<'static, ()> {
    loop {
        for turn in &TURNS {
            match turn.try_lock() {
                Ok(held) => return held,
                // A test that failed held it.
                Err(TryLockError::Poisoned(held)) => return held.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub const BUSYBOX: &str = "mainstay.local/busybox:1";

pub struct Machine {
    pub dir: tempfile::TempDir,
    pub name: String,
    containerd: Child,
}

pub fn sh(script: &str) -> String {
    let output = Command::new("sh")
        .arg("-c")
        .arg(script)
        .output()
        .expect("sh runs");
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `test` on a machine of its own; everything it starts sees only that machine's network.
pub fn on_machine<F>(test: F)
where
    F: AsyncFnOnce(&Machine) + Send,
{
    on_machine_with(|_| {}, test);
}

/// The same on a folder that was prepared before anything started; what is mounted in it is unmounted at the end.
pub fn on_machine_with<F>(prepare: impl FnOnce(&Path) + Send, test: F)
where
    F: AsyncFnOnce(&Machine) + Send,
{
    let turn = turn();
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("mnode-{}-{count}", std::process::id());
    let _ = tracing_subscriber::fmt()
        .with_env_filter("warn,mainstay_node=debug")
        .with_test_writer()
        .try_init();
    sh(&format!("ip netns add {name} && ip -n {name} link set lo up"));
    let result = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let namespace = std::fs::File::open(format!("/run/netns/{name}")).expect("just made");
                use std::os::fd::AsFd;
                rustix::thread::move_into_link_name_space(
                    namespace.as_fd(),
                    Some(rustix::thread::LinkNameSpaceType::Network),
                )
                .expect("entered");
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build()
                    .expect("a runtime");
                let machine = Machine::start(name.clone(), prepare);
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    runtime.block_on(test(&machine));
                }));
                runtime.shutdown_timeout(Duration::from_secs(5));
                drop(machine);
                result
            })
            .join()
    });
    sh(&format!("ip netns del {name}"));
    drop(turn);
    if let Err(panic) = result.and_then(|r| r) {
        std::panic::resume_unwind(panic);
    }
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("has a parent")).expect("made");
    std::fs::write(path, text).expect("written");
}

impl Machine {
    fn start(name: String, prepare: impl FnOnce(&Path)) -> Machine {
        let dir = tempfile::tempdir().expect("a folder");
        prepare(dir.path());
        let at = |part: &str| dir.path().join(part).display().to_string();
        write(
            &dir.path().join("containerd.toml"),
            &format!(
                r#"version = 2
root = "{root}"
state = "{state}"
oom_score = 0
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.other]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{cni}"
"#,
                root = at("root"),
                state = at("state"),
                socket = at("containerd.sock"),
                pause = "mainstay.local/pause:1",
                cni = at("cni"),
            ),
        );
        write(
            &dir.path().join("cni/10-bridge.conflist"),
            &format!(
                r#"{{"cniVersion": "0.4.0", "name": "{name}", "plugins": [
{{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "ipam": {{"type": "host-local", "dataDir": "{data}",
 "ranges": [[{{"subnet": "10.88.0.0/24"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}"#,
                data = at("cni-data")
            ),
        );
        let log = std::fs::File::create(dir.path().join("containerd.log")).expect("a log");
        let containerd = Command::new("containerd")
            .arg("-c")
            .arg(dir.path().join("containerd.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd starts");
        let machine = Machine {
            dir,
            name,
            containerd,
        };
        machine.import_images();
        machine
    }

    fn import_images(&self) {
        let socket = self.dir.path().join("containerd.sock");
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "containerd does not start"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        let archives =
            mainstay_os::images::make(Path::new("/usr/bin/busybox"), &self.dir.path().join("images"))
                .expect("images are made");
        for archive in archives {
            self.ctr(&format!("images import {}", archive.display()));
        }
    }

    pub fn ctr(&self, arguments: &str) -> String {
        let socket = self.dir.path().join("containerd.sock");
        sh(&format!("ctr -a {} -n k8s.io {arguments}", socket.display()))
    }

    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.dir.path().join("containerd.sock").display())
    }

    pub fn cri(&self) -> Cri {
        Cri::new(&self.endpoint()).expect("a client")
    }

    pub fn path(&self, part: &str) -> PathBuf {
        self.dir.path().join(part)
    }

    pub fn cgroup_root(&self) -> String {
        format!("/{}", self.name)
    }

    /// Settings of an agent that keeps everything in this machine's folder.
    pub fn settings(&self, node: &str) -> Settings {
        let join = NodeConfig {
            node_name: node.to_owned(),
            ..Default::default()
        };
        let kubelet = KubeletConfiguration {
            container_runtime_endpoint: self.endpoint(),
            cgroup_root: self.cgroup_root(),
            pod_logs_dir: self.path("log/pods").display().to_string(),
            static_pod_path: self.path("manifests").display().to_string(),
            file_check_frequency: Duration::from_millis(200),
            port: 0,
            // The disk is this computer's: how full it is must not decide whose pods stay.
            eviction_hard: Some([("memory.available".to_owned(), "100Mi".to_owned())].into()),
            ..Default::default()
        };
        let mut settings = Settings::new(join, kubelet, "v1.36.0+mainstay.test");
        settings.dirs.root = self.path("kubelet");
        settings.dirs.cni = None;
        settings.dirs.container_links = self.path("log/containers");
        settings.overrides.address = Some("127.0.0.1".parse().expect("an address"));
        settings
    }

    pub fn manifest(&self, name: &str, text: &str) {
        write(&self.path("manifests").join(name), text);
    }

    pub fn remove_manifest(&self, name: &str) {
        std::fs::remove_file(self.path("manifests").join(name)).expect("removed");
    }
}

/// Stops and removes every sandbox: that gives back network namespaces and mounts as well.
async fn remove_sandboxes(cri: Cri) {
    let listed = cri
        .list_sandboxes(mainstay_node::cri::runtime_v1::ListPodSandboxRequest { filter: None })
        .await;
    for sandbox in listed.map(|l| l.items).unwrap_or_default() {
        let _ = cri.stop_sandbox(&sandbox.id).await;
        let _ = cri.remove_sandbox(&sandbox.id).await;
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let dir = self.dir.path().display().to_string();
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            let endpoint = self.endpoint();
            runtime.block_on(async move {
                if let Ok(cri) = Cri::new(&endpoint) {
                    let _ = tokio::time::timeout(Duration::from_secs(60), remove_sandboxes(cri)).await;
                }
            });
        }
        let _ = self.containerd.kill();
        let _ = self.containerd.wait();
        let cleanup = format!(
            "awk -v d={dir} 'index($2, d) == 1 {{print $2}}' /proc/self/mounts | sort -r | while read m; do umount -l $m; done; \
             for h in /sys/fs/cgroup/*/{name} /sys/fs/cgroup/{name}; do [ -d $h ] && find $h -depth -type d -exec rmdir {{}} \\; ; done; true",
            name = self.name
        );
        let _ = Command::new("sh").arg("-c").arg(cleanup).output();
    }
}

/// An agent that runs until it is stopped.
pub struct Agent {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Agent {
    pub fn start(settings: Settings) -> Agent {
        let stop = CancellationToken::new();
        let token = stop.clone();
        let task = tokio::spawn(async move {
            mainstay_node::run(settings, SystemClock::shared(), token)
                .await
                .expect("the agent runs");
        });
        Agent { stop, task }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("the agent ends well");
    }
}

/// Waits until `condition` gives a value.
pub async fn eventually<T>(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
