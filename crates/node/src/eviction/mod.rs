//! Defends the node: watches memory, disk and process ids, and evicts one pod at a time before the kernel has to.

mod alarm;
mod handles;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use mainstay_control::events::EventKind;
pub use mainstay_nodepolicy::eviction::{decide, own_limits, rank, synchronize, thresholds};

use crate::context::Shared;
use crate::disk::{self, Filesystem};
use crate::images;
use crate::pods::manager::Manager;
use crate::pods::worker::End;
use crate::podspec;
use crate::pressure::Pressure;
use crate::usage::{PodUsage, of_cgroups, of_memory, of_pods};
use alarm::Alarm;
use decide::{Eviction, Memory, Observation, Observations};
use rank::{ContainerUse, FsUse, PodUse, VolumeUse};
use synchronize::{Machine, Reclaim, Rules, Wanted, synchronize};
use thresholds::{Condition, Layout, Signal};

/// Time between full looks.
const FULL_LOOK: Duration = Duration::from_secs(10);
/// Time between looks at memory alone, one small file a mark: for kernels without alarms, and for page cache that shrinks,
/// which moves the mark.
const QUICK_LOOK: Duration = Duration::from_millis(250);
/// The same while memory is nearly short.
const QUICKEST_LOOK: Duration = Duration::from_millis(20);
/// What is left of memory when it is nearly short: what may be taken between two ordinary looks.
const NEAR: i64 = 512 << 20;
/// How fast memory may be taken.
const FASTEST_MIB_A_MILLISECOND: u64 = 2;
/// Time between looks of any kind while memory is short and no pod can be evicted.
const FRUITLESS: Duration = Duration::from_secs(1);
/// Longest wait for a victim's end before the next pass.
const VICTIM_LIMIT: Duration = Duration::from_secs(30);

/// Longest wait for the runtime's next measurement of writable layers; containerd makes one every ten seconds.
const MEASURED_LIMIT: Duration = Duration::from_secs(15);
/// Time between looks whether it has been made.
const MEASURED_LOOK: Duration = Duration::from_millis(500);

/// Watches for as long as the agent runs.
pub async fn keep(manager: Arc<Manager>) {
    let kubelet = &manager.shared().settings.kubelet;
    let thresholds = match thresholds::parse(kubelet) {
        Ok(thresholds) => thresholds,
        Err(why) => {
            tracing::error!(why, "eviction thresholds cannot be used: the node evicts nothing");
            return;
        }
    };
    let rules = Rules {
        thresholds,
        transition: kubelet.eviction_pressure_transition_period,
        max_grace_seconds: kubelet.eviction_max_pod_grace_period,
    };
    let node = LiveNode {
        watched: rules.thresholds.iter().map(|t| t.signal).collect(),
        marks: marks(manager.shared(), &rules),
        one_disk: AtomicBool::new(true),
        manager: manager.clone(),
    };
    let mut memory = Memory::default();
    let mut alarms = Arc::new(Vec::new());
    let mut next_look = Duration::ZERO;
    loop {
        let now = node.shared().clock.monotonic();
        let short = node.memory_is_short();
        if now >= next_look || short {
            let evicted = synchronize(&rules, &mut memory, &node, now).await;
            node.await_end(&evicted).await;
            next_look = now + FULL_LOOK;
            alarms = Arc::new(node.marks.iter().filter_map(|mark| node.alarm(mark)).collect());
            if short && evicted.is_empty() {
                tokio::time::sleep(FRUITLESS).await;
                continue;
            }
        }
        alarm::wait(&alarms, node.pause()).await;
    }
}

/// How long memory takes to become short when pods take it as fast as a machine gives it.
fn time_left(bytes: i64) -> Duration {
    let left = Duration::from_millis(u64::try_from(bytes >> 20).unwrap_or(0) / FASTEST_MIB_A_MILLISECOND);
    left.clamp(QUICKEST_LOOK, QUICK_LOOK)
}

