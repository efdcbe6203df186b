//! Quality of service: the three classes and the `oom_score_adj` of each container.
//!
//! Rules: <https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/> and
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#node-out-of-memory-behavior>.

use serde::{Deserialize, Serialize};

use crate::pod::{Container, PodResources, ResourceList};
use crate::quantity::Quantity;
use crate::resource_name::{CPU, MEMORY};

/// A pod's quality-of-service class, worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    /// Nothing is reserved.
    BestEffort,
    /// Something is reserved or limited.
    Burstable,
    /// Every container reserves exactly what it may use.
    Guaranteed,
}

impl Class {
    /// The name as in `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::BestEffort => "BestEffort",
            Class::Burstable => "Burstable",
            Class::Guaranteed => "Guaranteed",
        }
    }
}

/// The priority from which on a pod is critical.
pub const CRITICAL_PRIORITY: i64 = 2_000_000_000;
/// The class name that makes a critical pod node-critical.
pub const NODE_CRITICAL_CLASS: &str = "system-node-critical";

const GUARANTEED_SCORE: i64 = -997;
const BEST_EFFORT_SCORE: i64 = 1000;
/// Upstream's code says 3, the Kubernetes documentation 2; we follow the documentation.
const BURSTABLE_FLOOR: i64 = 2;

/// Sums of cpu and memory that are above zero.
#[derive(Default)]
struct Sums {
    cpu: Option<Quantity>,
    memory: Option<Quantity>,
}

impl Sums {
    fn add(&mut self, list: &ResourceList) {
        for (name, slot) in [(CPU, &mut self.cpu), (MEMORY, &mut self.memory)] {
            let Some(quantity) = list.get(name).filter(|quantity| quantity.sign() > 0) else {
                continue;
            };
            match slot {
                Some(sum) => sum.add(quantity),
                None => *slot = Some(quantity.clone()),
            }
        }
    }

    fn complete(&self) -> bool {
        self.cpu.is_some() && self.memory.is_some()
    }

    fn is_empty(&self) -> bool {
        self.cpu.is_none() && self.memory.is_none()
    }
}

/// Computes the class from a pod's spec. `status.qosClass`, once set, wins over this.
pub fn class(spec: &PodResources) -> Class {
    let (mut requests, mut limits) = (Sums::default(), Sums::default());
    let mut every_limit_set = true;
    let parts: Vec<_> = match &spec.resources {
        Some(whole) => vec![whole],
        None => spec
            .all_containers()
            .map(|container| &container.resources)
            .collect(),
    };
    for part in parts {
        requests.add(&part.requests);
        limits.add(&part.limits);
        let mut own = Sums::default();
        own.add(&part.limits);
        every_limit_set &= own.complete();
    }
    if requests.is_empty() && limits.is_empty() {
        return Class::BestEffort;
    }
    let equal = requests.complete() && requests.cpu == limits.cpu && requests.memory == limits.memory;
    if every_limit_set && equal {
        Class::Guaranteed
    } else {
        Class::Burstable
    }
}

/// What decides a container's `oom_score_adj` beside the container itself.
#[derive(Debug, Clone, Copy)]
pub struct OomContext<'a> {
    /// The pod's resources.
    pub spec: &'a PodResources,
    /// The pod's class.
    pub class: Class,
    /// The pod's priority (0 when it has none).
    pub priority: i64,
    /// The pod's `priorityClassName` (empty when it has none).
    pub priority_class: &'a str,
    /// The node's memory capacity in bytes.
    pub node_memory_bytes: i64,
}

/// Computes a container's `oom_score_adj`: the higher, the sooner the kernel kills it.
pub fn oom_score_adj(context: OomContext<'_>, container: &Container) -> i64 {
    let node_critical =
        context.priority >= CRITICAL_PRIORITY && context.priority_class == NODE_CRITICAL_CLASS;
    if node_critical {
        return GUARANTEED_SCORE;
    }
    match context.class {
        Class::Guaranteed => GUARANTEED_SCORE,
        Class::BestEffort => BEST_EFFORT_SCORE,
        Class::Burstable => burstable_score(context, container),
    }
}

fn burstable_score(context: OomContext<'_>, container: &Container) -> i64 {
    let share = unclaimed_share(context.spec);
    let score = |request: i64| {
        let thousandfold = i128::from(request.saturating_add(share)) * 1000;
        1000 - (thousandfold / i128::from(context.node_memory_bytes.max(1))) as i64
    };
    let mut adjusted = score(memory(&container.resources.requests));
    if container.is_sidecar() {
        let least = context
            .spec
            .containers
            .iter()
            .map(|app| memory(&app.resources.requests))
            .min();
        adjusted = adjusted.min(score(least.unwrap_or(0)));
    }
    if adjusted < BEST_EFFORT_SCORE + GUARANTEED_SCORE {
        return BURSTABLE_FLOOR;
    }
    adjusted.clamp(BURSTABLE_FLOOR, BEST_EFFORT_SCORE - 1)
}

/// Each container's share of the pod-level memory request that no container claims.
fn unclaimed_share(spec: &PodResources) -> i64 {
    let whole = spec
        .resources
        .as_ref()
        .map_or(0, |resources| memory(&resources.requests));
    if whole == 0 {
        return 0;
    }
    let rest = whole - memory(&spec.container_requests());
    let containers = (spec.containers.len() + spec.init_containers.len()).max(1) as i64;
    if rest >= 0 { rest / containers } else { rest }
}

fn memory(list: &ResourceList) -> i64 {
    list.get(MEMORY).map_or(0, Quantity::value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Deserialize)]
    struct Pod {
        spec: Spec,
        #[serde(default)]
        status: Status,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        #[serde(flatten)]
        resources: PodResources,
        #[serde(default)]
        priority: i64,
        #[serde(default)]
        priority_class_name: String,
    }

    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase")]
    struct Status {
        qos_class: Option<Class>,
    }

    #[derive(Deserialize)]
    struct QosRow {
        computed_qos: Class,
        effective_qos: Class,
        pod: Pod,
    }

    #[derive(Deserialize)]
    struct OomRow {
        node_memory_bytes: i64,
        oom_score_adj: BTreeMap<String, i64>,
        pod: Pod,
    }

    fn table<T: serde::de::DeserializeOwned>(name: &str) -> Vec<T> {
        let text = mainstay_base::testdata::read(&format!("oracle/kubelet/{name}.json"));
        serde_json::from_str(&text).expect("a table")
    }

    #[test]
    fn classes_equal_upstream() {
        for row in table::<QosRow>("qos_class") {
            let computed = class(&row.pod.spec.resources);
            assert_eq!(computed, row.computed_qos);
            assert_eq!(row.pod.status.qos_class.unwrap_or(computed), row.effective_qos);
        }
    }

    #[test]
    fn oom_scores_equal_upstream_except_the_floor() {
        for row in table::<OomRow>("oom_score_adj") {
            let spec = &row.pod.spec;
            let context = OomContext {
                spec: &spec.resources,
                class: row.pod.status.qos_class.unwrap_or_else(|| class(&spec.resources)),
                priority: spec.priority,
                priority_class: &spec.priority_class_name,
                node_memory_bytes: row.node_memory_bytes,
            };
            for container in spec.resources.all_containers() {
                let expected = row.oom_score_adj[&container.name];
                let expected = if expected == 3 { BURSTABLE_FLOOR } else { expected };
                assert_eq!(oom_score_adj(context, container), expected, "{}", container.name);
            }
        }
    }
}
