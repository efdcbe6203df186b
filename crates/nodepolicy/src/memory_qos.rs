//! Feature gate `MemoryQoS` (cgroup v2): which memory the kernel leaves to pods, and from where on a container is slowed
//! down before it reaches its limit. Pure.

use std::collections::HashMap;

use mainstay_semantics::qos::Class;

use crate::config::KubeletConfiguration;
use crate::node_cgroups::{GroupLimits, Tiers};

/// Memory of a cgroup that the kernel is asked to leave alone, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Protected {
    /// `memory.min`: never taken away.
    pub min: Option<i64>,
    /// `memory.low`: taken away only when there is no other.
    pub low: Option<i64>,
}

impl Protected {
    fn of(class: Class, bytes: i64) -> Self {
        match class {
            Class::Guaranteed => Protected {
                min: Some(bytes),
                low: None,
            },
            _ => Protected {
                min: None,
                low: Some(bytes),
            },
        }
    }
}

/// The gate's settings, where it is on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemoryQos {
    /// Where between request and limit a container is slowed down.
    factor: f64,
    /// Whether requests are protected.
    tiered: bool,
    /// Bytes of the node for pods.
    allocatable: i64,
    page_bytes: i64,
}

impl MemoryQos {
    /// The settings; `None` where the gate is off. `allocatable`: bytes of the node for pods.
    pub fn new(kubelet: &KubeletConfiguration, allocatable: i64, page_bytes: i64) -> Option<Self> {
        kubelet.gate("MemoryQoS").then(|| MemoryQos {
            factor: kubelet.memory_throttling_factor,
            tiered: kubelet.memory_reservation_policy == "TieredReservation",
            allocatable,
            page_bytes: page_bytes.max(1),
        })
    }

    /// What is protected of a pod that requests so many bytes.
    pub fn of_pod(&self, class: Class, request: i64) -> Protected {
        match self.tiered && request > 0 {
            true => Protected::of(class, request),
            false => Protected::default(),
        }
    }

    /// Protects what the pods of each class request. Those above cover those below: else the kernel gives less.
    pub fn protect_classes(&self, tiers: &mut Tiers) {
        let requested = tiers.requested_memory;
        let of = |bytes| if self.tiered { bytes } else { 0 };
        tiers.guaranteed = GroupLimits {
            protected: Protected::of(Class::Guaranteed, of(requested.guaranteed + requested.burstable)),
            ..Default::default()
        };
        tiers.burstable.protected = Protected::of(Class::Burstable, of(requested.burstable));
    }

    /// The files of a container's cgroup; 0 stands for no request and no limit.
    pub fn of_container(&self, class: Class, request: i64, limit: i64) -> HashMap<String, String> {
        let protected = match (self.tiered && request != 0, class) {
            (false, _) => vec![("memory.min", 0), ("memory.low", 0)],
            (true, Class::Guaranteed) => vec![("memory.min", request)],
            (true, _) => vec![("memory.low", request)],
        };
        let high = self.high(request, limit).map(|bytes| ("memory.high", bytes));
        let files = protected.into_iter().chain(high);
        files
            .map(|(file, bytes)| (file.to_owned(), bytes.to_string()))
            .collect()
    }

    fn high(&self, request: i64, limit: i64) -> Option<i64> {
        let most = if limit == 0 { self.allocatable } else { limit };
        if request == limit || most <= 0 {
            return None;
        }
        let bytes = (request as f64 + (most - request) as f64 * self.factor).floor() as i64;
        let high = bytes / self.page_bytes * self.page_bytes;
        (high > request).then_some(high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node_cgroups::Requested;

    const MIB: i64 = 1 << 20;

    fn qos(text: &str) -> MemoryQos {
        let text = format!("{{featureGates: {{MemoryQoS: true}}, {text}}}");
        let (kubelet, warnings) = KubeletConfiguration::parse(&text).expect("valid");
        assert_eq!(warnings, Vec::<String>::new());
        MemoryQos::new(&kubelet, 1000 * MIB, 4096).expect("on")
    }

    fn text(files: HashMap<String, String>) -> String {
        let mut all: Vec<String> = files
            .into_iter()
            .map(|(file, bytes)| format!("{file}={bytes}"))
            .collect();
        all.sort();
        all.join(" ")
    }

    #[test]
    fn without_reservation_containers_are_slowed_down_and_nothing_is_protected() {
        let qos = qos("memoryThrottlingFactor: 0.5");
        assert_eq!(qos.of_pod(Class::Guaranteed, MIB), Protected::default());
        let of = |request, limit| text(qos.of_container(Class::Burstable, request, limit));
        assert_eq!(of(MIB, 3 * MIB), "memory.high=2097152 memory.low=0 memory.min=0");
        assert_eq!(of(MIB, MIB), "memory.low=0 memory.min=0");
        // No limit: the node's memory stands in for it. No whole page is given away.
        assert_eq!(of(8192, 0), "memory.high=524292096 memory.low=0 memory.min=0");
    }

    #[test]
    fn with_tiers_requests_are_protected_by_class() {
        let qos = qos("memoryReservationPolicy: TieredReservation");
        assert_eq!(
            text(qos.of_container(Class::Guaranteed, MIB, MIB)),
            "memory.min=1048576"
        );
        assert_eq!(
            text(qos.of_container(Class::Burstable, MIB, 2 * MIB)),
            "memory.high=1990656 memory.low=1048576"
        );
        let mut tiers = Tiers {
            requested_memory: Requested {
                guaranteed: 5,
                burstable: 7,
            },
            ..Default::default()
        };
        qos.protect_classes(&mut tiers);
        assert_eq!(tiers.guaranteed.protected.min, Some(12));
        assert_eq!(tiers.burstable.protected.low, Some(7));
    }

    #[test]
    fn off_it_does_nothing() {
        assert_eq!(MemoryQos::new(&KubeletConfiguration::default(), MIB, 4096), None);
    }
}
