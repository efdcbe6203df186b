//! The cluster at one moment, cheap to fork: what every decision of this crate reads.

use std::collections::HashMap;
use std::sync::Arc;

use crate::node::{Node, NodeInfo};
use crate::pod::{Namespaces, Pod};

/// Nodes with their pods. A clone shares every node until one of the two changes it.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    nodes: Vec<Arc<Node>>,
    index: Arc<HashMap<Arc<str>, usize>>,
    namespaces: Arc<Namespaces>,
    with_anti_affinity: usize,
    with_affinity: usize,
}

impl Snapshot {
    /// Makes an empty cluster.
    pub fn new() -> Self {
        Self::default()
    }

    /// All nodes, in order of arrival (removal moves the last one up).
    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    /// Finds a node by name.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.position(name).map(|at| &self.nodes[at])
    }

    /// Where a node stands in [`Snapshot::nodes`].
    pub fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// Labels of namespaces.
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// Sets the labels of namespaces.
    pub fn set_namespaces(&mut self, namespaces: Arc<Namespaces>) {
        self.namespaces = namespaces;
    }

    /// How many pods have required anti-affinity: 0 lets filters skip a pass over the cluster.
    pub fn with_anti_affinity(&self) -> usize {
        self.with_anti_affinity
    }

    /// How many pods have affinity rules of any kind.
    pub fn with_affinity(&self) -> usize {
        self.with_affinity
    }

    /// Adds a node, or replaces the fixed facts of one that is there; gives its position.
    pub fn set_node(&mut self, info: Arc<NodeInfo>) -> usize {
        if let Some(at) = self.position(&info.name) {
            Arc::make_mut(&mut self.nodes[at]).set_info(info);
            return at;
        }
        let at = self.nodes.len();
        Arc::make_mut(&mut self.index).insert(info.name.clone(), at);
        self.nodes.push(Arc::new(Node::new(info)));
        at
    }

    /// Removes a node and its pods.
    pub fn remove_node(&mut self, name: &str) -> Option<Arc<Node>> {
        let at = self.position(name)?;
        let index = Arc::make_mut(&mut self.index);
        index.remove(name);
        let node = self.nodes.swap_remove(at);
        if let Some(moved) = self.nodes.get(at) {
            index.insert(moved.info.name.clone(), at);
        }
        self.with_anti_affinity -= node.with_anti_affinity;
        self.with_affinity -= node.with_affinity;
        Some(node)
    }

    /// Puts a pod on the node at a position.
    pub fn add_pod(&mut self, at: usize, pod: Arc<Pod>) {
        self.change(at, |node| node.add(pod));
    }

    /// Takes a pod off the node at a position.
    pub fn remove_pod(&mut self, at: usize, uid: &str) -> Option<Arc<Pod>> {
        let mut removed = None;
        self.change(at, |node| removed = node.remove(uid));
        removed
    }

    /// Changes one node, keeping the cluster's counters right.
    fn change(&mut self, at: usize, edit: impl FnOnce(&mut Node)) {
        let node = Arc::make_mut(&mut self.nodes[at]);
        let before = (node.with_anti_affinity, node.with_affinity);
        edit(node);
        self.with_anti_affinity = self.with_anti_affinity + node.with_anti_affinity - before.0;
        self.with_affinity = self.with_affinity + node.with_affinity - before.1;
    }
}
