//! NodeRestriction: a node changes its own Node and the pods bound to it, and cannot give itself labels, taints or
//! an incarnation that others rely on. The authorizer has decided what kinds of objects it reaches at all.

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::service_account::is_mirror;
use super::{forbidden, items};
use crate::authz::{INCARNATION_ANNOTATION, INCARNATION_EXTRA, may_have_token, node_name};
use crate::hooks::{Admit, Operation, Review, World};
use crate::status::ApiResult;

/// The plugin.
pub(super) struct NodeRestriction;

/// Labels in Kubernetes' domains that a node may set on itself.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];

#[async_trait]
impl Admit for NodeRestriction {
    async fn mutate(&self, review: &mut Review, _: &dyn World) -> ApiResult<()> {
        let written = matches!(review.operation, Operation::Create | Operation::Update);
        let own = review
            .user
            .extra
            .get(INCARNATION_EXTRA)
            .and_then(|values| values.first())
            .cloned();
        let node = node_name(&review.user).is_some_and(|node| node == review.name);
        if let (true, true, true, Some(own)) = (written, node, review.is("", "nodes", ""), own) {
            let annotations = &mut review.object["metadata"]["annotations"];
            annotations[INCARNATION_ANNOTATION] = json!(own);
        }
        Ok(())
    }

    async fn validate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        let Some(node) = node_name(&review.user).map(str::to_string) else {
            return Ok(());
        };
        let refusal = match (
            review.group.as_str(),
            review.resource.as_str(),
            review.subresource.as_str(),
        ) {
            ("", "pods", "") => pod(review, &node),
            ("", "pods", "status") => pod_status(review, &node),
            ("", "pods", "eviction") => eviction(review, &node, world),
            ("", "nodes", _) => own_node(review, &node),
            ("", "serviceaccounts", "token") => {
                may_have_token(&node, &review.namespace, &review.object, world).err()
            }
            ("", "persistentvolumeclaims", "") => {
                Some("nodes may only change the status of claims".to_string())
            }
            ("coordination.k8s.io", "leases", _) => named(review, &node),
            ("storage.k8s.io", "csinodes", _) => named(review, &node),
            _ => None,
        };
        match refusal {
            Some(why) => Err(forbidden(review, why)),
            None => Ok(()),
        }
    }
}

/// Why something is refused.
type Refusal = Option<String>;

fn refuse(holds: bool, why: impl FnOnce() -> String) -> Refusal {
    holds.then(why)
}

fn bound_to(pod: &Value, node: &str) -> bool {
    pod["spec"]["nodeName"] == node
}

fn pod(review: &Review, node: &str) -> Refusal {
    match review.operation {
        Operation::Create => mirror_pod(&review.object, node),
        Operation::Delete => refuse(!bound_to(&review.old, node), || {
            format!("node \"{node}\" can only delete pods with spec.nodeName set to itself")
        }),
        _ => Some(format!("unexpected operation of node \"{node}\" on a pod")),
    }
}

fn mirror_pod(pod: &Value, node: &str) -> Refusal {
    if !is_mirror(pod) {
        return Some(format!(
            "pod does not have the mirror annotation; node \"{node}\" can only create mirror pods"
        ));
    }
    if !bound_to(pod, node) {
        return Some(format!(
            "node \"{node}\" can only create pods with spec.nodeName set to itself"
        ));
    }
    let mut owners = items(&pod["metadata"]["ownerReferences"]);
    if owners.any(|owner| owner["kind"] != "Node" || owner["name"] != node) {
        return Some(format!(
            "node \"{node}\" can only create pods with an owner reference set to itself"
        ));
    }
    refuse(refers_to_protected(&pod["spec"]), || {
        format!(
            "node \"{node}\" can not create pods that reference service accounts, secrets, configmaps, claims or resource claims"
        )
    })
}

