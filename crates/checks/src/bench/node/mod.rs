//! The node agent as a process beside the kubelet's published figures: memory, idle CPU, pod starts above the raw calls to
//! the same containerd, and the time from a crossed memory threshold to the victim's end. Everything runs in namespaces
//! of its own (mounts, network, processes), so that the kernel takes all of it back, however the measurement ends.

mod hunger;
mod load;
mod raw;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use mainstay_base::clock::{Clock as _, SystemClock};
use serde_json::{Value, json};

use self::load::Pods;
use self::raw::{Described, Raw};
use super::{Figure, Report};
use crate::site::world::World;
use crate::site::{enter, inside};

/// Pods of a full node.
const FULL: usize = 110;
/// Times that a full node is started, with and without the agent.
const ROUNDS: usize = 3;
/// Pods started one after the other.
const SINGLES: usize = 15;
/// After start or load, before idling is measured.
const SETTLE: Duration = Duration::from_secs(10);
/// How long an idle node is watched.
const IDLE: Duration = Duration::from_secs(25);
/// Not in step with what the agent does every second.
const SAMPLE_EVERY: Duration = Duration::from_millis(170);

/// Measures the binary beside this one; needs root and containerd.
pub fn run() -> Result<Report> {
    let figures = match inside() {
        Some(folder) => within(&folder)?,
        None => without()?,
    };
    Ok(Report {
        name: "node",
        figures,
    })
}

/// Starts this program again in its namespaces.
fn without() -> Result<Vec<Figure>> {
    let text = enter(&["bench", "node", "--json"])?;
    let told: Value = serde_json::from_str(text.trim()).context("no figures were printed")?;
    let figures = told["figures"].as_array().context("no figures")?;
    Ok(figures.iter().map(read).collect())
}

/// A figure as the other process printed it.
fn read(told: &Value) -> Figure {
    let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
    Figure {
        name: text("name"),
        value: told["value"].as_f64().unwrap_or(f64::NAN),
        // A handful for the rest of a short life.
        unit: text("unit").leak(),
        target: told["target"].as_f64(),
        note: text("note"),
    }
}

fn within(folder: &Path) -> Result<Vec<Figure>> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(measure(folder))
}

fn figure(name: &str, value: f64, unit: &'static str, target: f64, note: String) -> Figure {
    Figure {
        name: name.to_owned(),
        value,
        unit,
        target: Some(target),
        note,
    }
}

async fn measure(folder: &Path) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut world = World::start(folder).await?;
    let raw = Raw::new(&world)?;
    eprintln!("bench: {FULL} pods by raw calls, no agent there");
    let agentless = raw.many(FULL).await?;
    raw.remove_many().await?;

    world.start_agent(&json!({})).await?;
    eprintln!("bench: an idle node");
    tokio::time::sleep(SETTLE).await;
    let idle = watch_idle(&world).await?;
    memory(
        "agent RSS, 0 pods",
        &idle,
        12.0,
        "kubelet ~60 MB (k8s issue 16435)",
        &mut figures,
    );
    writes(&idle, &mut figures);

    eprintln!("bench: {SINGLES} pods one by one, with and without the agent");
    let pods = Pods::new(world.client().clone());
    singles(&raw, &pods, &mut figures).await?;
    fulls(&raw, &pods, agentless, &mut figures).await?;

    eprintln!("bench: {FULL} idle pods");
    tokio::time::sleep(SETTLE).await;
    let idle = watch_idle(&world).await?;
    memory(
        "agent RSS, 110 pods",
        &idle,
        30.0,
        "kubelet 48-125 MB (containerd/cri issue 587)",
        &mut figures,
    );
    let note = "kubelet 0.16-0.20 core (containerd/cri issue 587)".to_owned();
    figures.push(figure("agent CPU, 110 idle pods", idle.cores, "core", 0.01, note));
    eprintln!("bench: memory runs short");
    figures.push(hunger::measure(&mut world, &pods).await?);
    Ok(figures)
}

/// What an idle agent did in [`IDLE`].
struct Idle {
    cores: f64,
    /// Resident and anonymous megabytes, every [`SAMPLE_EVERY`].
    memory: Vec<(f64, f64)>,
    leases: u64,
    others: u64,
}

