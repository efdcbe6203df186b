//! What may not change once it is set: fields by kind, and the few specs of which only parts may change.

use super::{Entries, Errors};
use crate::error::FieldError;
use mainstay_semantics::quantity::Quantity;
use serde_json::{Map, Value};

/// Group, kind, field that stays, what upstream says.
const IMMUTABLE: &[(&str, &str, &str, &str)] = &[
    ("apps", "Deployment", "spec.selector", FIXED),
    ("apps", "ReplicaSet", "spec.selector", FIXED),
    ("apps", "DaemonSet", "spec.selector", FIXED),
    ("batch", "Job", "spec.selector", FIXED),
    ("batch", "Job", "spec.completionMode", FIXED),
    ("batch", "Job", "spec.podFailurePolicy", FIXED),
    ("batch", "Job", "spec.backoffLimitPerIndex", FIXED),
    ("", "Secret", "type", FIXED),
    (
        "",
        "Node",
        "spec.podCIDR",
        "node updates may not change podCIDR except from \"\" to valid",
    ),
    (
        "",
        "Node",
        "spec.providerID",
        "node updates may not change providerID except from \"\" to valid",
    ),
    (
        "rbac.authorization.k8s.io",
        "RoleBinding",
        "roleRef",
        "cannot change roleRef",
    ),
    (
        "rbac.authorization.k8s.io",
        "ClusterRoleBinding",
        "roleRef",
        "cannot change roleRef",
    ),
    (
        "storage.k8s.io",
        "StorageClass",
        "provisioner",
        "updates to provisioner are forbidden.",
    ),
    (
        "storage.k8s.io",
        "StorageClass",
        "parameters",
        "updates to parameters are forbidden.",
    ),
    ("storage.k8s.io", "StorageClass", "reclaimPolicy", FIXED),
    ("storage.k8s.io", "StorageClass", "volumeBindingMode", FIXED),
    ("storage.k8s.io", "VolumeAttachment", "spec", FIXED),
    (
        "scheduling.k8s.io",
        "PriorityClass",
        "value",
        "may not be changed in an update.",
    ),
    ("scheduling.k8s.io", "PriorityClass", "preemptionPolicy", FIXED),
    ("discovery.k8s.io", "EndpointSlice", "addressType", FIXED),
    ("certificates.k8s.io", "CertificateSigningRequest", "spec", FIXED),
    ("node.k8s.io", "RuntimeClass", "handler", FIXED),
    ("apps", "ControllerRevision", "data", FIXED),
    ("policy", "PodDisruptionBudget", "metadata.name", FIXED),
    ("networking.k8s.io", "IngressClass", "spec.controller", FIXED),
    ("resource.k8s.io", "ResourceClaim", "spec", FIXED),
    ("resource.k8s.io", "ResourceClaimTemplate", "spec", FIXED),
    ("resource.k8s.io", "ResourceSlice", "spec.driver", FIXED),
    ("resource.k8s.io", "ResourceSlice", "spec.pool.name", FIXED),
    ("resource.k8s.io", "ResourceSlice", "spec.nodeName", FIXED),
    ("resource.k8s.io", "ResourcePoolStatusRequest", "spec", FIXED),
];

const FIXED: &str = "field is immutable";
const POD_SENTENCE: &str = "pod updates may not change fields other than `spec.containers[*].image`, \
    `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing \
    tolerations), `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const STATEFUL_SENTENCE: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', \
    'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
    'minReadySeconds' are forbidden";
const CLAIM_SENTENCE: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.')
        .fold(value, |value, part| value.get(part).unwrap_or(&Value::Null))
}

pub(super) fn check(group: &str, kind: &str, new: &Value, old: &Value) -> Errors {
    let mut errors = Vec::new();
    for (_, _, path, sentence) in IMMUTABLE.iter().filter(|line| (line.0, line.1) == (group, kind)) {
        let (value, before) = (at(new, path), at(old, path));
        let fresh = (group, kind) == ("", "Node") && matches!(before.as_str(), None | Some(""));
        if value != before && !fresh {
            errors.push(FieldError::invalid(path, value, sentence));
        }
    }
    match (group, kind) {
        ("", "Pod") => pod(new, old, &mut errors),
        ("", "Service") => service(new, old, &mut errors),
        ("", "ConfigMap" | "Secret") => sealed(new, old, &mut errors),
        ("", "PersistentVolumeClaim") => claim(new, old, &mut errors),
        ("", "PersistentVolume") => volume(new, old, &mut errors),
        ("apps", "StatefulSet") => stateful_set(new, old, &mut errors),
        ("batch", "Job") => job(new, old, &mut errors),
        _ => {}
    }
    errors
}

