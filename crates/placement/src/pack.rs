//! Bin-packing: how many new nodes of one kind a set of pods needs, and putting pods on nodes that are there.
//!
//! Equal pods form a class and are placed by division instead of one by one wherever only resources decide.
//! Classes are taken first-fit decreasing, as upstream's estimator does.

use std::sync::Arc;

use mainstay_semantics::labels::HOSTNAME;

use crate::filter::{Filter, static_reason};
use crate::node::{Node, NodeInfo};
use crate::pod::{Pod, Shape};
use crate::resources::Resources;
use crate::snapshot::Snapshot;

/// Equal pods that wait for a place.
#[derive(Debug, Clone)]
pub struct Class {
    /// One of them; its shape stands for all.
    pub pod: Arc<Pod>,
    /// How many there are.
    pub count: usize,
}

/// What packing into new nodes came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Packing {
    /// New nodes that hold at least one pod.
    pub nodes: usize,
    /// How many pods of each class found a place, in the order given.
    pub placed: Vec<usize>,
}

/// New nodes that are filled alike.
struct Run {
    nodes: usize,
    free: Resources,
    pods_free: i64,
}

/// Packs classes into at most `most` new copies of `template` (a node with its daemon pods). The snapshot
/// gives the pods that spread and affinity rules look at.
pub fn pack(template: &Node, classes: &[Class], snapshot: &Snapshot, most: usize) -> Packing {
    let order = decreasing(template, classes);
    if classes.iter().all(|class| class.pod.shape.is_countable()) {
        return pack_counted(template, classes, &order, most);
    }
    pack_simulated(template, classes, &order, snapshot, most)
}

/// Indices of the classes, the largest pods (as share of the template) first; equals keep their order.
fn decreasing(template: &Node, classes: &[Class]) -> Vec<usize> {
    let all = &template.info.allocatable;
    let size = |shape: &Shape| {
        let share = |wanted: i64, all: i64| if all > 0 { wanted as f64 / all as f64 } else { 0.0 };
        share(shape.requests.cpu_milli, all.cpu_milli) + share(shape.requests.memory_bytes, all.memory_bytes)
    };
    let sizes: Vec<f64> = classes.iter().map(|class| size(&class.pod.shape)).collect();
    let mut order: Vec<usize> = (0..classes.len()).collect();
    order.sort_by(|a, b| sizes[*b].total_cmp(&sizes[*a]));
    order
}

fn pack_counted(template: &Node, classes: &[Class], order: &[usize], most: usize) -> Packing {
    let mut runs: Vec<Run> = Vec::new();
    let mut packing = Packing {
        nodes: 0,
        placed: vec![0; classes.len()],
    };
    for at in order {
        let requests = &classes[*at].pod.shape.requests;
        let mut left = classes[*at].count;
        fill_runs(&mut runs, requests, &mut left);
        let opened = open_run(template, requests, &mut left, most - packing.nodes);
        packing.nodes += opened.iter().map(|run| run.nodes).sum::<usize>();
        runs.extend(opened);
        packing.placed[*at] = classes[*at].count - left;
    }
    packing
}

/// Fills opened nodes in order, each as full as it gets; a partly filled run splits.
fn fill_runs(runs: &mut Vec<Run>, requests: &Resources, left: &mut usize) {
    let mut at = 0;
    while at < runs.len() && *left > 0 {
        let run = &mut runs[at];
        let each = run.free.holds(requests, run.pods_free.min(*left as i64).max(0)) as usize;
        if each == 0 {
            at += 1;
            continue;
        }
        let full = (*left / each).min(run.nodes);
        let rest = run.nodes - full;
        let untouched = Run {
            nodes: rest,
            free: run.free.clone(),
            pods_free: run.pods_free,
        };
        run.nodes = full;
        put(run, requests, each);
        *left -= full * each;
        if rest > 0 {
            runs.insert(at + 1, untouched);
        }
        at += 1;
    }
}

/// Opens nodes for the pods that are left: full ones, and one for the remainder.
fn open_run(template: &Node, requests: &Resources, left: &mut usize, most: usize) -> Vec<Run> {
    let each = template
        .free
        .holds(requests, template.pods_free().min(*left as i64).max(0)) as usize;
    if each == 0 {
        return Vec::new();
    }
    let mut opened = Vec::new();
    let mut open = |nodes: usize, pods: usize| {
        let mut run = Run {
            nodes,
            free: template.free.clone(),
            pods_free: template.pods_free(),
        };
        put(&mut run, requests, pods);
        opened.push(run);
    };
    let full = (*left / each).min(most);
    if full > 0 {
        open(full, each);
    }
    *left -= full * each;
    if *left > 0 && full < most {
        open(1, *left);
        *left = 0;
    }
    opened
}

fn put(run: &mut Run, requests: &Resources, pods: usize) {
    run.free.add(requests, -(pods as i64));
    run.pods_free -= pods as i64;
}

fn pack_simulated(
    template: &Node,
    classes: &[Class],
    order: &[usize],
    snapshot: &Snapshot,
    most: usize,
) -> Packing {
    let mut fork = snapshot.clone();
    let first = fork.nodes().len();
    let mut packing = Packing {
        nodes: 0,
        placed: vec![0; classes.len()],
    };
    for at in order {
        let class = &classes[*at];
        let mut opened: Vec<usize> = (first..fork.nodes().len()).collect();
        let mut placed = place(&mut fork, &class.pod, class.count, &opened);
        while placed < class.count {
            let spare = fork.nodes()[first..]
                .iter()
                .any(|node| node.pods.len() == template.pods.len());
            if !spare && opened.len() >= most {
                break;
            }
            if !spare {
                let number = opened.len();
                opened.push(open_node(&mut fork, template, number));
            }
            let more = place(&mut fork, &class.pod, class.count - placed, &opened);
            if more == 0 {
                break;
            }
            placed += more;
        }
        packing.placed[*at] = placed;
    }
    let used = |node: &&Arc<Node>| node.pods.len() > template.pods.len();
    packing.nodes = fork.nodes()[first..].iter().filter(used).count();
    packing
}