async fn watch_idle(world: &World) -> Result<Idle> {
    let before = (world.agent_cpu()?, world.writes().await?);
    let mut memory = Vec::new();
    let clock = SystemClock::new();
    let begin = clock.monotonic();
    while clock.monotonic() - begin < IDLE {
        tokio::time::sleep(SAMPLE_EVERY).await;
        memory.push(world.agent_memory()?);
    }
    let after = (world.agent_cpu()?, world.writes().await?);
    Ok(Idle {
        cores: (after.0 - before.0) / IDLE.as_secs_f64(),
        leases: after.1.leases - before.1.leases,
        others: after.1.others - before.1.others,
        memory,
    })
}

/// The mean of an idle time: listings and heartbeats map pages of the program that are given back after them.
fn memory(name: &str, idle: &Idle, target: f64, peer: &str, figures: &mut Vec<Figure>) {
    let rss: Vec<f64> = idle.memory.iter().map(|(rss, _)| *rss).collect();
    let mean = rss.iter().sum::<f64>() / rss.len() as f64;
    let (least, most) = (
        rss.iter().copied().fold(f64::INFINITY, f64::min),
        rss.iter().copied().fold(0.0, f64::max),
    );
    let anonymous = middle(idle.memory.iter().map(|(_, anonymous)| *anonymous).collect());
    let note = format!(
        "mean of {} within {} s, {least:.1} to {most:.1} MB; RssAnon {anonymous:.1} MB; {peer}",
        rss.len(),
        IDLE.as_secs()
    );
    figures.push(figure(name, mean, "MB", target, note));
}

fn writes(idle: &Idle, figures: &mut Vec<Figure>) {
    let hours = IDLE.as_secs_f64() / 3600.0;
    let note = format!(
        "seen over {} s; besides them {} lease renewals; kubelet: lease + status",
        IDLE.as_secs(),
        idle.leases
    );
    let name = "API writes of an idle node per hour, leases aside";
    figures.push(figure(name, idle.others as f64 / hours, "writes", 0.0, note));
}

/// Single starts, in turn with and without the agent, so that a change of the machine's mood meets both.
async fn singles(raw: &Raw, pods: &Pods, figures: &mut Vec<Figure>) -> Result<()> {
    let (mut bare, mut alone, mut with_agent) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..SINGLES {
        bare.push(raw.single(number, Described::Barely).await?);
        alone.push(raw.single(number, Described::Fully).await?);
        with_agent.push(pods.single(number).await?);
    }
    let (bare, alone, with_agent) = (middle(bare), middle(alone), middle(with_agent));
    let note = format!(
        "create to Running seen {with_agent:.0} ms, the same calls alone {alone:.0} ms, without seccomp, masked paths and \
         mounts {bare:.0} ms, n={SINGLES}; kubelet 100s of ms"
    );
    let name = "pod start above raw CRI calls, p50";
    figures.push(figure(name, with_agent - alone, "ms", 20.0, note));
    Ok(())
}

/// Starts of a full node, in turn as the single ones; the pods of the last start stay.
async fn fulls(raw: &Raw, pods: &Pods, agentless: f64, figures: &mut Vec<Figure>) -> Result<()> {
    let mut rounds: Vec<(f64, f64)> = Vec::new();
    for round in 1..=ROUNDS {
        eprintln!("bench: {FULL} pods at once, with and without the agent, {round} of {ROUNDS}");
        if round > 1 {
            pods.remove_many(FULL).await?;
        }
        let alone = raw.many(FULL).await?;
        raw.remove_many().await?;
        rounds.push((pods.start_many(FULL).await?, alone));
    }
    let ratio = middle(
        rounds
            .iter()
            .map(|(with_agent, alone)| with_agent / alone)
            .collect(),
    );
    let told: Vec<String> = rounds
        .iter()
        .map(|(with_agent, alone)| format!("{with_agent:.1} / {alone:.1}"))
        .collect();
    let note = format!(
        "middle of {} s, the same CRI calls alone, {} at once; {agentless:.1} s before the agent was there; kubelet: as \
         the runtime allows",
        told.join(", "),
        raw::AT_ONCE
    );
    let name = "110 pods, create to all Running";
    figures.push(figure(name, ratio, "x raw", 1.15, note));
    Ok(())
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
