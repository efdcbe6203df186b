//! `/stats/summary`: what the node and its pods use, in the form that metrics-server and autoscalers read.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Answer, json as answer};
use crate::cgroups::Usage;
use crate::disk::{self, Filesystem};
use crate::pods::manager::Manager;
use crate::podspec;
use crate::usage::{ContainerUsage, PodUsage, of_pods};

fn filesystem(at: &str, fs: Option<Filesystem>, used: Option<u64>) -> Value {
    let fs = fs.unwrap_or_default();
    json!({
        "time": at, "availableBytes": fs.available_bytes, "capacityBytes": fs.capacity_bytes,
        "usedBytes": used.unwrap_or(fs.capacity_bytes.saturating_sub(fs.available_bytes)),
        "inodes": fs.inodes, "inodesFree": fs.inodes_free, "inodesUsed": fs.inodes.saturating_sub(fs.inodes_free),
    })
}

fn container(at: &str, usage: &ContainerUsage, fs: Option<Filesystem>) -> Value {
    json!({
        "name": usage.name,
        "startTime": seconds(usage.started_at),
        "cpu": {"time": at, "usageCoreNanoSeconds": usage.cpu_nanos},
        "memory": {"time": at, "usageBytes": usage.memory_bytes, "workingSetBytes": usage.working_set_bytes,
            "rssBytes": usage.rss_bytes},
        "rootfs": filesystem(at, fs, Some(usage.rootfs_bytes)),
        "logs": filesystem(at, fs, Some(usage.log_bytes)),
    })
}

fn seconds(nanos: i64) -> String {
    let at = jiff::Timestamp::from_second(nanos / 1_000_000_000).unwrap_or_default();
    mainstay_base::clock::rfc3339_seconds(at)
}

fn totals(at: &str, usage: Usage) -> (Value, Value) {
    (
        json!({"time": at, "usageCoreNanoSeconds": usage.cpu_nanos}),
        json!({"time": at, "usageBytes": usage.memory_bytes, "workingSetBytes": usage.working_set_bytes, "rssBytes": usage.rss_bytes}),
    )
}

fn pod(at: &str, usage: &PodUsage, fs: Option<Filesystem>) -> Value {
    let (cpu, memory) = totals(at, usage.cgroup.unwrap_or_default());
    let started = usage.pod.status.as_ref().and_then(|s| s.start_time.as_ref());
    json!({
        "podRef": {"name": podspec::name(&usage.pod), "namespace": podspec::namespace(&usage.pod), "uid": podspec::uid(&usage.pod)},
        "startTime": started.map_or_else(|| at.to_owned(), |t| seconds(t.0.as_second() * 1_000_000_000)),
        "containers": usage.containers.iter().map(|c| container(at, c, fs)).collect::<Vec<_>>(),
        "cpu": cpu, "memory": memory,
        "ephemeral-storage": filesystem(at, fs, Some(usage.container_disk_bytes())),
        "process_stats": {"process_count": usage.cgroup.unwrap_or_default().pids},
    })
}

/// Answers `/stats/summary`.
pub async fn serve(manager: &Arc<Manager>) -> Answer {
    let shared = manager.shared();
    let at = mainstay_base::clock::rfc3339_seconds(shared.clock.now());
    let fs = disk::filesystem(&shared.settings.dirs.root);
    let pods = of_pods(shared, manager.pods()).await;
    let whole = shared
        .cgroups
        .as_ref()
        .and_then(|t| t.usage("/"))
        .unwrap_or_default();
    let (cpu, mut memory) = totals(&at, whole);
    let available = (shared.facts.memory_bytes as u64).saturating_sub(whole.working_set_bytes);
    memory["availableBytes"] = json!(available);
    answer(&json!({
        "node": {
            "nodeName": shared.settings.node_name(), "startTime": at, "cpu": cpu, "memory": memory,
            "fs": filesystem(&at, fs, None), "runtime": {"imageFs": filesystem(&at, fs, None)},
            "rlimit": {"time": at, "maxpid": shared.facts.pid_limit},
        },
        "pods": pods.iter().map(|p| pod(&at, p, fs)).collect::<Vec<_>>(),
    }))
}
