//! Similar node groups, and sharing new nodes among them.

use std::collections::BTreeMap;

use mainstay_placement::{Node, Resources};
use mainstay_semantics::labels::{HOSTNAME, REGION, ZONE};

/// How much memory capacity may differ, as share of the larger.
const MEMORY_DIFFERENCE: f64 = 0.015;
/// How much allocatable and free amounts may differ.
const AMOUNT_DIFFERENCE: f64 = 0.05;
/// Labels that always differ between zones of one pool.
const IGNORED_LABELS: [&str; 5] = [
    HOSTNAME,
    ZONE,
    REGION,
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// Tells whether two templates are alike: equal capacities (memory within 1.5 %), allocatable and free
/// amounts within 5 %, equal labels except places and those ignored.
pub fn similar(a: &Node, b: &Node, ignored: &[String]) -> bool {
    let (left, right) = (&a.info.capacity, &b.info.capacity);
    let exact = left.cpu_milli == right.cpu_milli
        && left.ephemeral_bytes == right.ephemeral_bytes
        && left.scalars == right.scalars
        && a.info.pods_allowed == b.info.pods_allowed;
    exact
        && close(left.memory_bytes, right.memory_bytes, MEMORY_DIFFERENCE)
        && amounts_close(&a.info.allocatable, &b.info.allocatable)
        && amounts_close(&a.free, &b.free)
        && labels(a, ignored) == labels(b, ignored)
}

fn amounts_close(a: &Resources, b: &Resources) -> bool {
    close(a.cpu_milli, b.cpu_milli, AMOUNT_DIFFERENCE)
        && close(a.memory_bytes, b.memory_bytes, AMOUNT_DIFFERENCE)
}

fn close(a: i64, b: i64, difference: f64) -> bool {
    (a - b).abs() as f64 <= a.max(b) as f64 * difference
}

fn labels<'a>(node: &'a Node, ignored: &[String]) -> BTreeMap<&'a str, &'a str> {
    let counts = |key: &str| !IGNORED_LABELS.contains(&key) && !ignored.iter().any(|own| own == key);
    let pairs = node
        .info
        .labels
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    pairs.filter(|(key, _)| counts(key)).collect()
}

/// A group that may take part: its name, size and limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The name.
    pub group: String,
    /// Its size now.
    pub size: usize,
    /// Its largest size.
    pub max: usize,
}

/// Shares `count` new nodes: each goes to the smallest group that has room. What has no room is dropped.
pub fn share(parts: &[Part], count: usize) -> BTreeMap<String, usize> {
    let mut added = vec![0; parts.len()];
    for _ in 0..count {
        let open = (0..parts.len()).filter(|at| parts[*at].size + added[*at] < parts[*at].max);
        let Some(smallest) = open.min_by_key(|at| (parts[*at].size + added[*at], &parts[*at].group)) else {
            break;
        };
        added[smallest] += 1;
    }
    let named = parts
        .iter()
        .zip(added)
        .map(|(part, more)| (part.group.clone(), more));
    named.filter(|(_, more)| *more > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_nodes_even_sizes_out() {
        let part = |group: &str, size, max| Part {
            group: group.into(),
            size,
            max,
        };
        let shared = share(&[part("a", 0, 1), part("b", 2, 50), part("c", 0, 50)], 6);
        assert_eq!(format!("{shared:?}"), r#"{"a": 1, "b": 2, "c": 3}"#);
        assert_eq!(share(&[part("a", 3, 3)], 2).len(), 0);
    }
}