/// A hard threshold of memory: which cgroup, what it may use, what must be left of that.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    path: String,
    capacity: i64,
    wanted: i64,
}

/// Hard thresholds of memory: of the machine, and of all pods together.
fn marks(shared: &Shared, rules: &Rules) -> Vec<Mark> {
    let Some(tree) = &shared.cgroups else {
        return Vec::new();
    };
    let pods = tree.class_path(mainstay_semantics::qos::Class::Guaranteed);
    let of_pods = crate::reserve::of_pods(&shared.facts, &shared.settings.kubelet)["memory"];
    let watched = [
        (Signal::Memory, "/".to_owned(), shared.facts.memory_bytes),
        (Signal::AllocatableMemory, pods, of_pods),
    ];
    let mark = |(signal, path, capacity): (Signal, String, i64)| {
        let hard = rules
            .thresholds
            .iter()
            .filter(|t| t.signal == signal && t.is_hard());
        let wanted = hard.map(|t| t.amount.of(capacity)).max()?;
        Some(Mark {
            path,
            capacity,
            wanted,
        })
    };
    watched.into_iter().filter_map(mark).collect()
}

/// Memory of the machine in use, for hierarchies that do not count their top.
fn machine_in_use() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some((field("MemTotal:")? - field("MemFree:")?) << 10)
}

fn observation(available: u64, capacity: u64) -> Observation {
    Observation {
        available: available as i64,
        capacity: capacity as i64,
    }
}

fn insert_filesystem(seen: &mut Observations, fs: Filesystem, bytes: Signal, inodes: Signal) {
    seen.insert(bytes, observation(fs.available_bytes, fs.capacity_bytes));
    seen.insert(inodes, observation(fs.inodes_free, fs.inodes));
}

/// The machine that the agent runs on.
struct LiveNode {
    manager: Arc<Manager>,
    /// Signals with a threshold.
    watched: BTreeSet<Signal>,
    /// Hard thresholds of memory.
    marks: Vec<Mark>,
    /// Whether writable layers are on the agent's filesystem.
    one_disk: AtomicBool,
}

/// Where the kernel tells about processes and sockets.
const PROC: &str = "/proc";

impl LiveNode {
    fn shared(&self) -> &Arc<Shared> {
        self.manager.shared()
    }

    fn memory_is_short(&self) -> bool {
        self.marks.iter().any(|mark| self.is_short(mark))
    }

    /// How long memory need not be looked at.
    fn pause(&self) -> Duration {
        let Some(tree) = &self.shared().cgroups else {
            return QUICK_LOOK;
        };
        let left = |mark: &Mark| {
            let in_use = tree.memory_in_use(&mark.path).or_else(machine_in_use)? as i64;
            if mark.capacity - in_use - mark.wanted > NEAR {
                return None;
            }
            let used = tree.usage(&mark.path)?.working_set_bytes as i64;
            Some(mark.capacity - used - mark.wanted)
        };
        let nearest = self.marks.iter().filter_map(left).min();
        nearest.map_or(QUICK_LOOK, time_left)
    }

    /// Whether a hard threshold is crossed. Reads the cheap number first: what is in use can only be more than what
    /// counts.
    fn is_short(&self, mark: &Mark) -> bool {
        let Some(tree) = &self.shared().cgroups else {
            return false;
        };
        let in_use = tree.memory_in_use(&mark.path).or_else(machine_in_use);
        let plenty = in_use.is_some_and(|used| mark.capacity - used as i64 > mark.wanted);
        !plenty
            && tree
                .usage(&mark.path)
                .is_some_and(|u| mark.capacity - (u.working_set_bytes as i64) < mark.wanted)
    }

