//! In-place resize: which resources a pod was given, and what a change of them changes in the runtime. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use mainstay_semantics::qos::Class;
use serde_json::{Value, json};

use crate::plan::{Actions, Cause, Kill, PodView, State, is_sidecar};
use crate::{amount, qos};

/// Resources by container.
pub type Resources = BTreeMap<String, ResourceRequirements>;

/// What a resize can change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Amounts {
    /// Thousandths.
    cpu_request: i64,
    cpu_limit: i64,
    /// Bytes.
    memory_request: i64,
    memory_limit: i64,
}

impl Amounts {
    fn of(resources: Option<&ResourceRequirements>) -> Self {
        let requests = amount::amounts(resources.and_then(|r| r.requests.as_ref()));
        let limits = amount::amounts(resources.and_then(|r| r.limits.as_ref()));
        let get = |of: &amount::Amounts, name: &str| of.get(name).copied().unwrap_or(0);
        Amounts {
            cpu_request: get(&requests, "cpu"),
            cpu_limit: get(&limits, "cpu"),
            memory_request: get(&requests, "memory"),
            memory_limit: get(&limits, "memory"),
        }
    }

    fn same_cpu(&self, other: &Self) -> bool {
        (self.cpu_request, self.cpu_limit) == (other.cpu_request, other.cpu_limit)
    }

    fn same_memory(&self, other: &Self) -> bool {
        (self.memory_request, self.memory_limit) == (other.memory_request, other.memory_limit)
    }
}

/// The containers whose resources can change while the pod runs: app containers and sidecars.
fn resizable(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let inits = spec.init_containers.iter().flatten();
    inits.filter(|c| is_sidecar(c)).chain(&spec.containers)
}

/// The resources that a pod's spec asks for.
pub fn wanted(pod: &Pod) -> Resources {
    let containers = pod.spec.iter().flat_map(resizable);
    containers
        .map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default()))
        .collect()
}

/// Whether a pod's spec asks for something else than it was given.
pub fn differs(pod: &Pod, given: &Resources) -> bool {
    let mut containers = pod.spec.iter().flat_map(resizable);
    containers.any(|c| {
        given
            .get(&c.name)
            .is_some_and(|given| Amounts::of(Some(given)) != Amounts::of(c.resources.as_ref()))
    })
}

/// The pod as if its spec asked for what it was given.
pub fn with(pod: &Arc<Pod>, given: &Resources) -> Arc<Pod> {
    if !differs(pod, given) {
        return pod.clone();
    }
    let mut pod = Pod::clone(pod);
    if let Some(spec) = &mut pod.spec {
        let inits = spec.init_containers.iter_mut().flatten();
        for container in inits.filter(|c| is_sidecar(c)).chain(&mut spec.containers) {
            if let Some(given) = given.get(&container.name) {
                container.resources = Some(given.clone());
            }
        }
    }
    Arc::new(pod)
}

/// Why a change cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pending {
    /// Not now: it is tried again when something leaves the node.
    Deferred(String),
    /// Never on this node.
    Infeasible(String),
}

impl Pending {
    /// The reason of the pod's condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Pending::Deferred(_) => "Deferred",
            Pending::Infeasible(_) => "Infeasible",
        }
    }

    /// The message of the pod's condition.
    pub fn message(&self) -> &str {
        let (Pending::Deferred(message) | Pending::Infeasible(message)) = self;
        message
    }
}

/// Why a change can never be had: processors of containers that have some to themselves stay as many.
pub fn infeasible(pod: &Pod, given: &Resources, static_processors: bool) -> Option<Pending> {
    if !static_processors || qos::class(pod) != Class::Guaranteed {
        return None;
    }
    let wanted = wanted(pod);
    let changed = wanted.iter().any(|(name, wanted)| {
        Amounts::of(Some(wanted)).cpu_request != Amounts::of(given.get(name)).cpu_request
    });
    let text = "Resize is infeasible for Guaranteed Pods alongside CPU Manager policy \"static\"";
    changed.then(|| Pending::Infeasible(text.to_owned()))
}

/// A change of a running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Name in the spec.
    pub name: String,
    /// The runtime's id.
    pub id: String,
    /// The memory limit in bytes that replaces a higher one or none.
    pub shrinks_to: Option<i64>,
}

/// Plans the changes of running containers. Those that must start anew for theirs are added to `actions`, unless these
/// end the container anyway.
pub fn plan(spec: &PodSpec, view: &PodView, actual: &Resources, actions: &mut Actions) -> Vec<Update> {
    let mut updates = Vec::new();
    for container in resizable(spec) {
        let seen = view.latest(&container.name).filter(|c| c.state == State::Running);
        let (Some(seen), Some(now)) = (seen, actual.get(&container.name)) else {
            continue;
        };
        let wanted = Amounts::of(container.resources.as_ref());
        let now = Amounts::of(Some(now));
        if wanted == now || actions.kill_pod || actions.kill.iter().any(|k| k.id == seen.id) {
            continue;
        }
        if needs_restart(container, &wanted, &now) {
            actions.kill.push(Kill {
                id: seen.id.clone(),
                name: container.name.clone(),
                message: format!("Container {} resize requires restart", container.name),
                cause: Cause::Definition,
            });
            start(spec, container, actions);
            continue;
        }
        let shrinks =
            wanted.memory_limit > 0 && (now.memory_limit == 0 || wanted.memory_limit < now.memory_limit);
        updates.push(Update {
            name: container.name.clone(),
            id: seen.id.clone(),
            shrinks_to: shrinks.then_some(wanted.memory_limit),
        });
    }
    // What shrinks makes room for what grows.
    updates.sort_by_key(|update| update.shrinks_to.is_none());
    updates
}

