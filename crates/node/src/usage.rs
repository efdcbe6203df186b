//! What pods and their containers use: cgroup files for pods, the runtime's account for containers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::cgroups::Usage;
use crate::context::Shared;
use crate::cri::{CriError, runtime_v1 as v1};
use crate::podspec::{self, labels};
use crate::{disk, qos, volumes};

/// Usage of one container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerUsage {
    /// Name in the spec.
    pub name: String,
    /// The runtime's id of it.
    pub id: String,
    /// Start, nanoseconds since the epoch.
    pub started_at: i64,
    /// Processor time in nanoseconds.
    pub cpu_nanos: u64,
    /// Memory without inactive page cache, bytes.
    pub working_set_bytes: u64,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Anonymous memory, bytes.
    pub rss_bytes: u64,
    /// Writable layer, bytes.
    pub rootfs_bytes: u64,
    /// Writable layer, inodes.
    pub rootfs_inodes: u64,
    /// When the runtime measured the writable layer, nanoseconds since the epoch; 0: not yet.
    pub rootfs_at: i64,
    /// Logs, bytes.
    pub log_bytes: u64,
    /// Logs, inodes.
    pub log_inodes: u64,
}

/// Usage of one pod.
#[derive(Debug, Clone, Default)]
pub struct PodUsage {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its cgroup; `None` when the tree is off or the cgroup is gone.
    pub cgroup: Option<Usage>,
    /// Its containers.
    pub containers: Vec<ContainerUsage>,
}

impl PodUsage {
    /// Memory that counts for eviction.
    pub fn working_set_bytes(&self) -> u64 {
        match self.cgroup {
            Some(usage) => usage.working_set_bytes,
            None => self.containers.iter().map(|c| c.working_set_bytes).sum(),
        }
    }

    /// Processor time in nanoseconds.
    pub fn cpu_nanos(&self) -> u64 {
        match self.cgroup {
            Some(usage) => usage.cpu_nanos,
            None => self.containers.iter().map(|c| c.cpu_nanos).sum(),
        }
    }

    /// Bytes of writable layers and logs.
    pub fn container_disk_bytes(&self) -> u64 {
        self.containers.iter().map(|c| c.rootfs_bytes + c.log_bytes).sum()
    }
}

fn value(of: &Option<v1::UInt64Value>) -> u64 {
    of.as_ref().map_or(0, |v| v.value)
}

fn container_usage(shared: &Shared, stats: &v1::ContainerStats) -> Option<(String, ContainerUsage)> {
    let attributes = stats.attributes.as_ref()?;
    let label = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
    let metadata = attributes.metadata.as_ref()?;
    let uid = label(labels::POD_UID);
    let folder = format!(
        "{}_{}_{uid}",
        label(labels::POD_NAMESPACE),
        label(labels::POD_NAME)
    );
    let logs = std::path::Path::new(&shared.settings.kubelet.pod_logs_dir)
        .join(folder)
        .join(&metadata.name);
    let (log_bytes, log_inodes) = disk::usage(&logs);
    let cpu = stats.cpu.as_ref();
    let memory = stats.memory.as_ref();
    let layer = stats.writable_layer.as_ref();
    Some((
        uid,
        ContainerUsage {
            name: metadata.name.clone(),
            id: attributes.id.clone(),
            started_at: 0,
            cpu_nanos: cpu.map_or(0, |c| value(&c.usage_core_nano_seconds)),
            working_set_bytes: memory.map_or(0, |m| value(&m.working_set_bytes)),
            memory_bytes: memory.map_or(0, |m| value(&m.usage_bytes)),
            rss_bytes: memory.map_or(0, |m| value(&m.rss_bytes)),
            rootfs_bytes: layer.map_or(0, |l| value(&l.used_bytes)),
            rootfs_inodes: layer.map_or(0, |l| value(&l.inodes_used)),
            rootfs_at: layer.map_or(0, |l| l.timestamp),
            log_bytes,
            log_inodes,
        },
    ))
}