    /// An alarm where the threshold is crossed, as far as page cache stays what it is.
    fn alarm(&self, mark: &Mark) -> Option<Alarm> {
        let tree = self.shared().cgroups.as_ref()?;
        let folder = tree.memory_folder(&mark.path)?;
        let usage = tree.usage(&mark.path)?;
        let cache = usage.memory_bytes.saturating_sub(usage.working_set_bytes);
        let set = Alarm::set(&folder, mark.capacity - mark.wanted + cache as i64);
        set.inspect_err(|error| tracing::debug!(%error, path = mark.path, "the kernel sets no alarm"))
            .ok()
    }

    fn see_memory(&self, seen: &mut Observations) {
        let shared = self.shared();
        let Some(tree) = &shared.cgroups else { return };
        let capacity = shared.facts.memory_bytes as u64;
        if let Some(usage) = tree.usage("/") {
            let left = capacity.saturating_sub(usage.working_set_bytes);
            seen.insert(Signal::Memory, observation(left, capacity));
        }
        let pods = tree.class_path(mainstay_semantics::qos::Class::Guaranteed);
        if let Some(usage) = tree.usage(&pods) {
            let total = crate::reserve::of_pods(&shared.facts, &shared.settings.kubelet)["memory"] as u64;
            let left = total.saturating_sub(usage.working_set_bytes);
            seen.insert(Signal::AllocatableMemory, observation(left, total));
        }
    }

    /// Looks at what is dear to count and off unless configured.
    fn see_handles(&self, seen: &mut Observations) {
        type Look = fn(&Path) -> Option<Observation>;
        let looks: [(Signal, Look); 2] = [(Signal::Ports, handles::ports), (Signal::Files, handles::files)];
        for (signal, look) in looks.into_iter().filter(|(s, _)| self.watched.contains(s)) {
            seen.extend(look(Path::new(PROC)).map(|o| (signal, o)));
        }
    }

    /// Pods that hold ports of the node or open files: others cannot help.
    fn holders(&self, signal: Signal, pods: Vec<Arc<Pod>>) -> Vec<PodUse> {
        let shared = self.shared();
        let Some(tree) = &shared.cgroups else {
            return Vec::new();
        };
        let (proc, inodes) = (Path::new(PROC), handles::inodes(Path::new(PROC)));
        let measured = pods.into_iter().map(|pod| {
            let pids = tree.processes(&tree.pod_path(crate::qos::class(&pod), podspec::uid(&pod)));
            let held = handles::held(proc, &pids, &inodes);
            PodUse {
                known: true,
                ports: held.ports,
                files: held.files,
                ..PodUse::unmeasured(pod)
            }
        });
        let holds = |pod: &PodUse| match signal {
            Signal::Ports => pod.ports > 0,
            _ => pod.files > 0,
        };
        measured.filter(holds).collect()
    }

    /// Whether writable layers count for a signal.
    fn counts_layers(&self, signal: Signal) -> bool {
        let nodefs = matches!(signal, Signal::NodefsBytes | Signal::NodefsInodes);
        signal.condition() == Condition::Disk && (!nodefs || self.one_disk.load(Ordering::Relaxed))
    }

    /// What pods use, with writable layers as they were measured from now on: by an older measurement the pod that has
    /// just filled the disk has used nothing, and another one goes. A shortage of memory does not wait.
    async fn measured_anew(&self, pods: Vec<Arc<Pod>>) -> Vec<PodUsage> {
        let shared = self.shared();
        let (begun, asked_at) = (shared.clock.monotonic(), shared.now_nanos());
        loop {
            let usages = of_pods(shared, pods.clone()).await;
            let mut containers = usages.iter().flat_map(|u| &u.containers);
            let is_old = containers.any(|c| c.rootfs_at < asked_at);
            let waited = shared.clock.monotonic().saturating_sub(begun);
            if !is_old || waited > MEASURED_LIMIT || self.memory_is_short() {
                return usages;
            }
            tokio::time::sleep(MEASURED_LOOK).await;
        }
    }