fn refers_to_protected(spec: &Value) -> bool {
    const SOURCES: &[&str] = &[
        "secret",
        "configMap",
        "persistentVolumeClaim",
        "projected",
        "ephemeral",
    ];
    let account = spec["serviceAccountName"]
        .as_str()
        .is_some_and(|name| !name.is_empty());
    let volumes =
        items(&spec["volumes"]).any(|volume| SOURCES.iter().any(|source| !volume[*source].is_null()));
    let environment = ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .any(|list| {
            items(&spec[*list]).any(|container| {
                let from = items(&container["env"]).any(|env| {
                    let source = &env["valueFrom"];
                    !source["secretKeyRef"].is_null() || !source["configMapKeyRef"].is_null()
                });
                from || items(&container["envFrom"]).next().is_some()
            })
        });
    let claims = items(&spec["resourceClaims"]).next().is_some();
    let pull = items(&spec["imagePullSecrets"]).next().is_some();
    account || volumes || environment || claims || pull
}

fn pod_status(review: &Review, node: &str) -> Refusal {
    if !bound_to(&review.old, node) {
        return Some(format!(
            "node \"{node}\" can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    let labels = |object: &Value| object["metadata"]["labels"].clone();
    refuse(labels(&review.object) != labels(&review.old), || {
        format!("node \"{node}\" cannot update labels through pod status")
    })
}

fn eviction(review: &Review, node: &str, world: &dyn World) -> Refusal {
    let pod = world.get("core/pods", &review.namespace, &review.name);
    let own = pod.is_some_and(|pod| pod.scalar("spec.nodeName") == node);
    refuse(!own, || {
        format!("node \"{node}\" can only evict pods with spec.nodeName set to itself")
    })
}

fn named(review: &Review, node: &str) -> Refusal {
    let name = review.object["metadata"]["name"].as_str().unwrap_or(&review.name);
    refuse(name != node, || {
        format!("node \"{node}\" may only write objects of this type with its own name")
    })
}

fn own_node(review: &Review, node: &str) -> Refusal {
    if review.name != node && review.object["metadata"]["name"] != node {
        return Some(format!(
            "node \"{node}\" is not allowed to modify node \"{}\"",
            review.name
        ));
    }
    let empty = Map::new();
    let labels = |object: &Value| {
        object["metadata"]["labels"]
            .as_object()
            .cloned()
            .unwrap_or_else(|| empty.clone())
    };
    let (old, new) = (labels(&review.old), labels(&review.object));
    let created = review.operation == Operation::Create;
    let names = old
        .keys()
        .chain(new.keys())
        .filter(|key| old.get(*key) != new.get(*key));
    if let Some(label) = names.into_iter().find(|label| !may_label(label, created)) {
        return Some(format!("is not allowed to modify labels: {label}"));
    }
    if !created && review.object["spec"]["taints"] != review.old["spec"]["taints"] {
        return Some(format!("node \"{node}\" is not allowed to modify taints"));
    }
    let owners = |object: &Value| object["metadata"]["ownerReferences"].clone();
    if !created && owners(&review.object) != owners(&review.old) {
        return Some(format!(
            "node \"{node}\" is not allowed to modify ownerReferences"
        ));
    }
    incarnation(review)
}

/// The incarnation a node writes is its own: without one in the certificate it stays as it is.
fn incarnation(review: &Review) -> Refusal {
    let annotation = |object: &Value| object["metadata"]["annotations"][INCARNATION_ANNOTATION].clone();
    let own = review
        .user
        .extra
        .get(INCARNATION_EXTRA)
        .and_then(|values| values.first());
    let (old, new) = (annotation(&review.old), annotation(&review.object));
    let is_own = own.is_some_and(|own| new == own.as_str());
    refuse(new != old && !is_own, || {
        format!("is not allowed to modify annotation {INCARNATION_ANNOTATION}")
    })
}

/// Labels outside Kubernetes' and Mainstay's domains are free; Mainstay's are set at registration and stay.
fn may_label(label: &str, created: bool) -> bool {
    let Some((domain, _)) = label.split_once('/') else {
        return true;
    };
    let within = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    if within("mainstay.dev") {
        return created;
    }
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    OWN_LABELS.contains(&label) || within("kubelet.kubernetes.io") || within("node.kubernetes.io")
}
