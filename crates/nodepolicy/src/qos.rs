//! A pod's resources as the runtime and the cgroup files want them. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use mainstay_semantics::pod::{self, PodResources, Without};
use mainstay_semantics::qos::{self, Class, OomContext};
use mainstay_semantics::quantity::{ParseError, Quantity};
use mainstay_semantics::resource_name::is_pod_level;

use crate::amount::{self, Amounts};
use crate::memory_qos::Protected;

/// Shares of a container without a cpu request.
pub const MIN_SHARES: i64 = 2;
/// The kernel's upper bound.
const MAX_SHARES: i64 = 262_144;
/// The shortest quota the kernel takes, in microseconds.
const MIN_QUOTA_US: i64 = 1000;

/// The resource part of a pod's spec; empty when a quantity in it is none, which an object from the API does not have.
pub fn resources(spec: &PodSpec) -> PodResources {
    read(spec).unwrap_or_default()
}

fn read(spec: &PodSpec) -> Result<PodResources, ParseError> {
    Ok(PodResources {
        containers: containers(&spec.containers)?,
        init_containers: containers(spec.init_containers.as_deref().unwrap_or_default())?,
        overhead: quantities(spec.overhead.as_ref())?,
        resources: spec.resources.as_ref().map(halves).transpose()?,
    })
}

fn containers(all: &[Container]) -> Result<Vec<pod::Container>, ParseError> {
    let one = |container: &Container| {
        Ok(pod::Container {
            name: container.name.clone(),
            resources: container
                .resources
                .as_ref()
                .map(halves)
                .transpose()?
                .unwrap_or_default(),
            restart_policy: container.restart_policy.clone(),
        })
    };
    all.iter().map(one).collect()
}

fn halves(of: &ResourceRequirements) -> Result<pod::Resources, ParseError> {
    Ok(pod::Resources {
        requests: quantities(of.requests.as_ref())?,
        limits: quantities(of.limits.as_ref())?,
    })
}

fn quantities(list: Option<&BTreeMap<String, ApiQuantity>>) -> Result<pod::ResourceList, ParseError> {
    let parsed =
        |(name, amount): (&String, &ApiQuantity)| Ok((name.clone(), Quantity::parse(amount.0.trim())?));
    list.into_iter().flatten().map(parsed).collect()
}

/// The pod's class; one already in its status wins.
pub fn class(pod: &Pod) -> Class {
    let said = pod.status.as_ref().and_then(|s| s.qos_class.as_deref());
    match said {
        Some("Guaranteed") => Class::Guaranteed,
        Some("Burstable") => Class::Burstable,
        Some("BestEffort") => Class::BestEffort,
        _ => pod
            .spec
            .as_ref()
            .map_or(Class::BestEffort, |s| qos::class(&resources(s))),
    }
}

/// `cpu.shares` of an amount of cpu in thousandths.
pub fn shares(milli: i64) -> i64 {
    match milli {
        0 => MIN_SHARES,
        m => (m * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES),
    }
}

/// The quota (microseconds per period) of a cpu limit in thousandths; 0 for no limit.
pub fn quota(milli: i64, period_us: i64) -> i64 {
    match milli {
        0 => 0,
        m => (m * period_us / 1000).max(MIN_QUOTA_US),
    }
}

/// `cpu.weight` (cgroup v2) for `cpu.shares`: 1024 shares are the default weight of 100, as current runtimes count.
pub fn weight(shares: i64) -> i64 {
    match shares {
        0 => 0,
        s if s <= MIN_SHARES => 1,
        s if s >= MAX_SHARES => 10_000,
        s => {
            let l = (s as f64).log2();
            10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil() as i64
        }
    }
}

fn list(list: &mainstay_semantics::pod::ResourceList) -> Amounts {
    list.iter()
        .map(|(name, q)| {
            (
                name.clone(),
                if name == "cpu" { q.milli_value() } else { q.value() },
            )
        })
        .collect()
}

