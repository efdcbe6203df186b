//! The whole way on this computer: `mainstay up`, a living cluster, a killed manager, `mainstay down`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::tools::{Said, apply, kubectl, mainstay, run, try_kubectl, wait};

const LIMIT: Duration = Duration::from_secs(120);

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: c
        image: mainstay.local/busybox:1
        command: [sh, -c, 'echo hello from $HOSTNAME; exec sleep 100000']
";

/// One installation at a time: they share the folder with the composed image, ports and bridge.
static TURN: Mutex<()> = Mutex::new(());

/// The installation of one test; undone when the test ends, however it ends.
pub struct Installation {
    pub folder: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Installation {
    /// Kept between runs below the build folder, so that the image is composed once.
    pub fn new() -> Self {
        // A test that failed has undone its installation all the same.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e");
        std::fs::create_dir_all(&folder).expect("the build folder is writable");
        let installation = Installation { folder, _turn: turn };
        installation.down();
        installation
    }

    pub fn up(&self) -> Said {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/local");
        run(self.command("up").arg("-f").arg(examples).args([
            "--listen",
            "127.0.0.1:17443",
            "--dashboard",
            "127.0.0.1:17480",
            "--bridge",
            "10.91.0.0/24",
            "--timeout",
            "900",
        ]))
    }

    pub fn down(&self) -> Said {
        run(self.command("down").arg("--yes"))
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(mainstay());
        command
            .arg(name)
            .arg("--data-dir")
            .arg(&self.folder)
            .args(["--progress", "plain"]);
        command
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// Writes the workload cluster's kubeconfig and tells where.
    pub fn demo(&self) -> PathBuf {
        let said = run(self.command("kubeconfig").arg("demo"));
        assert!(said.well, "{}", said.err);
        let file = self.folder.join("demo.kubeconfig");
        std::fs::write(&file, said.out).expect("the folder is writable");
        file
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        let said = self.down();
        if !said.well {
            eprintln!("down: {}", said.err);
        }
    }
}

pub fn ready_nodes(demo: &Path) -> usize {
    let template = r#"jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#;
    let said = try_kubectl(demo, &["get", "nodes", "-o", template]);
    said.out.lines().filter(|line| *line == "True").count()
}

fn leftovers(folder: &Path) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("/proc is there");
    let folder = folder.to_string_lossy().into_owned();
    mounts
        .lines()
        .filter(|line| line.contains(&folder))
        .map(String::from)
        .collect()
}

#[test]
fn a_manifest_becomes_a_living_cluster_that_outlives_its_manager_and_leaves_nothing() {
    let installation = Installation::new();
    let said = installation.up();
    assert!(said.well, "up: {}{}", said.out, said.err);
    let demo = installation.demo();
    assert!(ready_nodes(&demo) >= 2);
    workloads_run(&demo, &installation.folder);
    the_manager_may_be_killed(&installation, &demo);
    let said = run(&mut installation.command("doctor"));
    assert!(
        said.out.contains("objects are well"),
        "doctor: {}{}",
        said.out,
        said.err
    );
    let said = installation.down();
    assert!(said.well, "down: {}", said.err);
    assert_eq!(leftovers(&installation.folder), Vec::<String>::new());
}

fn workloads_run(demo: &Path, folder: &Path) {
    apply(demo, folder, WEB);
    kubectl(demo, &["rollout", "status", "deployment/web", "--timeout=90s"]);
    let logs = kubectl(demo, &["logs", "deployment/web"]);
    assert!(logs.contains("hello from web-"), "{logs}");
    let said = kubectl(demo, &["exec", "deployment/web", "--", "cat", "/etc/hostname"]);
    assert!(said.starts_with("web-"), "{said}");
}

fn the_manager_may_be_killed(installation: &Installation, demo: &Path) {
    let uids = || {
        kubectl(
            demo,
            &[
                "get",
                "pods",
                "-o",
                "jsonpath={.items[*].metadata.uid} {.items[*].status.containerStatuses[*].restartCount}",
            ],
        )
    };
    let before = uids();
    let text = std::fs::read_to_string(installation.folder.join("running.json")).expect("it runs");
    let record: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let pid = record["process"]["pid"].to_string();
    assert!(run(Command::new("kill").args(["-9", &pid])).well);
    let said = installation.up();
    assert!(said.well, "up again: {}{}", said.out, said.err);
    wait("the nodes to be ready again", LIMIT, || {
        (ready_nodes(demo) >= 2).then_some(())
    });
    assert_eq!(
        uids(),
        before,
        "pods were replaced or restarted by the manager's death"
    );
    let machines = kubectl(
        &installation.kubeconfig(),
        &["get", "machines", "-o", "jsonpath={.items[*].status.phase}"],
    );
    // The autoscaler may have added machines for pods that waited; none may be lost.
    let running = machines
        .split_whitespace()
        .filter(|phase| *phase == "Running")
        .count();
    assert!(running >= 2, "{machines}");
}
