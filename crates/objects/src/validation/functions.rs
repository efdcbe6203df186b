//! Rules between fields of kinds other than pods.

use super::{Entries, Errors, list, text};
use crate::error::FieldError;
use crate::names;
use crate::path::Path;
use mainstay_semantics::quantity::Quantity;
use mainstay_semantics::selector::{label_key_problems, label_value_problems};
use serde_json::Value;
use std::collections::HashSet;

/// Data of a ConfigMap or Secret together.
const MAX_DATA_BYTES: usize = 1024 * 1024;

/// Above it only system classes lie.
const MAX_USER_PRIORITY: i64 = 1_000_000_000;

fn object<'a>(entries: &'a Entries, key: &str) -> Option<&'a Entries> {
    entries.get(key).and_then(Value::as_object)
}

pub(super) fn label_requirement(requirement: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let values = list(requirement, "values");
    let at = path.field("values");
    match text(requirement, "operator") {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(FieldError::required(
                at,
                "must be specified when `operator` is 'In' or 'NotIn'",
            ));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.push(FieldError::forbidden(
                at,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ));
        }
        _ => {}
    }
    let key = text(requirement, "key");
    if !key.is_empty() {
        let problems = label_key_problems(key).into_iter();
        errors.extend(problems.map(|problem| FieldError::invalid(path.field("key"), &key.into(), problem)));
    }
}

pub(super) fn label_selector(selector: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("matchLabels");
    for (key, value) in object(selector, "matchLabels").into_iter().flatten() {
        let problems = label_key_problems(key).into_iter();
        errors.extend(problems.map(|problem| FieldError::invalid(at, &key.as_str().into(), problem)));
        let problems = label_value_problems(value.as_str().unwrap_or_default()).into_iter();
        errors.extend(problems.map(|problem| FieldError::invalid(at.key(key), value, problem)));
    }
}

pub(super) fn node_requirement(requirement: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let count = list(requirement, "values").len();
    let at = path.field("values");
    match text(requirement, "operator") {
        "In" | "NotIn" if count == 0 => {
            errors.push(FieldError::required(
                at,
                "must be specified when `operator` is 'In' or 'NotIn'",
            ));
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            let sentence = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(at, sentence));
        }
        "Gt" | "Lt" if count != 1 => {
            errors.push(FieldError::required(
                at,
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            ));
        }
        _ => {}
    }
}

fn data_keys(entries: &Entries, key: &str, path: &Path<'_>, errors: &mut Errors) -> usize {
    let at = path.field(key);
    let mut size = 0;
    for (name, value) in object(entries, key).into_iter().flatten() {
        let problems = names::config_key(name).into_iter();
        errors.extend(
            problems.map(|problem| FieldError::invalid(at.key(name), &name.as_str().into(), problem)),
        );
        size += value.as_str().map(str::len).unwrap_or_default();
    }
    size
}

pub(super) fn config_map(map: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let mut size = data_keys(map, "data", path, errors);
    size += data_keys(map, "binaryData", path, errors) / 4 * 3;
    for name in object(map, "binaryData")
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
    {
        if object(map, "data").is_some_and(|data| data.contains_key(name)) {
            let sentence = "duplicate of key present in binaryData";
            errors.push(FieldError::invalid(
                path.field("data").key(name),
                &name.as_str().into(),
                sentence,
            ));
        }
    }
    if size > MAX_DATA_BYTES {
        errors.push(FieldError::too_long("[]", MAX_DATA_BYTES));
    }
}

pub(super) fn secret(secret: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let size = data_keys(secret, "data", path, errors) / 4 * 3;
    if size > MAX_DATA_BYTES {
        errors.push(FieldError::too_long("data", MAX_DATA_BYTES));
    }
    let needed: &[&str] = match text(secret, "type") {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/service-account-token" => {
            let annotation = secret
                .get("metadata")
                .and_then(|meta| meta["annotations"]["kubernetes.io/service-account.name"].as_str());
            if annotation.unwrap_or_default().is_empty() {
                let at = "metadata.annotations[kubernetes.io/service-account.name]";
                errors.push(FieldError::required(at, ""));
            }
            &[]
        }
        _ => &[],
    };
    let data = object(secret, "data");
    for key in needed
        .iter()
        .filter(|key| !data.is_some_and(|data| data.contains_key(**key)))
    {
        errors.push(FieldError::required(path.field("data").key(key), ""));
    }
}

