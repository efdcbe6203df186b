//! Defends the node: watches memory, disk and process ids, and evicts one pod at a time before the kernel has to.

pub mod decide;
pub mod rank;
pub mod thresholds;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use mainstay_control::events::EventKind;

use crate::context::Shared;
use crate::disk::{self, Filesystem};
use crate::images;
use crate::pods::manager::Manager;
use crate::pods::worker::End;
use crate::pressure::Pressure;
use crate::usage::{PodUsage, of_cgroups, of_pods, of_volumes};
use crate::{amount, podspec};
use decide::{Memory, Observation, Observations, Victim, choose, decide};
use rank::{ContainerUse, PodUse};
use thresholds::{Condition, Signal, Threshold};

/// Time between full looks.
const FULL_LOOK: Duration = Duration::from_secs(10);
/// Time between looks at memory alone: one small file.
const QUICK_LOOK: Duration = Duration::from_millis(250);
/// Longest wait for a victim's end before the next pass.
const VICTIM_LIMIT: Duration = Duration::from_secs(30);
/// From this priority on a pod is critical.
const CRITICAL: i64 = 2_000_000_000;

struct Watcher {
    manager: Arc<Manager>,
    thresholds: Vec<Threshold>,
    memory: Memory,
}

/// Watches for as long as the agent runs.
pub async fn keep(manager: Arc<Manager>) {
    let thresholds = match thresholds::parse(&manager.shared().settings.kubelet) {
        Ok(thresholds) => thresholds,
        Err(why) => {
            tracing::error!(why, "eviction thresholds cannot be used: the node evicts nothing");
            return;
        }
    };
    let mut watcher = Watcher {
        manager,
        thresholds,
        memory: Memory::default(),
    };
    let mut looked_at = Duration::ZERO;
    loop {
        let now = watcher.shared().clock.monotonic();
        if now.saturating_sub(looked_at) >= FULL_LOOK || watcher.memory_is_short() {
            looked_at = now;
            watcher.pass().await;
        }
        tokio::time::sleep(QUICK_LOOK).await;
    }
}

fn observation(available: u64, capacity: u64) -> Observation {
    Observation {
        available: available as i64,
        capacity: capacity as i64,
    }
}

impl Watcher {
    fn shared(&self) -> &Arc<Shared> {
        self.manager.shared()
    }

    /// Whether memory may have crossed a hard threshold. Reads the cheap number first: what is in use can only be
    /// more than what counts.
    fn memory_is_short(&self) -> bool {
        let Some(tree) = &self.shared().cgroups else {
            return false;
        };
        let capacity = self.shared().facts.memory_bytes;
        let hard = self
            .thresholds
            .iter()
            .filter(|t| t.signal == Signal::Memory && t.is_hard());
        let Some(wanted) = hard.map(|t| t.amount.of(capacity)).max() else {
            return false;
        };
        let plenty = tree
            .memory_in_use("/")
            .is_some_and(|used| capacity - used as i64 > wanted);
        !plenty
            && tree
                .usage("/")
                .is_some_and(|u| capacity - (u.working_set_bytes as i64) < wanted)
    }

    fn observe(&self, nodefs: Option<Filesystem>, imagefs: Option<Filesystem>) -> Observations {
        let shared = self.shared();
        let mut seen = Observations::new();
        if let Some(tree) = &shared.cgroups {
            let capacity = shared.facts.memory_bytes as u64;
            if let Some(usage) = tree.usage("/") {
                let left = capacity.saturating_sub(usage.working_set_bytes);
                seen.insert(Signal::Memory, observation(left, capacity));
            }
            let pods = tree.class_path(mainstay_semantics::qos::Class::Guaranteed);
            if let Some(usage) = tree.usage(&pods) {
                let total = crate::reserve::pods_memory(
                    &[("memory".to_owned(), capacity as i64)].into(),
                    &shared.settings.kubelet,
                ) as u64;
                let left = total.saturating_sub(usage.working_set_bytes);
                seen.insert(Signal::AllocatableMemory, observation(left, total));
            }
        }
        if let Some(fs) = nodefs {
            seen.insert(
                Signal::NodefsBytes,
                observation(fs.available_bytes, fs.capacity_bytes),
            );
            seen.insert(Signal::NodefsInodes, observation(fs.inodes_free, fs.inodes));
        }
        // On one filesystem the image signals are not looked at separately.
        let separate = imagefs.filter(|i| nodefs.is_none_or(|n| n.device != i.device));
        if let Some(fs) = separate {
            seen.insert(
                Signal::ImagefsBytes,
                observation(fs.available_bytes, fs.capacity_bytes),
            );
            seen.insert(Signal::ImagefsInodes, observation(fs.inodes_free, fs.inodes));
        }
        let limit = shared.facts.pid_limit;
        if let Some(used) = disk::process_count() {
            seen.insert(
                Signal::Pids,
                observation((limit - used).max(0) as u64, limit as u64),
            );
        }
        // A filesystem without inodes (btrfs, tmpfs) reports none: nothing to lack.
        seen.retain(|_, o| o.capacity > 0);
        seen
    }

