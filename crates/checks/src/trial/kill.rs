//! The agent is killed with SIGKILL at any moment while pods come and go: no container is lost, none runs twice, nothing
//! is left behind.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use mainstay_cri::Cri;
use serde_json::json;

use super::runtime::{Running, running, sandboxes};
use super::{LIMIT, create, in_full, pod, until, until_running};
use crate::site::world::{World, cgroup};

/// Pods that live through all of it.
const STEADY: usize = 3;
/// Names of pods that come and go.
const CHURNED: usize = 5;
const SLEEP: &str = "trap 'exit 0' TERM; sleep 100000 & wait";

pub async fn run(mut world: World) -> Result<()> {
    let rounds = if in_full() { 50 } else { 6 };
    let seed = fastrand::u64(..);
    eprintln!("trial kill: {rounds} rounds, seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let pods: Api<Pod> = Api::default_namespaced(world.client().clone());
    let cri = world.cri()?;
    world.start_agent(&json!({})).await?;
    for number in 0..STEADY {
        let name = format!("steady-{number}");
        create(&pods, &pod(&name, SLEEP, &json!({}))?).await?;
        until_running(&pods, &name).await?;
    }
    let before = steady(&cri).await?;
    ensure!(before.len() == STEADY, "{before:?}");

    let stop = Arc::new(AtomicBool::new(false));
    let churn = tokio::spawn(churn(pods.clone(), stop.clone(), random.fork()));
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_millis(random.u64(100..2_500))).await;
        world.kill_agent();
        nothing_is_doubled(&cri).await?;
        world.start_agent(&json!({})).await?;
        let now = steady(&cri).await?;
        ensure!(now == before, "round {round}: {before:?} became {now:?}");
    }
    stop.store(true, Ordering::Relaxed);
    let changes = churn.await??;
    eprintln!("trial kill: {changes} pods were created or deleted meanwhile");
    ensure!(changes >= rounds, "only {changes} changes in {rounds} rounds");
    until("what runs is what the API says", LIMIT, async || {
        agree(&pods, &cri, world.folder()).await
    })
    .await?;
    ensure!(
        steady(&cri).await? == before,
        "a steady pod's container was replaced at the end"
    );
    for name in pods
        .list(&ListParams::default())
        .await?
        .items
        .iter()
        .filter_map(|p| p.metadata.name.as_deref())
    {
        pods.delete(name, &DeleteParams::default().grace_period(1))
            .await?;
    }
    until("nothing is left", LIMIT, async || {
        agree(&pods, &cri, world.folder()).await
    })
    .await
}

async fn steady(cri: &Cri) -> Result<Vec<(String, Running)>> {
    let all = running(cri).await?.into_iter();
    Ok(all.filter(|(name, _)| name.starts_with("steady-")).collect())
}

async fn nothing_is_doubled(cri: &Cri) -> Result<()> {
    running(cri).await?;
    sandboxes(cri).await?;
    Ok(())
}

/// Creates and deletes pods until told to stop; how often.
async fn churn(pods: Api<Pod>, stop: Arc<AtomicBool>, mut random: fastrand::Rng) -> Result<usize> {
    let mut changes = 0;
    while !stop.load(Ordering::Relaxed) {
        let name = format!("churned-{}", random.usize(..CHURNED));
        match pods.get_opt(&name).await? {
            None => create(&pods, &pod(&name, SLEEP, &json!({}))?).await?,
            Some(pod) if pod.metadata.deletion_timestamp.is_some() => {}
            Some(_) => drop(
                pods.delete(&name, &DeleteParams::default().grace_period(1))
                    .await?,
            ),
        }
        changes += 1;
        tokio::time::sleep(Duration::from_millis(random.u64(50..800))).await;
    }
    Ok(changes)
}

/// Compares the API's pods with the runtime, the cgroups and the folders of pods.
async fn agree(pods: &Api<Pod>, cri: &Cri, folder: &Path) -> Result<()> {
    let mut wanted = BTreeSet::new();
    for pod in pods.list(&ListParams::default()).await?.items {
        let name = pod.metadata.name.clone().unwrap_or_default();
        ensure!(
            pod.metadata.deletion_timestamp.is_none(),
            "{name} is still being deleted"
        );
        ensure!(
            super::phase(&pod) == "Running",
            "{name} is {}",
            super::phase(&pod)
        );
        wanted.insert(pod.metadata.uid.unwrap_or_default());
    }
    let running: BTreeSet<String> = running(cri).await?.into_values().map(|r| r.uid).collect();
    ensure!(running == wanted, "running {running:?}, wanted {wanted:?}");
    let ready: BTreeSet<String> = sandboxes(cri).await?.into_keys().collect();
    ensure!(ready == wanted, "sandboxes of {ready:?}, wanted {wanted:?}");
    let groups = format!("/sys/fs/cgroup/memory/{}/kubepods/besteffort", cgroup(folder));
    let groups = names(Path::new(&groups), "pod");
    ensure!(groups == wanted, "cgroups of {groups:?}, wanted {wanted:?}");
    let folders = names(Path::new("/var/lib/kubelet/pods"), "");
    ensure!(folders == wanted, "folders of {folders:?}, wanted {wanted:?}");
    match wanted.len() {
        0..=8 => Ok(()),
        many => bail!("{many} pods"),
    }
}

/// Names of the folders in a folder that begin so, without that beginning.
fn names(folder: &Path, prefix: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|e| e.path().is_dir());
    folders
        .filter_map(|e| Some(e.file_name().to_str()?.strip_prefix(prefix)?.to_owned()))
        .collect()
}
