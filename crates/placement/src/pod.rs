//! Pods as placement sees them: a shape that equal pods share, and an instance.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use mainstay_semantics::node_affinity::NodeAffinity;
use mainstay_semantics::selector::{LabelSelector, Operator, Requirement, Selector};
use mainstay_semantics::toleration::Toleration;

use crate::input;
use crate::resources::Resources;

/// Requests that scores assume for containers without any: 100 m of cpu, 200 MiB of memory.
const ASSUMED_CPU_MILLI: i64 = 100;
const ASSUMED_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Everything about a pod that decides where it fits. Equal pods share one (`Arc`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape {
    /// The namespace.
    pub namespace: String,
    /// The pod's labels.
    pub labels: BTreeMap<String, String>,
    /// What it reserves.
    pub requests: Resources,
    /// Cpu and memory as scores count them (containers without requests count a little).
    pub scored: (i64, i64),
    /// Labels a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Node affinity.
    pub node_affinity: Option<NodeAffinity>,
    /// Taints it bears.
    pub tolerations: Vec<Toleration>,
    /// Ports it takes on the node.
    pub host_ports: Vec<HostPort>,
    /// Spread rules that must hold.
    pub spread_required: Vec<Spread>,
    /// Spread rules that should hold.
    pub spread_wished: Vec<Spread>,
    /// Pods it must be near.
    pub affinity: Vec<Term>,
    /// Pods it must be away from.
    pub anti_affinity: Vec<Term>,
    /// Pods it would be near (positive weight) or away from (negative weight).
    pub wished: Vec<(i64, Term)>,
    /// The priority.
    pub priority: i32,
    /// Whether it may push out others.
    pub may_preempt: bool,
    /// Image names, for locality.
    pub images: Vec<String>,
    /// Names of its claims, in the pod's namespace.
    pub claims: Vec<String>,
    /// Whether it claims devices: no node will do, since only a scheduler that allocates them may place it.
    pub claims_devices: bool,
}

/// A port on a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Empty means every address.
    pub ip: String,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// Tells whether two pods with these ports cannot share a node.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// A topology spread rule, its selector completed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Spread {
    /// The largest allowed difference.
    pub max_skew: i64,
    /// The node label that makes the domains.
    pub key: String,
    /// Which pods of the namespace count.
    pub selector: Selector,
    /// How many domains there should be at least.
    pub min_domains: i64,
    /// Whether nodes outside the pod's affinity make no domain.
    pub honor_affinity: bool,
    /// Whether nodes with untolerated taints make no domain.
    pub honor_taints: bool,
}

/// A pod affinity rule, its selector completed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Term {
    /// The node label that makes the domains.
    pub key: String,
    /// Which pods.
    pub selector: Selector,
    /// Namespaces by name; the pod's own when neither this nor the selector is given.
    pub namespaces: Vec<String>,
    /// Namespaces by label.
    pub namespace_selector: Selector,
}

/// Labels of namespaces, for terms that select them.
pub type Namespaces = BTreeMap<String, BTreeMap<String, String>>;

impl Term {
    /// Tells whether a pod is one of those the rule speaks of.
    pub fn selects(&self, shape: &Shape, namespaces: &Namespaces) -> bool {
        let named = self.namespaces.contains(&shape.namespace);
        let by_label = || {
            let empty = BTreeMap::new();
            self.namespace_selector
                .matches(namespaces.get(&shape.namespace).unwrap_or(&empty))
        };
        self.selector.matches(&shape.labels) && (named || by_label())
    }

    fn new(term: &input::AffinityTerm, namespace: &str, labels: &BTreeMap<String, String>) -> Self {
        let own = term.namespaces.is_empty() && term.namespace_selector.is_none();
        Term {
            key: term.topology_key.clone(),
            selector: selector(
                &term.label_selector,
                labels,
                &term.match_label_keys,
                &term.mismatch_label_keys,
            ),
            namespaces: if own {
                vec![namespace.to_owned()]
            } else {
                term.namespaces.clone()
            },
            namespace_selector: selector(&term.namespace_selector, labels, &[], &[]),
        }
    }
}

