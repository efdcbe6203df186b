//! Memory runs short: from the moment at which less is left than the threshold says to the end of the pod that took it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use mainstay_base::clock::{Clock, SystemClock};
use serde_json::json;

use super::super::Figure;
use super::load::{Pods, pod};
use crate::site::world::{World, cgroup};

/// Left above the threshold when the hog begins.
const HEADROOM: i64 = 300 << 20;
/// What the hog may take should nobody end it.
const MOST: &str = "2Gi";
const LIMIT: Duration = Duration::from_secs(60);
/// Once told to begin, takes 200 MB a second; ends at once when asked to.
const HOG: &str = "trap 'exit 0' TERM; while ! [ -e /signs/hog-may-begin ]; do sleep 0.1 & wait $!; done; \
                   i=0; while true; do head -c 10485760 /dev/zero > /hog/$i; i=$((i+1)); sleep 0.05 & wait $!; done";
const BEGIN: &str = "/run/hog-may-begin";

fn number(path: &Path) -> Result<i64> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Ok(text.trim().parse()?)
}

fn field(path: &Path, key: &str) -> Result<i64> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let value = line.and_then(|rest| rest.split_whitespace().next());
    Ok(value.with_context(|| format!("no {key}"))?.parse()?)
}

/// memory.available as documented: capacity without the working set of everything. cgroup v1.
fn available() -> Result<i64> {
    let root = Path::new("/sys/fs/cgroup/memory");
    let capacity = field(Path::new("/proc/meminfo"), "MemTotal:")? << 10;
    let used = number(&root.join("memory.usage_in_bytes"))?;
    let inactive = field(&root.join("memory.stat"), "total_inactive_file ")?;
    Ok(capacity - (used - inactive))
}

/// Processes in the cgroups of a pod.
fn alive(group: &Path) -> bool {
    let folders = std::fs::read_dir(group).into_iter().flatten().flatten();
    let processes =
        |folder: PathBuf| std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    // The sandbox's pause process is one; the container's are more.
    let all: usize = folders.map(|f| processes(f.path()).lines().count()).sum();
    all > 1
}

fn hog() -> Result<Pod> {
    let resources = json!({"requests": {"memory": "1Mi"}, "limits": {"memory": MOST}});
    let mut hog = pod("hog", &["sh", "-c", HOG], resources)?;
    let spec = hog.spec.as_mut().context("a spec")?;
    spec.volumes = serde_json::from_value(json!([
        {"name": "hog", "emptyDir": {"medium": "Memory"}},
        {"name": "signs", "hostPath": {"path": "/run"}},
    ]))?;
    spec.containers[0].volume_mounts = serde_json::from_value(json!([
        {"name": "hog", "mountPath": "/hog"},
        {"name": "signs", "mountPath": "/signs"},
    ]))?;
    Ok(hog)
}

/// Evicts once.
pub async fn measure(world: &mut World, pods: &Pods) -> Result<Figure> {
    let neighbour = pod(
        "neighbour",
        &["sleep", "100000"],
        json!({"requests": {"memory": "300Mi"}}),
    )?;
    pods.start(vec![neighbour]).await?;
    let threshold = available()? - HEADROOM;
    let hard = json!({"evictionHard": {"memory.available": threshold.to_string()}});
    world.start_agent(&hard).await?;
    pods.start(vec![hog()?]).await?;
    let uid = pods.api().get("hog").await?.metadata.uid.context("a uid")?;
    let group = PathBuf::from(format!(
        "/sys/fs/cgroup/memory/{}/kubepods/burstable/pod{uid}",
        cgroup(world.folder())
    ));
    if !alive(&group) {
        bail!("the hog does not run in {}", group.display());
    }
    std::fs::write(BEGIN, "")?;
    let took = tokio::task::spawn_blocking(move || watch(&group, threshold)).await??;
    let victims = victims(pods).await?;
    if victims != ["hog"] {
        bail!("evicted were {victims:?}");
    }
    Ok(Figure {
        name: "memory.available crossing to first kill".to_owned(),
        value: took.as_secs_f64() * 1000.0,
        unit: "ms",
        target: Some(500.0),
        note: "hard threshold, victim: the hog alone, 111 neighbours; kubelet: up to 10 s between looks"
            .to_owned(),
    })
}

/// Looks at memory and the hog every millisecond.
fn watch(group: &Path, threshold: i64) -> Result<Duration> {
    let clock = SystemClock::new();
    let mut crossed = None;
    while clock.monotonic() < LIMIT {
        if crossed.is_none() && available()? < threshold {
            crossed = Some(clock.monotonic());
        }
        if !alive(group) {
            let at = crossed.context("the hog ended before memory was short")?;
            return Ok(clock.monotonic() - at);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    bail!("nobody was evicted within {LIMIT:?}; crossed: {crossed:?}")
}

async fn victims(pods: &Pods) -> Result<Vec<String>> {
    let clock = SystemClock::new();
    loop {
        let listed = pods.api().list(&Default::default()).await?.items;
        let evicted = listed.into_iter().filter(|p| {
            let reason = p.status.as_ref().and_then(|s| s.reason.as_deref());
            reason == Some("Evicted")
        });
        let names: Vec<String> = evicted.filter_map(|p| p.metadata.name).collect();
        if !names.is_empty() || clock.monotonic() > LIMIT {
            return Ok(names);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
