//! The API server as a process: `mainstay server` on the embedded store with fsync, beside kube-apiserver 1.36.3 with etcd
//! 3.6.16 as measured on the same kind of machine (2 cores, the client on them too; the published figures).

pub mod bare;
pub(super) mod child;
pub(super) mod client;
mod growth;
mod load;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use hyper::Method;
use mainstay_base::clock::{Clock, SystemClock};
use serde_json::json;

use self::child::Server;
use self::client::Client;
use self::load::{Phase, REQUESTERS, Watchers, measured, requests};
use super::{Figure, Report};

/// Connections of the throughput figures.
const CONNECTIONS: usize = 4;
const CONFIG_MAPS: usize = 10_000;
const NODES: usize = 5_000;
const LEASES: usize = 5_000;
/// Patches of each kind.
const PATCHES: usize = 5_000;
const GETS: usize = 20_000;
/// Objects in store for the restart.
const FILLED: usize = 50_000;
const RENEWALS_PER_SECOND: usize = 500;
const RENEWAL_SECONDS: usize = 10;
const WATCHERS: usize = 1_000;
const WATCH_CONNECTIONS: usize = 10;
const EVENTS: usize = 50;
const LISTS: usize = 10;
const SELECTED_LISTS: usize = 200;
/// Time to settle before idle memory is read.
const SETTLE: Duration = Duration::from_secs(10);
const MB: f64 = 1e6;

/// The figure by which machines are compared.
const LIST: &str = "server CPU, list of 5,000 nodes";
/// What a server without content needed for that list on the machine on which the targets were set, in milliseconds.
const LIST_WHERE_TARGETS_COME_FROM: f64 = 23.0;

/// What can be measured alone.
pub const PARTS: &[&str] = &[
    "start",
    "writes",
    "memory",
    "lists",
    "heartbeats",
    "watches",
    "growth",
];

/// Measures one part or everything, in a temporary directory ($TMPDIR must be on a disk, not in memory).
pub fn run(only: Option<&str>) -> Result<Report> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(measure(only))
}

async fn measure(only: Option<&str>) -> Result<Report> {
    let limits = limits(only).await?;
    let mut figures = product(only).await?;
    for figure in &mut figures {
        let limit = limits.iter().find(|limit| limit.name == figure.name);
        if let Some(limit) = limit.filter(|limit| limit.value > 0.0) {
            let ratio = figure.value / limit.value;
            let told = format!("bare server {:.3}, {ratio:.1}x; ", limit.value);
            figure.note.insert_str(0, &told);
        }
    }
    if let Some(list) = limits.iter().find(|limit| limit.name == LIST) {
        let speed = LIST_WHERE_TARGETS_COME_FROM / list.value;
        let note = format!(
            "{LIST_WHERE_TARGETS_COME_FROM} ms on the machine of the targets: this one is now {speed:.2} times as fast"
        );
        figures.push(Figure {
            name: format!("bare {LIST}"),
            value: list.value,
            unit: "ms",
            target: None,
            note,
        });
    }
    Ok(Report {
        name: "apiserver",
        figures,
    })
}

/// The same requests to a server that keeps nothing.
async fn limits(only: Option<&str>) -> Result<Vec<Figure>> {
    let wanted = |part: &str| only.is_none_or(|only| only == part);
    let folder = tempfile::tempdir()?;
    let server = Server::start_bare(folder.path()).await?;
    let client = Arc::new(server.client(CONNECTIONS).await?);
    let mut figures = Vec::new();
    if wanted("writes") {
        writes(&server, &client, &mut figures).await?;
    }
    if wanted("heartbeats") {
        heartbeats(&server, &client, &mut figures).await?;
    }
    if wanted("watches") {
        watches(&server, &mut figures).await?;
    }
    // The measure of the machine's speed.
    lists(&server, &client, &mut figures).await?;
    Ok(figures)
}

