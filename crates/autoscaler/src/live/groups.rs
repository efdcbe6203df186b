//! Node groups from NodePools with a range and from annotated MachineDeployments.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mainstay_capi::{DEPLOYMENT_NAME_LABEL, NODE_MACHINE_ANNOTATION, PAUSED_ANNOTATION};
use mainstay_placement::{Eviction, Node, NodeInfo, Owner, Pod, Shape, Snapshot};
use mainstay_scheduler::world::NodeView;
use mainstay_semantics::labels::{ARCH, HOSTNAME, OS};
use mainstay_semantics::pod::ResourceList;
use mainstay_semantics::quantity::Quantity;
use mainstay_semantics::toleration::Taint;

use super::views::{DaemonView, DeploymentView, MachineView, PoolView};
use crate::model::{Group, Overrides};

/// Smallest and largest size of a foreign MachineDeployment; both are needed.
const MIN_SIZE: &str = "cluster.x-k8s.io/cluster-api-autoscaler-node-group-min-size";
const MAX_SIZE: &str = "cluster.x-k8s.io/cluster-api-autoscaler-node-group-max-size";
/// What a new machine of an empty group has.
const CAPACITY_PREFIX: &str = "capacity.cluster-autoscaler.kubernetes.io/";
/// Labels and taints of new nodes of an empty group.
const CAPACITY_LABELS: &str = "capacity.cluster-autoscaler.kubernetes.io/labels";
const CAPACITY_TAINTS: &str = "capacity.cluster-autoscaler.kubernetes.io/taints";
/// What a group sets for itself; the last part is the option's name in one word.
const OPTION_PREFIX: &str = "cluster.x-k8s.io/autoscaling-options-";
/// Price of a machine per hour.
const PRICE: &str = "mainstay.dev/price-per-hour";
/// The taint on nodes that go.
pub const GOING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
/// Taints that Kubernetes puts on and takes off by itself: a new node will not keep them.
const PASSING_TAINT_PREFIXES: [&str; 4] = [
    "node.kubernetes.io/",
    "node.cloudprovider.kubernetes.io/",
    "node.cluster.x-k8s.io/uninitialized",
    START_TAINT_PREFIX,
];
/// Taints of whoever prepares new nodes; cluster-autoscaler's own prefix.
const START_TAINT_PREFIX: &str = "startup-taint.cluster-autoscaler.kubernetes.io/";
/// Taints that nodes have until they are ready for the first time (the node life cycle, cloud and Cluster API).
const START_TAINTS: [&str; 4] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/network-unavailable",
    "node.cloudprovider.kubernetes.io/uninitialized",
    "node.cluster.x-k8s.io/uninitialized",
];

/// Tells whether a taint with this key says that its node is still starting.
pub fn is_start_taint(key: &str) -> bool {
    START_TAINTS.contains(&key) || key.starts_with(START_TAINT_PREFIX)
}

/// What a group is in the management cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A NodePool.
    Pool,
    /// A MachineDeployment.
    Deployment,
}

/// A group and where its size is written.
#[derive(Debug, Clone)]
pub struct Source {
    /// What it is.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, for events.
    pub uid: String,
    /// The group.
    pub group: Group,
    /// The machine of each node.
    pub machines: BTreeMap<Arc<str>, String>,
}

/// The management objects of one cluster.
#[derive(Debug, Default)]
pub struct Management {
    /// NodePools.
    pub pools: Vec<Arc<PoolView>>,
    /// MachineDeployments.
    pub deployments: Vec<Arc<DeploymentView>>,
    /// Machines.
    pub machines: Vec<Arc<MachineView>>,
}

/// The workload objects that templates are made from.
#[derive(Debug)]
pub struct Workload<'a> {
    /// Nodes with their pods.
    pub snapshot: &'a Snapshot,
    /// Nodes as they stand in the API.
    pub nodes: &'a [Arc<NodeView>],
    /// DaemonSets.
    pub daemons: &'a [Arc<DaemonView>],
}

/// Collects the groups of one cluster, by name.
pub fn groups(seen: &Management, workload: &Workload<'_>, cluster: &str) -> Vec<Source> {
    let pools = seen.pools.iter().filter(|pool| pool.spec.cluster_name == cluster);
    let pools = pools.filter_map(|pool| pool_group(pool, seen, workload));
    let foreign = seen
        .deployments
        .iter()
        .filter(|deployment| deployment.spec.cluster_name == cluster);
    let foreign = foreign.filter_map(|deployment| deployment_group(deployment, seen, workload));
    let mut groups: Vec<Source> = pools.chain(foreign).collect();
    groups.sort_by(|a, b| (&a.group.id, a.kind).cmp(&(&b.group.id, b.kind)));
    groups
}

