//! Nodes as placement sees them: fixed facts, and what runs there.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstay_semantics::node_affinity;
use mainstay_semantics::toleration::Taint;

use crate::input;
use crate::pod::{HostPort, Pod, Shape};
use crate::resources::{Resources, pods_allowed};

/// What does not change when pods come and go.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeInfo {
    /// The name.
    pub name: Arc<str>,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The taints.
    pub taints: Vec<Taint>,
    /// Cordoned.
    pub unschedulable: bool,
    /// What pods may use.
    pub allocatable: Resources,
    /// Everything there is.
    pub capacity: Resources,
    /// How many pods it takes.
    pub pods_allowed: i64,
    /// Images by name, with their size in bytes.
    pub images: BTreeMap<String, i64>,
    /// Whether it reports itself ready.
    pub ready: bool,
}

/// Checks `nodeSelector` and required node affinity.
pub fn affinity_matches(shape: &Shape, info: &NodeInfo) -> bool {
    node_affinity::fits(
        &shape.node_selector,
        shape.node_affinity.as_ref(),
        &info.name,
        &info.labels,
    )
}

impl NodeInfo {
    /// Reads a node from its name, labels, spec and status. Allocatable falls back to capacity.
    pub fn new(
        name: &str,
        labels: BTreeMap<String, String>,
        spec: &input::NodeSpec,
        status: &input::NodeStatus,
    ) -> Self {
        let usable = if status.allocatable.is_empty() {
            &status.capacity
        } else {
            &status.allocatable
        };
        let names = |image: &input::Image| -> Vec<(String, i64)> {
            image
                .names
                .iter()
                .map(|name| (name.clone(), image.size_bytes))
                .collect()
        };
        NodeInfo {
            name: name.into(),
            labels,
            taints: spec.taints.clone(),
            unschedulable: spec.unschedulable,
            allocatable: Resources::from_list(usable),
            capacity: Resources::from_list(&status.capacity),
            pods_allowed: pods_allowed(usable),
            images: status.images.iter().flat_map(names).collect(),
            ready: status.is_ready(),
        }
    }
}

/// A node and what runs on it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Node {
    /// The fixed facts.
    pub info: Arc<NodeInfo>,
    /// What is left of allocatable; negative when overcommitted.
    pub free: Resources,
    /// Cpu and memory as scores count them.
    pub scored: (i64, i64),
    /// The pods.
    pub pods: Vec<Arc<Pod>>,
    /// Host ports in use.
    pub ports: Vec<HostPort>,
    /// How many pods here have required anti-affinity.
    pub with_anti_affinity: usize,
    /// How many pods here have affinity rules of any kind.
    pub with_affinity: usize,
}

impl Node {
    /// Makes an empty node.
    pub fn new(info: Arc<NodeInfo>) -> Self {
        Node {
            free: info.allocatable.clone(),
            info,
            ..Node::default()
        }
    }

    /// Replaces the fixed facts and keeps the pods.
    pub fn set_info(&mut self, info: Arc<NodeInfo>) {
        self.free.add(&self.info.allocatable, -1);
        self.free.add(&info.allocatable, 1);
        self.info = info;
    }

    /// Puts a pod on the node, whether it fits or not.
    pub fn add(&mut self, pod: Arc<Pod>) {
        self.count(&pod, 1);
        self.ports.extend(pod.shape.host_ports.iter().cloned());
        self.pods.push(pod);
    }

    /// Takes a pod off the node, by uid.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<Pod>> {
        let at = self.pods.iter().position(|pod| &*pod.uid == uid)?;
        let pod = self.pods.swap_remove(at);
        self.count(&pod, -1);
        for port in &pod.shape.host_ports {
            if let Some(at) = self.ports.iter().position(|own| own == port) {
                self.ports.swap_remove(at);
            }
        }
        Some(pod)
    }

    fn count(&mut self, pod: &Pod, sign: i64) {
        let shape = &pod.shape;
        self.free.add(&shape.requests, -sign);
        self.scored.0 += sign * shape.scored.0;
        self.scored.1 += sign * shape.scored.1;
        let step = |counter: &mut usize, counts: bool| {
            if counts {
                *counter = counter.saturating_add_signed(sign as isize);
            }
        };
        step(&mut self.with_anti_affinity, !shape.anti_affinity.is_empty());
        let any = !shape.anti_affinity.is_empty() || !shape.affinity.is_empty() || !shape.wished.is_empty();
        step(&mut self.with_affinity, any);
    }

    /// How many more pods the node takes by number.
    pub fn pods_free(&self) -> i64 {
        self.info.pods_allowed - self.pods.len() as i64
    }

    /// The share of allocatable that is requested: the larger of cpu and memory, 0.0 to 1.0 and above.
    pub fn utilization(&self) -> f64 {
        let share = |free: i64, all: i64| {
            if all > 0 {
                (all - free) as f64 / all as f64
            } else {
                0.0
            }
        };
        let all = &self.info.allocatable;
        share(self.free.cpu_milli, all.cpu_milli).max(share(self.free.memory_bytes, all.memory_bytes))
    }
}
