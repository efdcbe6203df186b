//! What a node may do: its own Node, Lease and pods, and of secrets, configuration, claims and tokens only what
//! its pods refer to. Rules of the Kubernetes documentation, "Using Node Authorization".

use std::collections::HashMap;

use parking_lot::RwLock;
use serde_json::Value;

use crate::hooks::{Attributes, Decision, World};
use crate::object::Object;
use crate::user::UserInfo;

/// The annotation of a Node that names its newest incarnation; only admission and the fleet write it.
pub const INCARNATION_ANNOTATION: &str = "mainstay.dev/incarnation";
/// The fact of a client certificate that names the incarnation it was issued to.
pub const INCARNATION_EXTRA: &str = "mainstay.dev/incarnation";

const GROUP_NODES: &str = "system:nodes";
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Tells the node's name when the user is a node.
pub fn node_name(user: &UserInfo) -> Option<&str> {
    let name = user
        .name
        .strip_prefix("system:node:")
        .filter(|name| !name.is_empty())?;
    user.in_group(GROUP_NODES).then_some(name)
}

/// Decides for nodes; has no opinion on others.
pub(super) fn decide(
    attributes: &Attributes<'_>,
    world: &dyn World,
    incarnations: &Incarnations,
) -> Decision {
    let Some(node) = node_name(attributes.user) else {
        return Decision::NoOpinion(String::new());
    };
    if let Some(newest) = incarnations.superseded(attributes.user, node, world) {
        return Decision::Deny(format!(
            "node {node} was reprovisioned: incarnation {newest} has replaced this one"
        ));
    }
    if !attributes.is_resource {
        return Decision::NoOpinion(String::new());
    }
    match allowed(attributes, node, world) {
        Ok(()) => Decision::Allow,
        Err(reason) => Decision::NoOpinion(reason),
    }
}

/// The newest incarnation of each node, read from its object once per change: heartbeats are most of all requests.
#[derive(Default)]
pub(super) struct Incarnations {
    /// By node: the revision that was read, and what it said.
    known: RwLock<HashMap<String, (u64, Option<u64>)>>,
}

impl Incarnations {
    /// Tells the newest incarnation when the user's certificate belongs to an older one.
    fn superseded(&self, user: &UserInfo, node: &str, world: &dyn World) -> Option<u64> {
        let own: u64 = user.extra.get(INCARNATION_EXTRA)?.first()?.parse().ok()?;
        let object = world.get("core/nodes", "", node)?;
        let newest = self.newest(node, &object)?;
        (newest > own).then_some(newest)
    }

    fn newest(&self, node: &str, object: &Object) -> Option<u64> {
        if let Some((revision, newest)) = self.known.read().get(node)
            && *revision == object.revision()
        {
            return *newest;
        }
        let value = object.value();
        let newest = value["metadata"]["annotations"][INCARNATION_ANNOTATION].as_str();
        let newest = newest.and_then(|newest| newest.parse().ok());
        let mut known = self.known.write();
        known.insert(node.to_string(), (object.revision(), newest));
        newest
    }
}

type Verdict = Result<(), String>;

fn refuse(reason: impl Into<String>) -> Verdict {
    Err(reason.into())
}

fn when(holds: bool, reason: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(reason()) }
}

const READ: &[&str] = &["get", "list", "watch"];

fn allowed(attributes: &Attributes<'_>, node: &str, world: &dyn World) -> Verdict {
    let (resource, sub) = (attributes.resource, attributes.subresource);
    match (attributes.group, resource, sub) {
        ("", "secrets" | "configmaps", "") => read_by_name(attributes, node, world),
        ("", "persistentvolumeclaims", "") => only(attributes, &["get"], node, world),
        ("", "persistentvolumeclaims", "status") => {
            only(attributes, &["get", "update", "patch"], node, world)
        }
        ("", "persistentvolumes", "") => only(attributes, &["get"], node, world),
        ("", "serviceaccounts", "") => only(attributes, &["get"], node, world),
        ("", "serviceaccounts", "token") => only(attributes, &["create"], node, world),
        ("", "nodes", "" | "status") => own_node(attributes, node),
        ("", "pods", _) => pods(attributes, node, world),
        ("coordination.k8s.io", "leases", "") => own_lease(attributes, node),
        ("storage.k8s.io", "csinodes", "") => {
            own_object(attributes, node, &["get", "create", "update", "patch", "delete"])
        }
        ("storage.k8s.io", "volumeattachments", "" | "status") => attachment(attributes, node, world),
        _ => general(attributes),
    }
}

