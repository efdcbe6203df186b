//! Which quotas an object falls under: scopes and scope selectors.

use serde_json::Value;

use mainstay_semantics::qos;

use crate::amounts::{list, pod_resources};

use super::usage::{Charged, concerns};

/// One scope with its operator and values.
struct Scope<'q> {
    name: &'q str,
    operator: &'q str,
    values: Vec<&'q str>,
}

fn scopes(quota: &Value) -> Vec<Scope<'_>> {
    let plain = list(&quota["spec"]["scopes"])
        .filter_map(Value::as_str)
        .map(|name| Scope {
            name,
            operator: "Exists",
            values: Vec::new(),
        });
    let selected = list(&quota["spec"]["scopeSelector"]["matchExpressions"]).map(|expression| Scope {
        name: expression["scopeName"].as_str().unwrap_or_default(),
        operator: expression["operator"].as_str().unwrap_or_default(),
        values: list(&expression["values"]).filter_map(Value::as_str).collect(),
    });
    plain.chain(selected).collect()
}

/// Tells whether the object is counted by the quota: its scopes select it and it limits something the object uses.
pub fn matches(quota: &Value, object: &Charged<'_>) -> bool {
    let hard = quota["spec"]["hard"].as_object();
    applies(quota, object) && hard.is_some_and(|hard| hard.keys().any(|name| concerns(object, name)))
}

/// Tells whether the quota's scopes select the object, whatever it limits.
pub fn applies(quota: &Value, object: &Charged<'_>) -> bool {
    scopes(quota).iter().all(|scope| match object.resource {
        "pods" => selects_pod(scope, &object.object["spec"]),
        "persistentvolumeclaims" => selects_claim(scope, &object.object["spec"]),
        _ => false,
    })
}

fn selects_pod(scope: &Scope<'_>, spec: &Value) -> bool {
    match scope.name {
        "Terminating" => is_terminating(spec),
        "NotTerminating" => !is_terminating(spec),
        "BestEffort" => is_best_effort(spec),
        "NotBestEffort" => !is_best_effort(spec),
        "PriorityClass" => selects_text(scope, spec["priorityClassName"].as_str().unwrap_or_default()),
        "CrossNamespacePodAffinity" => crosses_namespaces(spec),
        _ => false,
    }
}

fn selects_claim(scope: &Scope<'_>, spec: &Value) -> bool {
    let class = spec["volumeAttributesClassName"].as_str().unwrap_or_default();
    scope.name == "VolumeAttributesClass" && selects_text(scope, class)
}

/// The empty text means that nothing is set.
fn selects_text(scope: &Scope<'_>, text: &str) -> bool {
    let set = !text.is_empty();
    match scope.operator {
        "Exists" => set,
        "DoesNotExist" => !set,
        "In" => set && scope.values.contains(&text),
        "NotIn" => !set || !scope.values.contains(&text),
        _ => false,
    }
}

fn is_terminating(spec: &Value) -> bool {
    spec["activeDeadlineSeconds"]
        .as_i64()
        .is_some_and(|seconds| seconds >= 0)
}

fn is_best_effort(spec: &Value) -> bool {
    qos::class(&pod_resources(spec)) == qos::Class::BestEffort
}

fn crosses_namespaces(spec: &Value) -> bool {
    let affinity = &spec["affinity"];
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let required = list(&affinity[*kind]["requiredDuringSchedulingIgnoredDuringExecution"]);
        let preferred = list(&affinity[*kind]["preferredDuringSchedulingIgnoredDuringExecution"])
            .map(|weighted| &weighted["podAffinityTerm"]);
        required
            .chain(preferred)
            .any(|term| list(&term["namespaces"]).next().is_some() || !term["namespaceSelector"].is_null())
    })
}
