//! In which order pods are evicted. Pure.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use mainstay_semantics::pod::{PodResources, ResourceList};
use mainstay_semantics::quantity::Quantity;

use super::thresholds::{Layout, Signal};
use crate::{podspec, qos};

/// Use of a filesystem.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsUse {
    /// Bytes.
    pub bytes: i64,
    /// Inodes.
    pub inodes: i64,
}

/// What of a container counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerUse {
    /// Name.
    pub name: String,
    /// Memory in use, bytes.
    pub memory: i64,
    /// Writable layer.
    pub rootfs: FsUse,
    /// Logs.
    pub logs: FsUse,
}

/// What of a volume counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VolumeUse {
    /// Name in the pod's spec.
    pub name: String,
    /// Its use.
    pub used: FsUse,
    /// Whether it lies on the node's own disk.
    pub on_disk: bool,
}

/// A pod and what it uses.
#[derive(Debug, Clone, Default)]
pub struct PodUse {
    /// The pod.
    pub pod: Arc<Pod>,
    /// The resource part of its spec.
    pub resources: PodResources,
    /// Whether its use is known at all.
    pub known: bool,
    /// Memory in use, bytes.
    pub memory: i64,
    /// Processes.
    pub pids: i64,
    /// Sockets with a port of the node.
    pub ports: i64,
    /// Open files.
    pub files: i64,
    /// Its containers.
    pub containers: Vec<ContainerUse>,
    /// Its volumes.
    pub volumes: Vec<VolumeUse>,
}

/// A part of a pod's use of disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Rootfs,
    Logs,
    Volumes,
}

/// Which parts lie on the filesystem that a signal is about.
fn measured(signal: Signal, layout: Layout) -> &'static [Part] {
    let nodefs = matches!(signal, Signal::NodefsBytes | Signal::NodefsInodes);
    let imagefs = matches!(signal, Signal::ImagefsBytes | Signal::ImagefsInodes);
    match (layout.dedicated_imagefs, layout.split) {
        (true, false) if nodefs => &[Part::Logs, Part::Volumes],
        (true, false) => &[Part::Rootfs],
        // Only images are there, and they belong to no pod.
        (true, true) if imagefs => &[],
        _ => &[Part::Rootfs, Part::Logs, Part::Volumes],
    }
}

impl PodUse {
    /// A pod of which nothing is known yet.
    pub fn unmeasured(pod: Arc<Pod>) -> Self {
        PodUse {
            resources: pod.spec.as_ref().map(qos::resources).unwrap_or_default(),
            pod,
            ..Default::default()
        }
    }

    /// The pod's UID.
    pub fn uid(&self) -> &str {
        podspec::uid(&self.pod)
    }

    fn priority(&self) -> i64 {
        i64::from(self.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0))
    }

    fn request(&self, resource: &str) -> i64 {
        qos::counted_request(&self.resources, resource).value()
    }

    fn disk(&self, signal: Signal, layout: Layout) -> i64 {
        let parts = measured(signal, layout);
        let has = |part: Part| parts.contains(&part);
        let containers = self.containers.iter().flat_map(|c| {
            let rootfs = has(Part::Rootfs).then_some(c.rootfs);
            rootfs.into_iter().chain(has(Part::Logs).then_some(c.logs))
        });
        let volumes = self.volumes.iter().filter(|v| v.on_disk && has(Part::Volumes));
        let all = containers.chain(volumes.map(|v| v.used));
        all.map(|used| match signal.resource() {
            "inodes" => used.inodes,
            _ => used.bytes,
        })
        .sum()
    }

    /// All that the pod keeps on disks, bytes.
    pub fn ephemeral_bytes(&self) -> i64 {
        let containers = self.containers.iter().map(|c| c.rootfs.bytes + c.logs.bytes);
        let volumes = self.volumes.iter().filter(|v| v.on_disk);
        containers.sum::<i64>() + volumes.map(|v| v.used.bytes).sum::<i64>()
    }

    /// What a container of the pod asks for.
    pub fn container_requests(&self, name: &str) -> Option<&ResourceList> {
        let found = self.resources.all_containers().find(|c| c.name == name);
        found.map(|c| &c.resources.requests)
    }

    /// The pod-level request of a resource.
    pub fn pod_level_request(&self, resource: &str) -> Option<&Quantity> {
        self.resources.resources.as_ref()?.requests.get(resource)
    }

    /// How much it holds of what nobody can ask for by the piece.
    fn pieces(&self, signal: Signal) -> Option<i64> {
        match signal {
            Signal::Pids => Some(self.pids),
            Signal::Ports => Some(self.ports),
            Signal::Files => Some(self.files),
            _ => None,
        }
    }

    /// The place in the order: what is smaller goes first.
    fn rank(&self, signal: Signal, layout: Layout) -> Rank {
        if let Some(held) = self.pieces(signal) {
            return (false, false, self.priority(), self.known, Reverse(held));
        }
        if !self.known {
            return (false, false, self.priority(), false, Reverse(0));
        }
        let memory = matches!(signal, Signal::Memory | Signal::AllocatableMemory);
        let (used, request, exceeds) = match memory {
            true => {
                let request = self.request("memory");
                (self.memory, request, self.memory > request)
            }
            false => {
                let used = self.disk(signal, layout);
                let request = self.request("ephemeral-storage");
                // Nobody can ask for inodes: any use exceeds.
                let asked = if signal.resource() == "inodes" { 0 } else { request };
                (used, request, used > asked)
            }
        };
        (true, !exceeds, self.priority(), true, Reverse(used - request))
    }
}

/// Known, within its request, priority, known, by how much above its request.
type Rank = (bool, bool, i64, bool, Reverse<i64>);

/// Sorts pods, first to go first; equal ones keep their order.
pub fn rank(signal: Signal, layout: Layout, pods: &mut [PodUse]) {
    pods.sort_by_cached_key(|pod| pod.rank(signal, layout));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, priority: i64, memory: i64, request: i64) -> PodUse {
        let pod = json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"memory": request.to_string()}}}]}});
        PodUse {
            known: true,
            memory,
            pids: memory,
            ..PodUse::unmeasured(Arc::new(serde_json::from_value(pod).expect("valid")))
        }
    }

    fn order(signal: Signal, mut pods: Vec<PodUse>) -> String {
        rank(signal, Layout::default(), &mut pods);
        let names: Vec<&str> = pods.iter().map(|p| podspec::name(&p.pod)).collect();
        names.join(" ")
    }

    #[test]
    fn use_above_request_goes_first_then_low_priority_then_the_largest_excess() {
        let pods = vec![
            pod("under", 0, 90, 100),
            pod("over-high", 10, 500, 100),
            pod("over-low", 0, 200, 100),
            pod("best-effort", 0, 150, 0),
        ];
        assert_eq!(
            order(Signal::Memory, pods),
            "best-effort over-low over-high under"
        );
    }

    #[test]
    fn process_ids_look_at_priority_and_number_alone() {
        let pods = vec![
            pod("few", 0, 5, 0),
            pod("many", 0, 50, 100),
            pod("high", 5, 500, 0),
        ];
        assert_eq!(order(Signal::Pids, pods), "many few high");
    }
}
