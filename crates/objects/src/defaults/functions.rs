//! Defaults that depend on other fields. Each takes the object whose missing fields it fills.

use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

/// Services keep a client on one endpoint for three hours.
const AFFINITY_SECONDS: i64 = 10_800;
const RBAC: &str = "rbac.authorization.k8s.io";

fn text<'a>(object: &'a Object, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn fill(object: &mut Object, key: &str, value: impl FnOnce() -> Value) {
    if !object.contains_key(key) {
        object.insert(key.to_owned(), value());
    }
}

fn child<'a>(object: &'a mut Object, key: &str) -> Option<&'a mut Object> {
    object.get_mut(key).and_then(Value::as_object_mut)
}

fn each<'a>(object: &'a mut Object, key: &str) -> impl Iterator<Item = &'a mut Object> {
    object
        .get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// Only pods, not templates: service links, and requests that follow limits.
pub(super) fn pod(pod: &mut Object) {
    let Some(spec) = child(pod, "spec") else { return };
    fill(spec, "enableServiceLinks", || true.into());
    for list in ["containers", "initContainers"] {
        for container in each(spec, list) {
            if let Some(resources) = child(container, "resources") {
                requests_from_limits(resources);
            }
        }
    }
    if let Some(resources) = child(spec, "resources") {
        requests_from_limits(resources);
    }
}

fn requests_from_limits(resources: &mut Object) {
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else {
        return;
    };
    if limits.is_empty() {
        return;
    }
    fill(resources, "requests", || json!({}));
    let Some(requests) = child(resources, "requests") else {
        return;
    };
    for (name, amount) in limits {
        requests.entry(name).or_insert(amount);
    }
}

pub(super) fn pod_spec(spec: &mut Object) {
    let account = [text(spec, "serviceAccountName"), text(spec, "serviceAccount")]
        .into_iter()
        .find(|name| !name.is_empty())
        .map(str::to_owned);
    if let Some(account) = account {
        spec.insert("serviceAccountName".into(), account.clone().into());
        spec.insert("serviceAccount".into(), account.into());
    }
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        for list in ["containers", "initContainers"] {
            each(spec, list).for_each(|container| {
                each(container, "ports").for_each(|port| {
                    if let (None | Some(0), Some(number)) = (
                        port.get("hostPort").and_then(Value::as_i64),
                        port.get("containerPort").cloned(),
                    ) {
                        port.insert("hostPort".into(), number);
                    }
                });
            });
        }
    }
}

pub(super) fn container(container: &mut Object) {
    let image = text(container, "image");
    if !container.contains_key("imagePullPolicy") && !image.is_empty() {
        let policy = pull_policy(image);
        container.insert("imagePullPolicy".into(), policy.into());
    }
}

/// Always for the tag latest or none, unless a digest pins the image.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or_default();
    let latest = !last.contains('@') && last.split_once(':').is_none_or(|(_, tag)| tag == "latest");
    if latest { "Always" } else { "IfNotPresent" }
}

pub(super) fn image_volume(source: &mut Object) {
    let reference = text(source, "reference");
    if !source.contains_key("pullPolicy") && !reference.is_empty() {
        let policy = pull_policy(reference);
        source.insert("pullPolicy".into(), policy.into());
    }
}

pub(super) fn volume(volume: &mut Object) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".into(), json!({}));
    }
}

pub(super) fn service_spec(spec: &mut Object) {
    let kind = match text(spec, "type") {
        "" => "ClusterIP",
        other => other,
    }
    .to_owned();
    if text(spec, "sessionAffinity") == "ClientIP" {
        fill(
            spec,
            "sessionAffinityConfig",
            || json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}}),
        );
    }
    if kind != "ExternalName" {
        fill(spec, "internalTrafficPolicy", || "Cluster".into());
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        fill(spec, "externalTrafficPolicy", || "Cluster".into());
    }
    if kind == "LoadBalancer" {
        fill(spec, "allocateLoadBalancerNodePorts", || true.into());
    }
}

pub(super) fn service_port(port: &mut Object) {
    let unset = port
        .get("targetPort")
        .is_none_or(|target| target == 0 || target == "");
    if let (true, Some(number)) = (unset, port.get("port").cloned()) {
        port.insert("targetPort".into(), number);
    }
}

pub(super) fn namespace(namespace: &mut Object) {
    fill(namespace, "spec", || json!({}));
    fill(namespace, "status", || json!({}));
    if let Some(status) = child(namespace, "status") {
        fill(status, "phase", || "Active".into());
    }
    let Some(metadata) = child(namespace, "metadata") else {
        return;
    };
    let name = text(metadata, "name").to_owned();
    if !name.is_empty() {
        fill(metadata, "labels", || json!({}));
        if let Some(labels) = child(metadata, "labels") {
            labels.insert("kubernetes.io/metadata.name".into(), name.into());
        }
    }
}

/// For containers, missing limits come from `max`, missing requests from limits, then from `min`.
pub(super) fn limit_range_item(item: &mut Object) {
    if text(item, "type") != "Container" {
        return;
    }
    for (target, source) in [
        ("default", "max"),
        ("defaultRequest", "default"),
        ("defaultRequest", "min"),
    ] {
        let Some(amounts) = item.get(source).and_then(Value::as_object).cloned() else {
            continue;
        };
        if amounts.is_empty() {
            continue;
        }
        fill(item, target, || json!({}));
        if let Some(object) = child(item, target) {
            for (name, amount) in amounts {
                object.entry(name).or_insert(amount);
            }
        }
    }
}