/// What the pod reserves, overhead included.
pub fn pod_requests(pod: &Pod) -> Amounts {
    pod.spec
        .as_ref()
        .map(|s| list(&resources(s).requests()))
        .unwrap_or_default()
}

/// What a pod asks of one resource as eviction and preemption count it: pod-level requests hide those of containers,
/// and overhead counts only beside a request.
pub fn counted_request(parts: &PodResources, resource: &str) -> Quantity {
    let pod_level = parts.resources.as_ref().filter(|r| {
        let mut names = r.requests.keys().chain(r.limits.keys());
        names.any(|name| is_pod_level(name))
    });
    let asked = match pod_level {
        Some(whole) => whole
            .requests
            .get(resource)
            .filter(|_| is_pod_level(resource))
            .cloned(),
        None => {
            let without = Without {
                overhead: true,
                pod_level: false,
            };
            parts.requests_with(without).remove(resource)
        }
    };
    let mut asked = asked.unwrap_or_default();
    if let Some(overhead) = parts.overhead.get(resource).filter(|_| !asked.is_zero()) {
        asked.add(overhead);
    }
    asked
}

/// Limits of a pod's cgroup.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodCgroup {
    /// `cpu.shares`.
    pub shares: i64,
    /// Microseconds per period.
    pub quota_us: Option<i64>,
    /// Length of the period in microseconds.
    pub period_us: i64,
    /// Bytes.
    pub memory: Option<i64>,
    /// Most processes.
    pub pids: Option<i64>,
    /// Bytes of hugepages by page size in bytes.
    pub hugepages: BTreeMap<i64, i64>,
    /// Memory that the kernel leaves alone.
    pub protected: Protected,
}

/// The limits of a pod's own cgroup: quota and memory only when every container has that limit.
pub fn pod_cgroup(spec: &PodSpec, class: Class, cfs_quota: bool, period_us: i64) -> PodCgroup {
    let parts = resources(spec);
    let mut cgroup = PodCgroup {
        shares: MIN_SHARES,
        period_us,
        ..Default::default()
    };
    if class == Class::BestEffort {
        return cgroup;
    }
    let (requests, limits) = (list(&parts.requests()), list(&parts.limits()));
    cgroup.shares = shares(requests.get("cpu").copied().unwrap_or(0));
    let pod_level = |name: &str| {
        parts
            .resources
            .as_ref()
            .is_some_and(|r| r.limits.contains_key(name))
    };
    let every = |name: &str| {
        pod_level(name)
            || parts
                .all_containers()
                .all(|c| c.resources.limits.get(name).is_some_and(|q| !q.is_zero()))
    };
    let limit = |name: &str| limits.get(name).copied().filter(|l| *l > 0 && every(name));
    if cfs_quota {
        cgroup.quota_us = limit("cpu").map(|milli| quota(milli, period_us));
    }
    cgroup.memory = limit("memory");
    let pages = requests.iter().filter_map(|(name, bytes)| {
        let size = amount::value(name.strip_prefix("hugepages-")?)?;
        Some((size, *bytes))
    });
    cgroup.hugepages = pages.collect();
    cgroup
}

/// The memory that a pod may use at most; `None` unless every container has a limit.
pub fn memory_limit(spec: &PodSpec) -> Option<i64> {
    pod_cgroup(spec, Class::Burstable, false, 0).memory
}

/// Limits of a container as the runtime takes them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerLimits {
    /// `cpu.shares`.
    pub shares: i64,
    /// Microseconds per period; 0 for none.
    pub quota_us: i64,
    /// Bytes; 0 for none.
    pub memory: i64,
    /// `oom_score_adj`.
    pub oom_score_adj: i64,
}

