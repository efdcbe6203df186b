//! In which order pods are evicted. Pure.

use std::cmp::Reverse;

use super::thresholds::Signal;

/// What of a container counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerUse {
    /// Name.
    pub name: String,
    /// Memory in use, bytes.
    pub memory: i64,
    /// Requested memory, bytes.
    pub memory_request: i64,
    /// Disk in use, bytes.
    pub disk: i64,
    /// Requested ephemeral storage, bytes.
    pub disk_request: i64,
}

/// What of a pod counts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodUse {
    /// The pod.
    pub uid: String,
    /// Priority.
    pub priority: i64,
    /// Static, mirror or of critical priority: never evicted.
    pub critical: bool,
    /// Whether its use is known at all.
    pub known: bool,
    /// Memory in use, bytes.
    pub memory: i64,
    /// Requested memory, bytes.
    pub memory_request: i64,
    /// Use of the scarce part of the disk: bytes, or inodes for inode signals.
    pub disk: i64,
    /// Requested ephemeral storage, bytes.
    pub disk_request: i64,
    /// Processes.
    pub pids: i64,
    /// Its containers.
    pub containers: Vec<ContainerUse>,
}

/// Sorts pods, first to go first; equal ones keep their order.
pub fn rank(signal: Signal, pods: &mut [PodUse]) {
    match signal {
        Signal::Memory | Signal::AllocatableMemory => pods.sort_by_key(|p| {
            let over = p.memory - p.memory_request;
            (p.known, Reverse(p.known && over > 0), p.priority, Reverse(over))
        }),
        Signal::Pids => pods.sort_by_key(|p| (p.priority, Reverse(p.pids))),
        _ => pods.sort_by_key(|p| {
            let over = p.disk - p.disk_request;
            (p.known, Reverse(p.known && over > 0), p.priority, Reverse(over))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, priority: i64, memory: i64, memory_request: i64) -> PodUse {
        PodUse {
            uid: uid.into(),
            priority,
            known: true,
            memory,
            memory_request,
            pids: memory,
            ..Default::default()
        }
    }

    fn order(signal: Signal, mut pods: Vec<PodUse>) -> String {
        rank(signal, &mut pods);
        let names: Vec<&str> = pods.iter().map(|p| p.uid.as_str()).collect();
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