pub(super) fn replication_controller(controller: &mut Object) {
    let labels = controller
        .get("spec")
        .and_then(|spec| spec.pointer("/template/metadata/labels"))
        .cloned();
    let (Some(labels), Some(spec)) = (labels, child(controller, "spec")) else {
        return;
    };
    fill(spec, "selector", || labels);
}

/// `type: RollingUpdate` with its parameters, for Deployments, DaemonSets and StatefulSets.
pub(super) fn rolling_update(strategy: &mut Object) {
    fill(strategy, "type", || "RollingUpdate".into());
    if text(strategy, "type") == "RollingUpdate" {
        fill(strategy, "rollingUpdate", || json!({}));
    }
}

pub(super) fn claim_templates(spec: &mut Object) {
    for claim in each(spec, "volumeClaimTemplates") {
        fill(claim, "apiVersion", || "v1".into());
        fill(claim, "kind", || "PersistentVolumeClaim".into());
    }
}

/// Once the server has given the Job its uid: a selector of its own, and the labels that it selects.
pub(super) fn job(job: &mut Object) {
    let part = |key: &str| {
        job.get("metadata")
            .and_then(|meta| meta[key].as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let (uid, name) = (part("uid"), part("name"));
    let Some(spec) = child(job, "spec") else { return };
    if uid.is_empty() || name.is_empty() || spec.get("manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    fill(
        spec,
        "selector",
        || json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}),
    );
    let Some(template) = child(spec, "template") else {
        return;
    };
    fill(template, "metadata", || json!({}));
    let Some(metadata) = child(template, "metadata") else {
        return;
    };
    fill(metadata, "labels", || json!({}));
    let Some(labels) = child(metadata, "labels") else {
        return;
    };
    for (label, value) in [("controller-uid", uid.as_str()), ("job-name", name.as_str())] {
        fill(labels, label, || value.into());
        fill(labels, &format!("batch.kubernetes.io/{label}"), || value.into());
    }
}

pub(super) fn job_spec(spec: &mut Object) {
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        spec.insert("completions".into(), 1.into());
    }
    fill(spec, "parallelism", || 1.into());
    let retries = if spec.contains_key("backoffLimitPerIndex") {
        i64::from(i32::MAX)
    } else {
        6
    };
    fill(spec, "backoffLimit", || retries.into());
    let on_failure = if spec.contains_key("podFailurePolicy") {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    fill(spec, "podReplacementPolicy", || on_failure.into());
}

pub(super) fn autoscaler_metrics(spec: &mut Object) {
    fill(
        spec,
        "metrics",
        || json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]),
    );
}

pub(super) fn autoscaler_behavior(behavior: &mut Object) {
    let up = json!({"selectPolicy": "Max", "stabilizationWindowSeconds": 0, "policies": [
        {"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]});
    let down =
        json!({"selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]});
    for (key, defaults) in [("scaleUp", up), ("scaleDown", down)] {
        fill(behavior, key, || json!({}));
        let Value::Object(defaults) = defaults else {
            continue;
        };
        if let Some(rules) = child(behavior, key) {
            for (name, value) in defaults {
                rules.entry(name).or_insert(value);
            }
        }
    }
}

pub(super) fn network_policy(spec: &mut Object) {
    let egress = spec
        .get("egress")
        .and_then(Value::as_array)
        .is_some_and(|rules| !rules.is_empty());
    fill(spec, "policyTypes", || {
        if egress {
            json!(["Ingress", "Egress"])
        } else {
            json!(["Ingress"])
        }
    });
}

pub(super) fn subject(subject: &mut Object) {
    if matches!(text(subject, "kind"), "User" | "Group") {
        fill(subject, "apiGroup", || RBAC.into());
    }
}

pub(super) fn role_ref(reference: &mut Object) {
    if text(reference, "apiGroup").is_empty() {
        reference.insert("apiGroup".into(), RBAC.into());
    }
}

pub(super) fn csi_driver(spec: &mut Object) {
    fill(spec, "volumeLifecycleModes", || json!(["Persistent"]));
}

/// One device, unless all of a node are wanted.
pub(super) fn device_request(request: &mut Object) {
    if text(request, "allocationMode").is_empty() {
        request.insert("allocationMode".into(), "ExactCount".into());
    }
    let uncounted = request.get("count").is_none_or(|count| count == 0);
    if uncounted && text(request, "allocationMode") == "ExactCount" {
        request.insert("count".into(), 1.into());
    }
}

pub(super) fn crd_spec(spec: &mut Object) {
    let Some(names) = child(spec, "names") else { return };
    let kind = text(names, "kind").to_owned();
    if text(names, "singular").is_empty() {
        names.insert("singular".into(), kind.to_lowercase().into());
    }
    if text(names, "listKind").is_empty() && !kind.is_empty() {
        names.insert("listKind".into(), format!("{kind}List").into());
    }
}