fn needs_restart(container: &Container, wanted: &Amounts, now: &Amounts) -> bool {
    let policies = container.resize_policy.iter().flatten();
    let restarts = |resource: &str| {
        let mut own = policies.clone().filter(|p| p.resource_name == resource);
        own.next().is_some_and(|p| p.restart_policy == "RestartContainer")
    };
    !wanted.same_cpu(now) && restarts("cpu") || !wanted.same_memory(now) && restarts("memory")
}

fn start(spec: &PodSpec, container: &Container, actions: &mut Actions) {
    let named = |list: &[Container]| list.iter().position(|c| c.name == container.name);
    if is_sidecar(container) {
        actions
            .init_to_start
            .extend(named(spec.init_containers.as_deref().unwrap_or_default()));
    } else {
        actions.to_start.extend(named(&spec.containers));
    }
}

/// Whether a running container does not have yet what the pod was given.
pub fn is_under_way(pod: &Pod, view: &PodView, actual: &Resources) -> bool {
    let mut containers = pod.spec.iter().flat_map(resizable);
    containers.any(|c| {
        let runs = view
            .latest(&c.name)
            .is_some_and(|seen| seen.state == State::Running);
        let actual = actual.get(&c.name);
        runs && actual.is_some_and(|a| Amounts::of(Some(a)) != Amounts::of(c.resources.as_ref()))
    })
}

/// The resources of a pod as its resize events tell them.
pub fn summary(pod: &Pod, error: &str) -> String {
    let list = |containers: &[Container]| -> Vec<Value> {
        let each = containers.iter();
        each.map(|c| json!({"name": c.name, "resources": c.resources.clone().unwrap_or_default()}))
            .collect()
    };
    let spec = pod.spec.as_ref();
    let inits = list(
        spec.and_then(|s| s.init_containers.as_deref())
            .unwrap_or_default(),
    );
    let apps = list(spec.map_or(&[][..], |s| &s.containers));
    let mut text = serde_json::Map::new();
    if !inits.is_empty() {
        text.insert("initContainers".to_owned(), inits.into());
    }
    text.insert("containers".to_owned(), apps.into());
    text.insert(
        "generation".to_owned(),
        pod.metadata.generation.unwrap_or(0).into(),
    );
    if !error.is_empty() {
        text.insert("error".to_owned(), error.into());
    }
    Value::Object(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::ContainerView;

    fn resources(cpu: &str, memory: &str) -> Value {
        json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}})
    }

    fn pod(resources: &[(&str, Value)], policy: Value) -> Arc<Pod> {
        let containers: Vec<Value> = resources
            .iter()
            .map(|(name, r)| json!({"name": name, "resources": r, "resizePolicy": policy}))
            .collect();
        let pod =
            serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": containers}}));
        Arc::new(pod.expect("valid"))
    }

    fn view(names: &[&str]) -> PodView {
        let seen = |name: &&str| ContainerView {
            id: format!("id-{name}"),
            name: (*name).to_owned(),
            state: State::Running,
            ..Default::default()
        };
        PodView {
            containers: names.iter().map(seen).collect(),
            ..Default::default()
        }
    }

    fn planned(from: &Arc<Pod>, to: &Arc<Pod>) -> (Vec<String>, Actions) {
        let mut actions = Actions::default();
        let spec = to.spec.as_ref().expect("set");
        let updates = plan(spec, &view(&["a", "b"]), &wanted(from), &mut actions);
        let text = |u: &Update| format!("{} {:?}", u.id, u.shrinks_to);
        (updates.iter().map(text).collect(), actions)
    }

    #[test]
    fn what_shrinks_is_changed_before_what_grows() {
        let before = pod(
            &[("a", resources("1", "64Mi")), ("b", resources("1", "64Mi"))],
            json!([]),
        );
        let after = pod(
            &[("a", resources("1", "96Mi")), ("b", resources("1", "32Mi"))],
            json!([]),
        );
        let (updates, actions) = planned(&before, &after);
        assert_eq!(updates, ["id-b Some(33554432)", "id-a None"]);
        assert!(actions.is_empty());
        assert_eq!(planned(&after, &after).0, Vec::<String>::new());
    }

    #[test]
    fn a_policy_may_ask_for_a_restart() {
        let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        let before = pod(&[("a", resources("1", "64Mi"))], policy.clone());
        let cpu = pod(&[("a", resources("2", "64Mi"))], policy.clone());
        assert_eq!(planned(&before, &cpu).0, ["id-a None"]);
        let memory = pod(&[("a", resources("1", "65Mi"))], policy);
        let (updates, actions) = planned(&before, &memory);
        assert!(updates.is_empty());
        assert_eq!(
            (actions.kill[0].message.as_str(), actions.to_start),
            ("Container a resize requires restart", vec![0])
        );
    }

    #[test]
    fn the_pod_shows_what_it_was_given_until_a_change_is_taken() {
        let before = pod(&[("a", resources("1", "64Mi"))], json!([]));
        let after = pod(&[("a", resources("1500m", "64Mi"))], json!([]));
        let given = wanted(&before);
        assert!(differs(&after, &given) && !differs(&before, &given));
        assert_eq!(with(&after, &given).spec, before.spec);
        let same = pod(&[("a", resources("1000m", "65536Ki"))], json!([]));
        assert!(!differs(&same, &given), "the same amounts in other words");
        let said = infeasible(&after, &given, true).expect("the processors are its own");
        assert_eq!(said.reason(), "Infeasible");
        assert_eq!(infeasible(&after, &given, false), None);
    }
}