/// Adds a copy of the template to the snapshot, under a name and hostname of its own; gives its position.
pub fn open_node(snapshot: &mut Snapshot, template: &Node, number: usize) -> usize {
    let name = format!("{}-new-{number}", template.info.name);
    let mut labels = template.info.labels.clone();
    labels.insert(HOSTNAME.to_owned(), name.clone());
    let info = NodeInfo {
        name: name.into(),
        labels,
        ..(*template.info).clone()
    };
    let at = snapshot.set_node(Arc::new(info));
    for pod in &template.pods {
        snapshot.add_pod(at, pod.clone());
    }
    at
}

/// Puts up to `count` equal pods on the nodes at `positions`, first fit in that order; gives how many found
/// a place.
pub fn place(snapshot: &mut Snapshot, pod: &Arc<Pod>, count: usize, positions: &[usize]) -> usize {
    if pod.shape.is_countable() {
        return place_counted(snapshot, pod, count, positions);
    }
    let mut placed = 0;
    while placed < count {
        let filter = Filter::new(&pod.shape, snapshot);
        let fits = |at: &&usize| filter.passes(&snapshot.nodes()[**at]);
        let Some(at) = positions.iter().find(fits) else {
            break;
        };
        snapshot.add_pod(*at, pod.clone());
        placed += 1;
    }
    placed
}

fn place_counted(snapshot: &mut Snapshot, pod: &Arc<Pod>, count: usize, positions: &[usize]) -> usize {
    let shape = &pod.shape;
    let mut left = count;
    let mut puts: Vec<(usize, usize)> = Vec::new();
    let filter = Filter::new(shape, snapshot);
    for at in positions {
        if left == 0 {
            break;
        }
        let node = &snapshot.nodes()[*at];
        let here = node
            .free
            .holds(&shape.requests, node.pods_free().min(left as i64).max(0)) as usize;
        if here == 0 || !filter.passes(node) {
            continue;
        }
        puts.push((*at, here));
        left -= here;
    }
    for (at, here) in puts {
        (0..here).for_each(|_| snapshot.add_pod(at, pod.clone()));
    }
    count - left
}

/// Tells whether a fresh copy of the template could take the pod at all, looking at rules about other pods
/// in the snapshot too.
pub fn suits(template: &Node, shape: &Shape, snapshot: &Snapshot) -> Vec<crate::Reason> {
    if let Some(reason) = static_reason(shape, &template.info) {
        return vec![reason];
    }
    if shape.is_countable() && snapshot.with_anti_affinity() == 0 {
        return Filter::new(shape, &Snapshot::new()).reasons(template);
    }
    let mut fork = snapshot.clone();
    let at = open_node(&mut fork, template, 0);
    Filter::new(shape, &fork).reasons(&fork.nodes()[at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};
    use proptest::prelude::*;

    fn classes(of: &[(&str, usize)]) -> Vec<Class> {
        let class = |(spec, count): &(&str, usize)| Class {
            pod: pod("p", spec),
            count: *count,
        };
        of.iter().map(class).collect()
    }

    #[test]
    fn large_pods_open_nodes_and_small_ones_fill_them() {
        let template = Node::new(node("t", "4", "16Gi"));
        let set = classes(&[("cpu=1 memory=1Gi", 3), ("cpu=3 memory=1Gi", 2)]);
        let packing = pack(&template, &set, &Snapshot::new(), 100);
        assert_eq!(
            packing,
            Packing {
                nodes: 3,
                placed: vec![3, 2]
            }
        );
    }

    #[test]
    fn the_limit_leaves_pods_over() {
        let template = Node::new(node("t", "4", "16Gi"));
        let packing = pack(
            &template,
            &classes(&[("cpu=3 memory=1Gi", 10)]),
            &Snapshot::new(),
            3,
        );
        assert_eq!(
            packing,
            Packing {
                nodes: 3,
                placed: vec![3]
            }
        );
    }

    #[test]
    fn host_ports_take_a_node_each() {
        let template = Node::new(node("t", "4", "16Gi"));
        let packing = pack(
            &template,
            &classes(&[("cpu=100m port=80", 5)]),
            &Snapshot::new(),
            100,
        );
        assert_eq!(
            packing,
            Packing {
                nodes: 5,
                placed: vec![5]
            }
        );
    }

    proptest! {
        #[test]
        fn counting_gives_what_simulation_gives(
            sizes in proptest::collection::vec((1i64..40, 1i64..40, 1usize..30), 1..6)
        ) {
            let template = Node::new(node("t", "4", "4Gi"));
            let set: Vec<Class> = sizes
                .iter()
                .map(|(cpu, memory, count)| Class {
                    pod: pod("p", &format!("cpu={}m memory={}Mi", cpu * 100, memory * 100)),
                    count: *count,
                })
                .collect();
            let order = decreasing(&template, &set);
            let counted = pack_counted(&template, &set, &order, 1000);
            let simulated = pack_simulated(&template, &set, &order, &Snapshot::new(), 1000);
            prop_assert_eq!(counted, simulated);
        }
    }
}