/// Completes a selector with the pod's own values of `matchLabelKeys` (and their negation for mismatch
/// keys). The API server has refused invalid selectors; one that got through selects nothing.
fn selector(
    given: &Option<LabelSelector>,
    own: &BTreeMap<String, String>,
    same: &[String],
    other: &[String],
) -> Selector {
    let Ok(base) = LabelSelector::optional(given.as_ref()) else {
        return Selector::nothing();
    };
    if base.is_nothing() || same.is_empty() && other.is_empty() {
        return base;
    }
    let mut requirements = base.requirements().to_vec();
    for (keys, operator) in [(same, Operator::In), (other, Operator::NotIn)] {
        let held = keys.iter().filter_map(|key| own.get_key_value(key));
        let added = held.filter_map(|(key, value)| Requirement::new(key, operator, [value.clone()]).ok());
        requirements.extend(added);
    }
    Selector::from_requirements(requirements)
}

impl Shape {
    /// Reads a shape from a pod's namespace, labels and spec.
    pub fn new(namespace: &str, labels: &BTreeMap<String, String>, spec: &input::PodSpec) -> Self {
        let terms = |terms: &[input::AffinityTerm]| -> Vec<Term> {
            terms
                .iter()
                .map(|term| Term::new(term, namespace, labels))
                .collect()
        };
        let (near, away) = (&spec.affinity.pod_affinity, &spec.affinity.pod_anti_affinity);
        let wish = |sign: i64| {
            move |wish: &input::WeightedTerm| {
                (
                    sign * i64::from(wish.weight),
                    Term::new(&wish.pod_affinity_term, namespace, labels),
                )
            }
        };
        let (spread_required, spread_wished) = spreads(spec, labels);
        Shape {
            namespace: namespace.to_owned(),
            labels: labels.clone(),
            requests: Resources::from_list(&spec.pod_resources().requests()),
            scored: scored(spec),
            node_selector: spec.node_selector.clone(),
            node_affinity: spec.affinity.node_affinity.clone(),
            tolerations: spec.tolerations.clone(),
            host_ports: host_ports(spec),
            spread_required,
            spread_wished,
            affinity: terms(&near.required),
            anti_affinity: terms(&away.required),
            wished: near
                .preferred
                .iter()
                .map(wish(1))
                .chain(away.preferred.iter().map(wish(-1)))
                .collect(),
            priority: spec.priority,
            may_preempt: spec.preemption_policy != "Never",
            images: spec
                .containers
                .iter()
                .map(|container| container.image.clone())
                .collect(),
            claims: spec.volumes.iter().filter_map(claim).collect(),
            claims_devices: !spec.resource_claims.is_empty(),
        }
    }

    /// Tells whether only resources, labels and taints decide where such a pod fits, so that counting is
    /// exact and no pod-by-pod simulation is needed.
    pub fn is_countable(&self) -> bool {
        self.host_ports.is_empty()
            && self.spread_required.is_empty()
            && self.affinity.is_empty()
            && self.anti_affinity.is_empty()
    }

    /// A number that is equal for equal shapes (and rarely for others).
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

fn claim(volume: &input::Volume) -> Option<String> {
    volume
        .persistent_volume_claim
        .as_ref()
        .map(|source| source.claim_name.clone())
}

fn host_ports(spec: &input::PodSpec) -> Vec<HostPort> {
    let sidecars = spec
        .init_containers
        .iter()
        .filter(|container| container.resources.is_sidecar());
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| &container.ports);
    ports
        .filter(|port| port.host_port > 0)
        .map(|port| HostPort {
            protocol: if port.protocol.is_empty() {
                "TCP".to_owned()
            } else {
                port.protocol.clone()
            },
            ip: port.host_ip.clone(),
            port: port.host_port,
        })
        .collect()
}

