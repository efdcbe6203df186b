//! Expanders: which of several node groups grows. Each keeps the best options; the next one decides among
//! those, and the last tie goes to the first name.

use std::collections::BTreeMap;

use mainstay_placement::{Node, Resources};
use regex::Regex;

const MIB: f64 = 1024.0 * 1024.0;
const GIB: f64 = 1024.0 * MIB;
/// The pod whose price keeps small sums from swinging (cpu thousandths, bytes).
const STABILIZING_POD: (f64, f64) = (500.0, 500.0 * MIB);
/// Up to this many nodes a cluster prefers nodes of this many cores.
const PREFERRED_CORES: [(usize, f64); 5] = [(2, 1.0), (6, 2.0), (20, 4.0), (60, 8.0), (200, 16.0)];
const PREFERRED_CORES_BEYOND: f64 = 32.0;

/// A way to choose.
#[derive(Debug, Clone)]
pub enum Expander {
    /// By chance (seeded), or simply the first when nothing else decides.
    Random(u64),
    /// The most pods get a place.
    MostPods,
    /// The fewest nodes are added.
    LeastNodes,
    /// The least cpu and memory stay unused.
    LeastWaste,
    /// The lowest price, weighted by how well the node's size suits the cluster.
    Price(PodPrice),
    /// The highest number in a table whose patterns match the group's name.
    Priority(Priorities),
}

/// What pods are worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PodPrice {
    /// Per core and hour.
    pub per_core_hour: f64,
    /// Per GiB of memory and hour.
    pub per_gib_hour: f64,
}

impl Default for PodPrice {
    fn default() -> Self {
        PodPrice {
            per_core_hour: 0.033,
            per_gib_hour: 0.0045,
        }
    }
}

impl PodPrice {
    fn of(&self, cpu_milli: f64, memory_bytes: f64) -> f64 {
        self.per_core_hour * cpu_milli / 1000.0 + self.per_gib_hour * memory_bytes / GIB
    }
}

/// Patterns of group names by priority.
#[derive(Debug, Clone, Default)]
pub struct Priorities(BTreeMap<i64, Vec<Regex>>);

/// Why an expander's settings cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpanderError {
    /// The name is unknown.
    #[error(
        "unknown expander {0:?}: expected random, most-pods, least-nodes, least-waste, price or priority"
    )]
    Unknown(String),
    /// The priority table cannot be read.
    #[error("the priority table cannot be read: {0}")]
    Priorities(String),
}

impl Priorities {
    /// Reads the table of cluster-autoscaler's ConfigMap: numbers, each with a list of patterns.
    ///
    /// # Errors
    /// Says what is wrong with the text or a pattern.
    pub fn parse(text: &str) -> Result<Self, ExpanderError> {
        let wrong = |error: &dyn std::fmt::Display| ExpanderError::Priorities(error.to_string());
        let table: BTreeMap<i64, Vec<String>> =
            serde_yaml_ng::from_str(text).map_err(|error| wrong(&error))?;
        let mut priorities = BTreeMap::new();
        for (priority, patterns) in table {
            let compiled: Result<Vec<Regex>, _> =
                patterns.iter().map(|pattern| Regex::new(pattern)).collect();
            priorities.insert(priority, compiled.map_err(|error| wrong(&error))?);
        }
        Ok(Priorities(priorities))
    }

    fn of(&self, group: &str) -> Option<i64> {
        let matching = self
            .0
            .iter()
            .rev()
            .find(|(_, patterns)| patterns.iter().any(|own| own.is_match(group)));
        matching.map(|(priority, _)| *priority)
    }
}

/// Reads a chain such as `priority,least-waste`.
///
/// # Errors
/// The first name that is unknown.
pub fn parse_chain(
    names: &str,
    pod_price: PodPrice,
    priorities: &Priorities,
    seed: u64,
) -> Result<Vec<Expander>, ExpanderError> {
    let one = |name: &str| match name.trim() {
        "random" => Ok(Expander::Random(seed)),
        "most-pods" => Ok(Expander::MostPods),
        "least-nodes" => Ok(Expander::LeastNodes),
        "least-waste" => Ok(Expander::LeastWaste),
        "price" => Ok(Expander::Price(pod_price)),
        "priority" => Ok(Expander::Priority(priorities.clone())),
        other => Err(ExpanderError::Unknown(other.to_owned())),
    };
    names.split(',').map(one).collect()
}