pub(super) fn node_spec(spec: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    let at = path.field("taints");
    for (index, taint) in list(spec, "taints").iter().enumerate() {
        if !seen.insert((taint["key"].as_str(), taint["effect"].as_str())) {
            errors.push(FieldError::duplicate(at.index(index), taint));
        }
    }
}

pub(super) fn service_spec(spec: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let kind = text(spec, "type");
    let ports = list(spec, "ports");
    let headless = text(spec, "clusterIP") == "None";
    if kind == "ExternalName" {
        let name = text(spec, "externalName").trim_end_matches('.');
        if name.is_empty() {
            errors.push(FieldError::required(path.field("externalName"), ""));
        } else {
            let problems = names::dns_subdomain(name).into_iter();
            errors.extend(
                problems
                    .map(|problem| FieldError::invalid(path.field("externalName"), &name.into(), problem)),
            );
        }
    } else if ports.is_empty() && !headless {
        errors.push(FieldError::required(path.field("ports"), ""));
    }
    if kind == "LoadBalancer" && headless {
        let sentence = "may not be set to 'None' for LoadBalancer services";
        errors.push(FieldError::invalid(
            path.field("clusterIPs").index(0),
            &"None".into(),
            sentence,
        ));
    }
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let at = path.field("ports");
        let at = at.index(index);
        let name = port["name"].as_str().unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            errors.push(FieldError::required(at.field("name"), ""));
        } else if !name.is_empty() && !names.insert(name) {
            errors.push(FieldError::duplicate(at.field("name"), &port["name"]));
        }
        if !numbers.insert((port["port"].to_string(), port["protocol"].to_string())) {
            errors.push(FieldError::duplicate(at, port));
        }
        if kind == "ClusterIP" && port["nodePort"].as_i64().unwrap_or_default() != 0 {
            let sentence = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(at.field("nodePort"), sentence));
        }
    }
}

pub(super) fn claim_spec(spec: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let requests = spec
        .get("resources")
        .and_then(|resources| resources["requests"].as_object());
    let at = path.field("resources");
    let at = at.field("requests");
    match requests.and_then(|requests| requests.get("storage")) {
        None => errors.push(FieldError::required(at.key("storage"), "")),
        Some(amount) => {
            let positive = amount
                .as_str()
                .and_then(|text| Quantity::parse(text).ok())
                .is_none_or(|q| q.sign() > 0);
            if !positive {
                errors.push(FieldError::invalid(
                    at.key("storage"),
                    amount,
                    "must be greater than zero",
                ));
            }
        }
    }
}

