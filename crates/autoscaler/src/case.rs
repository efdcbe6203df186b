//! Scenarios from files: a cluster, pods and times in; the outcome of every pass out.
//!
//! The format is that of the oracle tables and of `mainstay simulate autoscaler FILE`. New machines never
//! become nodes and deleted nodes never disappear in a scenario.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mainstay_placement::drain::{OwnerState, Owners};
use mainstay_placement::input::{NodeSpec, NodeStatus, PodSpec};
use mainstay_placement::pack::Class;
use mainstay_placement::{Budget, Budgets, Eviction, Node, NodeInfo, Owner, Pod, Shape, Snapshot};
use mainstay_semantics::labels::HOSTNAME;
use mainstay_semantics::selector::{LabelSelector, Selector};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::core::run_once;
use crate::expander::{PodPrice, Priorities, parse_chain};
use crate::model::{Decision, Group, Observation, Options};
use crate::state::State;

/// When scenarios begin (seconds since the epoch); any late enough value will do.
const EPOCH: i64 = 1_700_000_000;

/// A scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Case {
    /// A name.
    #[serde(default)]
    pub id: String,
    /// Flags by their camel-case names; absent means the default.
    #[serde(default)]
    options: CaseOptions,
    /// Groups with their nodes.
    node_groups: Vec<CaseGroup>,
    /// Nodes outside every group.
    #[serde(default)]
    unmanaged_nodes: Vec<CaseNode>,
    /// Pods, running or waiting.
    #[serde(default)]
    pods: Vec<CasePod>,
    /// Disruption budgets.
    #[serde(default)]
    pdbs: Vec<CaseBudget>,
    /// Daemon sets, for new nodes.
    #[serde(default)]
    daemon_sets: Vec<CasePod>,
    /// When passes happen.
    run_at_seconds: Vec<i64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CaseOptions {
    expander: Option<String>,
    priority_config: Option<String>,
    pod_price_per_core_hour: Option<f64>,
    #[serde(rename = "podPricePerGiBHour")]
    pod_price_per_gib_hour: Option<f64>,
    balance_similar_node_groups: bool,
    balancing_ignore_labels: Vec<String>,
    salvo_scale_up: bool,
    max_nodes_total: Option<usize>,
    max_cores: Option<i64>,
    min_cores: Option<i64>,
    #[serde(rename = "maxMemoryGiB", alias = "maxMemory")]
    max_memory_gib: Option<i64>,
    #[serde(rename = "minMemoryGiB", alias = "minMemory")]
    min_memory_gib: Option<i64>,
    max_nodes_per_scale_up: Option<usize>,
    max_drain_parallelism: Option<usize>,
    #[serde(alias = "maxParallelism")]
    max_scale_down_parallelism: Option<usize>,
    scale_down_enabled: Option<bool>,
    scale_down_unneeded_seconds: Option<i64>,
    scale_down_unready_seconds: Option<i64>,
    scale_down_delay_after_add_seconds: Option<i64>,
    scale_down_delay_after_delete_seconds: Option<i64>,
    scale_down_delay_after_failure_seconds: Option<i64>,
    scale_down_utilization_threshold: Option<f64>,
    unremovable_node_recheck_timeout_seconds: Option<i64>,
    max_node_provision_seconds: Option<i64>,
    expendable_pods_priority_cutoff: Option<i32>,
    ignore_daemonsets_utilization: bool,
    #[serde(alias = "ignoreDaemonSetsUtilization")]
    ignore_daemon_sets_utilization: bool,
    skip_nodes_with_system_pods: Option<bool>,
    skip_nodes_with_local_storage: Option<bool>,
    skip_nodes_with_custom_controller_pods: Option<bool>,
    min_replica_count: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CaseGroup {
    name: String,
    #[serde(default)]
    min: usize,
    max: usize,
    template: CaseTemplate,
    price_per_hour: Option<f64>,
    #[serde(default)]
    nodes: Vec<CaseNode>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct CaseTemplate {
    resources: Value,
    labels: BTreeMap<String, String>,
    taints: Value,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct CaseNode {
    name: String,
    count: Option<usize>,
    unready: bool,
    resources: Option<Value>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    taints: Option<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CasePod {
    name: String,
    namespace: Option<String>,
    count: Option<usize>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    owner: Option<CaseOwner>,
    requests: Value,
    spec: Value,
    node: Option<String>,
    spread_over_group: Option<String>,
    spread_from: usize,
    phase: String,
    age_seconds: i64,
    priority: Option<i32>,
}

#[derive(Debug, Clone, Deserialize)]
struct CaseOwner {
    kind: String,
    name: String,
    replicas: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CaseBudget {
    name: String,
    namespace: Option<String>,
    #[serde(rename = "match", default)]
    labels: BTreeMap<String, String>,
    disruptions_allowed: i64,
}

/// Why a scenario cannot be run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CaseError {
    /// A part does not decode.
    #[error("{part}: {problem}")]
    Part {
        /// Which part.
        part: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl CaseError {
    fn new(part: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        CaseError::Part {
            part: part.into(),
            problem: problem.to_string(),
        }
    }
}

/// What came of a scenario, in the form of the tables' `expect`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// One per pass.
    pub steps: Vec<Step>,
    /// Wanted sizes at the end.
    pub final_target: BTreeMap<String, usize>,
}

/// One pass.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// When, in seconds from the beginning.
    pub at: i64,
    /// How the scale-up ended.
    pub scale_up: &'static str,
    /// Growth by group.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub increase: BTreeMap<String, usize>,
    /// Pods the growth is for.
    #[serde(skip_serializing_if = "is_zero")]
    pub pods_triggered: usize,
    /// Pods left to a later pass.
    #[serde(skip_serializing_if = "is_zero")]
    pub pods_await_evaluation: usize,
    /// Pods that nothing helps, by class.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub remain: BTreeMap<String, Value>,
    /// How the scale-down ended.
    pub scale_down: &'static str,
    /// Nodes that go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deleted: Vec<String>,
    /// Pods evicted by node.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub evicted_pods: BTreeMap<String, usize>,
    /// Why other nodes stay.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unremovable: BTreeMap<String, Value>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Runs every pass of a scenario, deciding as the cluster-autoscaler does unless its options say otherwise.
///
/// # Errors
/// When a part of the scenario cannot be read.
pub fn simulate(case: &Case) -> Result<Outcome, CaseError> {
    let options = options(&case.options)?;
    let mut world = World::build(case)?;
    let mut state = State::default();
    let mut steps = Vec::new();
    for at in &case.run_at_seconds {
        let mut seen = world.observe(EPOCH + at);
        let decision = run_once(&mut seen, &mut state, &options);
        steps.push(step(*at, &decision));
        world.groups = seen.groups;
    }
    let final_target = world
        .groups
        .iter()
        .map(|group| (group.id.clone(), group.target))
        .collect();
    Ok(Outcome { steps, final_target })
}

fn options(given: &CaseOptions) -> Result<Options, CaseError> {
    let default = Options::default();
    let price = PodPrice::default();
    let price = PodPrice {
        per_core_hour: given.pod_price_per_core_hour.unwrap_or(price.per_core_hour),
        per_gib_hour: given.pod_price_per_gib_hour.unwrap_or(price.per_gib_hour),
    };
    let wrong = |error: crate::expander::ExpanderError| CaseError::new("options", error);
    let priorities = Priorities::parse(given.priority_config.as_deref().unwrap_or("{}")).map_err(wrong)?;
    let chain = given.expander.as_deref().unwrap_or("least-waste");
    const GIB: i64 = 1 << 30;
    let mut drain = default.drain.clone();
    drain.skip_system_pods = given
        .skip_nodes_with_system_pods
        .unwrap_or(drain.skip_system_pods);
    drain.skip_local_storage = given
        .skip_nodes_with_local_storage
        .unwrap_or(drain.skip_local_storage);
    drain.skip_custom_controllers = given
        .skip_nodes_with_custom_controller_pods
        .unwrap_or(drain.skip_custom_controllers);
    drain.min_replicas = given.min_replica_count.unwrap_or(drain.min_replicas);
    let or = |value: Option<i64>, default: i64| value.unwrap_or(default);
    Ok(Options {
        expanders: parse_chain(chain, price, &priorities, 0).map_err(wrong)?,
        all_groups_at_once: given.salvo_scale_up,
        balance_similar_groups: given.balance_similar_node_groups,
        balancing_ignored_labels: given.balancing_ignore_labels.clone(),
        max_nodes_per_scale_up: given
            .max_nodes_per_scale_up
            .unwrap_or(default.max_nodes_per_scale_up),
        max_nodes_total: given.max_nodes_total.unwrap_or(0),
        max_cpu_milli: given.max_cores.map(|cores| cores * 1000),
        max_memory_bytes: given.max_memory_gib.map(|gib| gib * GIB),
        min_cpu_milli: or(given.min_cores, 0) * 1000,
        min_memory_bytes: or(given.min_memory_gib, 0) * GIB,
        expendable_priority: given
            .expendable_pods_priority_cutoff
            .unwrap_or(default.expendable_priority),
        provision_seconds: or(given.max_node_provision_seconds, default.provision_seconds),
        scale_down: given.scale_down_enabled.unwrap_or(true),
        utilization_threshold: given
            .scale_down_utilization_threshold
            .unwrap_or(default.utilization_threshold),
        unneeded_seconds: or(given.scale_down_unneeded_seconds, default.unneeded_seconds),
        unready_seconds: or(given.scale_down_unready_seconds, default.unready_seconds),
        delay_after_add_seconds: or(
            given.scale_down_delay_after_add_seconds,
            default.delay_after_add_seconds,
        ),
        delay_after_delete_seconds: or(
            given.scale_down_delay_after_delete_seconds,
            default.delay_after_delete_seconds,
        ),
        delay_after_failure_seconds: or(
            given.scale_down_delay_after_failure_seconds,
            default.delay_after_failure_seconds,
        ),
        max_deletions: given.max_scale_down_parallelism.unwrap_or(default.max_deletions),
        max_drains: given.max_drain_parallelism.unwrap_or(default.max_drains),
        recheck_seconds: or(
            given.unremovable_node_recheck_timeout_seconds,
            default.recheck_seconds,
        ),
        drain,
        ignore_daemons_in_utilization: given.ignore_daemonsets_utilization
            || given.ignore_daemon_sets_utilization,
        ..default
    })
}

/// The scenario's cluster between passes.
struct World {
    groups: Vec<Group>,
    snapshot: Snapshot,
    kept_nodes: BTreeSet<Arc<str>>,
    pending: Vec<Class>,
    budgets: Budgets,
    owners: Arc<CaseOwners>,
}

#[derive(Debug, Default)]
struct CaseOwners {
    replicas: BTreeMap<(String, String), i64>,
}

impl Owners for CaseOwners {
    fn state(&self, _: &str, owner: &Owner) -> OwnerState {
        match self.replicas.get(&(owner.kind.clone(), owner.name.clone())) {
            Some(replicas) if *replicas < 0 => OwnerState::Missing,
            replicas => OwnerState::Present(replicas.copied()),
        }
    }
}

const KEPT: &str = "cluster-autoscaler.kubernetes.io/scale-down-disabled";

impl World {
    fn build(case: &Case) -> Result<Self, CaseError> {
        let mut world = World {
            groups: Vec::new(),
            snapshot: Snapshot::new(),
            kept_nodes: BTreeSet::new(),
            pending: Vec::new(),
            budgets: Budgets::new(case.pdbs.iter().map(budget).collect()),
            owners: Arc::default(),
        };
        for group in &case.node_groups {
            let nodes = group
                .nodes
                .iter()
                .map(|node| world.add_nodes(node, Some(&group.template)));
            let nodes: Vec<BTreeSet<Arc<str>>> = nodes.collect::<Result<_, _>>()?;
            let nodes: BTreeSet<Arc<str>> = nodes.into_iter().flatten().collect();
            world.groups.push(Group {
                id: group.name.clone(),
                min: group.min,
                max: group.max,
                target: nodes.len(),
                template: template(group, case)?,
                price_per_hour: group.price_per_hour,
                nodes,
                not_ready: None,
                overrides: Default::default(),
            });
        }
        for node in &case.unmanaged_nodes {
            world.add_nodes(node, None)?;
        }
        let mut owners = CaseOwners::default();
        for pod in &case.pods {
            world.add_pods(pod, case)?;
            if let Some(CaseOwner {
                kind,
                name,
                replicas: Some(replicas),
            }) = &pod.owner
            {
                owners.replicas.insert((kind.clone(), name.clone()), *replicas);
            }
        }
        world.owners = Arc::new(owners);
        Ok(world)
    }

    fn add_nodes(
        &mut self,
        node: &CaseNode,
        template: Option<&CaseTemplate>,
    ) -> Result<BTreeSet<Arc<str>>, CaseError> {
        let names = match node.count {
            None => vec![node.name.clone()],
            Some(count) => (0..count)
                .map(|number| format!("{}-{number}", node.name))
                .collect(),
        };
        let mut own = template.cloned().unwrap_or_default();
        own.resources = node.resources.clone().unwrap_or(own.resources);
        own.taints = node.taints.clone().unwrap_or(own.taints);
        own.labels.extend(node.labels.clone());
        let base = node_info(&node.name, &own, !node.unready)?;
        for name in &names {
            let mut labels = base.labels.clone();
            labels.insert(HOSTNAME.to_owned(), name.clone());
            let info = NodeInfo {
                name: name.as_str().into(),
                labels,
                ..base.clone()
            };
            if node.annotations.get(KEPT).is_some_and(|value| value == "true") {
                self.kept_nodes.insert(info.name.clone());
            }
            self.snapshot.set_node(Arc::new(info));
        }
        Ok(names.into_iter().map(Arc::from).collect())
    }

    fn add_pods(&mut self, pod: &CasePod, case: &Case) -> Result<(), CaseError> {
        let maker = PodMaker::new(pod)?;
        let count = pod.count.unwrap_or(1);
        if pod.node.is_none() && pod.spread_over_group.is_none() {
            self.pending.push(Class {
                pod: Arc::new(maker.make(0)),
                count,
            });
            return Ok(());
        }
        if maker.eviction.is_finished {
            return Ok(());
        }
        let places = self.places(pod, case)?;
        for number in 0..count {
            let at = places[(pod.spread_from + number) % places.len()];
            self.snapshot.add_pod(at, Arc::new(maker.make(number)));
        }
        Ok(())
    }

    fn places(&self, pod: &CasePod, case: &Case) -> Result<Vec<usize>, CaseError> {
        let unknown =
            |name: &str| CaseError::new(format!("pods.{}", pod.name), format!("no node or group {name}"));
        if let Some(name) = &pod.node {
            return Ok(vec![self.snapshot.position(name).ok_or_else(|| unknown(name))?]);
        }
        let name = pod.spread_over_group.as_deref().unwrap_or_default();
        let at = case
            .node_groups
            .iter()
            .position(|group| group.name == name)
            .ok_or_else(|| unknown(name))?;
        let nodes = &self.groups[at].nodes;
        let own = |at: &usize| nodes.contains(&self.snapshot.nodes()[*at].info.name);
        let places: Vec<usize> = (0..self.snapshot.nodes().len()).filter(own).collect();
        if places.is_empty() {
            Err(unknown(name))
        } else {
            Ok(places)
        }
    }

    fn observe(&self, now: i64) -> Observation {
        Observation {
            now,
            groups: self.groups.clone(),
            snapshot: self.snapshot.clone(),
            not_usable: BTreeMap::new(),
            kept_nodes: self.kept_nodes.clone(),
            pending: self.pending.clone(),
            budgets: self.budgets.clone(),
            owners: self.owners.clone(),
        }
    }
}

fn budget(budget: &CaseBudget) -> Budget {
    let selector = LabelSelector {
        match_labels: Some(budget.labels.clone()),
        match_expressions: None,
    };
    Budget {
        namespace: budget.namespace.clone().unwrap_or_else(|| "default".to_owned()),
        name: budget.name.clone(),
        selector: selector.selector().unwrap_or_else(|_| Selector::nothing()),
        allowed: budget.disruptions_allowed,
    }
}

/// What a new node of a group looks like, with its daemons.
fn template(group: &CaseGroup, case: &Case) -> Result<Node, CaseError> {
    let mut node = Node::new(Arc::new(node_info(&group.name, &group.template, true)?));
    if !group.nodes.is_empty() {
        return Ok(node);
    }
    for daemon in &case.daemon_sets {
        let mut maker = PodMaker::new(daemon)?;
        let owner = Owner {
            kind: "DaemonSet".into(),
            name: daemon.name.clone(),
            uid: daemon.name.clone(),
        };
        maker.eviction = Arc::new(Eviction {
            controller: Some(owner),
            ..Eviction::default()
        });
        if mainstay_placement::filter::static_reason(&maker.shape, &node.info).is_none() {
            node.add(Arc::new(maker.make(0)));
        }
    }
    Ok(node)
}

fn node_info(name: &str, template: &CaseTemplate, ready: bool) -> Result<NodeInfo, CaseError> {
    let part = || format!("node {name}");
    let mut resources = template.resources.clone();
    if let Some(map) = resources.as_object_mut() {
        map.entry("pods").or_insert_with(|| "110".into());
    }
    let ready = if ready { "True" } else { "False" };
    let status = json!({"capacity": resources, "allocatable": resources,
        "conditions": [{"type": "Ready", "status": ready}]});
    let status: NodeStatus = serde_json::from_value(status).map_err(|error| CaseError::new(part(), error))?;
    let taints = if template.taints.is_null() {
        json!([])
    } else {
        template.taints.clone()
    };
    let spec: NodeSpec =
        serde_json::from_value(json!({"taints": taints})).map_err(|error| CaseError::new(part(), error))?;
    let mut labels = template.labels.clone();
    labels
        .entry(HOSTNAME.to_owned())
        .or_insert_with(|| name.to_owned());
    Ok(NodeInfo::new(name, labels, &spec, &status))
}

/// Makes the equal pods of one entry.
struct PodMaker {
    name: String,
    numbered: bool,
    shape: Arc<Shape>,
    eviction: Arc<Eviction>,
    since: i64,
}

impl PodMaker {
    fn new(pod: &CasePod) -> Result<Self, CaseError> {
        let wrong = |error: serde_json::Error| CaseError::new(format!("pods.{}", pod.name), error);
        let mut spec = if pod.spec.is_null() {
            json!({})
        } else {
            pod.spec.clone()
        };
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        if !pod.requests.is_null() {
            spec["containers"][0]["resources"] = json!({"requests": pod.requests});
        }
        if let Some(priority) = pod.priority {
            spec["priority"] = priority.into();
        }
        let spec: PodSpec = serde_json::from_value(spec).map_err(wrong)?;
        let namespace = pod.namespace.as_deref().unwrap_or("default");
        let owner = pod.owner.as_ref().map(|owner| Owner {
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            uid: format!("{}/{}", owner.kind, owner.name),
        });
        let eviction = Eviction::new(&pod.annotations, owner, &spec.volumes, &pod.phase);
        Ok(PodMaker {
            name: pod.name.clone(),
            numbered: pod.count.is_some(),
            shape: Arc::new(Shape::new(namespace, &pod.labels, &spec)),
            eviction: Arc::new(eviction),
            since: EPOCH - pod.age_seconds,
        })
    }

    fn make(&self, number: usize) -> Pod {
        let name: Arc<str> = if self.numbered {
            format!("{}-{number}", self.name).into()
        } else {
            self.name.as_str().into()
        };
        Pod {
            uid: name.clone(),
            name,
            shape: self.shape.clone(),
            eviction: self.eviction.clone(),
            since: self.since,
            deleted_at: None,
        }
    }
}

fn step(at: i64, decision: &Decision) -> Step {
    let unremovable = |(name, staying): (&Arc<str>, &crate::model::Staying)| {
        let mut value = json!({"reason": staying.reason.as_str()});
        if let Some((pod, block)) = staying.pod.as_ref().filter(|(_, block)| !block.is_empty()) {
            value["pod"] = pod.rsplit('/').next().unwrap_or(pod).into();
            value["podReason"] = (*block).into();
        }
        (name.to_string(), value)
    };
    let remain = decision.unhelped.iter().filter_map(|unhelped| {
        let class = unhelped.class.as_ref()?;
        let owner = class
            .pod
            .eviction
            .controller
            .as_ref()
            .map_or(&*class.pod.name, |owner| &owner.name);
        let skipped: BTreeMap<&String, [&String; 1]> = unhelped
            .skipped
            .iter()
            .map(|(group, reason)| (group, [reason]))
            .collect();
        let mut value = json!({"count": class.count});
        for (key, map) in [
            ("rejected", json!(unhelped.rejected)),
            ("skipped", json!(skipped)),
        ] {
            if map.as_object().is_some_and(|map| !map.is_empty()) {
                value[key] = map;
            }
        }
        Some((format!("{owner}/*"), value))
    });
    let mut deleted: Vec<String> = decision
        .remove
        .iter()
        .map(|removal| removal.node.to_string())
        .collect();
    deleted.sort();
    let evicted = decision.remove.iter().filter(|removal| !removal.evict.is_empty());
    Step {
        at,
        scale_up: decision.scale_up.as_str(),
        increase: decision.increase.clone(),
        pods_triggered: decision.pods_helped,
        pods_await_evaluation: decision.pods_waiting_for_next,
        remain: remain.collect(),
        scale_down: decision.scale_down.as_str(),
        deleted,
        evicted_pods: evicted
            .map(|removal| (removal.node.to_string(), removal.evict.len()))
            .collect(),
        unremovable: decision.staying.iter().map(unremovable).collect(),
    }
}
