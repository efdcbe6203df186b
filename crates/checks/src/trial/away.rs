//! The API server goes away: meanwhile pods run, restart, are probed and evicted as if it were there; when it comes back
//! it is told.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use mainstay_base::clock::{Clock, SystemClock};
use mainstay_cri::Cri;
use serde_json::{Value, json};

use super::runtime::{Running, running};
use super::{LIMIT, create, in_full, phase, pod, until, until_running};
use crate::site::world::World;

/// What all pods together may use.
const FOR_PODS: i64 = 400 << 20;
/// Takes 100 MB a second once the file is there.
const HOG: &str = "while ! [ -e /signs/hog-may-begin ]; do sleep 0.2; done; \
                   i=0; while true; do head -c 5242880 /dev/zero > /memory/$i; i=$((i+1)); sleep 0.05; done";
const BEGIN: &str = "/run/hog-may-begin";
/// Healthy for a while, then not.
const AILING: &str = "touch /tmp/well; sleep 6; rm /tmp/well; sleep 100000";

fn mounts() -> Value {
    json!([{"name": "memory", "mountPath": "/memory"}, {"name": "signs", "mountPath": "/signs"}])
}

pub async fn run(mut world: World) -> Result<()> {
    let absence = Duration::from_secs(if in_full() { 600 } else { 40 });
    let pods: Api<Pod> = Api::default_namespaced(world.client().clone());
    let cri = world.cri()?;
    world.start_agent(&configuration()?).await?;
    let probe = json!({"livenessProbe": {"exec": {"command": ["test", "-e", "/tmp/well"]},
        "periodSeconds": 1, "failureThreshold": 2}});
    let hog = json!({"resources": {"requests": {"memory": "1Mi"}}, "volumeMounts": mounts()});
    let all = [
        pod("steady", "sleep 100000", &json!({}))?,
        pod("ending", "sleep 3", &json!({}))?,
        pod("ailing", AILING, &probe)?,
        pod("hog", HOG, &hog)?,
    ];
    for pod in &all {
        create(&pods, pod).await?;
        until_running(&pods, pod.metadata.name.as_deref().unwrap_or_default()).await?;
    }
    world.kill_server();
    let gone_at = SystemClock::new();
    let before = running(&cri).await?;
    let steady = before.get("steady").context("steady runs")?.clone();
    eprintln!("trial away: the API server is away for {absence:?}");
    started_again(&cri, "ending", &steady, absence).await?;
    started_again(&cri, "ailing", &steady, absence).await?;
    std::fs::write(BEGIN, "")?;
    until("the hog is gone", absence, async || {
        let now = running(&cri).await?;
        ensure!(!now.contains_key("hog"), "the hog runs");
        Ok(())
    })
    .await?;
    // For as long as was said: an agent that gives up in between would not bring back what ends then.
    let last = attempt(&cri, "ending").await;
    tokio::time::sleep(absence.saturating_sub(gone_at.monotonic())).await;
    if in_full() {
        ensure!(
            attempt(&cri, "ending").await > last,
            "no restart in the rest of the absence"
        );
    }
    let now = running(&cri).await?;
    ensure!(now.get("steady") == Some(&steady), "steady was replaced: {now:?}");

    world.restart_server().await?;
    eprintln!("trial away: the API server is back");
    until("the API server is told", LIMIT, async || {
        told(&pods, &steady).await
    })
    .await?;
    // The condition outlasts the hog: BestEffort pods are kept away for a while.
    let small = json!({"resources": {"requests": {"memory": "1Mi"}}});
    create(&pods, &pod("later", "sleep 100000", &small)?).await?;
    until_running(&pods, "later").await
}

fn configuration() -> Result<Value> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let total = text
        .split_whitespace()
        .nth(1)
        .context("MemTotal")?
        .parse::<i64>()?
        << 10;
    Ok(json!({"systemReserved": {"memory": (total - FOR_PODS).to_string()}}))
}

/// The newest start of a pod's container, running or not.
async fn attempt(cri: &Cri, pod: &str) -> Option<u32> {
    let request = mainstay_cri::runtime_v1::ListContainersRequest { filter: None };
    let listed = cri.list_containers(request).await.ok()?.containers;
    let own = listed.iter().filter(|c| {
        c.labels
            .get("io.kubernetes.pod.name")
            .is_some_and(|name| name == pod)
    });
    own.filter_map(|c| Some(c.metadata.as_ref()?.attempt)).max()
}

/// Waits until a pod's container was started once more than at the beginning, and the steady one was not touched.
async fn started_again(cri: &Cri, name: &str, steady: &Running, limit: Duration) -> Result<()> {
    let first = attempt(cri, name).await;
    until(&format!("{name} starts again"), limit, async || {
        ensure!(attempt(cri, name).await > first, "still at {first:?}");
        Ok(())
    })
    .await?;
    let now = running(cri).await?;
    ensure!(now.get("steady") == Some(steady), "steady was replaced: {now:?}");
    Ok(())
}

/// Whether the API server knows what happened.
async fn told(pods: &Api<Pod>, steady: &Running) -> Result<()> {
    let hog = pods.get("hog").await?;
    let reason = hog.status.as_ref().and_then(|s| s.reason.as_deref());
    ensure!(
        phase(&hog) == "Failed" && reason == Some("Evicted"),
        "{:?}",
        hog.status
    );
    for name in ["ending", "ailing"] {
        let restarts = restarts(&pods.get(name).await?)?;
        ensure!(restarts > 0, "{name} was never started again");
    }
    let pod = pods.get("steady").await?;
    let status = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    let id = status
        .and_then(|all| all.first()?.container_id.clone())
        .unwrap_or_default();
    if phase(&pod) != "Running" || restarts(&pod)? != 0 || !id.ends_with(&steady.id) {
        bail!("{:?}", pod.status);
    }
    Ok(())
}

fn restarts(pod: &Pod) -> Result<i32> {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    Ok(statuses
        .context("no container statuses")?
        .iter()
        .map(|c| c.restart_count)
        .sum())
}
