//! `mainstay server` with kubectl as its client.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::tools::{Running, apply, free_port, kubectl, mainstay, run, try_kubectl, wait};

/// A bare server as a process of its own.
pub struct Server {
    /// The process.
    pub process: Running,
    /// Its administrator's kubeconfig.
    pub kubeconfig: PathBuf,
}

fn start(folder: &Path, port: u16) -> Server {
    start_with(folder, port, &[])
}

/// Starts it on a folder and a port with flags.
pub fn start_with(folder: &Path, port: u16, flags: &[&str]) -> Server {
    let kubeconfig = folder.join("admin.kubeconfig");
    let _ = std::fs::remove_file(&kubeconfig);
    let child = Command::new(mainstay())
        .args(["server", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
        .arg(folder)
        .args(flags)
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let process = Running(child);
    wait("admin.kubeconfig", Duration::from_secs(20), || {
        kubeconfig.exists().then_some(())
    });
    Server { process, kubeconfig }
}

const CONFIG: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: {x: one}}\ndata: {k: v1}\n";

#[test]
fn kubectl_works_on_a_bare_server_and_nothing_is_lost_by_kill() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let port = free_port();
    let mut server = start(folder.path(), port);
    let config = server.kubeconfig.clone();
    apply(&config, folder.path(), CONFIG);
    apply(&config, folder.path(), &CONFIG.replace("k: v1", "k: v2"));
    let value = kubectl(&config, &["get", "cm", "a", "-o", "jsonpath={.data.k}"]);
    assert_eq!(value, "v2");
    kubectl(
        &config,
        &["patch", "cm", "a", "--type=merge", "-p", r#"{"data":{"k":"v3"}}"#],
    );
    kubectl(&config, &["label", "cm", "a", "x=z", "--overwrite"]);
    let table = kubectl(&config, &["get", "cm", "-l", "x=z"]);
    assert!(table.starts_with("NAME") && table.contains("\na "), "{table}");
    let refused = try_kubectl(&config, &["get", "cm", "nothing"]);
    assert!(refused.err.contains("NotFound"), "{}", refused.err);
    assert!(kubectl(&config, &["explain", "pod.spec.containers"]).contains("KIND:       Pod"));
    assert!(kubectl(&config, &["api-resources"]).contains("deployments"));
    assert_eq!(kubectl(&config, &["get", "--raw", "/readyz"]), "ok");

    server.process.0.kill().expect("it runs");
    server.process.0.wait().expect("it ends");
    let server = start(folder.path(), port);
    let value = kubectl(
        &server.kubeconfig,
        &["get", "cm", "a", "-o", "jsonpath={.data.k}"],
    );
    assert_eq!(value, "v3", "an acknowledged write was lost");
    kubectl(&server.kubeconfig, &["delete", "cm", "a"]);
}

#[test]
fn a_second_server_on_the_same_data_says_so() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let _first = start(folder.path(), free_port());
    let second = run(Command::new(mainstay())
        .args([
            "server",
            "--listen",
            &format!("127.0.0.1:{}", free_port()),
            "--data-dir",
        ])
        .arg(folder.path()));
    assert_eq!(second.code, Some(1), "{}", second.err);
    assert!(second.err.contains("MS-SRV-0001"), "{}", second.err);
}

#[test]
fn wrong_flags_and_manifests_end_with_the_code_for_usage() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let said = run(Command::new(mainstay())
        .args(["up", "--bridge", "10.89.0.7/24", "--data-dir"])
        .arg(folder.path()));
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("--bridge"), "{}", said.err);
    let file = folder.path().join("bad.yaml");
    std::fs::write(&file, "apiVersion: v1\nkind: ConfigMap\n").expect("the test's folder is writable");
    let said = run(Command::new(mainstay())
        .arg("up")
        .arg("-f")
        .arg(&file)
        .arg("--data-dir")
        .arg(folder.path()));
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("metadata.name is missing"), "{}", said.err);
    let said = run(Command::new(mainstay()).args(["explain", "MS-PRE-0001"]));
    assert!(said.well && said.out.contains("preflight"), "{}", said.out);
}