    fn active(&self) -> Vec<Arc<Pod>> {
        let mut pods = self.manager.pods_as_given();
        pods.retain(|p| !self.manager.is_ending(podspec::uid(p)));
        pods
    }

    /// Waits until evicted pods have left their cgroups, but not for ever.
    async fn await_end(&self, evicted: &[Eviction]) {
        let shared = self.shared();
        let Some(tree) = &shared.cgroups else { return };
        let begun = shared.clock.monotonic();
        let uids: Vec<&str> = evicted.iter().map(|e| e.uid.as_str()).collect();
        let pods: Vec<Arc<Pod>> = self.manager.pods();
        let paths: Vec<String> = pods
            .iter()
            .filter(|p| uids.contains(&podspec::uid(p)))
            .map(|p| tree.pod_path(crate::qos::class(p), podspec::uid(p)))
            .collect();
        while paths.iter().any(|path| tree.usage(path).is_some())
            && shared.clock.monotonic().saturating_sub(begun) < VICTIM_LIMIT
        {
            tokio::time::sleep(QUICK_LOOK).await;
        }
    }
}

impl Machine for LiveNode {
    async fn look(&self) -> (Layout, Observations) {
        let shared = self.shared();
        let nodefs = disk::filesystem(&shared.settings.dirs.root);
        let runtime = images::filesystems(shared).await;
        let mut seen = Observations::new();
        self.see_memory(&mut seen);
        let layout = layout(nodefs, &runtime);
        self.one_disk.store(!layout.dedicated_imagefs, Ordering::Relaxed);
        if let Some(fs) = nodefs {
            insert_filesystem(&mut seen, fs, Signal::NodefsBytes, Signal::NodefsInodes);
        }
        // On one filesystem the image signals are not looked at separately.
        if let Some(fs) = runtime.images.filter(|_| layout.dedicated_imagefs) {
            insert_filesystem(&mut seen, fs, Signal::ImagefsBytes, Signal::ImagefsInodes);
        }
        if let Some(fs) = runtime.containers.filter(|_| layout.split) {
            insert_filesystem(&mut seen, fs, Signal::ContainerfsBytes, Signal::ContainerfsInodes);
        }
        let limit = shared.facts.pid_limit;
        if let Some(used) = disk::process_count() {
            let left = (limit - used).max(0);
            seen.insert(Signal::Pids, observation(left as u64, limit as u64));
        }
        self.see_handles(&mut seen);
        // A filesystem without inodes (btrfs, tmpfs) reports none: nothing to lack.
        seen.retain(|_, o| o.capacity > 0);
        (layout, seen)
    }

    async fn pods(&self, wanted: Wanted) -> Vec<PodUse> {
        let shared = self.shared();
        let mut pods = self.active();
        if wanted == Wanted::Limited {
            pods.retain(|p| own_limits::has_any(&PodUse::unmeasured(p.clone())));
        }
        if pods.is_empty() {
            return Vec::new();
        }
        if let Wanted::All(signal @ (Signal::Ports | Signal::Files)) = wanted {
            return self.holders(signal, pods);
        }
        let usages = match wanted {
            Wanted::All(Signal::Pids) => of_cgroups(shared, pods),
            Wanted::All(Signal::Memory | Signal::AllocatableMemory) => of_memory(shared, pods).await,
            Wanted::All(signal) if self.counts_layers(signal) => self.measured_anew(pods).await,
            _ => of_pods(shared, pods).await,
        };
        let memory_only = matches!(
            wanted,
            Wanted::All(Signal::Memory | Signal::AllocatableMemory | Signal::Pids)
        );
        usages.iter().map(|u| pod_use(shared, u, !memory_only)).collect()
    }

    async fn reclaim(&self, what: Reclaim) {
        let shared = self.shared();
        match what {
            Reclaim::DeadContainers => {
                images::remove_dead_containers(shared, &self.manager.uids_in_use()).await;
            }
            Reclaim::UnusedImages => {
                images::remove_unused(shared).await;
            }
        }
    }