/// What every node may do whatever its name: rows of (group, resource, verbs).
const GENERAL: &[(&str, &str, &[&str])] = &[
    ("", "services", READ),
    ("", "events", &["create", "update", "patch"]),
    ("events.k8s.io", "events", &["create", "update", "patch"]),
    (
        "certificates.k8s.io",
        "certificatesigningrequests",
        &["create", "get", "list", "watch"],
    ),
    ("certificates.k8s.io", "clustertrustbundles", READ),
    ("authentication.k8s.io", "tokenreviews", &["create"]),
    ("authorization.k8s.io", "subjectaccessreviews", &["create"]),
    ("authorization.k8s.io", "localsubjectaccessreviews", &["create"]),
    ("storage.k8s.io", "csidrivers", READ),
    ("node.k8s.io", "runtimeclasses", READ),
];

fn general(attributes: &Attributes<'_>) -> Verdict {
    let row = GENERAL.iter().find(|row| {
        row.0 == attributes.group && row.1 == attributes.resource && row.2.contains(&attributes.verb)
    });
    when(row.is_some() && attributes.subresource.is_empty(), String::new)
}

/// The object name of a request: the path's, or the one a field selector picks.
fn picked<'a>(attributes: &Attributes<'a>, field: &str) -> &'a str {
    let selector = attributes.field_selector.split(',');
    let mut values = selector.filter_map(|part| part.split_once('=').filter(|(key, _)| *key == field));
    values
        .next()
        .map_or("", |(_, value)| value.trim_start_matches('='))
}

fn target<'a>(attributes: &Attributes<'a>) -> &'a str {
    if attributes.name.is_empty() {
        picked(attributes, "metadata.name")
    } else {
        attributes.name
    }
}

fn read_by_name(attributes: &Attributes<'_>, node: &str, world: &dyn World) -> Verdict {
    if !READ.contains(&attributes.verb) {
        return refuse("can only read resources of this type");
    }
    if target(attributes).is_empty() || attributes.namespace.is_empty() {
        return refuse("can only read a namespaced object of this type by name");
    }
    related(attributes, node, world)
}

fn only(attributes: &Attributes<'_>, verbs: &[&str], node: &str, world: &dyn World) -> Verdict {
    if !verbs.contains(&attributes.verb) {
        return refuse(format!(
            "can only {} individual resources of this type",
            verbs.join(", ")
        ));
    }
    if target(attributes).is_empty() {
        return refuse("an object's name is needed");
    }
    related(attributes, node, world)
}

fn related(attributes: &Attributes<'_>, node: &str, world: &dyn World) -> Verdict {
    let name = target(attributes);
    let found = match attributes.resource {
        "persistentvolumes" => volume_is_used(name, node, world),
        kind => is_referred_to(kind, attributes.namespace, name, node, world),
    };
    when(found, || {
        format!("no relationship found between node '{node}' and this object")
    })
}

/// Whether one of the node's pods names the object. Only pods whose text has the name are read: a full node that starts
/// asks once for each of its pods, at least.
fn is_referred_to(kind: &str, namespace: &str, name: &str, node: &str, world: &dyn World) -> bool {
    let pods = world.pods_of(node, namespace);
    // The claim of an ephemeral volume is named by two texts of the pod.
    let is_made_up = kind == "persistentvolumeclaims";
    pods.iter()
        .filter(|pod| is_made_up || pod.has_text(name))
        .any(|pod| refers(&pod.value(), kind, name))
}

