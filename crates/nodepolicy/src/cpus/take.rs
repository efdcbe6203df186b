//! Which processors a container gets: whole sockets and memory nodes first, then whole cores, then what is left of the
//! fullest ones. Pure. The order is that of the kubelet's static policy, so that placements can be predicted.

use super::set::CpuSet;
use super::topology::{Level, Topology};

/// There are too few processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not enough cpus available to satisfy request: requested={requested}, available={available}")]
pub struct TooFew {
    /// How many are wanted.
    pub requested: usize,
    /// How many are free.
    pub available: usize,
}

/// Processors taken so far, and those still free.
struct Basket<'t> {
    whole: &'t Topology,
    free: Topology,
    needed: usize,
    taken: CpuSet,
}

impl<'t> Basket<'t> {
    fn new(whole: &'t Topology, available: &CpuSet, needed: usize) -> Result<Self, TooFew> {
        let free = whole.only(available);
        let available = free.cpus().len();
        if needed > available {
            return Err(TooFew {
                requested: needed,
                available,
            });
        }
        Ok(Basket {
            whole,
            free,
            needed,
            taken: CpuSet::default(),
        })
    }

    fn is_full(&self) -> bool {
        self.needed == 0
    }

    fn take(&mut self, cpus: &CpuSet) {
        self.free = self.free.only(&self.free.cpus().difference(cpus));
        self.taken = self.taken.union(cpus);
        self.needed -= cpus.len();
    }

    /// The level that holds more processors than the other: memory nodes, unless sockets hold several of them.
    fn outer(&self) -> Level {
        match self.whole.ids(Level::Socket).len() >= self.whole.ids(Level::Numa).len() {
            true => Level::Numa,
            false => Level::Socket,
        }
    }

    fn inner(&self) -> Level {
        match self.outer() {
            Level::Numa => Level::Socket,
            _ => Level::Numa,
        }
    }

    /// Puts what has the fewest free processors first.
    fn fullest_first(&self, level: Level, ids: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let mut ids: Vec<u32> = ids.into_iter().collect();
        ids.sort_by_key(|id| (self.free.cpus_in(level, *id).len(), *id));
        ids
    }

    /// Numbers of a level with free processors, in the order in which they are used up.
    fn sorted(&self, level: Level) -> Vec<u32> {
        let (outer, inner) = (self.outer(), self.inner());
        if level == outer {
            return self.fullest_first(outer, self.free.ids(outer));
        }
        let around = match level {
            Level::Core => inner,
            Level::Cache => Level::Numa,
            _ => outer,
        };
        let within = |id: u32| self.fullest_first(level, self.free.ids_within(level, around, id));
        self.sorted(around).into_iter().flat_map(within).collect()
    }

    /// Takes everything of a level that is wholly free and not too much.
    fn take_whole(&mut self, level: Level) {
        for id in self.sorted(level) {
            let all = self.whole.cpus_in(level, id);
            if self.free.cpus_in(level, id).len() == all.len() && self.needed >= all.len() {
                self.take(&all);
            }
        }
    }

    fn threads_of(&self, cores: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let free = |core| self.free.cpus_in(Level::Core, core).iter().collect::<Vec<u32>>();
        cores.into_iter().flat_map(free).collect()
    }

    /// Takes single processors, those of the fullest cores first.
    fn take_single(&mut self) {
        let cores = self.sorted(Level::Core);
        let cpus: CpuSet = self.threads_of(cores).into_iter().take(self.needed).collect();
        self.take(&cpus);
    }

    /// Takes what fits into one cache group, whole groups first.
    fn take_by_cache(&mut self) {
        let per_group = self.whole.per(Level::Cache);
        for group in self.sorted(Level::Cache) {
            if self.needed >= per_group {
                self.take_whole(Level::Cache);
            }
            if !self.is_full() {
                self.take_part_of_cache(group);
            }
            if self.is_full() {
                return;
            }
        }
    }

    fn take_part_of_cache(&mut self, group: u32) {
        let per_core = self.whole.per(Level::Core);
        let cores = self.free.ids_within(Level::Core, Level::Cache, group);
        let cores = cores.into_iter().take(self.needed.div_ceil(per_core));
        let mut cpus = self.threads_of(cores);
        cpus.sort_unstable();
        // An odd number leaves one thread of the last core.
        if !self.needed.is_multiple_of(2) && per_core > 1 && cpus.len() > self.needed {
            cpus.pop();
        }
        if cpus.len() == self.needed {
            self.take(&cpus.into_iter().collect());
        }
    }
}

