//! Whether a pod fits this node: resources, node selector and affinity, host ports and NoExecute taints. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use mainstay_semantics::labels;
use mainstay_semantics::node_affinity::{NodeAffinity, fits};
use mainstay_semantics::resource_name::{is_extended, is_scalar};
use mainstay_semantics::toleration::{Effect, Taint, Toleration, first_untolerated};

use super::Refusal;
use crate::amount::{self, Amounts};
use crate::{plan, podspec, qos};

/// The order in which resources are named; others follow by name.
const ORDER: &[&str] = &["pods", "cpu", "memory", "ephemeral-storage"];

/// What of the node decides.
#[derive(Debug, Clone, Default)]
pub struct NodeView {
    /// The node's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// What pods may use.
    pub allocatable: Amounts,
    /// Whether the runtime can leave out groups that only the image names.
    pub strict_groups: bool,
}

impl NodeView {
    /// The view of a Node object.
    pub fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        let features = status.and_then(|s| s.features.as_ref());
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
        NodeView {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: convert(&taints).unwrap_or_default(),
            allocatable: amount::amounts(status.and_then(|s| s.allocatable.as_ref())),
            strict_groups: features.is_some_and(|f| f.supplemental_groups_policy == Some(true)),
        }
    }
}

/// Reads one description of an API type as another of the same shape.
fn convert<T: serde::de::DeserializeOwned>(from: &impl serde::Serialize) -> Option<T> {
    serde_json::to_value(from).and_then(serde_json::from_value).ok()
}

/// Why a pod does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// A resource does not suffice; amounts as in [`Amounts`].
    Resource {
        /// The resource.
        name: String,
        /// What the pod asks for.
        requested: i64,
        /// What others have.
        used: i64,
        /// What there is.
        capacity: i64,
    },
    /// Something else.
    Predicate {
        /// Name of the rule; becomes the pod's reason.
        name: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}

const AFFINITY: Misfit = Misfit::Predicate {
    name: "NodeAffinity",
    what: "node(s) didn't match Pod's node affinity/selector",
};
const NODE_NAME: Misfit = Misfit::Predicate {
    name: "NodeName",
    what: "node(s) didn't match the requested node name",
};
const PORTS: Misfit = Misfit::Predicate {
    name: "NodePorts",
    what: "node(s) didn't have free ports for the requested pod ports",
};
const TAINTS: Misfit = Misfit::Predicate {
    name: "TaintToleration",
    what: "node(s) had taints that the pod didn't tolerate",
};

impl Misfit {
    /// Details for people.
    pub fn message(&self) -> String {
        match self {
            Misfit::Resource {
                name,
                requested,
                used,
                capacity,
            } => format!(
                "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
            ),
            Misfit::Predicate { name, what } => format!("Predicate {name} failed: {what}"),
        }
    }

    /// The refusal of a pod for this reason.
    pub fn refusal(&self) -> Refusal {
        let reason = match self {
            Misfit::Resource { name, .. } => format!("OutOf{name}"),
            Misfit::Predicate { name, .. } => (*name).to_owned(),
        };
        Refusal {
            reason,
            message: self.message(),
        }
    }

    /// Whether the node's labels alone are the reason: they may have changed just now.
    pub fn is_affinity(&self) -> bool {
        *self == AFFINITY
    }
}

/// Resources that do not suffice, in the order in which they are named.
fn insufficient(node: &NodeView, pod: &Pod, others: &[&Pod]) -> Vec<Misfit> {
    let mut wanted = qos::pod_requests(pod);
    wanted.insert("pods".to_owned(), 1);
    // An extended resource that the node does not know is the cluster's, not the node's.
    wanted.retain(|name, amount| {
        let counted = ORDER.contains(&name.as_str()) || is_scalar(name);
        *amount > 0 && counted && (!is_extended(name) || node.allocatable.contains_key(name))
    });
    let mut used = Amounts::from([("pods".to_owned(), others.len() as i64)]);
    for other in others {
        for (name, amount) in qos::pod_requests(other) {
            *used.entry(name).or_default() += amount;
        }
    }
    let of = |amounts: &Amounts, name: &str| amounts.get(name).copied().unwrap_or(0);
    let place = |name: &String| ORDER.iter().position(|o| o == name).unwrap_or(ORDER.len());
    let mut names: Vec<(&String, &i64)> = wanted.iter().collect();
    names.sort_by_key(|(name, _)| place(name));
    names
        .into_iter()
        .map(|(name, requested)| Misfit::Resource {
            name: name.clone(),
            requested: *requested,
            used: of(&used, name),
            capacity: of(&node.allocatable, name),
        })
        .filter(|m| matches!(m, Misfit::Resource { requested, used, capacity, .. } if requested + used > *capacity))
        .collect()
}