fn volume_is_used(volume: &str, node: &str, world: &dyn World) -> bool {
    let Some(volume) = world.get("core/persistentvolumes", "", volume) else {
        return false;
    };
    let (namespace, claim) = (
        volume.scalar("spec.claimRef.namespace"),
        volume.scalar("spec.claimRef.name"),
    );
    !claim.is_empty() && is_referred_to("persistentvolumeclaims", &namespace, &claim, node, world)
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

/// Tells whether a pod names the object: in volumes, environment, image pull secrets or as its account.
fn refers(pod: &Value, kind: &str, name: &str) -> bool {
    let spec = &pod["spec"];
    match kind {
        "serviceaccounts" => spec["serviceAccountName"] == name,
        "persistentvolumeclaims" => items(&spec["volumes"]).any(|volume| claims(pod, volume, name)),
        "secrets" => {
            items(&spec["imagePullSecrets"]).any(|secret| secret["name"] == name)
                || items(&spec["volumes"]).any(|volume| mounts_secret(volume, name))
                || environment(spec, "secretRef", "secretKeyRef", name)
        }
        "configmaps" => {
            items(&spec["volumes"]).any(|volume| mounts_config(volume, name))
                || environment(spec, "configMapRef", "configMapKeyRef", name)
        }
        _ => false,
    }
}

fn claims(pod: &Value, volume: &Value, name: &str) -> bool {
    let ephemeral = || {
        let (pod, volume) = (pod["metadata"]["name"].as_str(), volume["name"].as_str());
        pod.zip(volume)
            .is_some_and(|(pod, volume)| name == format!("{pod}-{volume}"))
    };
    volume["persistentVolumeClaim"]["claimName"] == name || !volume["ephemeral"].is_null() && ephemeral()
}

/// Where volume sources name a secret; the old in-tree drivers differ in the field.
const SECRET_FIELDS: &[&str] = &[
    "/secret/secretName",
    "/azureFile/secretName",
    "/cephfs/secretRef/name",
    "/cinder/secretRef/name",
    "/flexVolume/secretRef/name",
    "/iscsi/secretRef/name",
    "/rbd/secretRef/name",
    "/scaleIO/secretRef/name",
    "/storageos/secretRef/name",
    "/csi/nodePublishSecretRef/name",
];

fn mounts_secret(volume: &Value, name: &str) -> bool {
    SECRET_FIELDS
        .iter()
        .any(|field| volume.pointer(field).is_some_and(|found| found == name))
        || items(&volume["projected"]["sources"]).any(|source| source["secret"]["name"] == name)
}

fn mounts_config(volume: &Value, name: &str) -> bool {
    volume["configMap"]["name"] == name
        || items(&volume["projected"]["sources"]).any(|source| source["configMap"]["name"] == name)
}

fn environment(spec: &Value, whole: &str, key: &str, name: &str) -> bool {
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    lists
        .iter()
        .flat_map(|list| items(&spec[*list]))
        .any(|container| {
            items(&container["envFrom"]).any(|from| from[whole]["name"] == name)
                || items(&container["env"]).any(|env| env["valueFrom"][key]["name"] == name)
        })
}

fn own_node(attributes: &Attributes<'_>, node: &str) -> Verdict {
    let named = target(attributes) == node;
    match attributes.verb {
        "create" if attributes.subresource.is_empty() => Ok(()),
        "get" | "list" | "watch" | "update" | "patch" => when(named, || {
            format!("node '{node}' cannot {} nodes other than itself", attributes.verb)
        }),
        _ => refuse(""),
    }
}

fn own_object(attributes: &Attributes<'_>, node: &str, verbs: &[&str]) -> Verdict {
    let unnamed_create = attributes.verb == "create" && attributes.name.is_empty();
    when(
        verbs.contains(&attributes.verb) && (unnamed_create || attributes.name == node),
        || format!("can only access an object of this type with the node's own name, {node}"),
    )
}

fn own_lease(attributes: &Attributes<'_>, node: &str) -> Verdict {
    if attributes.namespace != LEASE_NAMESPACE {
        return refuse(format!(
            "can only access leases in the \"{LEASE_NAMESPACE}\" namespace"
        ));
    }
    own_object(attributes, node, &["get", "create", "update", "patch", "delete"])
}

fn attachment(attributes: &Attributes<'_>, node: &str, world: &dyn World) -> Verdict {
    let found = world.get("storage.k8s.io/volumeattachments", "", attributes.name);
    let own = found.is_some_and(|object| object.scalar("spec.nodeName") == node);
    when(attributes.verb == "get" && own, || {
        "can only get this node's own volume attachments".to_string()
    })
}

/// Pods: reads of the node's own; writes by any, which NodeRestriction narrows to its own.
fn pods(attributes: &Attributes<'_>, node: &str, world: &dyn World) -> Verdict {
    match (attributes.verb, attributes.subresource) {
        ("get", "" | "status") => {
            let pod = world.get("core/pods", attributes.namespace, attributes.name);
            when(pod.is_some_and(|pod| pod.scalar("spec.nodeName") == node), || {
                format!("node '{node}' can only get pods that are bound to it")
            })
        }
        ("list" | "watch", "") => when(picked(attributes, "spec.nodeName") == node, || {
            "can only list/watch pods with spec.nodeName field selector".to_string()
        }),
        ("create" | "delete", "") | ("update" | "patch", "status") | ("create", "eviction") => Ok(()),
        _ => refuse(""),
    }
}

/// Checks a node's request for a service account token: bound to a pod of its own, by uid.
///
/// # Errors
/// Why it is refused.
pub fn may_have_token(node: &str, namespace: &str, request: &Value, world: &dyn World) -> Result<(), String> {
    let bound = &request["spec"]["boundObjectRef"];
    let text = |field: &str| bound[field].as_str().unwrap_or_default();
    if text("kind") != "Pod" || text("name").is_empty() || text("uid").is_empty() {
        return refuse(format!(
            "node \"{node}\" requested token not bound to a pod with its uid"
        ));
    }
    let pod = world.get("core/pods", namespace, text("name"));
    let own = pod.is_some_and(|pod| pod.scalar("spec.nodeName") == node && pod.uid() == text("uid"));
    when(own, || {
        format!("node \"{node}\" requested token bound to a pod scheduled on a different node")
    })
}
