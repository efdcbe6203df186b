//! What the machine has and what of it pods may use. Pure.
//!
//! Rule: <https://kubernetes.io/docs/tasks/administer-cluster/reserve-compute-resources/>; percentages are 32-bit
//! floats as in the kubelet, which shows in the last digits.

use std::collections::BTreeMap;

use crate::amount::{self, Amounts};
use crate::config::KubeletConfiguration;
use crate::cpus::set::CpuSet;
use crate::facts::{Facts, hugepage_name};

/// What the machine has; `disk_bytes` is missing when the agent's filesystem cannot be read.
pub fn capacity(facts: &Facts, config: &KubeletConfiguration, disk_bytes: Option<i64>) -> Amounts {
    let mut amounts = Amounts::from([
        ("cpu".to_owned(), facts.cpus * 1000),
        ("memory".to_owned(), facts.memory_bytes),
    ]);
    amounts.extend(disk_bytes.map(|bytes| ("ephemeral-storage".to_owned(), bytes)));
    let pods = match config.pods_per_core {
        0 => config.max_pods,
        per_core => config.max_pods.min(per_core * facts.cpus),
    };
    amounts.insert("pods".to_owned(), pods);
    for (size, count) in &facts.hugepages {
        amounts.insert(hugepage_name(*size), size * count);
    }
    amounts
}

/// The amount of a threshold such as `10%` or `100Mi` of `capacity`; `None` when it is no amount.
pub fn threshold(text: &str, capacity: i64) -> Option<i64> {
    match text.strip_suffix('%') {
        Some(percent) => {
            let share: f32 = percent.parse::<f32>().ok()? / 100.0;
            Some((capacity as f64 * f64::from(share)) as i64)
        }
        None => amount::value(text),
    }
}

/// The amounts of a reservation.
pub fn amounts(reservation: &BTreeMap<String, String>) -> Amounts {
    let read = reservation.iter().filter_map(|(name, text)| {
        let amount = match name.as_str() {
            "cpu" => amount::milli(text),
            _ => amount::value(text),
        };
        Some((name.clone(), amount?))
    });
    read.collect()
}

/// What both reservations withhold of a resource; processors that are named count whole in their place.
pub fn reserved(config: &KubeletConfiguration, resource: &str) -> i64 {
    let named = config.reserved_system_cpus.parse::<CpuSet>().unwrap_or_default();
    if resource == "cpu" && !named.is_empty() {
        return named.len() as i64 * 1000;
    }
    let lists = [&config.system_reserved, &config.kube_reserved];
    lists
        .iter()
        .filter_map(|list| amounts(list).remove(resource))
        .sum()
}

/// What pods may use: capacity less both reservations, the hard eviction threshold and, for memory, hugepages.
pub fn allocatable(
    capacity: &Amounts,
    config: &KubeletConfiguration,
    hard: &BTreeMap<String, String>,
) -> Amounts {
    let hard_of = |resource: &str, total: i64| {
        let signal = match resource {
            "memory" => "memory.available",
            "ephemeral-storage" => "nodefs.available",
            _ => return 0,
        };
        hard.get(signal).and_then(|t| threshold(t, total)).unwrap_or(0)
    };
    let mut left: Amounts = capacity
        .iter()
        .map(|(name, total)| {
            let taken = reserved(config, name) + hard_of(name, *total);
            (name.clone(), (total - taken).max(0))
        })
        .collect();
    let pages: i64 = capacity
        .iter()
        .filter(|(n, _)| n.starts_with("hugepages-"))
        .map(|(_, a)| a)
        .sum();
    if let Some(memory) = left.get_mut("memory") {
        *memory = (*memory - pages).max(0);
    }
    left
}

/// What all pods together may use in their cgroup: without the eviction threshold, processes included.
pub fn of_pods(facts: &Facts, config: &KubeletConfiguration) -> Amounts {
    let mut all = capacity(facts, config, None);
    all.remove("pods");
    all.insert("pid".to_owned(), facts.pid_limit);
    let left = all.into_iter().map(|(name, total)| {
        let left = (total - reserved(config, &name)).max(0);
        (name, left)
    });
    left.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocatable_reproduces_a_measured_node() {
        let config = KubeletConfiguration::default();
        let capacity = Amounts::from([
            ("memory".to_owned(), 3_981_672 * 1024),
            ("ephemeral-storage".to_owned(), 20_463_184 * 1024),
        ]);
        let left = allocatable(&capacity, &config, &config.hard_thresholds());
        assert_eq!(left["memory"], 3_879_272 * 1024);
        assert_eq!(left["ephemeral-storage"], 18_858_870_344);
    }
}