async fn product(only: Option<&str>) -> Result<Vec<Figure>> {
    let wanted = |parts: &[&str]| only.is_none_or(|only| parts.contains(&only));
    let folder = tempfile::tempdir()?;
    let mut figures = Vec::new();
    let (server, took) = Server::start(folder.path()).await?;
    if wanted(&["start"]) {
        let name = "start to readyz, empty store";
        figures.push(start_figure(name, took, 0.1, server.cpu()?));
        tokio::time::sleep(SETTLE).await;
        let peer = "upstream 318 MiB (published)";
        memory("idle memory", &server, 15.0, peer, &mut figures)?;
    }
    let client = Arc::new(server.client(CONNECTIONS).await?);
    let few = match wanted(&["growth"]) {
        true => Some(growth::sample(&server, &client).await?),
        false => None,
    };
    match wanted(&["writes"]) {
        true => writes(&server, &client, &mut figures).await?,
        false => drop(create_maps(&client, 0, CONFIG_MAPS).await?),
    }
    if wanted(&["memory", "lists", "heartbeats", "growth"]) {
        cluster(&client).await?;
    }
    if wanted(&["memory"]) {
        let peer = "upstream 1,080 MiB (published)";
        let name = "memory with 10,000 ConfigMaps, 5,000 Nodes, 5,000 Leases";
        memory(name, &server, 130.0, peer, &mut figures)?;
    }
    if wanted(&["lists"]) {
        lists(&server, &client, &mut figures).await?;
    }
    if wanted(&["heartbeats"]) {
        heartbeats(&server, &client, &mut figures).await?;
    }
    if wanted(&["watches"]) {
        watches(&server, &mut figures).await?;
    }
    if let Some(few) = few {
        fill(&server, &client, &mut figures).await?;
        let many = growth::sample(&server, &client).await?;
        figures.extend(growth::figures(&few, &many, FILLED));
        drop((client, server));
        let (server, took) = Server::start(folder.path()).await?;
        let name = format!("kill -9, start to readyz, {FILLED} objects");
        figures.push(start_figure(&name, took, 1.0, server.cpu()?));
    }
    Ok(figures)
}

/// `target`: the most that is allowed, or the least when the peer is a rate.
fn figure(name: &str, value: f64, unit: &'static str, target: f64, note: String) -> Figure {
    Figure {
        name: name.to_owned(),
        value,
        unit,
        target: Some(target),
        note,
    }
}

fn start_figure(name: &str, took: Duration, target: f64, cpu: f64) -> Figure {
    let note = format!("{cpu:.2} CPU s; upstream 3.4 s, 3.4 CPU s on an empty store (published)");
    figure(name, took.as_secs_f64(), "s", target, note)
}

fn memory(name: &str, server: &Server, target: f64, peer: &str, figures: &mut Vec<Figure>) -> Result<()> {
    let memory = server.memory()?;
    let note = format!("RssAnon {:.1} MB; {peer}", memory.anonymous / MB);
    figures.push(figure(name, memory.rss / MB, "MB", target, note));
    Ok(())
}

/// A row per request's CPU and one per rate, beside the peer's.
fn throughput(name: &str, phase: Phase, cpu: (f64, f64), rate: f64, figures: &mut Vec<Figure>) {
    let (target, peer) = cpu;
    let ratio = peer / phase.cpu_ms;
    let note = format!(
        "upstream {peer} ms (published), {ratio:.1}x; n={}, fsync on",
        phase.samples
    );
    figures.push(figure(
        &format!("server CPU per {name}"),
        phase.cpu_ms,
        "ms",
        target,
        note,
    ));
    let note = format!(
        "upstream {rate}/s (published), {:.1}x; p50 {:.1} ms, p99 {:.1} ms",
        phase.per_second / rate,
        phase.p50_ms,
        phase.p99_ms
    );
    figures.push(figure(
        &format!("{name}, {REQUESTERS} requesters"),
        phase.per_second,
        "req/s",
        rate * 5.0,
        note,
    ));
}