    async fn pass(&mut self) {
        let shared = self.shared().clone();
        let nodefs = disk::filesystem(&shared.settings.dirs.root);
        let imagefs = images::filesystem(&shared).await;
        let seen = self.observe(nodefs, imagefs);
        let transition = shared.settings.kubelet.eviction_pressure_transition_period;
        let decision = decide(
            &mut self.memory,
            &self.thresholds,
            &seen,
            transition,
            shared.clock.monotonic(),
        );
        publish(&shared, &decision.conditions);
        let dedicated = seen.contains_key(&Signal::ImagefsBytes);
        if self.limit_local_storage().await {
            return;
        }
        let Some(threshold) = decision.act_on else { return };
        shared.events.node(
            shared.settings.node_name(),
            EventKind::Warning,
            "EvictionThresholdMet",
            format!("Attempting to reclaim {}", threshold.signal.resource()),
        );
        if threshold.signal.condition() == Condition::Disk && self.reclaim(&threshold).await {
            return;
        }
        let pods = self.uses(threshold.signal, dedicated).await;
        let max_grace = shared.settings.kubelet.eviction_max_pod_grace_period;
        if let Some(victim) = choose(&threshold, &seen, pods, max_grace) {
            self.evict(victim).await;
        }
    }

    /// Removes dead containers and unused images; tells whether that was enough.
    async fn reclaim(&self, threshold: &Threshold) -> bool {
        let shared = self.shared();
        images::remove_dead_containers(shared, &self.manager.uids(|_| true)).await;
        images::remove_unused(shared).await;
        let nodefs = disk::filesystem(&shared.settings.dirs.root);
        let seen = self.observe(nodefs, images::filesystem(shared).await);
        let found = seen.get(&threshold.signal);
        found.is_none_or(|o| o.available >= threshold.amount.of(o.capacity))
    }

    fn candidates(&self) -> Vec<Arc<Pod>> {
        let mut pods = self.manager.pods();
        pods.retain(|p| !self.manager.is_ending(podspec::uid(p)));
        pods
    }

    async fn uses(&self, signal: Signal, dedicated: bool) -> Vec<PodUse> {
        let shared = self.shared();
        let pods = self.candidates();
        let usages = match signal {
            Signal::Pids => of_cgroups(shared, pods),
            _ => of_pods(shared, pods).await,
        };
        usages
            .iter()
            .map(|u| pod_use(shared, u, signal, dedicated))
            .collect()
    }

    async fn evict(&self, victim: Victim) {
        let shared = self.shared();
        let found = self.candidates();
        let Some(pod) = found.iter().find(|p| podspec::uid(p) == victim.uid) else {
            return;
        };
        tracing::info!(
            pod = podspec::name(pod),
            namespace = podspec::namespace(pod),
            message = victim.message,
            "evicting a pod"
        );
        shared
            .events
            .pod(pod, EventKind::Warning, "Evicted", victim.message.clone());
        self.manager.end(
            &victim.uid,
            End::Failed {
                reason: "Evicted".to_owned(),
                message: victim.message,
                grace_seconds: Some(victim.grace_seconds),
            },
        );
        let begun = shared.clock.monotonic();
        while shared.clock.monotonic().saturating_sub(begun) < VICTIM_LIMIT {
            tokio::time::sleep(QUICK_LOOK).await;
            let tree = shared.cgroups.as_ref();
            let alive = tree.and_then(|t| t.usage(&t.pod_path(crate::qos::class(pod), &victim.uid)));
            if alive.is_none() {
                return;
            }
        }
    }

    /// Evicts a pod that uses more disk than it said it would; tells whether it did.
    async fn limit_local_storage(&self) -> bool {
        let shared = self.shared();
        let limited: Vec<Arc<Pod>> = self
            .candidates()
            .into_iter()
            .filter(|p| has_disk_limit(p))
            .collect();
        if limited.is_empty() {
            return false;
        }
        for usage in of_pods(shared, limited).await {
            if let Some(message) = over_own_limit(shared, &usage) {
                self.evict(Victim {
                    uid: podspec::uid(&usage.pod).to_owned(),
                    message,
                    grace_seconds: decide::HARD_GRACE_SECONDS,
                })
                .await;
                return true;
            }
        }
        false
    }
}