/// Fields of a volume that are no volume source.
const VOLUME_SETTINGS: [&str; 9] = [
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

pub(super) fn volume_spec(spec: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let sources: Vec<&String> = spec
        .keys()
        .filter(|key| !VOLUME_SETTINGS.contains(&key.as_str()))
        .collect();
    if sources.is_empty() {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
    for extra in sources.iter().skip(1) {
        errors.push(FieldError::forbidden(
            path.field(extra),
            "may not specify more than 1 volume type",
        ));
    }
    if spec
        .get("capacity")
        .is_none_or(|capacity| capacity.get("storage").is_none())
    {
        errors.push(FieldError::not_supported(
            path.field("capacity"),
            &"".into(),
            &["storage"],
        ));
    }
}

pub(super) fn limit_range_item(item: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let amount = |key: &str, name: &str| {
        let text = object(item, key)?.get(name)?.as_str()?;
        Quantity::parse(text).ok()
    };
    let pairs = [
        ("min", "max"),
        ("min", "defaultRequest"),
        ("min", "default"),
        ("defaultRequest", "max"),
        ("defaultRequest", "default"),
        ("default", "max"),
    ];
    for (low, high) in pairs {
        for (name, shown) in object(item, low).into_iter().flatten() {
            let bound = amount(high, name);
            if let (Some(value), Some(bound)) = (amount(low, name), bound)
                && value > bound
            {
                let shown = shown.as_str().unwrap_or_default();
                let sentence = format!("{low} value {shown} is greater than {high} value {bound}");
                errors.push(FieldError::invalid(
                    path.field(low).key(name),
                    &shown.into(),
                    sentence,
                ));
            }
        }
    }
}

pub(super) fn event(event: &Entries, _path: &Path<'_>, errors: &mut Errors) {
    let place = |key: &str| {
        event
            .get(key)
            .and_then(|part| part.get("namespace"))
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (own, about) = (place("metadata"), place("involvedObject"));
    let fits = if about.is_empty() {
        matches!(own, "" | "default")
    } else {
        own == about
    };
    if !fits {
        let sentence = "does not match event.namespace";
        errors.push(FieldError::invalid(
            "involvedObject.namespace",
            &about.into(),
            sentence,
        ));
    }
}

pub(super) fn policy_rule(rule: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let urls = !list(rule, "nonResourceURLs").is_empty();
    if urls {
        if !list(rule, "apiGroups").is_empty() || !list(rule, "resources").is_empty() {
            let sentence = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(FieldError::invalid(
                path.field("nonResourceURLs"),
                &rule["nonResourceURLs"],
                sentence,
            ));
        }
        return;
    }
    for (field, sentence) in [
        ("apiGroups", "resource rules must supply at least one api group"),
        ("resources", "resource rules must supply at least one resource"),
    ] {
        if list(rule, field).is_empty() {
            errors.push(FieldError::required(path.field(field), sentence));
        }
    }
}

pub(super) fn subject(subject: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let (kind, group) = (text(subject, "kind"), text(subject, "apiGroup"));
    if kind == "ServiceAccount" {
        if text(subject, "namespace").is_empty() {
            errors.push(FieldError::required(path.field("namespace"), ""));
        }
        if !group.is_empty() {
            errors.push(FieldError::not_supported(
                path.field("apiGroup"),
                &group.into(),
                &[""],
            ));
        }
    } else if matches!(kind, "User" | "Group") && group != "rbac.authorization.k8s.io" {
        let known = ["rbac.authorization.k8s.io"];
        errors.push(FieldError::not_supported(
            path.field("apiGroup"),
            &group.into(),
            &known,
        ));
    }
}

pub(super) fn ingress_spec(spec: &Entries, path: &Path<'_>, errors: &mut Errors) {
    if list(spec, "rules").is_empty() && !spec.contains_key("defaultBackend") {
        let sentence = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid(path, &Value::Object(spec.clone()), sentence));
    }
}

pub(super) fn ingress_path(entry: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let value = text(entry, "path");
    let strict = matches!(text(entry, "pathType"), "Exact" | "Prefix");
    if !value.starts_with('/') && (strict || !value.is_empty()) {
        errors.push(FieldError::invalid(
            path.field("path"),
            &value.into(),
            "must be an absolute path",
        ));
    } else if strict
        && ["//", "/./", "/../", "%2f", "%2F"]
            .iter()
            .any(|part| value.contains(part))
    {
        errors.push(FieldError::invalid(
            path.field("path"),
            &value.into(),
            "must not contain '//', '/./', '/../' or '%2f'",
        ));
    }
}

pub(super) fn ingress_backend(backend: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let (service, resource) = (object(backend, "service"), backend.contains_key("resource"));
    match service {
        Some(_) if resource => {
            let sentence = "cannot set both resource and service backends";
            errors.push(FieldError::invalid(path, &"".into(), sentence));
        }
        Some(service) if !service.contains_key("port") => {
            let at = path.field("service");
            errors.push(FieldError::required(
                at.field("port"),
                "port name or number is required",
            ));
        }
        None if !resource => errors.push(FieldError::required(
            path,
            "resource or service backend is required",
        )),
        _ => {}
    }
}

pub(super) fn priority_class(class: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let name = class
        .get("metadata")
        .and_then(|meta| meta["name"].as_str())
        .unwrap_or_default();
    let value = class.get("value").and_then(Value::as_i64).unwrap_or_default();
    if !name.starts_with("system-") && value > MAX_USER_PRIORITY {
        let sentence = format!("maximum allowed value of a user defined priority is {MAX_USER_PRIORITY}");
        errors.push(FieldError::forbidden(path.field("value"), sentence));
    }
    let known = ["system-node-critical", "system-cluster-critical"];
    if name.starts_with("system-") && !known.contains(&name) {
        let sentence = "priority class names with 'system-' prefix are reserved for system use only";
        errors.push(FieldError::forbidden("metadata.name", sentence));
    }
}
