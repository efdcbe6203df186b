//! The load: objects, requesters that take work in turn, renewals at a fixed rate, watchers.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Method;
use mainstay_base::clock::{Clock, SystemClock};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::child::Server;
use super::client::Client;

/// Requesters of the throughput figures, as in the peer's.
pub const REQUESTERS: usize = 32;
/// The namespace of the leases.
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// What a phase of requests took.
#[derive(Debug, Clone, Copy)]
pub struct Phase {
    /// How many requests.
    pub samples: usize,
    /// Requests per second of wall time.
    pub per_second: f64,
    /// Server CPU per request, in milliseconds.
    pub cpu_ms: f64,
    /// Server CPU per second of wall time, in cores.
    pub cores: f64,
    /// Latencies in milliseconds.
    pub p50_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
}

/// Measures `work`, which gives one latency per request.
pub async fn measured<F>(server: &Server, work: F) -> Result<Phase>
where
    F: Future<Output = Result<Vec<Duration>>>,
{
    let clock = SystemClock::new();
    let (cpu, begin) = (server.cpu()?, clock.monotonic());
    let mut waits = work.await?;
    let seconds = (clock.monotonic() - begin).as_secs_f64();
    let cpu = server.cpu()? - cpu;
    waits.sort_unstable();
    let millis = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
    Ok(Phase {
        samples: waits.len(),
        per_second: waits.len() as f64 / seconds,
        cpu_ms: cpu * 1000.0 / waits.len() as f64,
        cores: cpu / seconds,
        p50_ms: millis(0.5),
        p99_ms: millis(0.99),
    })
}

/// Runs `total` requests by so many requesters, each taking the next number.
pub async fn requests<F, Fut>(requesters: usize, total: usize, request: F) -> Result<Vec<Duration>>
where
    F: Fn(usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let (request, next) = (Arc::new(request), Arc::new(AtomicUsize::new(0)));
    let mut running = JoinSet::new();
    for _ in 0..requesters {
        let (request, next) = (request.clone(), next.clone());
        running.spawn(async move {
            let (clock, mut waits) = (SystemClock::new(), Vec::new());
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= total {
                    return anyhow::Ok(waits);
                }
                let begin = clock.monotonic();
                request(number).await?;
                waits.push(clock.monotonic() - begin);
            }
        });
    }
    let mut waits = Vec::with_capacity(total);
    while let Some(done) = running.join_next().await {
        waits.extend(done??);
    }
    Ok(waits)
}

/// A ConfigMap of about 1 KB; 100 of 5,000 share a label.
pub fn config_map(name: &str, number: usize) -> String {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"app": "bench", "group": format!("g{}", number / 100)}},
        "data": {"key": "x".repeat(600), "number": number.to_string()},
    })
    .to_string()
}

/// A Node as a node agent keeps it: about 7.8 KB as it is served.
pub fn node(number: usize) -> String {
    let condition = |kind: &str, status: &str| {
        json!({
            "type": kind, "status": status, "reason": format!("Kubelet{kind}"), "message": format!("kubelet reports {kind}"),
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let images: Vec<Value> = (0..24)
        .map(|image| {
            let digest = format!("{image:02}{}", "ab".repeat(31));
            json!({
                "names": [format!("registry.example/team/image-{image}@sha256:{digest}"), format!("registry.example/team/image-{image}:v1.{image}")],
                "sizeBytes": 10_000_000 + image,
            })
        })
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": format!("node-{number}"),
            "labels": {
                "kubernetes.io/hostname": format!("node-{number}"), "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "topology.kubernetes.io/zone": format!("zone-{}", number % 3), "pool": format!("pool-{}", number / 100),
            },
            "annotations": {"node.alpha.kubernetes.io/ttl": "0", "note": "n".repeat(400)},
        },
        "spec": {"podCIDR": format!("10.{}.{}.0/24", number / 256, number % 256), "providerID": format!("bench://node-{number}")},
        "status": {
            "capacity": {"cpu": "32", "memory": "131072Mi", "pods": "110", "ephemeral-storage": "500Gi"},
            "allocatable": {"cpu": "31", "memory": "129024Mi", "pods": "110", "ephemeral-storage": "480Gi"},
            "conditions": [condition("MemoryPressure", "False"), condition("DiskPressure", "False"),
                condition("PIDPressure", "False"), condition("Ready", "True")],
            "addresses": [{"type": "InternalIP", "address": format!("172.16.{}.{}", number / 256, number % 256)}],
            "nodeInfo": {
                "machineID": "m".repeat(32), "systemUUID": "u".repeat(36), "bootID": "b".repeat(36), "kernelVersion": "6.1.0",
                "osImage": "Linux", "containerRuntimeVersion": "containerd://2.1.0", "kubeletVersion": "v1.36.3",
                "kubeProxyVersion": "v1.36.3", "operatingSystem": "linux", "architecture": "amd64",
            },
            "images": images,
        },
    })
    .to_string()
}