fn terminate(server: &mut Server) {
    let pid = server.process.0.id().to_string();
    assert!(run(Command::new("kill").args(["-TERM", &pid])).well);
    let status = wait("the server to end", Duration::from_secs(15), || {
        server.process.0.try_wait().expect("it can be asked")
    });
    assert!(status.success(), "it ended with {status}");
}

const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: RequestResponse, resources: [{resources: [secrets, configmaps]}], verbs: [create]}
- {level: None}
";

#[test]
fn the_audit_log_follows_its_policy_and_the_server_ends_in_order() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let (log, policy) = (folder.path().join("audit.log"), folder.path().join("policy.yaml"));
    std::fs::write(&policy, POLICY).expect("the test's folder is writable");
    let flags = [
        format!("--audit-log-path={}", log.display()),
        format!("--audit-policy-file={}", policy.display()),
    ];
    let flags = flags.each_ref().map(String::as_str);
    let mut server = start_with(folder.path(), free_port(), &flags);
    let config = server.kubeconfig.clone();
    apply(&config, folder.path(), CONFIG);
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: hunter2}\n";
    apply(&config, folder.path(), secret);
    let data = kubectl(
        &config,
        &["get", "secret", "s", "-o", "jsonpath={.data.password}"],
    );
    assert_eq!(data, "aHVudGVyMg==");
    terminate(&mut server);
    let text = std::fs::read_to_string(&log).expect("the log is there");
    let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("a JSON line");
    let events: Vec<_> = text.lines().map(line).collect();
    let told: Vec<String> = events
        .iter()
        .map(|event| {
            format!(
                "{} {} {}",
                event["verb"], event["objectRef"]["resource"], event["objectRef"]["name"]
            )
        })
        .collect();
    assert_eq!(
        told,
        [r#""create" "configmaps" "a""#, r#""create" "secrets" "s""#],
        "{text}"
    );
    assert_eq!(events[0]["responseObject"]["data"]["k"], "v1");
    assert_eq!(events[0]["user"]["username"], "kubernetes-admin");
    assert!(
        !text.contains("hunter2") && !text.contains("aHVudGVyMg"),
        "a secret was noted"
    );
}

#[test]
fn a_plane_moves_from_the_embedded_store_to_etcd_and_back() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let etcd = crate::crash::Etcd::start();
    let on_etcd = format!("--etcd-servers={}", etcd.url);
    let file = |name: &str| folder.path().join(name);
    let mut server = start(&file("one"), free_port());
    apply(&server.kubeconfig, folder.path(), CONFIG);
    let snapshot = |command: &str, name: &str, flags: &[&str]| {
        let said = run(Command::new(mainstay()).arg(command).arg(file(name)).args(flags));
        assert!(said.well, "{command}: {}{}", said.out, said.err);
    };
    let value = |server: &Server| {
        kubectl(
            &server.kubeconfig,
            &["get", "cm", "a", "-o", "jsonpath={.data.k}"],
        )
    };
    // The first backup is of a running server.
    snapshot("backup", "first", &["--data-dir", &file("one").to_string_lossy()]);
    terminate(&mut server);
    snapshot("restore", "first", &[&on_etcd]);
    let mut server = start_with(&file("two"), free_port(), &[&on_etcd]);
    assert_eq!(value(&server), "v1");
    kubectl(
        &server.kubeconfig,
        &["patch", "cm", "a", "--type=merge", "-p", r#"{"data":{"k":"v2"}}"#],
    );
    terminate(&mut server);
    snapshot("backup", "second", &[&on_etcd]);
    snapshot(
        "restore",
        "second",
        &["--data-dir", &file("one").to_string_lossy()],
    );
    let server = start(&file("one"), free_port());
    assert_eq!(value(&server), "v2");
    let wrong = run(Command::new(mainstay())
        .arg("restore")
        .arg(file("second"))
        .arg("--data-dir")
        .arg(file("one")));
    assert!(
        wrong.err.contains("MS-BAK-0001"),
        "a store in use was restored: {}",
        wrong.err
    );
}
