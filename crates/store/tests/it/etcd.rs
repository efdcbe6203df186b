//! The contract on a real etcd: one server for all tests of this module, each in its own keyspace.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mainstay_base::clock::SystemClock;
use mainstay_store::{Engine, EtcdEngine, MemoryEngine, Op, Prefix, Store};

use super::{contract, model};

/// A server that ends with this value.
struct Etcd {
    child: Child,
    url: String,
    _data: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

#[allow(clippy::disallowed_methods)] // a test may start a process
async fn start() -> (Etcd, EtcdEngine) {
    let data = tempfile::tempdir().expect("a directory");
    let (url, peer) = (free_url(), free_url());
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(data.path()).args([
        "--listen-client-urls",
        &url,
        "--advertise-client-urls",
        &url,
    ]);
    command.args([
        "--listen-peer-urls",
        &peer,
        "--initial-advertise-peer-urls",
        &peer,
    ]);
    command.args([
        "--initial-cluster",
        &format!("default={peer}"),
        "--log-level",
        "error",
    ]);
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd is installed");
    let etcd = Etcd {
        child,
        url: url.clone(),
        _data: data,
    };
    for _ in 0..200 {
        match EtcdEngine::connect(std::slice::from_ref(&etcd.url), None, SystemClock::shared()).await {
            Ok(engine) => return (etcd, engine),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    panic!("etcd does not answer at {url}");
}

#[tokio::test]
async fn etcd_keeps_the_contract() {
    let (etcd, engine) = start().await;
    let space = |uid: &str| engine.keyspace(uid).expect("a valid name");
    contract::conditions_decide(space("a")).await;
    contract::watches_see_whole_revisions_in_order(space("b")).await;
    contract::pages_stay_at_their_revision(space("c")).await;
    contract::bad_requests_change_nothing(space("d")).await;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for case in 0..5 {
        let tree = proptest::strategy::Strategy::new_tree(&model::steps(), &mut runner).expect("steps");
        model::check(
            space(&format!("model-{case}")),
            proptest::strategy::ValueTree::current(&tree),
        )
        .await;
    }
    moves_between_engines(space("moved")).await;
    assert!(
        engine
            .keyspaces()
            .await
            .expect("names")
            .starts_with(&["a".to_string(), "b".to_string()])
    );
    engine.drop_keyspace("model-0").await.expect("a drop");
    assert!(
        !engine
            .keyspaces()
            .await
            .expect("names")
            .contains(&"model-0".to_string())
    );
    foreign_data_is_refused(&etcd, space("foreign")).await;
}

/// Embedded → etcd → embedded by snapshot files.
async fn moves_between_engines(on_etcd: Arc<dyn Store>) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str| dir.path().join(name);
    let memory = MemoryEngine::new(SystemClock::shared()).expect("a thread starts");
    let (first, second) = (
        memory.keyspace("first").expect("opens"),
        memory.keyspace("second").expect("opens"),
    );
    for number in 0..250 {
        first
            .txn(vec![], vec![Op::put(contract::pod(&format!("p{number}")), "x")])
            .await
            .expect("a write");
    }
    on_etcd
        .txn(vec![], vec![Op::put(contract::pod("old"), "x")])
        .await
        .expect("a write");
    first.snapshot(&file("1")).await.expect("a snapshot");
    on_etcd.restore(&file("1")).await.expect("a restore");
    on_etcd.snapshot(&file("2")).await.expect("a snapshot");
    second.restore(&file("2")).await.expect("a restore");
    let content = |store: Arc<dyn Store>| async move { contract::names(&*store, None, None, 0).await };
    assert_eq!(content(first).await, content(second).await);
}

async fn foreign_data_is_refused(etcd: &Etcd, store: Arc<dyn Store>) {
    let mut client = etcd_client::Client::connect([&etcd.url], None)
        .await
        .expect("connects");
    client
        .put("/mainstay/v1/foreign/core/pods/default/x", "{}", None)
        .await
        .expect("a write");
    let error = store
        .range(&Prefix::All, None, None, 0)
        .await
        .expect_err("foreign data");
    assert_eq!(
        error.to_string(),
        "etcd holds foreign data at /mainstay/v1/foreign/core/pods/default/x: the value is too short"
    );
}
