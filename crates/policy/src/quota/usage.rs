//! What an object is charged, resource by resource.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_semantics::quantity::{Format, Quantity};
use serde_json::Value;

use crate::amounts::{Amounts, amounts, list, pod_resources, raise};

use super::Refusal;

/// An object that a quota may count.
#[derive(Debug, Clone, Copy)]
pub struct Charged<'o> {
    /// The API group, empty for core.
    pub group: &'o str,
    /// The plural resource name.
    pub resource: &'o str,
    /// The object.
    pub object: &'o Value,
}

/// Core resources that have a count under their bare name besides `count/<resource>`.
const COUNTED_BY_NAME: &[&str] = &[
    "pods",
    "services",
    "persistentvolumeclaims",
    "configmaps",
    "secrets",
    "replicationcontrollers",
    "resourcequotas",
];

/// Compute resources a quota may demand of every container.
const DEMANDED: &[&str] = &[
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];

const COMPUTE: &[&str] = &["cpu", "memory", "ephemeral-storage"];

impl Charged<'_> {
    /// `count/<resource>` or `count/<resource>.<group>`.
    fn count_name(&self) -> String {
        match self.group {
            "" => format!("count/{}", self.resource),
            group => format!("count/{}.{group}", self.resource),
        }
    }
}

fn one() -> Quantity {
    Quantity::new(1, Format::DecimalSI)
}

/// Tells what the object is charged. A pod that has ended, or whose deletion is past its grace period, counts as an
/// object only. `now_seconds` is Unix time.
pub fn usage(charged: &Charged<'_>, now_seconds: i64) -> Amounts {
    let mut found = Amounts::from([(charged.count_name(), one())]);
    let ended =
        charged.group.is_empty() && charged.resource == "pods" && has_ended(charged.object, now_seconds);
    if charged.group.is_empty() && COUNTED_BY_NAME.contains(&charged.resource) && !ended {
        found.insert(charged.resource.to_string(), one());
    }
    match (charged.group, charged.resource) {
        ("", "pods") if !ended => found.extend(of_compute(&charged.object["spec"])),
        ("", "services") => found.extend(of_service(&charged.object["spec"])),
        ("", "persistentvolumeclaims") => found.extend(of_claim(charged.object)),
        _ => {}
    }
    found
}

fn has_ended(pod: &Value, now_seconds: i64) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if phase == "Succeeded" || phase == "Failed" {
        return true;
    }
    let meta = &pod["metadata"];
    let deleted = meta["deletionTimestamp"].as_str().and_then(unix_seconds);
    let grace = meta["deletionGracePeriodSeconds"].as_i64();
    deleted
        .zip(grace)
        .is_some_and(|(deleted, grace)| now_seconds > deleted.saturating_add(grace))
}

fn unix_seconds(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>()
        .ok()
        .map(jiff::Timestamp::as_second)
}

fn of_compute(spec: &Value) -> Amounts {
    let pod = pod_resources(spec);
    named(&pod.requests(), &pod.limits())
}

/// Requests and limits under the names quotas use.
fn named(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut found = Amounts::new();
    for (name, amount) in requests {
        let plain = COMPUTE.contains(&name.as_str()) || name.starts_with("hugepages-");
        if plain {
            found.insert(name.clone(), amount.clone());
        }
        if plain || is_extended_for_quota(&format!("requests.{name}")) {
            found.insert(format!("requests.{name}"), amount.clone());
        }
    }
    for (name, amount) in limits.iter().filter(|(name, _)| COMPUTE.contains(&name.as_str())) {
        found.insert(format!("limits.{name}"), amount.clone());
    }
    found
}

fn of_service(spec: &Value) -> Amounts {
    let ports = list(&spec["ports"]).count();
    let with_node_port = list(&spec["ports"])
        .filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0)
        .count();
    let (node_ports, balancers) = match spec["type"].as_str() {
        Some("NodePort") => (ports, 0),
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => (with_node_port, 1),
        Some("LoadBalancer") => (ports, 1),
        _ => (0, 0),
    };
    let count = |n: usize| Quantity::new(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSI);
    Amounts::from([
        ("services.nodeports".to_string(), count(node_ports)),
        ("services.loadbalancers".to_string(), count(balancers)),
    ])
}