fn pool_group(pool: &PoolView, seen: &Management, workload: &Workload<'_>) -> Option<Source> {
    let range = pool.spec.autoscaling?;
    let meta = &pool.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let namespace = meta.namespace.clone().unwrap_or_default();
    let deployments: BTreeSet<&str> = seen
        .deployments
        .iter()
        .filter(|deployment| pool_of(&deployment.metadata).is_some_and(|pool| pool == name))
        .filter_map(|deployment| deployment.metadata.name.as_deref())
        .collect();
    let machines = nodes_of(seen, workload, &namespace, |machine| {
        let labels = machine.metadata.labels.iter().flatten();
        let mut own = labels.map(|(key, value)| (key.as_str(), value.as_str()));
        own.any(|(key, value)| {
            key == mainstay_api::POOL_LABEL && value == name
                || key == DEPLOYMENT_NAME_LABEL && deployments.contains(value)
        })
    });
    let mut labels = pool.spec.node.labels.clone();
    labels.insert(mainstay_api::POOL_LABEL.to_owned(), name.clone());
    let annotations = meta.annotations.clone().unwrap_or_default();
    let mut capacity = pool.status.capacity.clone();
    capacity.extend(annotated_capacity(&annotations));
    let template = template(
        &name,
        &machines,
        workload,
        capacity,
        labels,
        pool.spec.node.taints.clone(),
    );
    let paused = annotations.contains_key(mainstay_api::PAUSED_ANNOTATION);
    Some(Source {
        kind: Kind::Pool,
        namespace,
        uid: meta.uid.clone().unwrap_or_default(),
        group: Group {
            id: name.clone(),
            min: size(range.min),
            max: size(range.max),
            target: size(pool.spec.replicas.unwrap_or(range.min)),
            price_per_hour: annotations.get(PRICE).and_then(|price| price.parse().ok()),
            nodes: machines.keys().cloned().collect(),
            not_ready: not_ready(paused, template.is_some()),
            template: template.unwrap_or_default(),
            overrides: overrides(&annotations),
        },
        name,
        machines,
    })
}

fn deployment_group(
    deployment: &DeploymentView,
    seen: &Management,
    workload: &Workload<'_>,
) -> Option<Source> {
    let meta = &deployment.metadata;
    let annotations = meta.annotations.clone().unwrap_or_default();
    let bound = |key: &str| annotations.get(key)?.parse::<i32>().ok();
    let (min, max) = (bound(MIN_SIZE)?, bound(MAX_SIZE)?);
    if pool_of(meta).is_some() {
        return None;
    }
    let name = meta.name.clone().unwrap_or_default();
    let namespace = meta.namespace.clone().unwrap_or_default();
    let machines = nodes_of(seen, workload, &namespace, |machine| {
        machine
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(DEPLOYMENT_NAME_LABEL))
            == Some(&name)
    });
    let labels = pairs(annotations.get(CAPACITY_LABELS)).into_iter().collect();
    let taints = annotations
        .get(CAPACITY_TAINTS)
        .map(|text| parse_taints(text))
        .unwrap_or_default();
    let template = template(
        &name,
        &machines,
        workload,
        annotated_capacity(&annotations),
        labels,
        taints,
    );
    let paused = deployment.spec.paused == Some(true) || annotations.contains_key(PAUSED_ANNOTATION);
    Some(Source {
        kind: Kind::Deployment,
        namespace,
        uid: meta.uid.clone().unwrap_or_default(),
        group: Group {
            id: name.clone(),
            min: size(min),
            max: size(max),
            target: size(deployment.spec.replicas.unwrap_or(min)),
            price_per_hour: annotations.get(PRICE).and_then(|price| price.parse().ok()),
            nodes: machines.keys().cloned().collect(),
            not_ready: not_ready(paused, template.is_some()),
            template: template.unwrap_or_default(),
            overrides: overrides(&annotations),
        },
        name,
        machines,
    })
}

fn not_ready(paused: bool, has_template: bool) -> Option<String> {
    if paused {
        return Some("not ready for scale-up: paused".to_owned());
    }
    (!has_template).then(|| "not ready for scale-up: nothing is known about new machines".to_owned())
}

fn size(number: i32) -> usize {
    usize::try_from(number).unwrap_or(0)
}

