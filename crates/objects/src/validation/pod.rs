//! Rules between the fields of pods.

use super::{Entries, Errors, list, text};
use crate::error::FieldError;
use crate::path::Path;
use mainstay_semantics::quantity::Quantity;
use mainstay_semantics::selector::{label_key_problems, label_value_problems};
use serde_json::Value;
use std::collections::HashSet;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

pub(super) fn pod_spec(spec: &Entries, path: &Path<'_>, errors: &mut Errors) {
    unique_containers(spec, path, errors);
    mounts(spec, path, errors);
    host_ports(spec, path, errors);
    for (key, value) in spec
        .get("nodeSelector")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        let at = path.field("nodeSelector");
        let problems = label_key_problems(key).into_iter();
        errors.extend(problems.map(|problem| FieldError::invalid(at, &key.as_str().into(), problem)));
        let problems = label_value_problems(value.as_str().unwrap_or_default()).into_iter();
        errors.extend(problems.map(|problem| FieldError::invalid(at, value, problem)));
    }
    if text(spec, "dnsPolicy") == "None" && spec.get("dnsConfig").is_none() {
        let sentence = "must provide `dnsConfig` when `dnsPolicy` is None";
        errors.push(FieldError::required(path.field("dnsConfig"), sentence));
    }
}

fn unique_containers(spec: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for key in CONTAINER_LISTS {
        for (index, container) in list(spec, key).iter().enumerate() {
            let name = container["name"].as_str().unwrap_or_default();
            if !name.is_empty() && !seen.insert(name) {
                let at = path.field(key);
                let at = at.index(index);
                errors.push(FieldError::duplicate(at.field("name"), &name.into()));
            }
        }
    }
}

fn mounts(spec: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let volumes: HashSet<&str> = list(spec, "volumes")
        .iter()
        .filter_map(|volume| volume["name"].as_str())
        .collect();
    for key in CONTAINER_LISTS {
        for (index, container) in list(spec, key).iter().enumerate() {
            let at = path.field(key);
            let at = at.index(index);
            let at = at.field("volumeMounts");
            let mut paths = HashSet::new();
            for (number, mount) in container["volumeMounts"]
                .as_array()
                .into_iter()
                .flatten()
                .enumerate()
            {
                let at = at.index(number);
                let name = mount["name"].as_str().unwrap_or_default();
                if !name.is_empty() && !volumes.contains(name) {
                    errors.push(FieldError::not_found(at.field("name"), &mount["name"]));
                }
                let mount_path = mount["mountPath"].as_str().unwrap_or_default();
                if !mount_path.is_empty() && !paths.insert(mount_path) {
                    errors.push(FieldError::invalid(
                        at.field("mountPath"),
                        &mount["mountPath"],
                        "must be unique",
                    ));
                }
            }
        }
    }
}

fn host_ports(spec: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for (index, container) in list(spec, "containers").iter().enumerate() {
        for (number, port) in container["ports"].as_array().into_iter().flatten().enumerate() {
            let host_port = port["hostPort"].as_i64().unwrap_or_default();
            if host_port == 0 {
                continue;
            }
            let at = path.field("containers");
            let at = at.index(index);
            let at = at.field("ports");
            let at = at.index(number);
            if host_network && port["containerPort"].as_i64() != Some(host_port) {
                let sentence = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(
                    at.field("hostPort"),
                    &port["hostPort"],
                    sentence,
                ));
            }
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            let address = port["hostIP"].as_str().unwrap_or_default();
            if !seen.insert((protocol, address, host_port)) {
                errors.push(FieldError::duplicate(at.field("hostPort"), &port["hostPort"]));
            }
        }
    }
}

pub(super) fn container(container: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let at = path.field("ports");
    let mut names = HashSet::new();
    for (index, port) in list(container, "ports").iter().enumerate() {
        let name = port["name"].as_str().unwrap_or_default();
        if !name.is_empty() && !names.insert(name) {
            errors.push(FieldError::duplicate(
                at.index(index).field("name"),
                &port["name"],
            ));
        }
    }
    let image = text(container, "image");
    if image.trim() != image {
        let sentence = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(path.field("image"), &image.into(), sentence));
    }
}

pub(super) fn env_var(variable: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let Some(Value::Object(source)) = variable.get("valueFrom") else {
        return;
    };
    let at = path.field("valueFrom");
    if source.is_empty() {
        let sentence = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
                        `fileKeyRef`";
        errors.push(FieldError::invalid(at, &Value::String(String::new()), sentence));
    } else if source.len() > 1 {
        let sentence = "may not have more than one field specified at a time";
        errors.push(FieldError::invalid(at, &Value::String(String::new()), sentence));
    } else if !text(variable, "value").is_empty() {
        let sentence = "may not be specified when `value` is not empty";
        errors.push(FieldError::invalid(at, &Value::String(String::new()), sentence));
    }
}

pub(super) fn security_context(context: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let is = |key: &str, flag: bool| context.get(key) == Some(&Value::Bool(flag));
    if is("privileged", true) && is("allowPrivilegeEscalation", false) {
        let sentence = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.push(FieldError::invalid(
            path,
            &Value::Object(context.clone()),
            sentence,
        ));
    }
}

