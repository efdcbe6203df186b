//! The binary as its user meets it: time from start to ready, what it uses while idle, how fast it answers.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use mainstay_base::clock::{Clock, SystemClock};
use serde_json::json;

use super::{Figure, Report};
use crate::site::patience;

/// Objects that are in the store when the server starts.
const OBJECTS: usize = 1_000;
/// Starts measured; the middle one counts.
const STARTS: usize = 5;
const WRITERS: usize = 32;
const WATCHERS: usize = 10;
const LISTS: usize = 20;
/// After the last change, before idling is measured.
const SETTLE: Duration = Duration::from_secs(10);
/// How long idling is measured.
const IDLE: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(60);
/// CPU times in /proc are in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;

/// The binary built beside this one.
pub fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let binary = own.with_file_name("mainstay");
    if !binary.is_file() {
        bail!(
            "no {}: build the binary with the same profile first",
            binary.display()
        );
    }
    Ok(binary)
}

/// A process that ends with this value.
pub struct Process(pub Child);

impl Process {
    /// Asks it to end and waits.
    pub fn stop(mut self) -> Result<()> {
        Command::new("kill")
            .arg(self.0.id().to_string())
            .status()
            .context("kill")?;
        self.0.wait().context("the process does not end")?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already after `stop`.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let parsed = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Waits until `/readyz` says ok; looks often, since this is what is measured.
pub async fn ready(client: &Client) -> Result<()> {
    let clock = SystemClock::new();
    while clock.monotonic() < patience(LIMIT) {
        let request = hyper::Request::get("/readyz").body(Vec::new())?;
        if client.request_text(request).await.is_ok_and(|text| text == "ok") {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    bail!("not ready within {LIMIT:?}")
}

pub fn server(data: &Path, port: u16) -> Result<Process> {
    let child = Command::new(binary()?)
        .args([
            "server",
            "--log",
            "error",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--data-dir",
        ])
        .arg(data)
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Process(child))
}

pub async fn until_file(path: &Path) -> Result<()> {
    let clock = SystemClock::new();
    while !path.exists() {
        if clock.monotonic() > patience(LIMIT) {
            bail!("no {} within {LIMIT:?}", path.display());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn object(number: usize) -> ConfigMap {
    let mut object = ConfigMap::default();
    object.metadata.name = Some(format!("bench-{number}"));
    object.data = Some([("value".to_string(), "x".repeat(1000))].into());
    object
}

/// Creates objects with many writers at once; operations per second.
async fn creates(client: &Client) -> Result<f64> {
    let clock = SystemClock::new();
    let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
    futures::stream::iter(0..OBJECTS)
        .map(|number| {
            let api = api.clone();
            async move { api.create(&PostParams::default(), &object(number)).await }
        })
        .buffer_unordered(WRITERS)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    Ok(OBJECTS as f64 / clock.monotonic().as_secs_f64())
}

/// Lists all objects again and again; objects per second as they come off the wire.
async fn lists(client: &Client) -> Result<f64> {
    let clock = SystemClock::new();
    let mut bytes = 0;
    for _ in 0..LISTS {
        let request = hyper::Request::get("/api/v1/namespaces/default/configmaps").body(Vec::new())?;
        bytes += client.request_text(request).await?.len();
    }
    if bytes < LISTS * OBJECTS * 1000 {
        bail!("{bytes} bytes are not {LISTS} lists");
    }
    Ok((LISTS * OBJECTS) as f64 / clock.monotonic().as_secs_f64())
}

/// Events per second that reach many watchers which start behind the present.
async fn watches(client: &Client) -> Result<f64> {
    let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let version = api
        .list(&ListParams::default().limit(1))
        .await?
        .metadata
        .resource_version
        .context("a list has a version")?;
    let watcher = |api: Api<ConfigMap>, version: String| async move {
        let mut events = api.watch(&WatchParams::default(), &version).await?.boxed();
        let mut seen = 0;
        while seen < OBJECTS {
            match events.try_next().await?.context("the watch ended")? {
                WatchEvent::Modified(_) => seen += 1,
                WatchEvent::Error(error) => bail!("{error}"),
                _ => {}
            }
        }
        anyhow::Ok(())
    };
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|_| tokio::spawn(watcher(api.clone(), version.clone())))
        .collect();
    let clock = SystemClock::new();
    futures::stream::iter(0..OBJECTS)
        .map(|number| {
            let api = api.clone();
            let patch = kube::api::Patch::Merge(json!({"data": {"value": format!("y{number}")}}));
            async move {
                api.patch(&format!("bench-{number}"), &Default::default(), &patch)
                    .await
            }
        })
        .buffer_unordered(WRITERS)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    for watcher in watchers {
        tokio::time::timeout(LIMIT, watcher)
            .await
            .context("watchers are behind")???;
    }
    Ok((OBJECTS * WATCHERS) as f64 / clock.monotonic().as_secs_f64())
}

/// Start, ready; the middle of several times, in milliseconds.
async fn starts(data: &Path, port: u16) -> Result<f64> {
    let client = client(&data.join("admin.kubeconfig")).await?;
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let clock = SystemClock::new();
        let process = server(data, port)?;
        ready(&client).await?;
        times.push(clock.monotonic().as_secs_f64() * 1000.0);
        process.stop()?;
    }
    times.sort_by(f64::total_cmp);
    Ok(times[STARTS / 2])
}

/// Resident megabytes and CPU seconds of a process.
pub fn used(pid: u32) -> Result<(f64, f64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
        .context("no VmRSS")?
        .trim()
        .parse()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .context("a malformed stat file")?
        .1
        .split_whitespace()
        .collect();
    let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok((kilobytes / 1024.0, ticks / TICKS_PER_SECOND))
}

/// The management plane with all its controllers and one hosted plane, with nothing to do: megabytes, share of a core.
async fn idle(folder: &Path) -> Result<(f64, f64)> {
    let data = folder.join("managed");
    let (listen, dashboard) = (free_port()?, free_port()?);
    let child = Command::new(binary()?)
        .args([
            "manage",
            "--log",
            "error",
            "--listen",
            &format!("127.0.0.1:{listen}"),
        ])
        .args([
            "--dashboard",
            &format!("127.0.0.1:{dashboard}"),
            "--bridge",
            "10.93.0.0/24",
            "--data-dir",
        ])
        .arg(&data)
        .stderr(Stdio::null())
        .spawn()?;
    let process = Process(child);
    let undo = Undo(data.clone());
    until_file(&data.join("running.json")).await?;
    let client = client(&data.join("admin.kubeconfig")).await?;
    let cluster = json!({
        "apiVersion": "mainstay.dev/v1alpha1", "kind": "ClusterDeployment", "metadata": {"name": "idle"},
        "spec": {"version": "v1.36.3"},
    });
    let api: Api<mainstay_api::ClusterDeployment> = Api::default_namespaced(client);
    api.create(&PostParams::default(), &serde_json::from_value(cluster)?)
        .await?;
    let clock = Arc::new(SystemClock::new());
    while api
        .get("idle")
        .await?
        .status
        .is_none_or(|status| status.version.is_empty())
    {
        if clock.monotonic() > LIMIT {
            bail!("no hosted plane within {LIMIT:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(SETTLE).await;
    let (_, before) = used(process.0.id())?;
    tokio::time::sleep(IDLE).await;
    let (megabytes, after) = used(process.0.id())?;
    process.stop()?;
    drop(undo);
    Ok((megabytes, (after - before) / IDLE.as_secs_f64() * 100.0))
}

/// Undoes an installation, however the measurement ends.
pub struct Undo(pub PathBuf);

impl Drop for Undo {
    fn drop(&mut self) {
        let Ok(binary) = binary() else { return };
        let status = Command::new(binary)
            .args(["down", "--yes", "--progress", "none", "--data-dir"])
            .arg(&self.0)
            .stdout(Stdio::null())
            .status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("bench: {} was not undone", self.0.display());
        }
    }
}

/// Value beside target, as a factor that is above 1 where the target is missed.
pub fn ratio(value: f64, target: f64) -> String {
    format!("{:.2} of the target", value / target)
}

fn figure(name: &str, value: f64, unit: &'static str, target: Option<f64>) -> Figure {
    Figure {
        name: name.to_owned(),
        value,
        unit,
        target,
        note: target.map(|target| ratio(value, target)).unwrap_or_default(),
    }
}

async fn measure() -> Result<Report> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let port = free_port()?;
    let process = server(&data, port)?;
    until_file(&data.join("admin.kubeconfig")).await?;
    let api = client(&data.join("admin.kubeconfig")).await?;
    ready(&api).await?;
    let mut figures = vec![
        figure(
            "creates, 32 writers over TLS, durable",
            creates(&api).await?,
            "ops/s",
            None,
        ),
        figure(
            "objects listed, 1,000 a list of 1 kB",
            lists(&api).await?,
            "obj/s",
            None,
        ),
        figure(
            "watch events delivered to 10 watchers",
            watches(&api).await?,
            "ev/s",
            None,
        ),
    ];
    drop(api);
    process.stop()?;
    let start = starts(&data, port).await?;
    figures.push(figure(
        "start to /readyz, 1,000 objects stored",
        start,
        "ms",
        Some(300.0),
    ));
    let (megabytes, cpu) = idle(folder.path()).await?;
    figures.push(figure(
        "idle RSS, management and one hosted plane",
        megabytes,
        "MB",
        Some(100.0),
    ));
    figures.push(figure(
        "idle CPU, management and one hosted plane",
        cpu,
        "% core",
        Some(2.0),
    ));
    Ok(Report { name: "up", figures })
}

/// Measures the binary beside this one; needs root for the part with the management plane.
pub fn run() -> Result<Report> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(measure())
}