fn lease(number: usize, renewal: usize) -> String {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": format!("node-{number}"), "namespace": "kube-node-lease",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": format!("node-{number}"), "uid": "u".repeat(36)}],
        },
        "spec": {
            "holderIdentity": format!("node-{number}"), "leaseDurationSeconds": 40,
            "renewTime": format!("2026-01-01T00:00:00.{:06}Z", renewal % 1_000_000),
        },
    })
    .to_string()
}

/// Makes the lease of a node.
pub async fn create_lease(client: &Client, number: usize) -> Result<()> {
    client.create(LEASES, lease(number, 0)).await.map(drop)
}

/// Renews leases at a fixed rate, whether or not earlier renewals have been answered.
pub async fn renewals(
    client: Arc<Client>,
    leases: usize,
    per_second: usize,
    seconds: usize,
) -> Result<Vec<Duration>> {
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second as f64));
    let mut running = JoinSet::new();
    for renewal in 1..=per_second * seconds {
        ticks.tick().await;
        let client = client.clone();
        running.spawn(async move {
            let clock = SystemClock::new();
            let number = renewal % leases;
            let begin = clock.monotonic();
            let path = format!("{LEASES}/node-{number}");
            client
                .send(Method::PUT, &path, "application/json", lease(number, renewal))
                .await?;
            anyhow::Ok(clock.monotonic() - begin)
        });
    }
    let mut waits = Vec::new();
    while let Some(done) = running.join_next().await {
        waits.push(done??);
    }
    Ok(waits)
}

/// Watchers that report each event line they get.
pub struct Watchers {
    /// When each line came, by `clock`.
    lines: mpsc::UnboundedReceiver<Duration>,
    clock: Arc<SystemClock>,
    count: usize,
}

impl Watchers {
    /// Opens watches of a collection from now on.
    pub async fn open(client: &Client, count: usize, path: &str) -> Result<Watchers> {
        let list: Value = serde_json::from_slice(&client.get(&format!("{path}?limit=1")).await?)?;
        let revision = list["metadata"]["resourceVersion"]
            .as_str()
            .context("a list without revision")?
            .to_owned();
        let (report, lines) = mpsc::unbounded_channel();
        let clock = Arc::new(SystemClock::new());
        for _ in 0..count {
            let path = format!("{path}?watch=1&resourceVersion={revision}&timeoutSeconds=600");
            let mut body = client
                .open(Method::GET, &path, "application/json", Bytes::new())
                .await?
                .into_body();
            let (report, clock) = (report.clone(), clock.clone());
            tokio::spawn(async move {
                while let Some(Ok(frame)) = body.frame().await {
                    let events = frame
                        .data_ref()
                        .map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
                    for _ in 0..events {
                        if report.send(clock.monotonic()).is_err() {
                            return;
                        }
                    }
                }
            });
        }
        Ok(Watchers { lines, clock, count })
    }

    /// Makes `events` changes, `pause` apart, and waits until every watcher has each. Latencies count from the write's
    /// start; one per delivered event.
    pub async fn deliver(
        &mut self,
        client: &Client,
        path: &str,
        events: usize,
        pause: Duration,
    ) -> Result<Vec<Duration>> {
        let mut waits = Vec::new();
        for event in 0..events {
            let begin = self.clock.monotonic();
            let patch =
                json!({"metadata": {"annotations": {"number": format!("event {event}")}}}).to_string();
            client
                .send(Method::PATCH, path, "application/merge-patch+json", patch)
                .await?;
            for _ in 0..self.count {
                let at = self.lines.recv().await.context("the watches ended")?;
                waits.push(at.saturating_sub(begin));
            }
            tokio::time::sleep(pause).await;
        }
        Ok(waits)
    }
}
