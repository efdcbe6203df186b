//! What a pod asks for: requests and limits over init containers, sidecars, overhead and pod-level resources.
//!
//! Rules: <https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/#resource-sharing-within-containers>.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::quantity::Quantity;
use crate::resource_name::is_pod_level;

/// Quantities by resource name.
pub type ResourceList = BTreeMap<String, Quantity>;

/// `resources` of a container or of a whole pod.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// What is reserved.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: ResourceList,
    /// What may not be exceeded.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: ResourceList,
}

/// The part of a container that decides resources.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// The container's name.
    pub name: String,
    /// Its requests and limits.
    pub resources: Resources,
    /// `Always` on an init container makes it a sidecar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<String>,
}

impl Container {
    /// Tells whether this init container keeps running beside the app containers.
    pub fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }
}

/// The part of a pod's `spec` that decides resources; decodes from the whole `spec`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodResources {
    /// App containers.
    pub containers: Vec<Container>,
    /// Init containers and sidecars, in order.
    pub init_containers: Vec<Container>,
    /// What the runtime class adds.
    pub overhead: ResourceList,
    /// Pod-level resources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

/// What [`PodResources::requests_with`] leaves out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Without {
    /// Leave out the runtime's overhead.
    pub overhead: bool,
    /// Ignore pod-level resources.
    pub pod_level: bool,
}

/// Which half of [`Resources`] is meant.
type Half = fn(&Resources) -> &ResourceList;

impl PodResources {
    /// Sums what the pod reserves on a node, overhead included.
    pub fn requests(&self) -> ResourceList {
        self.requests_with(Without::default())
    }

    /// Sums what the pod reserves, leaving out what `without` names.
    pub fn requests_with(&self, without: Without) -> ResourceList {
        let mut total = self.containers_total(|resources| &resources.requests);
        if !without.pod_level {
            self.overlay(&mut total, |resources| &resources.requests);
        }
        if !without.overhead {
            add(&mut total, &self.overhead);
        }
        total
    }

    /// Sums what the pod may use at most; overhead counts only where there is a limit.
    pub fn limits(&self) -> ResourceList {
        let mut total = self.containers_total(|resources| &resources.limits);
        self.overlay(&mut total, |resources| &resources.limits);
        for (name, quantity) in &self.overhead {
            if let Some(limit) = total.get_mut(name) {
                limit.add(quantity);
            }
        }
        total
    }

    /// Sums the containers' requests: what pod-level requests are measured against.
    pub fn container_requests(&self) -> ResourceList {
        self.containers_total(|resources| &resources.requests)
    }

    /// Tells whether pod-level requests are stated for cpu, memory or hugepages.
    pub fn has_pod_level_requests(&self) -> bool {
        let requests = self
            .resources
            .iter()
            .flat_map(|resources| resources.requests.keys());
        requests.into_iter().any(|name| is_pod_level(name))
    }

    /// All containers, init containers first, in order of start.
    pub fn all_containers(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers)
    }

    fn containers_total(&self, half: Half) -> ResourceList {
        let mut total = ResourceList::new();
        for container in &self.containers {
            add(&mut total, half(&container.resources));
        }
        let mut sidecars = ResourceList::new();
        let mut peak = ResourceList::new();
        for container in &self.init_containers {
            let own = half(&container.resources);
            if container.is_sidecar() {
                add(&mut total, own);
                add(&mut sidecars, own);
                raise(&mut peak, &sidecars);
            } else {
                let mut now = sidecars.clone();
                add(&mut now, own);
                raise(&mut peak, &now);
            }
        }
        raise(&mut total, &peak);
        total
    }

    fn overlay(&self, total: &mut ResourceList, half: Half) {
        let Some(resources) = &self.resources else { return };
        for (name, quantity) in half(resources) {
            if is_pod_level(name) {
                total.insert(name.clone(), quantity.clone());
            }
        }
    }
}

/// Adds each quantity of `more` to `total`.
pub fn add(total: &mut ResourceList, more: &ResourceList) {
    for (name, quantity) in more {
        match total.get_mut(name) {
            Some(sum) => sum.add(quantity),
            None => drop(total.insert(name.clone(), quantity.clone())),
        }
    }
}

/// Raises each quantity of `total` to at least that of `other`.
fn raise(total: &mut ResourceList, other: &ResourceList) {
    for (name, quantity) in other {
        match total.get_mut(name) {
            Some(now) if *now >= *quantity => {}
            _ => drop(total.insert(name.clone(), quantity.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource_name::MEMORY;

    #[derive(Deserialize)]
    struct Row {
        pod: Pod,
        limits: BTreeMap<String, String>,
        requests: BTreeMap<String, String>,
        requests_skip_pod_level: BTreeMap<String, String>,
        requests_without_overhead: BTreeMap<String, String>,
    }

    #[derive(Deserialize)]
    struct Pod {
        spec: PodResources,
    }

    fn text(list: &ResourceList) -> BTreeMap<String, String> {
        list.iter()
            .map(|(name, quantity)| (name.clone(), quantity.canonical()))
            .collect()
    }

    #[test]
    fn requests_and_limits_equal_upstream() {
        let rows: Vec<Row> = serde_json::from_str(&mainstay_base::testdata::read(
            "oracle/kubelet/pod_requests_limits.json",
        ))
        .expect("a table");
        for row in rows {
            let spec = row.pod.spec;
            let skip = Without {
                pod_level: true,
                ..Without::default()
            };
            let bare = Without {
                overhead: true,
                ..Without::default()
            };
            assert_eq!(text(&spec.requests()), row.requests);
            assert_eq!(text(&spec.limits()), row.limits);
            assert_eq!(text(&spec.requests_with(skip)), row.requests_skip_pod_level);
            assert_eq!(text(&spec.requests_with(bare)), row.requests_without_overhead);
        }
    }

    #[test]
    fn sidecars_count_beside_later_init_containers_only() {
        let spec: PodResources = serde_json::from_str(
            r#"{"containers":[{"name":"a","resources":{"requests":{"memory":"1Gi"}}}],
                "initContainers":[{"name":"big","resources":{"requests":{"memory":"3Gi"}}},
                {"name":"s","restartPolicy":"Always","resources":{"requests":{"memory":"1Gi"}}}]}"#,
        )
        .expect("a spec");
        assert_eq!(spec.requests()[MEMORY].canonical(), "3Gi");
    }
}