/// One group that could grow.
#[derive(Debug, Clone)]
pub struct Choice<'a> {
    /// The group's name.
    pub group: &'a str,
    /// What a new node looks like.
    pub template: &'a Node,
    /// The price of a node per hour.
    pub price_per_hour: Option<f64>,
    /// How many nodes would be added.
    pub nodes: usize,
    /// How many pods would get a place.
    pub pods: usize,
    /// What these pods request together.
    pub requested: Resources,
}

/// Chooses one of the options (by index); `cluster_nodes` is the number of nodes there are.
pub fn choose(expanders: &[Expander], options: &[Choice<'_>], cluster_nodes: usize) -> Option<usize> {
    let mut left: Vec<usize> = (0..options.len()).collect();
    for expander in expanders {
        if left.len() > 1 {
            left = keep_best(expander, options, left, cluster_nodes);
        }
    }
    left.into_iter().min_by_key(|at| options[*at].group)
}

fn keep_best(expander: &Expander, options: &[Choice<'_>], left: Vec<usize>, nodes: usize) -> Vec<usize> {
    let lowest = |score: &dyn Fn(&Choice<'_>) -> f64| {
        let least = left
            .iter()
            .map(|at| score(&options[*at]))
            .fold(f64::INFINITY, f64::min);
        left.iter()
            .copied()
            .filter(|at| score(&options[*at]) == least)
            .collect()
    };
    match expander {
        Expander::Random(seed) => {
            let at = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as usize % left.len();
            vec![left[at]]
        }
        Expander::MostPods => lowest(&|option| -(option.pods as f64)),
        Expander::LeastNodes => lowest(&|option| option.nodes as f64),
        Expander::LeastWaste => lowest(&waste),
        Expander::Price(pods) => lowest(&|option| price_score(option, pods, nodes)),
        Expander::Priority(table) => {
            let highest = left.iter().filter_map(|at| table.of(options[*at].group)).max();
            let matching = |at: &usize| highest.is_none() || table.of(options[*at].group) == highest;
            left.into_iter().filter(matching).collect()
        }
    }
}

/// The unused share of cpu plus that of memory, by capacity.
fn waste(option: &Choice<'_>) -> f64 {
    let capacity = &option.template.info.capacity;
    let unused = |wanted: i64, each: i64| {
        let all = each as f64 * option.nodes as f64;
        if all > 0.0 {
            (all - wanted as f64) / all
        } else {
            0.0
        }
    };
    unused(option.requested.cpu_milli, capacity.cpu_milli)
        + unused(option.requested.memory_bytes, capacity.memory_bytes)
}

fn price_score(option: &Choice<'_>, pods: &PodPrice, cluster_nodes: usize) -> f64 {
    let Some(price) = option.price_per_hour else {
        return f64::INFINITY;
    };
    let stabilizing = pods.of(STABILIZING_POD.0, STABILIZING_POD.1);
    let worth = pods.of(
        option.requested.cpu_milli as f64,
        option.requested.memory_bytes as f64,
    );
    let ratio = (price * option.nodes as f64 + stabilizing) / (worth + stabilizing);
    let preferred = PREFERRED_CORES.iter().find(|(up_to, _)| cluster_nodes <= *up_to);
    let preferred = preferred.map_or(PREFERRED_CORES_BEYOND, |(_, cores)| *cores);
    let cores = option.template.info.capacity.cpu_milli as f64 / 1000.0;
    let unfit = if cores > 0.0 {
        (preferred / cores).max(cores / preferred)
    } else {
        f64::INFINITY
    };
    let fades = 1.0 - ((option.nodes as f64 - 1.0) / 15.0).tanh();
    ratio * ((unfit - 1.0) * fades + 1.0)
}