/// Usage of the cgroup of each pod alone: cheap enough for every few seconds.
pub fn of_cgroups(shared: &Shared, pods: Vec<Arc<Pod>>) -> Vec<PodUsage> {
    let usage = |pod: &Pod| {
        let tree = shared.cgroups.as_ref()?;
        tree.usage(&tree.pod_path(qos::class(pod), podspec::uid(pod)))
    };
    pods.into_iter()
        .map(|pod| PodUsage {
            cgroup: usage(&pod),
            pod,
            containers: Vec::new(),
        })
        .collect()
}

/// Longest wait for the names of containers while memory is short.
const NAMES_LIMIT: Duration = Duration::from_millis(300);

/// Memory of all given pods and of their containers, from cgroups alone: the runtime's account of a full node takes longer
/// than memory may be short.
pub async fn of_memory(shared: &Shared, pods: Vec<Arc<Pod>>) -> Vec<PodUsage> {
    let Some(tree) = &shared.cgroups else {
        return of_pods(shared, pods).await;
    };
    let filter = v1::ContainerFilter {
        state: Some(v1::ContainerStateValue {
            state: v1::ContainerState::ContainerRunning as i32,
        }),
        ..Default::default()
    };
    let listed = shared
        .cri
        .list_containers(v1::ListContainersRequest { filter: Some(filter) });
    let listed = tokio::time::timeout(NAMES_LIMIT, listed).await;
    let listed = listed.ok().and_then(Result::ok).unwrap_or_default().containers;
    let mut by_uid: HashMap<String, Vec<(String, String)>> = HashMap::new();
    for mut container in listed {
        let uid = container.labels.remove(labels::POD_UID);
        if let (Some(uid), Some(metadata)) = (uid, container.metadata) {
            by_uid.entry(uid).or_default().push((container.id, metadata.name));
        }
    }
    let mut all = of_cgroups(shared, pods);
    for usage in &mut all {
        let uid = podspec::uid(&usage.pod);
        let path = tree.pod_path(qos::class(&usage.pod), uid);
        let named = by_uid.remove(uid).unwrap_or_default();
        let container = |(id, name): (String, String)| {
            let used = tree.usage_of_container(&path, &id)?;
            Some(ContainerUsage {
                name,
                id,
                working_set_bytes: used.working_set_bytes,
                memory_bytes: used.memory_bytes,
                ..Default::default()
            })
        };
        usage.containers = named.into_iter().filter_map(container).collect();
    }
    all
}

/// Usage of all given pods with their containers, as far as the runtime tells it.
pub async fn of_pods(shared: &Shared, pods: Vec<Arc<Pod>>) -> Vec<PodUsage> {
    measured(shared, pods).await.0
}

/// The same, and why containers are missing in it.
pub async fn measured(shared: &Shared, pods: Vec<Arc<Pod>>) -> (Vec<PodUsage>, Option<CriError>) {
    let mut all = of_cgroups(shared, pods);
    let listed = shared
        .cri
        .container_stats(v1::ListContainerStatsRequest { filter: None })
        .await;
    let (stats, failed) = match listed {
        Ok(listed) => (listed.stats, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let mut by_uid: HashMap<String, Vec<ContainerUsage>> = HashMap::new();
    for stats in stats {
        if let Some((uid, usage)) = container_usage(shared, &stats) {
            by_uid.entry(uid).or_default().push(usage);
        }
    }
    for usage in &mut all {
        let mut containers = by_uid.remove(podspec::uid(&usage.pod)).unwrap_or_default();
        for container in &mut containers {
            container.started_at = started_at(&usage.pod, &container.name);
        }
        usage.containers = containers;
    }
    (all, failed)
}

fn started_at(pod: &Pod, name: &str) -> i64 {
    let statuses = pod
        .status
        .iter()
        .flat_map(|s| s.container_statuses.iter().flatten());
    let found = statuses.into_iter().find(|s| s.name == name);
    let running = found
        .and_then(|s| s.state.as_ref())
        .and_then(|s| s.running.as_ref());
    running
        .and_then(|r| r.started_at.as_ref())
        .map_or(0, |t| t.0.as_second() * 1_000_000_000)
}

/// Bytes and inodes of a pod's disk volumes.
pub fn of_volumes(shared: &Shared, pod: &Pod) -> (u64, u64) {
    disk::usage(&volumes::pod_dir(&shared.settings.dirs.root, podspec::uid(pod)).join("volumes"))
}