/// Takes processors close together.
///
/// # Errors
/// When there are too few.
pub fn packed(whole: &Topology, available: &CpuSet, count: usize, by_cache: bool) -> Result<CpuSet, TooFew> {
    let mut basket = Basket::new(whole, available, count)?;
    basket.take_whole(basket.outer());
    basket.take_whole(basket.inner());
    if by_cache && !basket.is_full() {
        basket.take_by_cache();
    }
    basket.take_whole(Level::Core);
    basket.take_single();
    Ok(basket.taken)
}

/// Calls `f` with every choice of `size` items, in order, until it answers false.
fn combinations(
    items: &[u32],
    size: usize,
    chosen: &mut Vec<u32>,
    f: &mut impl FnMut(&[u32]) -> bool,
) -> bool {
    if size == 0 {
        return f(chosen);
    }
    for at in 0..items.len() {
        if items.len() - at < size {
            break;
        }
        chosen.push(items[at]);
        let goes_on = combinations(&items[at + 1..], size - 1, chosen, f);
        chosen.pop();
        if !goes_on {
            return false;
        }
    }
    true
}

/// How unevenly numbers are spread, to three digits: the standard deviation.
fn imbalance(numbers: impl Iterator<Item = usize> + Clone) -> f64 {
    let thousandths = |x: f64| (x * 1000.0).round() / 1000.0;
    let count = numbers.clone().count() as f64;
    let mean = thousandths(numbers.clone().map(|n| n as f64).sum::<f64>() / count);
    let squares: f64 = numbers.map(|n| (n as f64 - mean).powi(2)).sum();
    thousandths((squares / count).sqrt())
}

/// An even distribution over some memory nodes.
#[derive(Debug, Clone, Default)]
struct Spread {
    /// How uneven the whole machine is afterwards.
    imbalance: f64,
    /// The nodes that give `each`.
    nodes: Vec<u32>,
    each: usize,
    /// The nodes that give the rest, a group at a time.
    rest: Vec<u32>,
}

/// Free processors by memory node.
type Free = Vec<(u32, usize)>;

fn free_of(free: &Free, node: u32) -> usize {
    free.iter().find(|(id, _)| *id == node).map_or(0, |(_, n)| *n)
}

fn give(free: &mut Free, node: u32, count: usize) {
    if let Some((_, left)) = free.iter_mut().find(|(id, _)| *id == node) {
        *left -= count;
    }
}

/// Finds the nodes from which taking the rest, in groups, leaves the machine most even; as many nodes as possible first.
fn best_rest(free: &Free, nodes: &[u32], rest: usize, group: usize) -> Option<(f64, Vec<u32>)> {
    let able: Vec<u32> = nodes
        .iter()
        .copied()
        .filter(|n| free_of(free, *n) >= group)
        .collect();
    let mut best: Option<(f64, Vec<u32>)> = None;
    for size in (1..=able.len()).rev() {
        combinations(&able, size, &mut Vec::new(), &mut |subset| {
            let mut after = free.clone();
            let mut left = rest;
            if subset
                .iter()
                .map(|n| free_of(&after, *n) / group * group)
                .sum::<usize>()
                < left
            {
                return true;
            }
            while left > 0 {
                for node in subset {
                    if left > 0 && free_of(&after, *node) >= group {
                        give(&mut after, *node, group);
                        left -= group;
                    }
                }
            }
            let imbalance = imbalance(after.iter().map(|(_, n)| *n));
            if best.as_ref().is_none_or(|(least, _)| imbalance < *least) {
                best = Some((imbalance, subset.to_vec()));
            }
            true
        });
    }
    best
}

/// The spread over exactly these nodes, if they can carry it.
fn spread_over(free: &Free, nodes: &[u32], count: usize, group: usize) -> Option<Spread> {
    let groups: usize = nodes.iter().map(|n| free_of(free, *n) / group).sum();
    let each = count / nodes.len() / group * group;
    if groups * group < count || nodes.iter().any(|n| free_of(free, *n) < each) {
        return None;
    }
    let mut after = free.clone();
    for node in nodes {
        give(&mut after, *node, each);
    }
    let (imbalance, rest) = match count - each * nodes.len() {
        0 => (imbalance(after.iter().map(|(_, n)| *n)), Vec::new()),
        rest => best_rest(&after, nodes, rest, group)?,
    };
    Some(Spread {
        imbalance,
        nodes: nodes.to_vec(),
        each,
        rest,
    })
}

