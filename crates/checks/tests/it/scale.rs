//! The pool follows its pods and its image: it does not grow while nodes start, replaces its nodes one by one for a new
//! image, grows for pods that fit nowhere, and gives idle machines back. Real machines, real kubectl.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{Installation, ready_nodes, words};
use crate::tools::{apply, kubectl, try_kubectl, wait};
use crate::users;

/// A machine joins in seconds; this is for a busy computer.
const LIMIT: Duration = Duration::from_secs(180);

/// Small pods that any node takes; at least one of them is to be there at any time.
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
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: mainstay.local/busybox:1
        command: [sh, -c, 'trap exit TERM; while true; do sleep 1; done']
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec:
  minAvailable: 1
  selector: {matchLabels: {app: web}}
";

/// Three pods of which one fills a node of two cores.
const BIG: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: big}
spec:
  replicas: 3
  selector: {matchLabels: {app: big}}
  template:
    metadata: {labels: {app: big}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: mainstay.local/busybox:1
        command: [sh, -c, 'trap exit TERM; while true; do sleep 1; done']
        resources: {requests: {cpu: 1500m}}
";

/// Looks at the operating system of whatever node it lands on.
const LOOK: &str = "
apiVersion: v1
kind: Pod
metadata: {name: look}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: mainstay.local/busybox:1
    command: [sleep, '100000']
    volumeMounts: [{name: usr, mountPath: /host}]
  volumes: [{name: usr, hostPath: {path: /usr}}]
";

/// A package that the built-in image does not have, and a file of it.
const PACKAGE: (&str, &str) = ("tree", "bin/tree");

/// Timings of the pool for this test; upstream's are ten minutes each.
const QUICK: [&str; 2] = [
    "cluster.x-k8s.io/autoscaling-options-scaledownunneededtime=5s",
    "cluster.x-k8s.io/autoscaling-options-scaledowndelayafteradd=5s",
];

#[test]
fn a_pool_follows_its_pods_and_its_image_and_users_stay_at_home() {
    let installation = Installation::new();
    let said = installation.up_with(&["--no-wait"]);
    assert!(said.well, "up: {}{}", said.out, said.err);
    let management = installation.kubeconfig();
    // Pods wait from before the first node is there until its taints are gone.
    let demo = wait("the control plane of the cluster", LIMIT * 3, || {
        let secret = try_kubectl(&management, &["get", "secret", "demo-kubeconfig"]);
        secret.well.then(|| installation.demo())
    });
    wait("pods to be taken", LIMIT, || {
        try_kubectl(&demo, &["get", "serviceaccount", "default"])
            .well
            .then_some(())
    });
    apply(&demo, &installation.folder, WEB);
    kubectl(&demo, &["rollout", "status", "deployment/web", "--timeout=600s"]);
    wait("both nodes", LIMIT, || (ready_nodes(&demo) == 2).then_some(()));
    pods_that_only_wait_for_nodes_to_start_make_nothing_grow(&management);
    a_changed_image_replaces_the_nodes_one_by_one(&installation, &demo);
    pods_that_fit_nowhere_make_the_pool_grow(&installation, &demo);
    idle_machines_go(&installation, &demo);
    users::a_user_is_admin_of_own_namespaces_and_nowhere_else(&installation);
}

fn replicas(management: &Path) -> usize {
    let said = kubectl(
        management,
        &["get", "nodepool", "demo-a", "-o", "jsonpath={.spec.replicas}"],
    );
    said.parse().expect("a number")
}

fn machines(management: &Path) -> usize {
    words(management, &["get", "machines", "-o", "name"]).len()
}

fn pods_that_only_wait_for_nodes_to_start_make_nothing_grow(management: &Path) {
    assert_eq!(
        replicas(management),
        2,
        "the pool grew for pods that only had to wait"
    );
    let grown = kubectl(
        management,
        &[
            "get",
            "events",
            "--field-selector",
            "reason=ScaledUpGroup",
            "-o",
            "name",
        ],
    );
    assert_eq!(grown, "");
}

/// The built-in treefile with one more package, as an OSImage.
fn image_with_a_package() -> String {
    let asset = Path::new(env!("CARGO_MANIFEST_DIR")).join("../os/assets/node.yaml");
    let treefile = std::fs::read_to_string(asset).expect("the built-in treefile");
    let treefile = treefile.replace("packages:\n", &format!("packages:\n  - {}\n", PACKAGE.0));
    let lines: String = treefile.lines().map(|line| format!("      {line}\n")).collect();
    format!(
        "apiVersion: mainstay.dev/v1alpha1\nkind: OSImage\nmetadata: {{name: node, namespace: default}}\n\
         spec:\n  outputs: [ostree]\n  retention: {{commits: 5}}\n  treefile:\n    inline:\n{lines}"
    )
}

fn commit(management: &Path) -> String {
    kubectl(
        management,
        &["get", "osimage", "node", "-o", "jsonpath={.status.commit}"],
    )
}

fn a_changed_image_replaces_the_nodes_one_by_one(installation: &Installation, demo: &Path) {
    let management = installation.kubeconfig();
    let old_commit = commit(&management);
    let old_machines = words(&management, &["get", "machines", "-o", "name"]);
    let stale = a_stale_deployment(installation);
    apply(&management, &installation.folder, &image_with_a_package());
    let new_commit = wait("the image to be composed", LIMIT * 3, || {
        Some(commit(&management)).filter(|commit| *commit != old_commit)
    });
    wait("the nodes to be replaced", LIMIT * 2, || {
        let ready = ready_nodes(demo);
        assert!(ready >= 1, "more nodes are away than maxUnavailable allows");
        let there = words(&management, &["get", "machines", "-o", "name"]);
        assert!(there.len() <= 2, "more machines than maxSurge allows: {there:?}");
        let booted = words(
            &management,
            &[
                "get",
                "computenodes",
                "-o",
                "jsonpath={.items[*].status.image.booted}",
            ],
        );
        let replaced = booted.len() == 2 && booted.iter().all(|commit| *commit == new_commit);
        (replaced && ready == 2 && there.len() == 2).then_some(())
    });
    let machines = words(&management, &["get", "machines", "-o", "name"]);
    assert!(
        machines.iter().all(|name| !old_machines.contains(name)),
        "{machines:?}"
    );
    kubectl(demo, &["rollout", "status", "deployment/web", "--timeout=120s"]);
    apply(demo, &installation.folder, LOOK);
    kubectl(
        demo,
        &["wait", "pod/look", "--for=condition=Ready", "--timeout=90s"],
    );
    kubectl(
        demo,
        &["exec", "look", "--", "ls", &format!("/host/{}", PACKAGE.1)],
    );
    let refused = try_kubectl(demo, &["exec", "look", "--", "touch", "/host/x"]);
    assert!(
        !refused.well && refused.err.contains("Read-only file system"),
        "{}",
        refused.err
    );
    kubectl(demo, &["delete", "pod", "look", "--now"]);
    wait("the stale deployment to be removed", LIMIT, || {
        (!stale.exists()).then_some(())
    });
    assert!(installation.folder.join("os/deploy").join(&new_commit).is_dir());
}

/// A deployed tree of long ago that no machine uses.
fn a_stale_deployment(installation: &Installation) -> PathBuf {
    let tree = installation.folder.join("os/deploy").join("0".repeat(64));
    let etc = tree.join("etc");
    std::fs::create_dir_all(&etc).expect("the folder is writable");
    let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1);
    let folder = std::fs::File::open(&etc).expect("it was just made");
    folder.set_modified(long_ago).expect("its time can be set");
    tree
}

