//! A server under a thousand watchers, 64 writers and one tenant who means harm: do heartbeats stay quick, does memory stay
//! bounded, is anything lost? 20 seconds, ten minutes with `MAINSTAY_TEST_TIER=full`.
//!
//! Client and server share the machine, and the tenant's client takes its part of it: a harder case than a real one.

mod fleet;
mod site;
mod teams;
mod tenant;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use parking_lot::Mutex;

use self::teams::Teams;
use self::tenant::Answers;
use super::apiserver::child::Server;
use super::{Figure, Report};

const SECONDS: u64 = 20;
const SECONDS_FULL: u64 = 600;
/// The bound of a heartbeat, in milliseconds.
const HEARTBEAT_P99_MS: f64 = 50.0;
/// What the server may take at most, whatever the tenant does.
const MEMORY_MB: f64 = 400.0;
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
const MB: f64 = 1e6;

/// Says when the load is over, and notes what must not happen.
#[derive(Default)]
pub struct Run {
    over: AtomicBool,
    failures: AtomicUsize,
    first: Mutex<Option<String>>,
}

impl Run {
    /// Whether to stop.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Notes a request of an honest client that was not answered well.
    pub fn failed(&self, what: impl std::fmt::Display) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.first.lock().get_or_insert_with(|| what.to_string());
    }

    fn note(&self) -> (f64, String) {
        let first = self.first.lock().clone();
        let failures = self.failures.load(Ordering::Relaxed);
        (
            failures as f64,
            first.map(|first| format!("first: {first}")).unwrap_or_default(),
        )
    }
}

/// Measures everything, in a temporary directory ($TMPDIR must be on a disk, not in memory).
pub fn run() -> Result<Report> {
    let full = std::env::var("MAINSTAY_TEST_TIER").is_ok_and(|tier| tier == "full");
    let length = Duration::from_secs(if full { SECONDS_FULL } else { SECONDS });
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(measure(length))
}

async fn measure(length: Duration) -> Result<Report> {
    let folder = tempfile::tempdir()?;
    let flags = site::flags(folder.path())?;
    let (server, _) = Server::start_with(folder.path(), &flags).await?;
    site::prepare(&server).await?;
    tenant::fill(&server).await?;
    let (fleet, team, abuse) = (
        Arc::<Run>::default(),
        Arc::<Run>::default(),
        Arc::<Run>::default(),
    );
    let teams = Teams::open(&server, team.clone()).await?;
    let before = server.memory()?.rss;
    let heartbeats = fleet::beat(server.kubeconfig(), fleet.clone());
    let tenant = tenant::rage(server.kubeconfig(), abuse.clone());
    let writers = teams.write();
    let (cpu, peak) = (server.cpu()?, watched(&server, length).await?);
    let cores = (server.cpu()? - cpu) / length.as_secs_f64();
    for run in [&fleet, &team, &abuse] {
        run.end();
    }
    let waits = heartbeats.join().expect("the heartbeats' thread ends")?;
    let answers = tenant.join().expect("the tenant's thread ends")?;
    let told = teams.settle(writers).await?;
    let quiet = server.memory()?.rss;
    drop(server);
    let (server, _) = Server::start_with(folder.path(), &flags).await?;
    let lost = told.lost(&server).await?;
    let mut figures = heartbeat_figures(waits, &fleet);
    figures.extend(team_figures(&told, lost, &team));
    figures.extend(tenant_figures(&answers));
    let note = format!(
        "{:.0} MB before, {:.0} MB after the load",
        before / MB,
        quiet / MB
    );
    figures.push(figure("memory peak", peak / MB, "MB", Some(MEMORY_MB), note));
    figures.push(figure("server CPU", cores, "cores", None, String::new()));
    Ok(Report {
        name: "load",
        figures,
    })
}

/// Waits, and gives back the most memory that was seen.
async fn watched(server: &Server, length: Duration) -> Result<f64> {
    let mut peak: f64 = 0.0;
    let samples = length.as_millis() / SAMPLE_EVERY.as_millis();
    for _ in 0..samples {
        tokio::time::sleep(SAMPLE_EVERY).await;
        peak = peak.max(server.memory()?.rss);
    }
    Ok(peak)
}

fn figure(name: &str, value: f64, unit: &'static str, target: Option<f64>, note: String) -> Figure {
    Figure {
        name: name.to_owned(),
        value,
        unit,
        target,
        note,
    }
}

fn heartbeat_figures(mut waits: Vec<Duration>, run: &Run) -> Vec<Figure> {
    waits.sort_unstable();
    let millis = |part: f64| {
        let at = (waits.len().saturating_sub(1)) as f64 * part;
        waits.get(at as usize).copied().unwrap_or_default().as_secs_f64() * 1000.0
    };
    let note = format!(
        "{} nodes; p50 {:.1} ms, p90 {:.1} ms, worst {:.0} ms, n={}, fsync on",
        fleet::NODES,
        millis(0.5),
        millis(0.9),
        millis(1.0),
        waits.len()
    );
    let (failures, first) = run.note();
    vec![
        figure("heartbeat p99", millis(0.99), "ms", Some(HEARTBEAT_P99_MS), note),
        figure("heartbeats that failed", failures, "", Some(0.0), first),
    ]
}

fn team_figures(told: &teams::Told, lost: usize, run: &Run) -> Vec<Figure> {
    let (failures, first) = run.note();
    let writes = format!("{} writers, {} watchers", teams::WRITERS, teams::WATCHERS);
    vec![
        figure("writes acknowledged", told.writes as f64, "", None, writes),
        figure("writes and watches that failed", failures, "", Some(0.0), first),
        figure(
            "writes lost after kill -9",
            lost as f64,
            "",
            Some(0.0),
            String::new(),
        ),
        figure("events delivered", told.events as f64, "", None, String::new()),
        figure(
            "events missed or repeated",
            told.wrong as f64,
            "",
            Some(0.0),
            told.first_wrong.clone(),
        ),
    ]
}

fn tenant_figures(answers: &Answers) -> Vec<Figure> {
    let counted = |name: &str, code: u16| {
        let note = answers.of(code);
        figure(name, answers.count(code) as f64, "", None, note)
    };
    vec![
        counted("tenant's requests answered", 200),
        counted("tenant told to come back (429)", 429),
        counted("tenant over quota (403)", 403),
        counted("tenant's bodies too large (413)", 413),
        figure(
            "tenant's streams held",
            answers.held() as f64,
            "",
            None,
            answers.others(),
        ),
    ]
}
