//! Heartbeats: every node renews its lease every ten seconds, with its own identity. On a thread of its own, so that what
//! is measured is the server and not the other clients' queue.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use hyper::Method;
use mainstay_base::clock::{Clock as _, SystemClock};
use serde_json::json;
use tokio::task::JoinSet;

use super::Run;
use super::site;
use crate::bench::apiserver::client::{Client, STREAM_WINDOW};

/// How many nodes there are.
pub const NODES: usize = 1_000;
const RENEWAL: Duration = Duration::from_secs(10);
/// Nodes that share a connection, so that the client's own work stays small.
const NODES_PER_CONNECTION: usize = 50;
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// Starts the heartbeats; gives back how long each took.
pub fn beat(kubeconfig: &Path, run: Arc<Run>) -> JoinHandle<Result<Vec<Duration>>> {
    let kubeconfig: PathBuf = kubeconfig.into();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(renew(&kubeconfig, run))
    })
}

async fn renew(kubeconfig: &Path, run: Arc<Run>) -> Result<Vec<Duration>> {
    let connections = NODES / NODES_PER_CONNECTION;
    let shared = Client::connect_as(kubeconfig, connections, STREAM_WINDOW, "").await?;
    let nodes: Vec<Arc<Client>> = (0..NODES)
        .map(|number| Arc::new(shared.speaking_for(&site::node(number))))
        .collect();
    let mut ticks = tokio::time::interval(RENEWAL / NODES as u32);
    let (mut beats, mut waits) = (JoinSet::new(), Vec::new());
    for renewal in 0.. {
        ticks.tick().await;
        if run.is_over() {
            break;
        }
        let client = nodes[renewal % NODES].clone();
        beats.spawn(async move { once(&client, renewal).await });
        while let Some(done) = beats.try_join_next() {
            note(done?, &run, &mut waits);
        }
    }
    while let Some(done) = beats.join_next().await {
        note(done?, &run, &mut waits);
    }
    Ok(waits)
}

fn note(beat: Result<Duration>, run: &Run, waits: &mut Vec<Duration>) {
    match beat {
        Ok(took) => waits.push(took),
        Err(error) => run.failed(error),
    }
}

/// The first renewal of a node makes its lease.
async fn once(client: &Client, renewal: usize) -> Result<Duration> {
    let name = site::node(renewal % NODES);
    let lease = json!({
        "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40,
            "renewTime": format!("2026-01-01T00:00:00.{:06}Z", renewal % 1_000_000)},
    })
    .to_string();
    let clock = SystemClock::new();
    let begin = clock.monotonic();
    match renewal < NODES {
        true => client.create(LEASES, lease).await?,
        false => {
            let path = format!("{LEASES}/{name}");
            client.send(Method::PUT, &path, "application/json", lease).await?
        }
    };
    Ok(clock.monotonic() - begin)
}