fn pods_that_fit_nowhere_make_the_pool_grow(installation: &Installation, demo: &Path) {
    apply(demo, &installation.folder, BIG);
    kubectl(demo, &["rollout", "status", "deployment/big", "--timeout=300s"]);
    let management = installation.kubeconfig();
    assert_eq!((replicas(&management), ready_nodes(demo)), (3, 3));
    let template = r#"jsonpath={range .items[*]}{.spec.nodeName}{"\n"}{end}"#;
    let mut nodes = words(demo, &["get", "pods", "-l", "app=big", "-o", template]);
    nodes.sort();
    nodes.dedup();
    assert_eq!(nodes.len(), 3, "each has a node of its own: {nodes:?}");
    let told = kubectl(
        demo,
        &[
            "get",
            "events",
            "--field-selector",
            "reason=TriggeredScaleUp",
            "-o",
            "jsonpath={.items[*].message}",
        ],
    );
    assert!(
        told.contains("pod triggered scale-up: [{demo-a 2->3 (max: 4)}]"),
        "{told}"
    );
}

fn idle_machines_go(installation: &Installation, demo: &Path) {
    let management = installation.kubeconfig();
    let mut annotate = vec!["annotate", "nodepool", "demo-a"];
    annotate.extend(QUICK);
    kubectl(&management, &annotate);
    kubectl(demo, &["delete", "deployment", "big"]);
    // The small pods fit on one node, which the pool's minimum keeps.
    wait("the pool to shrink to its minimum", LIMIT, || {
        (replicas(&management) == 1).then_some(())
    });
    wait("machines and nodes to be gone", LIMIT, || {
        let nodes = words(demo, &["get", "nodes", "-o", "name"]).len();
        ((machines(&management), nodes) == (1, 1)).then_some(())
    });
    wait("the hosts to be free", LIMIT, || {
        let states = words(
            &management,
            &["get", "hosts", "-o", "jsonpath={.items[*].status.state}"],
        );
        let free = states.iter().filter(|state| *state == "Available").count();
        (free == 3).then_some(())
    });
    kubectl(demo, &["rollout", "status", "deployment/web", "--timeout=90s"]);
}