/// The pool that owns a MachineDeployment.
fn pool_of(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Option<&str> {
    let owner = meta
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.kind == "NodePool");
    let label = || {
        meta.labels
            .as_ref()?
            .get(mainstay_api::POOL_LABEL)
            .map(String::as_str)
    };
    owner.map(|owner| owner.name.as_str()).or_else(label)
}

/// The nodes of the machines that `mine` accepts, with the machine's name. A node is found by the machine's
/// `nodeRef`, by its own annotation, or by the provider's name.
fn nodes_of(
    seen: &Management,
    workload: &Workload<'_>,
    namespace: &str,
    mine: impl Fn(&MachineView) -> bool,
) -> BTreeMap<Arc<str>, String> {
    let mut nodes = BTreeMap::new();
    // A machine that is being deleted is replaced or was taken off the group's size: its node no longer counts.
    let here = seen.machines.iter().filter(|machine| {
        machine.metadata.namespace.as_deref() == Some(namespace)
            && machine.metadata.deletion_timestamp.is_none()
    });
    for machine in here.filter(|machine| mine(machine)) {
        let name = machine.metadata.name.clone().unwrap_or_default();
        let is_node = |node: &&Arc<NodeView>| {
            let annotated = node
                .metadata
                .annotations
                .as_ref()
                .and_then(|own| own.get(NODE_MACHINE_ANNOTATION));
            let by_ref = machine.status.node_ref.as_ref().map(|own| own.name.as_str());
            let by_id =
                !node.spec.provider_id.is_empty() && node.spec.provider_id == machine.spec.provider_id;
            by_ref.is_some() && by_ref == node.metadata.name.as_deref() || annotated == Some(&name) || by_id
        };
        if let Some(node) = workload.nodes.iter().find(is_node) {
            nodes.insert(Arc::from(node.metadata.name.as_deref().unwrap_or_default()), name);
        }
    }
    nodes
}

/// What a new node looks like: a ready one that is there, cleaned; else what is declared; else one that is there.
fn template(
    group: &str,
    machines: &BTreeMap<Arc<str>, String>,
    workload: &Workload<'_>,
    capacity: ResourceList,
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
) -> Option<Node> {
    let there = || machines.keys().filter_map(|name| workload.snapshot.node(name));
    let ready = there().find(|node| node.info.ready && !node.info.unschedulable);
    if let Some(example) = ready {
        return Some(cleaned(group, example));
    }
    if capacity.is_empty() {
        // A node that is not ready still knows its size.
        let sized = there().find(|node| node.info.allocatable.cpu_milli > 0);
        return sized.map(|example| cleaned(group, example));
    }
    Some(declared(group, workload, capacity, labels, taints))
}

fn cleaned(group: &str, example: &Node) -> Node {
    let mut info = (*example.info).clone();
    info.name = group.into();
    (info.ready, info.unschedulable) = (true, false);
    info.labels.insert(HOSTNAME.to_owned(), group.to_owned());
    info.taints.retain(|taint| {
        taint.key != GOING_TAINT
            && !PASSING_TAINT_PREFIXES
                .iter()
                .any(|prefix| taint.key.starts_with(prefix))
    });
    let mut node = Node::new(Arc::new(info));
    let daemons = example
        .pods
        .iter()
        .filter(|pod| pod.eviction.is_daemon() || pod.eviction.is_mirror);
    daemons.for_each(|pod| node.add(pod.clone()));
    node
}

fn declared(
    group: &str,
    workload: &Workload<'_>,
    capacity: ResourceList,
    mut labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
) -> Node {
    labels.insert(HOSTNAME.to_owned(), group.to_owned());
    labels.entry(OS.to_owned()).or_insert_with(|| "linux".to_owned());
    labels
        .entry(ARCH.to_owned())
        .or_insert_with(|| "amd64".to_owned());
    let spec = mainstay_placement::input::NodeSpec {
        taints,
        ..Default::default()
    };
    let status = mainstay_placement::input::NodeStatus {
        capacity,
        ..Default::default()
    };
    let info = NodeInfo {
        ready: true,
        ..NodeInfo::new(group, labels, &spec, &status)
    };
    let mut node = Node::new(Arc::new(info));
    for daemon in workload.daemons {
        let pod = daemon_pod(daemon);
        if mainstay_placement::filter::static_reason(&pod.shape, &node.info).is_none() {
            node.add(Arc::new(pod));
        }
    }
    node
}