fn best_spread(basket: &Basket<'_>, count: usize, group: usize) -> Option<Spread> {
    let nodes = basket.sorted(Level::Numa);
    let size = |node: &u32| basket.free.cpus_in(Level::Numa, *node).len();
    let free: Free = nodes.iter().map(|n| (*n, size(n))).collect();
    let groups_needed = count.div_ceil(group);
    let groups = basket.whole.cpus().len().div_ceil(group);
    let groups_per_node = groups.div_ceil(basket.whole.ids(Level::Numa).len());
    let least = groups_needed.div_ceil(groups_per_node);
    let most = groups_needed.min(nodes.len());
    (least..=most).find_map(|size| {
        let mut best: Option<Spread> = None;
        combinations(&nodes, size, &mut Vec::new(), &mut |chosen| {
            let found = spread_over(&free, chosen, count, group);
            if let Some(spread) = found
                && best.as_ref().is_none_or(|b| spread.imbalance < b.imbalance)
            {
                best = Some(spread);
            }
            best.as_ref().is_none_or(|b| b.imbalance != 0.0)
        });
        best
    })
}

/// Takes processors evenly from as few memory nodes as can carry an even share, `group` at a time; packs them when that
/// cannot be.
///
/// # Errors
/// When there are too few.
pub fn distributed(
    whole: &Topology,
    available: &CpuSet,
    count: usize,
    group: usize,
) -> Result<CpuSet, TooFew> {
    if !count.is_multiple_of(group) {
        return packed(whole, available, count, false);
    }
    let mut basket = Basket::new(whole, available, count)?;
    if basket.is_full() {
        return Ok(basket.taken);
    }
    let Some(spread) = best_spread(&basket, count, group) else {
        return packed(whole, available, count, false);
    };
    for node in &spread.nodes {
        let free = basket.free.cpus_in(Level::Numa, *node);
        let part = packed(whole, &free, spread.each, false)?;
        basket.take(&part);
    }
    while !basket.is_full() {
        let before = basket.needed;
        for node in &spread.rest {
            let free = basket.free.cpus_in(Level::Numa, *node);
            if !basket.is_full() && free.len() >= group {
                let part = packed(whole, &free, group, false)?;
                basket.take(&part);
            }
        }
        if basket.needed == before {
            return packed(whole, available, count, false);
        }
    }
    Ok(basket.taken)
}

#[cfg(test)]
mod tests {
    use super::super::topology::Place;
    use super::*;

    /// Two sockets with two memory nodes each; every node has two cores of two threads.
    fn machine() -> Topology {
        let places = (0..16).map(|cpu| {
            let core = cpu % 8;
            let place = Place {
                core,
                cache: core / 4,
                numa: core / 2,
                socket: core / 4,
            };
            (cpu, place)
        });
        places.collect()
    }

    fn set(text: &str) -> CpuSet {
        text.parse().expect("a list")
    }

    #[test]
    fn whole_sockets_go_first_then_nodes_then_cores() {
        let take = |free: &str, count| packed(&machine(), &set(free), count, false).map(|c| c.to_string());
        assert_eq!(take("0-15", 12), Ok("0-5,8-13".into()));
        assert_eq!(take("1-15", 3), Ok("1,8-9".into()));
        assert_eq!(
            take("1-2", 3).expect_err("too few").to_string(),
            "not enough cpus available to satisfy request: requested=3, available=2"
        );
    }

    #[test]
    fn distribution_takes_an_even_share_of_each_node() {
        let taken = distributed(&machine(), &set("0-15"), 6, 1).expect("enough");
        let on = |node| taken.intersection(&machine().cpus_in(Level::Numa, node)).len();
        let mut shares: Vec<usize> = (0..4).map(on).collect();
        shares.sort_unstable();
        assert_eq!(shares, [0, 0, 3, 3]);
    }

    #[test]
    fn a_part_that_fits_one_cache_stays_there() {
        let take = |by_cache| packed(&machine(), &set("1-15"), 2, by_cache).map(|c| c.to_string());
        assert_eq!((take(false), take(true)), (Ok("1,9".into()), Ok("4,12".into())));
    }
}