/// Requests stay below limits; extended resources are whole and equal to their limits.
pub(super) fn resources(resources: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let amounts = |key: &str| resources.get(key).and_then(Value::as_object);
    let parse = |value: &Value| value.as_str().and_then(|text| Quantity::parse(text).ok());
    for key in ["limits", "requests"] {
        for (name, amount) in amounts(key).into_iter().flatten() {
            let at = path.field(key);
            resource_name(name, &at.key(name), errors);
            if is_extended(name) && parse(amount).is_some_and(|quantity| !quantity.is_integer()) {
                errors.push(FieldError::invalid(at.key(name), amount, "must be an integer"));
            }
        }
    }
    for (name, amount) in amounts("requests").into_iter().flatten() {
        let at = path.field("requests");
        let (Some(request), limit) = (
            parse(amount),
            amounts("limits").and_then(|limits| limits.get(name)),
        ) else {
            continue;
        };
        match limit.and_then(|limit| Some((limit, parse(limit)?))) {
            Some((shown, limit)) if is_extended(name) && limit != request => {
                let shown = shown.as_str().unwrap_or_default();
                let sentence = format!("must be equal to {name} limit of {shown}");
                errors.push(FieldError::invalid(at, amount, sentence));
            }
            Some((shown, limit)) if request > limit => {
                let shown = shown.as_str().unwrap_or_default();
                let sentence = format!("must be less than or equal to {name} limit of {shown}");
                errors.push(FieldError::invalid(at, amount, sentence));
            }
            None if is_extended(name) => {
                errors.push(FieldError::required(
                    path.field("limits"),
                    "Limit must be set for non overcommitable resources",
                ));
            }
            _ => {}
        }
    }
}

fn is_extended(name: &str) -> bool {
    name.starts_with("hugepages-") || (name.contains('/') && !name.contains("kubernetes.io/"))
}

fn resource_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let value: Value = name.into();
    let problems = label_key_problems(name);
    if !problems.is_empty() {
        errors.extend(
            problems
                .into_iter()
                .map(|problem| FieldError::invalid(path, &value, problem)),
        );
    } else if !name.contains('/')
        && !matches!(name, "cpu" | "memory" | "ephemeral-storage" | "storage")
        && !name.starts_with("hugepages-")
    {
        errors.push(FieldError::invalid(
            path,
            &value,
            "must be a standard resource type or fully qualified",
        ));
    }
}

pub(super) fn probe(probe: &Entries, path: &Path<'_>, errors: &mut Errors) {
    one_handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], path, errors);
}

pub(super) fn handler(handler: &Entries, path: &Path<'_>, errors: &mut Errors) {
    one_handler(handler, &["exec", "httpGet", "tcpSocket", "sleep"], path, errors);
}

fn one_handler(entries: &Entries, kinds: &[&str], path: &Path<'_>, errors: &mut Errors) {
    let set: Vec<&&str> = kinds.iter().filter(|kind| entries.contains_key(**kind)).collect();
    if set.is_empty() {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    for extra in set.iter().skip(1) {
        errors.push(FieldError::forbidden(
            path.field(extra),
            "may not specify more than 1 handler type",
        ));
    }
}

pub(super) fn volume(volume: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let sources: Vec<&String> = volume.keys().filter(|key| *key != "name").collect();
    if sources.is_empty() {
        errors.push(FieldError::required(path, "must specify a volume type"));
    }
    for extra in sources.iter().skip(1) {
        errors.push(FieldError::forbidden(
            path.field(extra),
            "may not specify more than 1 volume type",
        ));
    }
}

pub(super) fn toleration(toleration: &Entries, path: &Path<'_>, errors: &mut Errors) {
    let (key, operator, effect) = (
        text(toleration, "key"),
        text(toleration, "operator"),
        text(toleration, "effect"),
    );
    if !key.is_empty() {
        let problems = label_key_problems(key).into_iter();
        errors.extend(problems.map(|problem| FieldError::invalid(path.field("key"), &key.into(), problem)));
    } else if operator != "Exists" {
        let sentence =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid(
            path.field("operator"),
            &operator.into(),
            sentence,
        ));
    }
    if toleration.contains_key("tolerationSeconds") && effect != "NoExecute" {
        let sentence = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(FieldError::invalid(
            path.field("effect"),
            &effect.into(),
            sentence,
        ));
    }
    match operator {
        "" | "Equal" => {
            let value = text(toleration, "value");
            let problems = label_value_problems(value).into_iter();
            errors.extend(
                problems.map(|problem| FieldError::invalid(path.field("operator"), &value.into(), problem)),
            );
        }
        "Exists" if !text(toleration, "value").is_empty() => {
            let sentence = "value must be empty when `operator` is 'Exists'";
            errors.push(FieldError::invalid(
                path.field("operator"),
                &toleration["operator"],
                sentence,
            ));
        }
        "Exists" | "Lt" | "Gt" => {}
        _ => errors.push(FieldError::not_supported(
            path.field("operator"),
            &operator.into(),
            &["Equal", "Exists"],
        )),
    }
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        errors.push(FieldError::not_supported(
            path.field("effect"),
            &effect.into(),
            &EFFECTS,
        ));
    }
}
