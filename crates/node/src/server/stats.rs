//! `/stats/summary`: what the node and its pods use, in the form that metrics-server and autoscalers read.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::rates::Rates;
use super::{Answer, json as answer, traffic};
use crate::cgroups::CgroupTree;
use crate::cgroups::account::{Account, Pressure, Stall};
use crate::context::Shared;
use crate::disk::{self, Filesystem};
use crate::images::{self, Filesystems};
use crate::pods::manager::Manager;
use crate::usage::{ContainerUsage, PodUsage, of_pods};
use crate::{podspec, qos};
use mainstay_semantics::qos::Class;

fn filesystem(at: &str, fs: Option<Filesystem>, used: Option<u64>) -> Value {
    let fs = fs.unwrap_or_default();
    json!({
        "time": at, "availableBytes": fs.available_bytes, "capacityBytes": fs.capacity_bytes,
        "usedBytes": used.unwrap_or(fs.used_bytes),
        "inodes": fs.inodes, "inodesFree": fs.inodes_free, "inodesUsed": fs.inodes.saturating_sub(fs.inodes_free),
    })
}

fn container(at: &str, usage: &ContainerUsage, fs: Option<Filesystem>, rate: Option<u64>) -> Value {
    let mut told = json!({
        "name": usage.name,
        "startTime": seconds(usage.started_at),
        "cpu": {"time": at, "usageCoreNanoSeconds": usage.cpu_nanos},
        "memory": {"time": at, "usageBytes": usage.memory_bytes, "workingSetBytes": usage.working_set_bytes,
            "rssBytes": usage.rss_bytes},
        "rootfs": filesystem(at, fs, Some(usage.rootfs_bytes)),
        "logs": filesystem(at, fs, Some(usage.log_bytes)),
    });
    put_rate(&mut told["cpu"], rate);
    told
}

/// Processor time per second, where two readings tell it.
fn put_rate(cpu: &mut Value, rate: Option<u64>) {
    if let Some(rate) = rate {
        cpu["usageNanoCores"] = json!(rate);
    }
}

fn seconds(nanos: i64) -> String {
    let at = jiff::Timestamp::from_second(nanos / 1_000_000_000).unwrap_or_default();
    mainstay_base::clock::rfc3339_seconds(at)
}

fn totals(at: &str, account: &Account, rate: Option<u64>) -> (Value, Value) {
    let usage = account.usage;
    let mut cpu = json!({"time": at, "usageCoreNanoSeconds": usage.cpu_nanos});
    put_rate(&mut cpu, rate);
    let mut memory = json!({
        "time": at, "usageBytes": usage.memory_bytes, "workingSetBytes": usage.working_set_bytes,
        "rssBytes": usage.rss_bytes,
        "pageFaults": account.faults[0], "majorPageFaults": account.faults[1],
    });
    let [of_cpu, of_memory, _] = account.pressure;
    for (place, pressure) in [(&mut cpu, of_cpu), (&mut memory, of_memory)] {
        if let Some(pressure) = pressure {
            place["psi"] = psi(pressure);
        }
    }
    (cpu, memory)
}

fn psi(pressure: Pressure) -> Value {
    let one = |stall: Stall| {
        let [ten, sixty, three_hundred] = stall.shares.map(|share| share as f64 / 100.0);
        json!({"total": stall.total_us * 1_000, "avg10": ten, "avg60": sixty, "avg300": three_hundred})
    };
    json!({"full": one(pressure.full), "some": one(pressure.some)})
}

/// What pressure on devices there is, as `io`; nothing where the kernel does not tell it.
fn put_io(at: &str, account: &Account, place: &mut Value) {
    if let Some(pressure) = account.pressure[2] {
        place["io"] = json!({"time": at, "psi": psi(pressure)});
    }
}

/// Files of a volume, and the filesystem that it is on.
fn volume(at: &str, name: &str, claim: Option<(&str, &str)>, path: &Path) -> Value {
    let fs = disk::filesystem(path);
    let mut told = match claim {
        // May hold more files than can be counted each time: its filesystem counts.
        Some((namespace, claim)) => {
            let mut told = filesystem(at, fs, None);
            told["pvcRef"] = json!({"name": claim, "namespace": namespace});
            told
        }
        None => {
            let (bytes, inodes) = disk::usage(path);
            let mut told = filesystem(at, fs, Some(bytes));
            told["inodesUsed"] = json!(inodes);
            told
        }
    };
    told["name"] = json!(name);
    told
}

/// The pod's own volumes; what is the machine's is nobody's use.
fn volumes(at: &str, root: &Path, pod: &Pod) -> Vec<Value> {
    let all = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let own = all.filter(|volume| volume.host_path.is_none());
    own.filter_map(|found| {
        let path = crate::volumes::host_path(root, podspec::uid(pod), found)?;
        let claim = found.persistent_volume_claim.as_ref();
        let claim = claim.map(|claim| (podspec::namespace(pod), claim.claim_name.as_str()));
        path.exists().then(|| volume(at, &found.name, claim, &path))
    })
    .collect()
}