fn spreads(spec: &input::PodSpec, labels: &BTreeMap<String, String>) -> (Vec<Spread>, Vec<Spread>) {
    let (mut required, mut wished) = (Vec::new(), Vec::new());
    for rule in &spec.topology_spread_constraints {
        let spread = Spread {
            max_skew: rule.max_skew.max(1),
            key: rule.topology_key.clone(),
            selector: selector(&rule.label_selector, labels, &rule.match_label_keys, &[]),
            min_domains: rule.min_domains.unwrap_or(1),
            honor_affinity: rule.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: rule.node_taints_policy.as_deref() == Some("Honor"),
        };
        let list = if rule.when_unsatisfiable == "ScheduleAnyway" {
            &mut wished
        } else {
            &mut required
        };
        list.push(spread);
    }
    (required, wished)
}

fn scored(spec: &input::PodSpec) -> (i64, i64) {
    let mut sum = (0, 0);
    for container in &spec.containers {
        let requests = &container.resources.resources.requests;
        sum.0 += requests
            .get("cpu")
            .map_or(ASSUMED_CPU_MILLI, |quantity| quantity.milli_value());
        sum.1 += requests
            .get("memory")
            .map_or(ASSUMED_MEMORY_BYTES, |quantity| quantity.value());
    }
    sum
}

/// What decides whether a pod may be evicted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Eviction {
    /// The controlling owner: kind, name and uid.
    pub controller: Option<Owner>,
    /// `cluster-autoscaler.kubernetes.io/safe-to-evict`, when set.
    pub safe_to_evict: Option<String>,
    /// Local volumes that `safe-to-evict-local-volumes` does not excuse.
    pub has_local_storage: bool,
    /// Made from a file on the node.
    pub is_mirror: bool,
    /// Succeeded or Failed.
    pub is_finished: bool,
}

/// A controlling owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Owner {
    /// The owner's kind.
    pub kind: String,
    /// The owner's name.
    pub name: String,
    /// The owner's uid.
    pub uid: String,
}

/// Where eviction is annotated.
pub const SAFE_TO_EVICT: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";
/// Which local volumes do not matter, comma-separated.
pub const SAFE_LOCAL_VOLUMES: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
/// Marks pods made from files.
const MIRROR: &str = "kubernetes.io/config.mirror";

impl Eviction {
    /// Reads eviction facts from a pod's annotations, owner, volumes and phase.
    pub fn new(
        annotations: &BTreeMap<String, String>,
        controller: Option<Owner>,
        volumes: &[input::Volume],
        phase: &str,
    ) -> Self {
        let excused = annotations
            .get(SAFE_LOCAL_VOLUMES)
            .map(String::as_str)
            .unwrap_or_default();
        let local = |volume: &input::Volume| {
            let scratch = volume
                .empty_dir
                .as_ref()
                .is_some_and(|dir| dir.medium != "Memory");
            (scratch || volume.host_path.is_some())
                && !excused.split(',').any(|name| name.trim() == volume.name)
        };
        Eviction {
            controller,
            safe_to_evict: annotations.get(SAFE_TO_EVICT).cloned(),
            has_local_storage: volumes.iter().any(local),
            is_mirror: annotations.contains_key(MIRROR),
            is_finished: matches!(phase, "Succeeded" | "Failed"),
        }
    }

    /// Tells whether a DaemonSet owns the pod.
    pub fn is_daemon(&self) -> bool {
        self.controller
            .as_ref()
            .is_some_and(|owner| owner.kind == "DaemonSet")
    }
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pod {
    /// The name; the namespace is in the shape.
    pub name: Arc<str>,
    /// The uid.
    pub uid: Arc<str>,
    /// What decides where it fits.
    pub shape: Arc<Shape>,
    /// What decides whether it may be evicted.
    pub eviction: Arc<Eviction>,
    /// When it was made or started, in seconds since the epoch.
    pub since: i64,
    /// Being deleted since (seconds since the epoch, plus its grace), if it is.
    pub deleted_at: Option<i64>,
}

impl Pod {
    /// The pod as `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.shape.namespace, self.name)
    }
}
