//! Memory nodes: sets of them, and hints of who gives out processors and devices on where these should come from.

pub mod allot;
pub mod merge;

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::KubeletConfiguration;
use crate::truth::truth;

/// More memory nodes than this are refused unless an option raises it: hints are made for every subset.
const DEFAULT_LIMIT: usize = 8;
/// The option cannot raise it beyond this, where the subsets of all nodes are too many to look at.
const HIGHEST_LIMIT: usize = 16;

/// A set of memory nodes, ordered as numbers are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mask(u64);

impl FromIterator<u32> for Mask {
    fn from_iter<I: IntoIterator<Item = u32>>(nodes: I) -> Self {
        let known = nodes.into_iter().filter(|node| *node < 64);
        Mask(known.fold(0, |bits, node| bits | 1 << node))
    }
}

impl Mask {
    /// The set with these bits.
    pub fn from_bits(bits: u64) -> Self {
        Mask(bits)
    }

    /// One bit for each node.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// How many nodes.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a node is in it.
    pub fn contains(self, node: u32) -> bool {
        node < 64 && self.0 & (1 << node) != 0
    }

    /// Whether one of the nodes is in it.
    pub fn has_any(self, nodes: impl IntoIterator<Item = u32>) -> bool {
        nodes.into_iter().any(|node| self.contains(node))
    }

    /// The nodes, ascending.
    pub fn nodes(self) -> impl Iterator<Item = u32> {
        (0..64).filter(move |node| self.contains(*node))
    }

    fn and(self, other: Mask) -> Mask {
        Mask(self.0 & other.0)
    }

    /// Fewer nodes; of as many, those with lower numbers.
    fn is_narrower_than(self, other: Mask) -> bool {
        (self.len(), self.0) < (other.len(), other.0)
    }
}

/// All sets that can be made of these nodes but the empty one, the small ones first.
pub fn subsets(nodes: &[u32]) -> Vec<Mask> {
    let nodes = &nodes[..nodes.len().min(HIGHEST_LIMIT)];
    let mut all: Vec<Mask> = (1_u64..1 << nodes.len())
        .map(|bits| {
            let chosen = nodes.iter().enumerate().filter(|(i, _)| bits & (1 << i) != 0);
            chosen.map(|(_, node)| *node).collect()
        })
        .collect();
    all.sort_by_cached_key(|mask| (mask.len(), mask.nodes().collect::<Vec<u32>>()));
    all
}

/// One way to serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// From these nodes; `None`: from anywhere.
    pub nodes: Option<Mask>,
    /// No way needs fewer nodes.
    pub preferred: bool,
}

/// What one who gives something out says of a request, by resource. `None`: all nodes are alike; no hint at all: it
/// cannot be served.
pub type Hints = BTreeMap<String, Option<Vec<Hint>>>;

/// The hints for a request: `fits` tells which sets of nodes can serve it now, `could` which could if all were free.
pub fn hints_for(nodes: &[u32], could: impl Fn(Mask) -> bool, fits: impl Fn(Mask) -> bool) -> Vec<Hint> {
    let all = subsets(nodes);
    let least = all.iter().filter(|m| could(**m)).map(|m| m.len()).min();
    let least = least.unwrap_or(nodes.len());
    let fitting = all.into_iter().filter(|mask| fits(*mask));
    fitting
        .map(|mask| Hint {
            nodes: Some(mask),
            preferred: mask.len() == least,
        })
        .collect()
}

/// How strictly what a pod gets must be near each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nobody looks.
    #[default]
    None,
    /// As near as it happens.
    BestEffort,
    /// On as few nodes as would suffice on an empty machine, or not at all.
    Restricted,
    /// On one node, or not at all.
    SingleNode,
}

/// What must be near each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    /// What a container gets.
    #[default]
    Container,
    /// What all containers of a pod get.
    Pod,
}

/// The memory nodes of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nodes {
    /// Their numbers, ascending.
    pub ids: Vec<u32>,
    /// How far each is from every other, as the firmware says.
    pub distances: BTreeMap<u32, BTreeMap<u32, u64>>,
}

impl Nodes {
    /// Reads them below `/sys/devices/system/node`; a kernel that knows none has one.
    pub fn read(dir: &Path) -> Self {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let number = |name: String| name.strip_prefix("node")?.parse::<u32>().ok();
        let mut ids: Vec<u32> = entries
            .filter_map(|entry| number(entry.file_name().into_string().ok()?))
            .collect();
        ids.sort_unstable();
        if ids.is_empty() {
            ids.push(0);
        }
        let row = |id: &u32| {
            let text = std::fs::read_to_string(dir.join(format!("node{id}/distance"))).ok()?;
            let numbers = text.split_whitespace().filter_map(|word| word.parse().ok());
            Some((*id, ids.iter().copied().zip(numbers).collect()))
        };
        let distances = ids.iter().filter_map(row).collect();
        Nodes { ids, distances }
    }

    fn all(&self) -> Mask {
        self.ids.iter().copied().collect()
    }

    /// The mean distance between two nodes of a set, each with itself included.
    fn mean_distance(&self, mask: Mask) -> f64 {
        let of = |a: u32, b: u32| self.distances.get(&a).and_then(|row| row.get(&b)).copied();
        let pairs = mask.nodes().flat_map(|a| mask.nodes().map(move |b| (a, b)));
        let sum: u64 = pairs.map(|(a, b)| of(a, b).unwrap_or(0)).sum();
        sum as f64 / (mask.len() * mask.len()).max(1) as f64
    }
}