/// A copy of `spec` without the named fields.
fn without(spec: &Value, fields: &[&str]) -> Entries {
    let entries = spec.as_object().into_iter().flatten();
    entries
        .filter(|(key, _)| !fields.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect::<Map<_, _>>()
}

fn pod(new: &Value, old: &Value, errors: &mut Errors) {
    let (spec, before) = (&new["spec"], &old["spec"]);
    let gated = before["schedulingGates"]
        .as_array()
        .is_some_and(|gates| !gates.is_empty());
    let mut open = vec![
        "containers",
        "initContainers",
        "activeDeadlineSeconds",
        "tolerations",
        "ephemeralContainers",
    ];
    if before["terminationGracePeriodSeconds"]
        .as_i64()
        .is_some_and(|seconds| seconds < 0)
    {
        open.push("terminationGracePeriodSeconds");
    }
    if gated {
        open.extend(["schedulingGates", "nodeSelector", "affinity"]);
    }
    let images_only = ["containers", "initContainers"]
        .iter()
        .all(|list| without_images(&spec[*list]) == without_images(&before[*list]));
    let ephemeral_kept = spec["ephemeralContainers"] == before["ephemeralContainers"];
    if without(spec, &open) != without(before, &open) || !images_only || !ephemeral_kept {
        errors.push(FieldError::forbidden("spec", POD_SENTENCE));
    }
    tolerations_only_added(spec, before, errors);
    if gated {
        gates_only_removed(spec, before, errors);
    }
    let (deadline, was) = (
        spec["activeDeadlineSeconds"].as_i64(),
        before["activeDeadlineSeconds"].as_i64(),
    );
    if was.is_some() && deadline.is_none_or(|deadline| Some(deadline) > was) {
        let sentence = "must be less than or equal to previous value";
        errors.push(FieldError::invalid(
            "spec.activeDeadlineSeconds",
            &spec["activeDeadlineSeconds"],
            sentence,
        ));
    }
}

fn without_images(containers: &Value) -> Vec<Entries> {
    containers
        .as_array()
        .into_iter()
        .flatten()
        .map(|container| without(container, &["image"]))
        .collect()
}

fn tolerations_only_added(spec: &Value, before: &Value, errors: &mut Errors) {
    let list = |spec: &Value| spec["tolerations"].as_array().cloned().unwrap_or_default();
    let key = |toleration: &Value| without(toleration, &["tolerationSeconds"]);
    let (now, old) = (list(spec), list(before));
    let kept = old
        .iter()
        .all(|toleration| now.iter().any(|other| key(other) == key(toleration)));
    if !kept {
        let sentence = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", sentence));
    }
}

fn gates_only_removed(spec: &Value, before: &Value, errors: &mut Errors) {
    let list = |spec: &Value| spec["schedulingGates"].as_array().cloned().unwrap_or_default();
    let old = list(before);
    for (index, gate) in list(spec)
        .iter()
        .enumerate()
        .filter(|(_, gate)| !old.contains(gate))
    {
        let path = format!("spec.schedulingGates[{index}]");
        let sentence = format!(
            "only deletion is allowed, but found new scheduling gate '{}'",
            gate["name"]
        );
        errors.push(FieldError::forbidden(path, sentence));
    }
}

fn service(new: &Value, old: &Value, errors: &mut Errors) {
    let (spec, before) = (&new["spec"], &old["spec"]);
    if spec["type"] == "ExternalName" || before["type"] == "ExternalName" {
        return;
    }
    let was = before["clusterIP"].as_str().unwrap_or_default();
    if !was.is_empty() && spec["clusterIP"] != before["clusterIP"] {
        let sentence = "may not change once set";
        errors.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            &spec["clusterIP"],
            sentence,
        ));
    }
}

/// `immutable: true` seals data and itself.
fn sealed(new: &Value, old: &Value, errors: &mut Errors) {
    if old["immutable"] != true {
        return;
    }
    if new["immutable"] != true {
        errors.push(FieldError::forbidden(
            "immutable",
            "field is immutable when `immutable` is set",
        ));
    }
    for field in ["data", "binaryData"] {
        if new[field] != old[field] {
            errors.push(FieldError::forbidden(
                field,
                "field is immutable when `immutable` is set",
            ));
        }
    }
}

fn storage(spec: &Value) -> Option<Quantity> {
    Quantity::parse(spec["resources"]["requests"]["storage"].as_str()?).ok()
}

fn claim(new: &Value, old: &Value, errors: &mut Errors) {
    let (spec, before) = (&new["spec"], &old["spec"]);
    let bound = old["status"]["phase"] == "Bound";
    let mut open = vec!["volumeAttributesClassName"];
    if before["volumeName"].as_str().unwrap_or_default().is_empty() {
        open.push("volumeName");
    }
    if before.get("storageClassName").is_none() {
        open.push("storageClassName");
    }
    if bound {
        open.push("resources");
    }
    if without(spec, &open) != without(before, &open) {
        errors.push(FieldError::forbidden("spec", CLAIM_SENTENCE));
    }
    if bound && storage(spec) < storage(before) {
        let sentence = "field can not be less than status.capacity";
        errors.push(FieldError::forbidden("spec.resources.requests.storage", sentence));
    }
}

fn volume(new: &Value, old: &Value, errors: &mut Errors) {
    let open = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    if without(&new["spec"], &open) != without(&old["spec"], &open) {
        let sentence = "spec.persistentvolumesource is immutable after creation";
        errors.push(FieldError::forbidden("spec.persistentvolumesource", sentence));
    }
    if new["spec"]["volumeMode"] != old["spec"]["volumeMode"] {
        errors.push(FieldError::invalid(
            "spec.volumeMode",
            &new["spec"]["volumeMode"],
            FIXED,
        ));
    }
}

fn stateful_set(new: &Value, old: &Value, errors: &mut Errors) {
    let open = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    if without(&new["spec"], &open) != without(&old["spec"], &open) {
        errors.push(FieldError::forbidden("spec", STATEFUL_SENTENCE));
    }
}

fn job(new: &Value, old: &Value, errors: &mut Errors) {
    let (spec, before) = (&new["spec"], &old["spec"]);
    let suspended = before["suspend"] == true && old["status"].get("startTime").is_none();
    if spec["template"] != before["template"] && !suspended {
        errors.push(FieldError::invalid("spec.template", &Value::Null, FIXED));
    }
    let indexed = before["completionMode"] == "Indexed";
    let elastic = indexed && spec["completions"] == spec["parallelism"];
    if spec["completions"] != before["completions"] && !elastic {
        errors.push(FieldError::invalid(
            "spec.completions",
            &spec["completions"],
            FIXED,
        ));
    }
}