/// The limits of one container.
pub fn container_limits(
    pod: &Pod,
    container: &Container,
    node_memory: i64,
    quota_period: Option<i64>,
) -> ContainerLimits {
    let given = container.resources.as_ref();
    let requests = amount::amounts(given.and_then(|r| r.requests.as_ref()));
    let limits = amount::amounts(given.and_then(|r| r.limits.as_ref()));
    let of_pod = pod
        .spec
        .as_ref()
        .and_then(|s| s.resources.as_ref()?.limits.as_ref());
    let of_pod = amount::amounts(of_pod);
    // A container without a limit may use what its pod may.
    let limit = |name: &str| {
        let own = limits.get(name).copied().filter(|limit| *limit != 0);
        own.or_else(|| of_pod.get(name).copied()).unwrap_or(0)
    };
    let cpu_limit = limit("cpu");
    let cpu = requests.get("cpu").copied().unwrap_or(cpu_limit);
    ContainerLimits {
        shares: shares(cpu),
        quota_us: quota_period.map_or(0, |period| quota(cpu_limit, period)),
        memory: limit("memory"),
        oom_score_adj: oom_score(pod, container, node_memory),
    }
}

fn oom_score(pod: &Pod, container: &Container, node_memory_bytes: i64) -> i64 {
    let Some(spec) = pod.spec.as_ref() else {
        return 1000;
    };
    let parts = resources(spec);
    let context = OomContext {
        spec: &parts,
        class: class(pod),
        priority: i64::from(spec.priority.unwrap_or(0)),
        priority_class: spec.priority_class_name.as_deref().unwrap_or(""),
        node_memory_bytes,
    };
    let found = parts.all_containers().find(|c| c.name == container.name);
    found.map_or(1000, |c| qos::oom_score_adj(context, c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(resources: serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "resources": resources}]}}),
        )
        .expect("valid")
    }

    /// The part decodes from the whole spec's JSON as well.
    #[test]
    fn the_resource_part_is_what_the_json_says() {
        let spec = json!({
            "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "1500m"}, "limits": {"memory": "1Gi", "x.io/gpu": "2"}}},
                {"name": "b"},
            ],
            "initContainers": [
                {"name": "c", "restartPolicy": "Always", "resources": {"requests": {"cpu": "0.1"}}},
                {"name": "d"},
            ],
            "overhead": {"memory": "120Mi"},
            "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "4"}},
        });
        let expected: PodResources = serde_json::from_value(spec.clone()).expect("valid");
        let read: PodSpec = serde_json::from_value(spec).expect("valid");
        assert_eq!(resources(&read), expected);
        assert_eq!(resources(&PodSpec::default()), PodResources::default());
    }

    #[test]
    fn limits_reach_the_pod_and_its_container() {
        let pod = pod(
            json!({"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "128Mi"}}),
        );
        let spec = pod.spec.as_ref().expect("set");
        let cgroup = pod_cgroup(spec, class(&pod), true, 100_000);
        assert_eq!(
            (cgroup.shares, cgroup.quota_us, cgroup.memory),
            (256, Some(50_000), Some(128 << 20))
        );
        let limits = container_limits(&pod, &spec.containers[0], 1 << 30, Some(100_000));
        assert_eq!((limits.shares, limits.quota_us), (256, 50_000));
        assert_eq!(limits.oom_score_adj, 1000 - 62);
    }

    #[test]
    fn a_container_without_a_limit_has_its_pods() {
        let mut pod = pod(json!({"limits": {"memory": "1Mi"}}));
        let spec = pod.spec.as_mut().expect("set");
        spec.resources =
            serde_json::from_value(json!({"limits": {"cpu": "500m", "memory": "4Mi"}})).expect("valid");
        let container = spec.containers[0].clone();
        let limits = container_limits(&pod, &container, 1 << 30, Some(100_000));
        assert_eq!(
            (limits.shares, limits.quota_us, limits.memory),
            (512, 50_000, 1 << 20)
        );
    }

    #[test]
    fn a_limit_without_request_counts_as_request() {
        let pod = pod(json!({"limits": {"cpu": "1"}}));
        let spec = pod.spec.as_ref().expect("set");
        assert_eq!(
            container_limits(&pod, &spec.containers[0], 1 << 30, None).shares,
            1024
        );
    }
}
