//! Machine deletion: is the drain still wanted, and what happens to each pod of the node.

use std::collections::BTreeMap;

/// What the drain and the wait for volumes depend on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gate {
    /// The annotation that excludes this step is set.
    pub excluded: bool,
    /// A pre-terminate hook has started: the step is over.
    pub pre_terminate_started: bool,
    /// The infrastructure machine is there and not being deleted.
    pub infrastructure_present: bool,
    /// Limit; absent or 0 waits for ever.
    pub timeout_seconds: Option<i64>,
    /// How long the step has lasted.
    pub lasting_seconds: Option<i64>,
}

/// Tells whether the step is still wanted.
pub fn still_wanted(gate: Gate) -> bool {
    let timed_out = match (gate.timeout_seconds, gate.lasting_seconds) {
        (Some(limit), Some(lasting)) if limit > 0 => lasting > limit,
        _ => false,
    };
    !(gate.excluded || gate.pre_terminate_started || !gate.infrastructure_present || timed_out)
}

/// What is done with a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Behavior {
    /// It is evicted.
    Drain,
    /// It stays.
    Skip,
    /// It is waited for.
    WaitCompleted,
}

impl Behavior {
    /// Reads the text of a rule or, in any case and with dashes, of a label.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().replace('-', "").as_str() {
            "drain" => Some(Behavior::Drain),
            "skip" => Some(Behavior::Skip),
            "waitcompleted" => Some(Behavior::WaitCompleted),
            _ => None,
        }
    }
}

/// What owns a pod, as far as the drain cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A mirror of a static pod.
    Mirror,
    /// A DaemonSet that exists.
    DaemonSet,
    /// Anything else.
    Other,
}

/// A pod on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainPod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Labels of its namespace.
    pub namespace_labels: BTreeMap<String, String>,
    /// What owns it.
    pub owner: Owner,
    /// It is being deleted.
    pub deleting: bool,
}

/// A drain rule that already applies to this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainRule {
    /// Name: rules are tried in name order.
    pub name: String,
    /// What is done.
    pub behavior: Behavior,
    /// Lower orders go first.
    pub order: i32,
    /// Labels a pod must have.
    pub pod_labels: BTreeMap<String, String>,
    /// Labels the pod's namespace must have.
    pub namespace_labels: BTreeMap<String, String>,
}

/// What is done with one pod now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodPlan {
    /// Its behaviour.
    pub behavior: Behavior,
    /// Its order.
    pub order: i32,
    /// Evict it now.
    pub evict: bool,
}

/// Plans the drain: one entry per pod, in the order given. Pods of one order are evicted together, and only
/// when no pod of a lower order is left. The drain is over when every entry says Skip.
pub fn plan_drain(pods: &[DrainPod], rules: &[DrainRule]) -> Vec<PodPlan> {
    let mut sorted: Vec<&DrainRule> = rules.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut plans: Vec<PodPlan> = pods.iter().map(|pod| classify(pod, &sorted)).collect();
    let lowest = plans
        .iter()
        .filter(|plan| plan.behavior == Behavior::Drain)
        .map(|plan| plan.order)
        .min();
    for (plan, pod) in plans.iter_mut().zip(pods) {
        plan.evict = plan.behavior == Behavior::Drain && Some(plan.order) == lowest && !pod.deleting;
    }
    plans
}

fn classify(pod: &DrainPod, rules: &[&DrainRule]) -> PodPlan {
    let plan = |behavior, order| PodPlan {
        behavior,
        order,
        evict: false,
    };
    if pod.owner != Owner::Other {
        return plan(Behavior::Skip, 0);
    }
    let label = pod
        .labels
        .get(mainstay_capi::DRAIN_LABEL)
        .and_then(|text| Behavior::parse(text));
    if let Some(behavior @ (Behavior::Skip | Behavior::WaitCompleted)) = label {
        return plan(behavior, 0);
    }
    let covers = |have: &BTreeMap<String, String>, want: &BTreeMap<String, String>| {
        want.iter().all(|(key, value)| have.get(key) == Some(value))
    };
    let rule = rules.iter().find(|rule| {
        covers(&pod.labels, &rule.pod_labels) && covers(&pod.namespace_labels, &rule.namespace_labels)
    });
    match rule {
        Some(rule) if rule.behavior == Behavior::Drain => plan(Behavior::Drain, rule.order),
        Some(rule) => plan(rule.behavior, 0),
        None => plan(Behavior::Drain, 0),
    }
}