fn map_path(number: usize) -> String {
    format!("/api/v1/namespaces/{}/configmaps", map_namespace(number))
}

/// Two namespaces with 5,000 each.
fn map_namespace(number: usize) -> &'static str {
    if number < CONFIG_MAPS / 2 {
        "default"
    } else {
        "kube-public"
    }
}

async fn writes(server: &Server, client: &Arc<Client>, figures: &mut Vec<Figure>) -> Result<()> {
    let phase = measured(server, create_maps(client, 0, CONFIG_MAPS)).await?;
    throughput("create", phase, (0.12, 1.5), 1_044.0, figures);
    let asked = client.clone();
    let get = move |number: usize| {
        let client = asked.clone();
        let number = number % CONFIG_MAPS;
        async move {
            client
                .get(&format!("{}/cm-{number}", map_path(number)))
                .await
                .map(drop)
        }
    };
    let phase = measured(server, requests(REQUESTERS, GETS, get)).await?;
    throughput("get", phase, (0.05, 0.9), 1_591.0, figures);
    let merge = patches(client, "application/merge-patch+json", "");
    let phase = measured(server, merge).await?;
    throughput("merge patch", phase, (0.14, 2.3), 723.0, figures);
    let apply = patches(
        client,
        "application/apply-patch+yaml",
        "?fieldManager=bench&force=true",
    );
    let phase = measured(server, apply).await?;
    throughput("apply patch", phase, (0.20, 2.3), 742.0, figures);
    Ok(())
}

async fn create_maps(client: &Arc<Client>, first: usize, count: usize) -> Result<Vec<Duration>> {
    let client = client.clone();
    let create = move |number: usize| {
        let client = client.clone();
        let number = first + number;
        async move {
            let object = load::config_map(&format!("cm-{number}"), number);
            client.create(&map_path(number), object).await.map(drop)
        }
    };
    requests(REQUESTERS, count, create).await
}

async fn patches(
    client: &Arc<Client>,
    content_type: &'static str,
    query: &'static str,
) -> Result<Vec<Duration>> {
    let client = client.clone();
    let patch = move |number: usize| {
        let client = client.clone();
        async move {
            let body = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "data": {"patched": format!("{content_type} {number}")},
            });
            let path = format!("{}/cm-{number}{query}", map_path(number));
            client
                .send(Method::PATCH, &path, content_type, body.to_string())
                .await
                .map(drop)
        }
    };
    requests(REQUESTERS, PATCHES, patch).await
}

/// The objects of a cluster of 5,000 nodes.
async fn cluster(client: &Arc<Client>) -> Result<()> {
    let made = client.clone();
    let node = move |number: usize| {
        let client = made.clone();
        async move { client.create("/api/v1/nodes", load::node(number)).await.map(drop) }
    };
    requests(REQUESTERS, NODES, node).await?;
    let made = client.clone();
    let lease = move |number: usize| {
        let client = made.clone();
        async move { load::create_lease(&client, number).await }
    };
    requests(REQUESTERS, LEASES, lease).await.map(drop)
}