fn daemon_pod(daemon: &DaemonView) -> Pod {
    let name = daemon.metadata.name.clone().unwrap_or_default();
    let namespace = daemon.metadata.namespace.clone().unwrap_or_default();
    let owner = Owner {
        kind: "DaemonSet".to_owned(),
        name: name.clone(),
        uid: name.clone(),
    };
    Pod {
        uid: format!("daemon/{namespace}/{name}").into(),
        name: name.into(),
        shape: Arc::new(Shape::new(
            &namespace,
            &BTreeMap::new(),
            &daemon.spec.template.spec,
        )),
        eviction: Arc::new(Eviction {
            controller: Some(owner),
            ..Eviction::default()
        }),
        since: 0,
        deleted_at: None,
    }
}

/// Reads `capacity.cluster-autoscaler.kubernetes.io/{cpu,memory,ephemeral-disk,maxPods,gpu-type,gpu-count}`.
fn annotated_capacity(annotations: &BTreeMap<String, String>) -> ResourceList {
    let mut list = ResourceList::new();
    for (annotation, resource) in [
        ("cpu", "cpu"),
        ("memory", "memory"),
        ("ephemeral-disk", "ephemeral-storage"),
        ("maxPods", "pods"),
    ] {
        let value = annotations.get(&format!("{CAPACITY_PREFIX}{annotation}"));
        if let Some(quantity) = value.and_then(|text| Quantity::parse(text).ok()) {
            list.insert(resource.to_owned(), quantity);
        }
    }
    let gpu = |key: &str| annotations.get(&format!("{CAPACITY_PREFIX}{key}"));
    if let (Some(kind), Some(count)) = (gpu("gpu-type"), gpu("gpu-count"))
        && let Ok(quantity) = Quantity::parse(count)
    {
        list.insert(kind.clone(), quantity);
    }
    list
}

/// Reads a group's own options; what cannot be read is as if it were not there.
fn overrides(annotations: &BTreeMap<String, String>) -> Overrides {
    let text = |name: &str| annotations.get(&format!("{OPTION_PREFIX}{name}"));
    let seconds = |name: &str| text(name).and_then(|text| duration_seconds(text));
    Overrides {
        utilization_threshold: text("scaledownutilizationthreshold").and_then(|text| text.parse().ok()),
        unneeded_seconds: seconds("scaledownunneededtime"),
        unready_seconds: seconds("scaledownunreadytime"),
        delay_after_add_seconds: seconds("scaledowndelayafteradd"),
        provision_seconds: seconds("maxnodeprovisiontime"),
        startup_seconds: seconds("maxnodestartuptime"),
    }
}

/// Reads a duration such as `90s`, `10m` or `1h30m`.
fn duration_seconds(text: &str) -> Option<i64> {
    let mut total = 0;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        let unit = match rest.as_bytes()[digits] {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            _ => return None,
        };
        total += number.checked_mul(unit)?;
        rest = &rest[digits + 1..];
    }
    Some(total)
}

/// Reads `a=b,c=d`.
fn pairs(text: Option<&String>) -> Vec<(String, String)> {
    let parts = text.into_iter().flat_map(|text| text.split(','));
    parts
        .filter_map(|part| part.trim().split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Reads `key=value:Effect,...`.
fn parse_taints(text: &str) -> Vec<Taint> {
    let one = |part: &str| {
        let (pair, effect) = part.trim().rsplit_once(':')?;
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        serde_json::from_value(serde_json::json!({"key": key, "value": value, "effect": effect})).ok()
    };
    text.split(',').filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let rows = [
            ("90s", Some(90)),
            ("1h30m", Some(5400)),
            ("10", None),
            ("x", None),
            ("5d", None),
        ];
        for (text, expected) in rows {
            assert_eq!(duration_seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn an_empty_group_is_known_by_its_annotations() {
        let text = |key: &str, value: &str| (format!("{CAPACITY_PREFIX}{key}"), value.to_owned());
        let annotations = BTreeMap::from([
            text("cpu", "16"),
            text("memory", "128G"),
            text("maxPods", "50"),
            text("gpu-type", "nvidia.com/gpu"),
            text("gpu-count", "2"),
        ]);
        let list = annotated_capacity(&annotations);
        let texts: Vec<String> = list
            .iter()
            .map(|(name, own)| format!("{name}={}", own.canonical()))
            .collect();
        assert_eq!(texts.join(" "), "cpu=16 memory=128G nvidia.com/gpu=2 pods=50");
        assert_eq!(parse_taints("a=b:NoSchedule, c:NoExecute").len(), 2);
    }
}
