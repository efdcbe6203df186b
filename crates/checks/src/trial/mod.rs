//! Trials of the node agent on real parts, each in namespaces or on a machine of its own: what it goes through, and what
//! must hold then.

mod away;
mod cgroups;
mod kill;
mod runtime;
mod upstream;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use mainstay_base::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::guest;
use crate::site::world::{IMAGE, NODE, World};
use crate::site::{enter, inside, patience};

/// Longest wait for one thing.
const LIMIT: Duration = Duration::from_secs(90);
/// A wait this long tells what it waits for.
const LONG: Duration = Duration::from_secs(15);

/// Runs a trial; fails with what did not hold.
pub fn run(name: &str) -> Result<()> {
    if !["kill", "away", "upstream", "cgroups", "slices"].contains(&name) {
        bail!("no trial {name}; there are: kill away upstream cgroups slices");
    }
    let Some(folder) = inside() else {
        return match name {
            "cgroups" | "slices" => guest::run(&["trial", name]),
            _ => enter(&["trial", name]).map(drop),
        };
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(within(name, &folder));
    if outcome.is_err() {
        let log = std::fs::read_to_string(folder.join("agent.log")).unwrap_or_default();
        eprintln!("the agent said:\n{log}");
    }
    outcome
}

async fn within(name: &str, folder: &Path) -> Result<()> {
    match name {
        "kill" => kill::run(World::start(folder).await?).await,
        "away" => away::run(World::start(folder).await?).await,
        "upstream" => upstream::run(World::start_on_upstream(folder).await?).await,
        "cgroups" => cgroups::run(folder, "cgroupfs").await,
        _ => cgroups::run(folder, "systemd").await,
    }
}

/// Whether the long form was asked for.
fn in_full() -> bool {
    std::env::var("MAINSTAY_TEST_TIER").is_ok_and(|tier| tier == "full")
}

/// A pod on the node that runs a script; `more`: fields of its container.
fn pod(name: &str, script: &str, more: &Value) -> Result<Pod> {
    let mut container = json!({"name": "a", "image": IMAGE, "command": ["sh", "-c", script]});
    for (key, value) in more.as_object().into_iter().flatten() {
        container[key] = value.clone();
    }
    let spec = json!({
        "nodeName": NODE, "terminationGracePeriodSeconds": 1, "containers": [container],
        "volumes": [
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
            {"name": "signs", "hostPath": {"path": "/run"}},
        ],
    });
    Ok(serde_json::from_value(
        json!({"metadata": {"name": name}, "spec": spec}),
    )?)
}

async fn create(pods: &Api<Pod>, pod: &Pod) -> Result<()> {
    pods.create(&PostParams::default(), pod).await?;
    Ok(())
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// Waits until `condition` gives a value; its errors are what is said when it never does.
async fn until<T>(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let clock = SystemClock::new();
    let mut said = String::new();
    loop {
        match condition().await {
            Ok(value) => return Ok(value),
            Err(why) if clock.monotonic() > patience(limit) => {
                return Err(why).with_context(|| format!("{what}: not within {limit:?}"));
            }
            Err(why) => {
                let why = format!("{why:#}");
                if clock.monotonic() > LONG && said != why {
                    eprintln!("{what}: still waiting: {why}");
                    said = why;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Waits until a pod runs.
async fn until_running(pods: &Api<Pod>, name: &str) -> Result<()> {
    until(&format!("{name} runs"), LIMIT, async || {
        let pod = pods.get(name).await?;
        match phase(&pod) {
            "Running" => Ok(()),
            other => bail!("{name} is {other}: {:?}", pod.status),
        }
    })
    .await
}