fn of_claim(claim: &Value) -> Amounts {
    let mut storage = amounts(&claim["spec"]["resources"]["requests"]);
    raise(&mut storage, &amounts(&claim["status"]["allocatedResources"]));
    let mut found = Amounts::new();
    let storage = storage.remove("storage");
    if let Some(storage) = &storage {
        found.insert("requests.storage".to_string(), storage.clone());
    }
    let annotation = &claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"];
    let class = annotation
        .as_str()
        .or(claim["spec"]["storageClassName"].as_str())
        .unwrap_or_default();
    if !class.is_empty() {
        let name = |what: &str| format!("{class}.storageclass.storage.k8s.io/{what}");
        found.insert(name("persistentvolumeclaims"), one());
        if let Some(storage) = storage {
            found.insert(name("requests.storage"), storage);
        }
    }
    found
}

/// Tells whether `requests.<name>` names an extended resource: it has a domain that is not Kubernetes' own.
pub fn is_extended_for_quota(name: &str) -> bool {
    let Some(resource) = name.strip_prefix("requests.") else {
        return false;
    };
    resource.contains('/') && !resource.contains("kubernetes.io/")
}

/// Tells whether a limit of this name counts something of such objects.
pub fn concerns(charged: &Charged<'_>, name: &str) -> bool {
    if name == charged.count_name() {
        return true;
    }
    if !charged.group.is_empty() {
        return false;
    }
    let counted = COUNTED_BY_NAME.contains(&charged.resource) && name == charged.resource;
    let by_kind = match charged.resource {
        "pods" => concerns_pods(name),
        "services" => name == "services.nodeports" || name == "services.loadbalancers",
        "persistentvolumeclaims" => {
            name == "requests.storage"
                || name.ends_with(".storageclass.storage.k8s.io/requests.storage")
                || name.ends_with(".storageclass.storage.k8s.io/persistentvolumeclaims")
        }
        _ => false,
    };
    counted || by_kind
}

fn concerns_pods(name: &str) -> bool {
    let plain = name.strip_prefix("requests.").unwrap_or(name);
    COMPUTE.contains(&plain)
        || plain.starts_with("hugepages-")
        || name
            .strip_prefix("limits.")
            .is_some_and(|limit| COMPUTE.contains(&limit))
        || is_extended_for_quota(name)
}

/// Tells which containers lack what the quota's limits demand of each; `None` when nothing is missing.
pub fn missing(quota: &Value, pod: &Value) -> Option<Refusal> {
    let spec = &pod["spec"];
    let hard = quota["spec"]["hard"].as_object()?;
    if has_pod_level(spec) {
        return None;
    }
    let mut lacking: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in ["containers", "initContainers"]
        .iter()
        .flat_map(|field| list(&spec[*field]))
    {
        let resources = &container["resources"];
        let has = named(&amounts(&resources["requests"]), &amounts(&resources["limits"]));
        let name = container["name"].as_str().unwrap_or_default();
        for demanded in DEMANDED
            .iter()
            .filter(|d| hard.contains_key(**d) && !has.contains_key(**d))
        {
            lacking.entry(demanded).or_default().insert(name);
        }
    }
    if lacking.is_empty() {
        return None;
    }
    let join = |(resource, names): (&&str, &BTreeSet<&str>)| {
        let names: Vec<&str> = names.iter().copied().collect();
        format!("{resource} for: {}", names.join(","))
    };
    let missing = lacking.iter().map(join).collect::<Vec<_>>().join("; ");
    Some(Refusal::Missing {
        quota: quota["metadata"]["name"].as_str().unwrap_or_default().to_string(),
        missing,
    })
}

/// Whether the pod sets resources for itself as a whole, which lifts the demand on each container.
fn has_pod_level(spec: &Value) -> bool {
    let set = |side: &str| {
        spec["resources"][side]
            .as_object()
            .is_some_and(|set| !set.is_empty())
    };
    set("requests") || set("limits")
}
