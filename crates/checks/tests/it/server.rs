//! `mainstay server` with kubectl as its client.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::tools::{Running, apply, kubectl, mainstay, run, try_kubectl, wait};

struct Server {
    process: Running,
    kubeconfig: PathBuf,
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

fn start(folder: &Path, port: u16) -> Server {
    let kubeconfig = folder.join("admin.kubeconfig");
    let _ = std::fs::remove_file(&kubeconfig);
    let child = Command::new(mainstay())
        .args(["server", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
        .arg(folder)
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
