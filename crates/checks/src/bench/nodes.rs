//! From an applied cluster to ready nodes on this computer, with the image composed beforehand; and what a machine uses.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::Api;
use kube::api::PostParams;
use mainstay_api::{ClusterDeployment, NodePool};
use mainstay_base::clock::{Clock, SystemClock};

use super::up::{Undo, binary, client, ratio};
use super::{Figure, Report};

const LIMIT: Duration = Duration::from_secs(180);
/// Nodes of the examples' cluster.
const NODES: i32 = 2;

/// Kept between runs, so that the image is composed once: `$MAINSTAY_BENCH_DIR`, else below the temporary folder.
fn folder() -> PathBuf {
    std::env::var_os("MAINSTAY_BENCH_DIR").map_or_else(
        || std::env::temp_dir().join("mainstay-bench-nodes"),
        PathBuf::from,
    )
}

/// The examples without the cluster, in a folder, and the cluster.
fn examples(folder: &Path) -> Result<(PathBuf, ClusterDeployment)> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/local");
    let to = folder.join("manifests");
    std::fs::create_dir_all(&to)?;
    for entry in std::fs::read_dir(&from)? {
        let path = entry?.path();
        let name = path.file_name().context("a file has a name")?;
        if name != "50-cluster.yaml" {
            std::fs::copy(&path, to.join(name))?;
        }
    }
    let cluster = std::fs::read_to_string(from.join("50-cluster.yaml"))?;
    Ok((to, serde_yaml_ng::from_str(&cluster)?))
}

fn up(data: &Path, manifests: &Path) -> Result<()> {
    let status = Command::new(binary()?)
        .args([
            "up",
            "--listen",
            "127.0.0.1:17543",
            "--dashboard",
            "127.0.0.1:17580",
        ])
        .args(["--bridge", "10.94.0.0/24", "--data-dir"])
        .arg(data)
        .arg("-f")
        .arg(manifests)
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("up: {status}");
    }
    Ok(())
}

async fn apply(data: &Path, cluster: &ClusterDeployment) -> Result<f64> {
    let client = client(&data.join("admin.kubeconfig")).await?;
    let clusters: Api<ClusterDeployment> = Api::default_namespaced(client.clone());
    let pools: Api<NodePool> = Api::default_namespaced(client);
    let clock = SystemClock::new();
    clusters.create(&PostParams::default(), cluster).await?;
    loop {
        let ready = pools
            .get_opt("demo-a")
            .await?
            .and_then(|pool| pool.status)
            .map_or(0, |status| status.ready_replicas);
        if ready >= NODES {
            return Ok(clock.monotonic().as_secs_f64());
        }
        if clock.monotonic() > LIMIT {
            bail!("{ready} of {NODES} nodes ready after {LIMIT:?}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Megabytes of all processes of all machines, shared pages counted once, by machine.
fn machines_megabytes() -> Result<f64> {
    let mut kilobytes = 0.0;
    let mut machines = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(groups) = std::fs::read_to_string(entry.path().join("cgroup")) else {
            continue;
        };
        let Some(machine) = groups.lines().find_map(machine_of) else {
            continue;
        };
        machines.insert(machine);
        let Ok(rollup) = std::fs::read_to_string(entry.path().join("smaps_rollup")) else {
            continue;
        };
        kilobytes += rollup
            .lines()
            .find_map(|line| {
                line.strip_prefix("Pss:")?
                    .trim()
                    .strip_suffix(" kB")?
                    .trim()
                    .parse::<f64>()
                    .ok()
            })
            .unwrap_or(0.0);
    }
    if machines.is_empty() {
        bail!("no process of a machine was found");
    }
    Ok(kilobytes / 1024.0 / machines.len() as f64)
}

/// `0::/mainstay/INSTANCE/mNUMBER/...` names a machine.
fn machine_of(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("/mainstay/")?;
    let mut parts = rest.split('/');
    let (instance, number) = (parts.next()?, parts.next()?);
    number.starts_with('m').then(|| format!("{instance}/{number}"))
}

/// Measures with the binary beside this one; needs root, and the packages of an image at the first run.
pub fn run() -> Result<Report> {
    let folder = folder();
    let data = folder.join("data");
    std::fs::create_dir_all(&folder)?;
    let (manifests, cluster) = examples(&folder)?;
    let _undo = Undo(data.clone());
    up(&data, &manifests)?;
    let seconds = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(apply(&data, &cluster))?;
    let megabytes = machines_megabytes()?;
    let figures = vec![
        Figure {
            name: "apply of a cluster to 2 nodes Ready, cached image".into(),
            value: seconds,
            unit: "s",
            target: Some(20.0),
            note: ratio(seconds, 20.0),
        },
        Figure {
            name: "memory per machine (PSS of its processes)".into(),
            value: megabytes,
            unit: "MB",
            target: None,
            note: "agent, detection, containerd, pods".into(),
        },
    ];
    Ok(Report {
        name: "nodes",
        figures,
    })
}