/// What is known of one pod beyond the runtime's account.
struct Around<'a> {
    at: &'a str,
    root: &'a Path,
    tree: Option<&'a CgroupTree>,
    fs: Option<Filesystem>,
    runtime: Filesystems,
    rates: &'a Rates,
    /// Monotonic time.
    now: Duration,
}

impl Around<'_> {
    fn rate(&self, what: &str, cpu_nanos: u64) -> Option<u64> {
        self.rates.rate(what, self.now, cpu_nanos)
    }

    fn totals(&self, path: &str, account: &Account) -> (Value, Value) {
        totals(self.at, account, self.rate(path, account.usage.cpu_nanos))
    }

    fn container(&self, usage: &ContainerUsage) -> Value {
        container(self.at, usage, self.fs, self.rate(&usage.id, usage.cpu_nanos))
    }

    fn pod(&self, usage: &PodUsage) -> Value {
        let (at, fs) = (self.at, self.fs);
        let path = |tree: &CgroupTree| tree.pod_path(qos::class(&usage.pod), podspec::uid(&usage.pod));
        let account = self
            .tree
            .and_then(|tree| tree.account(&path(tree)))
            .unwrap_or_default();
        let (cpu, memory) = self.totals(podspec::uid(&usage.pod), &account);
        let started = usage.pod.status.as_ref().and_then(|s| s.start_time.as_ref());
        let volumes = volumes(at, self.root, &usage.pod);
        let in_volumes: u64 = volumes
            .iter()
            .filter_map(|volume| volume["usedBytes"].as_u64())
            .sum();
        let mut told = json!({
            "podRef": {"name": podspec::name(&usage.pod), "namespace": podspec::namespace(&usage.pod), "uid": podspec::uid(&usage.pod)},
            "startTime": started.map_or_else(|| at.to_owned(), |t| seconds(t.0.as_second() * 1_000_000_000)),
            "containers": usage.containers.iter().map(|c| self.container(c)).collect::<Vec<_>>(),
            "cpu": cpu, "memory": memory,
            "ephemeral-storage": filesystem(at, fs, Some(usage.container_disk_bytes() + in_volumes)),
            "process_stats": {"process_count": account.usage.pids},
            "volume": volumes,
        });
        put_io(at, &account, &mut told);
        if let Some(tree) = self.tree.filter(|_| !podspec::host_network(&usage.pod)) {
            let mut processes = tree.processes(&path(tree)).into_iter();
            let interfaces = processes.find_map(traffic::of_process).unwrap_or_default();
            if let Some(network) = traffic::summary(at, &interfaces) {
                told["network"] = network;
            }
        }
        told
    }

    /// The machine's and the pods' share of it.
    fn node(&self, shared: &Shared) -> Value {
        let at = self.at;
        let account = |path: &str| self.tree.and_then(|tree| tree.account(path)).unwrap_or_default();
        let whole = account("/");
        let (cpu, mut memory) = self.totals("/", &whole);
        let available = (shared.facts.memory_bytes as u64).saturating_sub(whole.usage.working_set_bytes);
        memory["availableBytes"] = json!(available);
        let pods = self.tree.map(|tree| account(&tree.class_path(Class::Guaranteed)));
        let system: Vec<Value> = pods
            .iter()
            .map(|pods| {
                let (cpu, memory) = self.totals("pods", pods);
                json!({"name": "pods", "startTime": at, "cpu": cpu, "memory": memory})
            })
            .collect();
        let mut told = json!({
            "nodeName": shared.settings.node_name(), "startTime": booted().unwrap_or_else(|| at.to_owned()),
            "cpu": cpu, "memory": memory, "systemContainers": system,
            "fs": filesystem(at, self.fs, None), "runtime": {
                "imageFs": filesystem(at, self.runtime.images, None),
                "containerFs": filesystem(at, self.runtime.containers, None),
            },
            "rlimit": {"time": at, "maxpid": shared.facts.pid_limit, "curproc": disk::process_count()},
        });
        put_io(at, &whole, &mut told);
        if let Some(network) = traffic::summary(at, &traffic::of_machine()) {
            told["network"] = network;
        }
        told
    }
}

/// When the machine was booted.
fn booted() -> Option<String> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let since: i64 = text
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    Some(seconds(since * 1_000_000_000))
}

/// Answers `/stats/summary`.
pub async fn serve(manager: &Arc<Manager>, rates: &Arc<Rates>) -> Answer {
    let shared = manager.shared().clone();
    let pods = of_pods(&shared, manager.pods()).await;
    let runtime = images::filesystems(&shared).await;
    let rates = rates.clone();
    // Thousands of small files, and every file of every volume.
    let told = tokio::task::spawn_blocking(move || {
        let at = mainstay_base::clock::rfc3339_seconds(shared.clock.now());
        let around = Around {
            at: &at,
            root: &shared.settings.dirs.root,
            tree: shared.cgroups.as_ref(),
            fs: disk::filesystem(&shared.settings.dirs.root),
            runtime,
            rates: &rates,
            now: shared.clock.monotonic(),
        };
        rates.tidy(around.now);
        json!({
            "node": around.node(&shared),
            "pods": pods.iter().map(|usage| around.pod(usage)).collect::<Vec<_>>(),
        })
    });
    match told.await {
        Ok(told) => answer(&told),
        Err(error) => super::text(http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