async fn lists(server: &Server, client: &Arc<Client>, figures: &mut Vec<Figure>) -> Result<()> {
    let bytes = client.measure("/api/v1/nodes").await?;
    let asked = client.clone();
    let list = move |_| {
        let client = asked.clone();
        async move { client.measure("/api/v1/nodes").await.map(drop) }
    };
    let phase = measured(server, requests(1, LISTS, list)).await?;
    let note = format!(
        "{:.1} MB; upstream 200-480 ms (published), {:.1}x; wall p50 {:.0} ms, n={LISTS}",
        bytes as f64 / MB,
        200.0 / phase.cpu_ms,
        phase.p50_ms
    );
    figures.push(figure(LIST, phase.cpu_ms, "ms", 35.0, note));
    let asked = client.clone();
    let selected = move |number: usize| {
        let client = asked.clone();
        async move {
            let group = number % (CONFIG_MAPS / 2 / 100);
            let path = format!("/api/v1/namespaces/default/configmaps?labelSelector=group%3Dg{group}");
            client.measure(&path).await.map(drop)
        }
    };
    let phase = measured(server, requests(1, SELECTED_LISTS, selected)).await?;
    let note = format!(
        "upstream 5 ms (published), {:.1}x; wall p50 {:.1} ms, n={SELECTED_LISTS}",
        5.0 / phase.cpu_ms,
        phase.p50_ms
    );
    let name = "server CPU, list of 100 of 5,000 by label";
    figures.push(figure(name, phase.cpu_ms, "ms", 0.5, note));
    Ok(())
}

async fn heartbeats(server: &Server, client: &Arc<Client>, figures: &mut Vec<Figure>) -> Result<()> {
    let renewals = load::renewals(client.clone(), LEASES, RENEWALS_PER_SECOND, RENEWAL_SECONDS);
    let phase = measured(server, renewals).await?;
    let note = format!(
        "upstream 1.36 cores (published), {:.0}x; {:.0}/s reached, n={}, fsync on",
        1.36 / phase.cores,
        phase.per_second,
        phase.samples
    );
    figures.push(figure(
        "500 lease renewals/s, server CPU",
        phase.cores,
        "cores",
        0.08,
        note,
    ));
    let note = format!("upstream 43 ms (published); p50 {:.1} ms", phase.p50_ms);
    figures.push(figure(
        "500 lease renewals/s, p99",
        phase.p99_ms,
        "ms",
        10.0,
        note,
    ));
    Ok(())
}

async fn watches(server: &Server, figures: &mut Vec<Figure>) -> Result<()> {
    let client = server.client(WATCH_CONNECTIONS).await?;
    let namespace = "/api/v1/namespaces/kube-system/configmaps";
    client.create(namespace, load::config_map("watched", 0)).await?;
    let mut watchers = Watchers::open(&client, WATCHERS, namespace).await?;
    let path = format!("{namespace}/watched");
    let pause = Duration::from_millis(200);
    let phase = measured(server, watchers.deliver(&client, &path, EVENTS, pause)).await?;
    let note = format!(
        "upstream 0.045 ms (published), {:.1}x; p50 {:.1} ms, p99 {:.1} ms, {WATCHERS} watchers, n={}",
        0.045 / phase.cpu_ms,
        phase.p50_ms,
        phase.p99_ms,
        phase.samples
    );
    figures.push(figure(
        "server CPU per delivered event",
        phase.cpu_ms,
        "ms",
        0.010,
        note,
    ));
    Ok(())
}

/// Fills the store, and measures again what must not depend on how full it is.
async fn fill(server: &Server, client: &Arc<Client>, figures: &mut Vec<Figure>) -> Result<()> {
    let present = CONFIG_MAPS + NODES + LEASES;
    create_maps(client, CONFIG_MAPS, FILLED - present - PATCHES).await?;
    let phase = measured(
        server,
        create_maps(client, FILLED - present + CONFIG_MAPS - PATCHES, PATCHES),
    )
    .await?;
    let clock = SystemClock::new();
    let begin = clock.monotonic();
    let path = "/api/v1/namespaces/default/configmaps?labelSelector=group%3Dg7";
    client.measure(path).await?;
    let note = format!(
        "with {FILLED} objects in store; list of 100 by label {:.1} ms wall, n={}",
        (clock.monotonic() - begin).as_secs_f64() * 1000.0,
        phase.samples
    );
    figures.push(figure(
        "server CPU per create, full store",
        phase.cpu_ms,
        "ms",
        0.12,
        note,
    ));
    memory(
        &format!("memory with {FILLED} objects"),
        server,
        200.0,
        "no target upstream",
        figures,
    )
}
