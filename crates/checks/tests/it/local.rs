//! The whole way on this computer: `mainstay up`, a living cluster, a killed manager, `mainstay down`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::{Installation, ready_nodes};
use crate::tools::{apply, kubectl, run, wait};

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
    assert_eq!(machines, "Running Running", "machines were lost or added");
}