fn publish(shared: &Shared, conditions: &BTreeSet<Condition>) {
    let now = Pressure {
        memory: conditions.contains(&Condition::Memory),
        disk: conditions.contains(&Condition::Disk),
        pid: conditions.contains(&Condition::Pid),
    };
    if shared.pressure.set(now) {
        shared.status_wanted.notify_one();
    }
}

fn request(container: &Container, resource: &str) -> i64 {
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    amount::amounts(requests).get(resource).copied().unwrap_or(0)
}

/// What of a pod's disk use counts: on one filesystem everything; else what is on the scarce one.
fn disk_use(shared: &Shared, usage: &PodUsage, signal: Signal, dedicated: bool) -> i64 {
    let (volume_bytes, volume_inodes) = of_volumes(shared, &usage.pod);
    let (mut bytes, mut inodes) = (0, 0);
    for container in &usage.containers {
        let image_side = matches!(signal, Signal::ImagefsBytes | Signal::ImagefsInodes);
        if !dedicated || image_side {
            bytes += container.rootfs_bytes;
            inodes += container.rootfs_inodes;
        }
        if !dedicated || !image_side {
            bytes += container.log_bytes;
        }
    }
    if !dedicated || !matches!(signal, Signal::ImagefsBytes | Signal::ImagefsInodes) {
        bytes += volume_bytes;
        inodes += volume_inodes;
    }
    match signal {
        Signal::NodefsInodes | Signal::ImagefsInodes => inodes as i64,
        _ => bytes as i64,
    }
}

fn pod_use(shared: &Shared, usage: &PodUsage, signal: Signal, dedicated: bool) -> PodUse {
    let pod = &usage.pod;
    let requests = crate::qos::pod_requests(pod);
    let of = |name: &str| requests.get(name).copied().unwrap_or(0);
    let priority = i64::from(pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0));
    let specs = pod.spec.iter().flat_map(|s| &s.containers);
    let containers = specs
        .filter_map(|c| {
            let used = usage.containers.iter().find(|u| u.name == c.name)?;
            Some(ContainerUse {
                name: c.name.clone(),
                memory: used.working_set_bytes as i64,
                memory_request: request(c, "memory"),
                disk: (used.rootfs_bytes + used.log_bytes) as i64,
                disk_request: request(c, "ephemeral-storage"),
            })
        })
        .collect();
    PodUse {
        uid: podspec::uid(pod).to_owned(),
        priority,
        critical: podspec::is_static(pod) || podspec::is_mirror(pod) || priority >= CRITICAL,
        known: usage.cgroup.is_some() || !usage.containers.is_empty(),
        memory: usage.working_set_bytes() as i64,
        memory_request: of("memory"),
        disk: disk_use(shared, usage, signal, dedicated),
        disk_request: of("ephemeral-storage"),
        pids: usage.cgroup.map_or(0, |c| c.pids as i64),
        containers,
    }
}

fn disk_limit(container: &Container) -> Option<i64> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    limits
        .get("ephemeral-storage")
        .map(|q| amount::of("ephemeral-storage", q))
}

fn has_disk_limit(pod: &Pod) -> bool {
    let Some(spec) = pod.spec.as_ref() else {
        return false;
    };
    let volumes = spec.volumes.iter().flatten();
    let sized = volumes
        .into_iter()
        .any(|v| v.empty_dir.as_ref().is_some_and(|e| e.size_limit.is_some()));
    sized || spec.containers.iter().any(|c| disk_limit(c).is_some())
}

/// The message when a pod exceeds a limit of its own.
fn over_own_limit(shared: &Shared, usage: &PodUsage) -> Option<String> {
    let pod = &usage.pod;
    let spec = pod.spec.as_ref()?;
    for volume in spec.volumes.iter().flatten() {
        let Some(limit) = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref()) else {
            continue;
        };
        let path = crate::volumes::host_path(&shared.settings.dirs.root, podspec::uid(pod), volume)?;
        if disk::usage(&path).0 as i64 > amount::of("memory", limit) {
            return Some(format!(
                "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ",
                volume.name, limit.0
            ));
        }
    }
    let limits: Vec<Option<i64>> = spec.containers.iter().map(disk_limit).collect();
    if limits.iter().all(Option::is_some) {
        let total: i64 = limits.iter().flatten().sum();
        let used = usage.container_disk_bytes() + of_volumes(shared, pod).0;
        if used as i64 > total {
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
                thresholds::bytes_text(total)
            ));
        }
    }
    for (container, limit) in spec.containers.iter().zip(limits) {
        let used = usage.containers.iter().find(|u| u.name == container.name);
        if let (Some(limit), Some(used)) = (limit, used)
            && (used.rootfs_bytes + used.log_bytes) as i64 > limit
        {
            return Some(format!(
                "Container {} exceeded its local ephemeral storage limit {:?}. ",
                container.name,
                thresholds::bytes_text(limit)
            ));
        }
    }
    None
}