fn selected(node: &NodeView, spec: &PodSpec) -> bool {
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let affinity: Option<NodeAffinity> = affinity.and_then(convert);
    let selector = spec.node_selector.clone().unwrap_or_default();
    fits(&selector, affinity.as_ref(), &node.name, &node.labels)
}

/// Host ports of a pod: (address, protocol, port).
fn host_ports(pod: &Pod) -> Vec<(&str, &str, i32)> {
    let Some(spec) = pod.spec.as_ref() else {
        return Vec::new();
    };
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| plan::is_sidecar(c));
    let containers = spec.containers.iter().chain(sidecars);
    let ports = containers.flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|h| *h > 0)?;
            let ip = p.host_ip.as_deref().filter(|ip| !ip.is_empty());
            let protocol = p.protocol.as_deref().filter(|p| !p.is_empty());
            Some((ip.unwrap_or("0.0.0.0"), protocol.unwrap_or("TCP"), port))
        })
        .collect()
}

fn ports_are_free(pod: &Pod, others: &[&Pod]) -> bool {
    let taken: Vec<(&str, &str, i32)> = others.iter().flat_map(|p| host_ports(p)).collect();
    let clash = |a: &(&str, &str, i32), b: &(&str, &str, i32)| {
        let same_address = a.0 == b.0 || a.0 == "0.0.0.0" || b.0 == "0.0.0.0";
        same_address && (a.1, a.2) == (b.1, b.2)
    };
    !host_ports(pod)
        .iter()
        .any(|wanted| taken.iter().any(|t| clash(wanted, t)))
}

/// Everything that speaks against running `pod` beside `others` on the node.
pub fn misfits(node: &NodeView, pod: &Pod, others: &[&Pod]) -> Vec<Misfit> {
    let mut found = insufficient(node, pod, others);
    let Some(spec) = pod.spec.as_ref() else {
        return found;
    };
    if !selected(node, spec) {
        found.push(AFFINITY);
    }
    let wanted = spec.node_name.as_deref().unwrap_or("");
    if !wanted.is_empty() && wanted != node.name {
        found.push(NODE_NAME);
    }
    if !ports_are_free(pod, others) {
        found.push(PORTS);
    }
    let tolerations: Vec<Toleration> = convert(&spec.tolerations).unwrap_or_default();
    let untolerated = first_untolerated(&node.taints, &tolerations, &[Effect::NoExecute]);
    if untolerated.is_some() && !podspec::is_static(pod) {
        found.push(TAINTS);
    }
    found
}

/// Refuses pods for another operating system, and what the runtime cannot do.
pub fn unsupported(node: &NodeView, pod: &Pod) -> Option<Refusal> {
    let refusal = |reason: &str, message: &str| {
        Some(Refusal {
            reason: reason.to_owned(),
            message: message.to_owned(),
        })
    };
    let spec = pod.spec.as_ref()?;
    let label = pod.metadata.labels.as_ref().and_then(|l| l.get(labels::OS));
    if label.is_some_and(|os| os != "linux") {
        return refusal(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        );
    }
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return refusal(
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        );
    }
    let context = spec.security_context.as_ref();
    let groups = context.and_then(|c| c.supplemental_groups_policy.as_deref());
    if groups == Some("Strict") && !node.strict_groups {
        return refusal(
            "SupplementalGroupsPolicyNotSupported",
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("valid")
    }

    #[test]
    fn host_ports_clash_on_overlapping_addresses_only() {
        let with = |ip: &str| {
            let port = json!({"containerPort": 80, "hostPort": 80, "hostIP": ip});
            pod("p", json!({"containers": [{"name": "a", "ports": [port]}]}))
        };
        let free = |a: &str, b: &str| ports_are_free(&with(a), &[&with(b)]);
        assert_eq!(
            [
                free("", "10.0.0.1"),
                free("10.0.0.2", "10.0.0.1"),
                free("10.0.0.1", "10.0.0.1")
            ],
            [false, true, false]
        );
    }

    #[test]
    fn another_operating_system_is_refused() {
        let windows = pod("w", json!({"containers": [], "os": {"name": "windows"}}));
        let refusal = unsupported(&NodeView::default(), &windows).expect("refused");
        assert_eq!(refusal.reason, "PodOSNotSupported");
    }
}
