//! What the machine has and what of it pods may use. Pure.
//!
//! Rule: <https://kubernetes.io/docs/tasks/administer-cluster/reserve-compute-resources/>; percentages are 32-bit
//! floats as in the kubelet, which shows in the last digits.

use std::collections::BTreeMap;

use crate::amount::{self, Amounts};
use crate::config::KubeletConfiguration;
use crate::facts::{Facts, hugepage_name};

/// What the machine has.
pub fn capacity(facts: &Facts, config: &KubeletConfiguration, ephemeral_bytes: i64) -> Amounts {
    let mut amounts = Amounts::from([
        ("cpu".to_owned(), facts.cpus * 1000),
        ("memory".to_owned(), facts.memory_bytes),
        ("ephemeral-storage".to_owned(), ephemeral_bytes),
    ]);
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

fn reserved(config: &KubeletConfiguration, resource: &str) -> i64 {
    let lists = [&config.system_reserved, &config.kube_reserved];
    let texts = lists.iter().filter_map(|list| list.get(resource));
    texts
        .filter_map(|t| match resource {
            "cpu" => amount::milli(t),
            _ => amount::value(t),
        })
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

/// The memory that all pods together may use in their cgroup: without the eviction threshold.
pub fn pods_memory(capacity: &Amounts, config: &KubeletConfiguration) -> i64 {
    (capacity.get("memory").copied().unwrap_or(0) - reserved(config, "memory")).max(0)
}

/// The cpu (thousandths) that all pods together are weighed with.
pub fn pods_cpu(capacity: &Amounts, config: &KubeletConfiguration) -> i64 {
    (capacity.get("cpu").copied().unwrap_or(0) - reserved(config, "cpu")).max(0)
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