    fn publish(&self, conditions: &BTreeSet<Condition>) {
        let now = Pressure {
            memory: conditions.contains(&Condition::Memory),
            disk: conditions.contains(&Condition::Disk),
            pid: conditions.contains(&Condition::Pid),
        };
        if self.shared().pressure.set(now) {
            self.shared().status_wanted.notify_one();
        }
    }

    fn tell_starved(&self, resource: &str) {
        let shared = self.shared();
        shared.events.node(
            shared.settings.node_name(),
            EventKind::Warning,
            "EvictionThresholdMet",
            format!("Attempting to reclaim {resource}"),
        );
    }

    fn evict(&self, eviction: &Eviction) -> bool {
        let shared = self.shared();
        let active = self.active();
        let Some(pod) = active.iter().find(|p| podspec::uid(p) == eviction.uid) else {
            return false;
        };
        shared.tally.evictions.count([eviction.signal.into()]);
        tracing::info!(
            pod = podspec::name(pod),
            namespace = podspec::namespace(pod),
            message = eviction.message,
            "evicting a pod"
        );
        let annotations = eviction.annotations.clone();
        shared.events.annotated_pod(
            pod,
            annotations,
            EventKind::Warning,
            "Evicted",
            eviction.message.clone(),
        );
        self.manager.end(
            &eviction.uid,
            End::Failed {
                reason: "Evicted".to_owned(),
                message: eviction.message.clone(),
                grace_seconds: Some(eviction.grace_seconds),
                disruption: eviction.disruption.then(|| eviction.message.clone()),
            },
        );
        true
    }
}

fn layout(nodefs: Option<Filesystem>, runtime: &images::Filesystems) -> Layout {
    let differ = |a: Option<Filesystem>, b: Option<Filesystem>| match (a, b) {
        (Some(a), Some(b)) => a.device != b.device,
        _ => false,
    };
    let dedicated_imagefs = differ(nodefs, runtime.images);
    Layout {
        dedicated_imagefs,
        split: dedicated_imagefs && differ(runtime.images, runtime.containers),
    }
}

fn volume_use(shared: &Shared, pod: &Pod) -> Vec<VolumeUse> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let counted = volumes.filter(|v| v.empty_dir.is_some() || v.config_map.is_some());
    counted
        .filter_map(|volume| {
            let path = crate::volumes::host_path(&shared.settings.dirs.root, podspec::uid(pod), volume)?;
            let (bytes, inodes) = disk::usage(&path);
            let medium = volume.empty_dir.as_ref().and_then(|e| e.medium.as_deref());
            Some(VolumeUse {
                name: volume.name.clone(),
                used: FsUse {
                    bytes: bytes as i64,
                    inodes: inodes as i64,
                },
                on_disk: medium.unwrap_or("").is_empty(),
            })
        })
        .collect()
}

fn pod_use(shared: &Shared, usage: &PodUsage, with_volumes: bool) -> PodUse {
    let fs = |bytes: u64, inodes: u64| FsUse {
        bytes: bytes as i64,
        inodes: inodes as i64,
    };
    let containers = usage.containers.iter().map(|used| ContainerUse {
        name: used.name.clone(),
        memory: used.working_set_bytes as i64,
        rootfs: fs(used.rootfs_bytes, used.rootfs_inodes),
        logs: fs(used.log_bytes, used.log_inodes),
    });
    PodUse {
        known: usage.cgroup.is_some() || !usage.containers.is_empty(),
        memory: usage.working_set_bytes() as i64,
        pids: usage.cgroup.map_or(0, |c| c.pids as i64),
        containers: containers.collect(),
        volumes: match with_volumes {
            true => volume_use(shared, &usage.pod),
            false => Vec::new(),
        },
        ..PodUse::unmeasured(usage.pod.clone())
    }
}