/// `topologyManagerPolicyOptions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Of sets with as many nodes, take the one whose nodes are close to each other.
    pub prefer_closest: bool,
    /// Most memory nodes of a machine.
    pub most_nodes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            prefer_closest: false,
            most_nodes: DEFAULT_LIMIT,
        }
    }
}

impl Options {
    /// Reads the options.
    ///
    /// # Errors
    /// When one is unknown or has no valid value; in the kubelet's words where it has some.
    pub fn parse(given: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut options = Options::default();
        for (name, text) in given {
            match name.as_str() {
                "prefer-closest-numa-nodes" => {
                    options.prefer_closest = truth(text).ok_or_else(|| {
                        format!("bad value for option {name:?}: {text:?} is no truth value")
                    })?;
                }
                "max-allowable-numa-nodes" => options.most_nodes = limit(name, text)?,
                _ => return Err(format!("unknown Topology Manager Policy option: {name:?}")),
            }
        }
        Ok(options)
    }
}

fn limit(name: &str, text: &str) -> Result<usize, String> {
    let number: usize = text
        .parse()
        .map_err(|_| format!("unable to convert policy option to integer {name:?}: {text:?}"))?;
    match number {
        ..DEFAULT_LIMIT => Err(format!(
            "the minimum value of {name:?} should not be less than {DEFAULT_LIMIT}"
        )),
        DEFAULT_LIMIT..=HIGHEST_LIMIT => Ok(number),
        _ => Err(format!("{name:?} can be at most {HIGHEST_LIMIT}")),
    }
}

/// The topology manager of one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manager {
    /// How strict it is.
    pub policy: Policy,
    /// What it puts near each other.
    pub scope: Scope,
    /// The machine's memory nodes.
    pub nodes: Nodes,
    /// Of equally wide sets, prefer near nodes.
    pub prefer_closest: bool,
}

impl Manager {
    /// The manager that a configuration asks for.
    ///
    /// # Errors
    /// When the configuration is wrong or the machine has too many nodes.
    pub fn of(config: &KubeletConfiguration, nodes: Nodes) -> Result<Self, String> {
        let policy = policy_of(&config.topology_manager_policy)?;
        if policy == Policy::None {
            return Ok(Manager::default());
        }
        let options = Options::parse(&config.topology_manager_policy_options)?;
        if nodes.ids.len() > options.most_nodes {
            return Err(format!(
                "unsupported on machines with more than {} NUMA Nodes",
                options.most_nodes
            ));
        }
        Ok(Manager {
            policy,
            scope: scope_of(&config.topology_manager_scope)?,
            nodes,
            prefer_closest: options.prefer_closest,
        })
    }
}

/// Reads `topologyManagerPolicy`.
///
/// # Errors
/// When there is no such policy.
pub fn policy_of(name: &str) -> Result<Policy, String> {
    match name {
        "" | "none" => Ok(Policy::None),
        "best-effort" => Ok(Policy::BestEffort),
        "restricted" => Ok(Policy::Restricted),
        "single-numa-node" => Ok(Policy::SingleNode),
        _ => Err("must be none, best-effort, restricted or single-numa-node".to_owned()),
    }
}

/// Reads `topologyManagerScope`.
///
/// # Errors
/// When there is no such scope.
pub fn scope_of(name: &str) -> Result<Scope, String> {
    match name {
        "" | "container" => Ok(Scope::Container),
        "pod" => Ok(Scope::Pod),
        _ => Err("must be container or pod".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_come_by_size() {
        let texts: Vec<Vec<u32>> = subsets(&[0, 1, 3]).iter().map(|m| m.nodes().collect()).collect();
        let expected: [&[u32]; 7] = [&[0], &[1], &[3], &[0, 1], &[0, 3], &[1, 3], &[0, 1, 3]];
        assert_eq!(texts, expected);
    }

    #[test]
    fn the_kernel_files_tell_the_distances() {
        let dir = tempfile::tempdir().expect("a folder");
        for (node, row) in [(0, "10 21\n"), (2, "21 10\n")] {
            let node = dir.path().join(format!("node{node}"));
            std::fs::create_dir(&node).expect("made");
            std::fs::write(node.join("distance"), row).expect("written");
        }
        let nodes = Nodes::read(dir.path());
        assert_eq!((nodes.ids.as_slice(), nodes.distances[&0][&2]), (&[0, 2][..], 21));
        assert_eq!(nodes.mean_distance(nodes.all()), 15.5);
        assert_eq!(Nodes::read(&dir.path().join("none")).ids, [0]);
    }

    #[test]
    fn options_say_what_is_wrong() {
        let said = |name: &str, value: &str| {
            let given = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            Options::parse(&given).expect_err("wrong")
        };
        assert_eq!(
            [
                said("max-allowable-numa-nodes", "7"),
                said("max-allowable-numa-nodes", "99"),
                said("nearest", "true")
            ],
            [
                "the minimum value of \"max-allowable-numa-nodes\" should not be less than 8",
                "\"max-allowable-numa-nodes\" can be at most 16",
                "unknown Topology Manager Policy option: \"nearest\"",
            ]
        );
    }
}
