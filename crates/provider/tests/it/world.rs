//! The composed image, a provider over a temporary folder, and what this computer has of mounts and links.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mainstay_base::clock::{Clock, SystemClock};
use mainstay_host::cgroup::Hierarchies;
use mainstay_host::command::{find, program};
use mainstay_host::ledger::Ledger;
use mainstay_host::{loops, mounts, network};
use mainstay_os::snapshot::Policy;
use mainstay_os::{Agent, NODE_TREEFILE, Service, Store, Treefile, images};
use mainstay_provider::local::{Config, LocalProvider};
use mainstay_provider::{HostId, HostSpec, Provider, ProvisionRequest, RequestId, Sku, TaskState};

pub struct World {
    pub folder: tempfile::TempDir,
    pub instance: String,
    pub store: Store,
    pub commit: String,
    pub ledger: Arc<Ledger>,
}

/// The agent of test images.
pub fn agent_binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_machine-agent"))
}

fn agent(version: &str) -> Agent {
    let service = |name: &str, command: &str, after: Option<&str>| Service {
        name: name.to_owned(),
        command: command.split(' ').map(str::to_owned).collect(),
        once: name == "images",
        after: after.map(PathBuf::from),
    };
    let socket = Some("/run/containerd/containerd.sock");
    let services = vec![
        service("containerd", "/usr/bin/containerd", None),
        service("images", "/usr/bin/mainstay init --import-images", socket),
        service("node", "/usr/bin/mainstay node", socket),
    ];
    Agent {
        binary: agent_binary(),
        version: version.to_owned(),
        services,
    }
}

impl World {
    /// `name` is at most two letters: it tells parallel tests apart.
    pub fn new(name: &str) -> World {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/mainstay-cache/os"));
        let commit = compose(&store, "1");
        let tree = store.deploy(&commit).unwrap();
        images::make(&tree.join("usr/bin/busybox"), &folder.path().join("images")).unwrap();
        let ledger = Arc::new(Ledger::open(&folder.path().join("ledger.jsonl")).unwrap());
        let instance = format!("{name}{}", std::process::id() % 10_000);
        World {
            folder,
            instance,
            store,
            commit,
            ledger,
        }
    }

    /// Another image: the same packages, another agent.
    pub fn other_commit(&self) -> String {
        compose(&self.store, "2")
    }

    pub fn config(&self, third_octet: u8) -> Config {
        let store = self.store.clone();
        Config {
            folder: self.folder.path().to_owned(),
            instance: self.instance.clone(),
            bridge: ([10, 213, third_octet, 1].into(), 24),
            uplink: false,
            dns: Vec::new(),
            images: self.folder.path().join("images"),
            trees: Arc::new(move |commit| store.deploy(commit).map_err(|error| error.to_string())),
            ledger: self.ledger.clone(),
            clock: SystemClock::shared(),
        }
    }

    pub fn request(&self, id: &str, host: &HostId, incarnation: u64) -> ProvisionRequest {
        let sku = Sku {
            disk_bytes: 4 << 30,
            memory_bytes: 1 << 30,
            ..Sku::default()
        };
        ProvisionRequest {
            request: RequestId(id.to_owned()),
            host: HostSpec {
                id: host.clone(),
                sku,
                settings: BTreeMap::new(),
            },
            machine_name: format!("node-{}", host.0.rsplit('/').next().unwrap()),
            commit: self.commit.clone(),
            machine_data: "{\"join\":true}".to_owned(),
            incarnation,
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let left = self.ledger.undo().unwrap();
        assert!(left.is_empty() || std::thread::panicking(), "{left:?}");
    }
}

fn compose(store: &Store, version: &str) -> String {
    let mut treefile = Treefile::parse(NODE_TREEFILE).unwrap();
    treefile.branch = format!("mainstay/test/provider-{version}");
    store
        .compose(&treefile, Policy::Pinned, &agent(version))
        .unwrap()
        .commit
}

/// Everything that a machine could leave behind, by the instance's names and the folder.
pub fn traces(instance: &str, folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    found.extend(
        mounts::below(folder)
            .unwrap()
            .iter()
            .map(|point| format!("mount {}", point.display())),
    );
    let files = loops::attached_files();
    found.extend(
        files
            .iter()
            .filter(|file| file.starts_with(folder))
            .map(|file| format!("loop {}", file.display())),
    );
    found.extend(
        network::links()
            .into_iter()
            .filter(|link| link.contains(instance))
            .map(|link| format!("link {link}")),
    );
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    found.extend(
        names
            .filter(|name| name.contains(instance))
            .map(|name| format!("netns {name}")),
    );
    let groups = Hierarchies::detect().unwrap();
    let groups = groups
        .mount_points()
        .into_iter()
        .map(|point| point.join("mainstay").join(instance));
    found.extend(
        groups
            .filter(|group| group.exists())
            .map(|group| format!("cgroup {}", group.display())),
    );
    found
}

/// Waits until something holds.
pub async fn until(what: &str, limit: Duration, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let clock = SystemClock::new();
    while !holds().await {
        assert!(
            clock.monotonic() < limit,
            "{what} did not happen within {limit:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    clock.monotonic()
}

/// Waits for a task's good end.
pub async fn done(provider: &LocalProvider, request: &RequestId) {
    let console = async || {
        let task = provider.task(request).await.unwrap();
        provider.console(&task.host, 4000).await.unwrap_or_default()
    };
    for _ in 0..3000 {
        match provider.task(request).await.unwrap().state {
            TaskState::Done => return,
            TaskState::Failed { message, .. } => panic!("{message}\n{}", console().await),
            TaskState::Running { .. } => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    panic!("the task {request} did not end\n{}", console().await);
}

/// The pid of a machine's init: the process that was started with its boot id.
pub fn init_pid(boot_id: &str) -> u32 {
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.into_iter()
        .find(|pid| {
            mainstay_host::process::command_line(*pid)
                .get(3)
                .is_some_and(|argument| argument == boot_id)
        })
        .expect("init runs")
}

/// Runs a command inside a machine, also inside its control groups, and returns what it wrote.
pub fn inside(pid: u32, command: &str) -> mainstay_host::Result<String> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let path = groups
        .lines()
        .filter_map(|line| line.rsplit_once(':'))
        .map(|(_, path)| path)
        .find(|path| path.contains("mainstay"));
    let path = path.unwrap_or("/").trim_start_matches('/');
    let points = Hierarchies::detect()?;
    let join: Vec<String> = points
        .mount_points()
        .iter()
        .map(|p| p.join(path).join("cgroup.procs").display().to_string())
        .collect();
    let nsenter = find("nsenter").expect("util-linux is installed");
    let script = format!(
        "for file in {}; do echo $$ > $file; done; exec {} --target {pid} --all /bin/sh -c \"$1\"",
        join.join(" "),
        nsenter.display()
    );
    program("/bin/sh").args(["-c", &script, "sh", command]).run()
}
