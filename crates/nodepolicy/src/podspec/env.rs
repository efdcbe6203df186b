//! A container's environment: literal values, references to the pod, to resources, to ConfigMaps and Secrets.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, ResourceFieldSelector};

use crate::amount;

/// Values that a container's environment may name.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// ConfigMaps by name.
    pub config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Services' variables; own ones win.
    pub services: BTreeMap<String, String>,
    /// The node's name.
    pub node_name: String,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// The pod's addresses.
    pub pod_ips: Vec<String>,
    /// What the node has, for limits that are not set.
    pub allocatable: amount::Amounts,
}

/// Replaces `$(NAME)` by its value; `$$` is a literal `$`, unknown names stay as written.
pub fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(stripped) = after.strip_prefix('$') {
            out.push('$');
            rest = stripped;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match value(name) {
                Some(found) => out.push_str(&found),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// One `['key']` of a field path such as `metadata.labels['app']`.
fn subscript<'t>(path: &'t str, field: &str) -> Option<&'t str> {
    path.strip_prefix(field)?.strip_prefix("['")?.strip_suffix("']")
}

/// Formats labels or annotations as the downward API does: `key="value"` lines.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let pairs = map.into_iter().flatten();
    let lines: Vec<String> = pairs.map(|(k, v)| format!("{k}={v:?}")).collect();
    lines.join("\n")
}

/// The value of a field of the pod (the downward API's `fieldRef`).
///
/// # Errors
/// When the path is none of those supported.
pub fn field(pod: &Pod, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let of = |text: Option<&String>| text.cloned().unwrap_or_default();
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(of(meta.labels.as_ref().and_then(|l| l.get(key))));
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(of(meta.annotations.as_ref().and_then(|l| l.get(key))));
    }
    Ok(match path {
        "metadata.name" => of(meta.name.as_ref()),
        "metadata.namespace" => of(meta.namespace.as_ref()),
        "metadata.uid" => of(meta.uid.as_ref()),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        other => return Err(format!("unsupported fieldPath: {other}")),
    })
}

/// The value of a field in the environment: what [`field`] knows, and what only the running pod knows.
///
/// # Errors
/// When the path is none of those supported.
pub fn runtime_field(pod: &Pod, path: &str, sources: &Sources) -> Result<String, String> {
    let first = |all: &[String]| all.first().cloned().unwrap_or_default();
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone());
    Ok(match path {
        "spec.nodeName" => sources.node_name.clone(),
        "spec.serviceAccountName" => account.unwrap_or_default(),
        "status.hostIP" => first(&sources.host_ips),
        "status.hostIPs" => sources.host_ips.join(","),
        "status.podIP" => first(&sources.pod_ips),
        "status.podIPs" => sources.pod_ips.join(","),
        other => return field(pod, other),
    })
}

/// The value of a resource field (`limits.cpu`), rounded up by its divisor.
///
/// # Errors
/// When the container or the resource is unknown.
pub fn resource_field(
    pod: &Pod,
    own: &Container,
    selector: &ResourceFieldSelector,
    sources: &Sources,
) -> Result<String, String> {
    let spec = pod.spec.as_ref().ok_or("pod has no spec")?;
    let container = match selector.container_name.as_deref().filter(|n| !n.is_empty()) {
        Some(name) => spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .find(|c| c.name == name)
            .ok_or_else(|| format!("container {name} not found"))?,
        None => own,
    };
    let (kind, resource) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let known =
        ["cpu", "memory", "ephemeral-storage"].contains(&resource) || resource.starts_with("hugepages-");
    if !known {
        return Err(format!("unsupported container resource : {}", selector.resource));
    }
    let given = container.resources.as_ref();
    let list = match kind {
        "limits" => given.and_then(|r| r.limits.as_ref()),
        "requests" => given.and_then(|r| r.requests.as_ref()),
        _ => {
            return Err(format!("unsupported container resource : {}", selector.resource));
        }
    };
    let known = amount::amounts(list).get(resource).copied();
    let fallback = || match kind {
        "limits" => sources.allocatable.get(resource).copied().unwrap_or(0),
        _ => 0,
    };
    let amount = known.unwrap_or_else(fallback);
    let divisor = selector.divisor.as_ref().map(|q| amount::of(resource, q));
    let unit = if resource == "cpu" { 1000 } else { 1 };
    let divisor = divisor.filter(|d| *d > 0).unwrap_or(unit);
    Ok(amount.div_euclid(divisor).max(0).to_string()).map(|text| match amount % divisor {
        0 => text,
        _ => (amount.div_euclid(divisor) + 1).to_string(),
    })
}

fn from_source(
    pod: &Pod,
    container: &Container,
    from: &EnvVarSource,
    sources: &Sources,
) -> Result<Option<String>, String> {
    if let Some(selector) = &from.field_ref {
        return runtime_field(pod, &selector.field_path, sources).map(Some);
    }
    if let Some(selector) = &from.resource_field_ref {
        return resource_field(pod, container, selector, sources).map(Some);
    }
    let at = format!("{}/{}", super::namespace(pod), super::name(pod));
    if let Some(key) = &from.config_map_key_ref {
        let map = sources.config_maps.get(&key.name);
        return match map.and_then(|m| m.get(&key.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if key.optional == Some(true) => Ok(None),
            None if map.is_none() => Err(format!("configmap \"{}\" not found", key.name)),
            None => Err(format!(
                "couldn't find key {} in ConfigMap {}/{}",
                key.key,
                super::namespace(pod),
                key.name
            )),
        };
    }
    if let Some(key) = &from.secret_key_ref {
        let map = sources.secrets.get(&key.name);
        return match map.and_then(|m| m.get(&key.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
            None if key.optional == Some(true) => Ok(None),
            None if map.is_none() => Err(format!("secret \"{}\" not found", key.name)),
            None => Err(format!(
                "couldn't find key {} in Secret {}/{}",
                key.key,
                super::namespace(pod),
                key.name
            )),
        };
    }
    Err(format!("env source of {at} is not supported"))
}

fn is_env_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic() && c != '=')
}

fn add_from(
    container: &Container,
    sources: &Sources,
    env: &mut BTreeMap<String, String>,
) -> Result<(), String> {
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or("");
        let mut take = |key: &str, value: String| {
            let name = format!("{prefix}{key}");
            if is_env_name(&name) {
                env.insert(name, value);
            }
        };
        if let Some(reference) = &from.config_map_ref {
            match sources.config_maps.get(&reference.name) {
                Some(map) => map.iter().for_each(|(k, v)| take(k, v.clone())),
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap \"{}\" not found", reference.name)),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match sources.secrets.get(&reference.name) {
                Some(map) => map
                    .iter()
                    .for_each(|(k, v)| take(k, String::from_utf8_lossy(v).into_owned())),
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret \"{}\" not found", reference.name)),
            }
        }
    }
    Ok(())
}

/// A container's environment in order: whole maps, then its own variables, then services that are not hidden.
///
/// # Errors
/// When a reference that is not optional leads nowhere; in the kubelet's words.
pub fn environment(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
) -> Result<Vec<(String, String)>, String> {
    let mut known = BTreeMap::new();
    add_from(container, sources, &mut known)?;
    let mut ordered: Vec<(String, String)> = known.clone().into_iter().collect();
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(from) => from_source(pod, container, from, sources)?,
            None => Some(expand(variable.value.as_deref().unwrap_or(""), |name| {
                known.get(name).or_else(|| sources.services.get(name)).cloned()
            })),
        };
        if let Some(value) = value {
            known.insert(variable.name.clone(), value.clone());
            ordered.retain(|(name, _)| *name != variable.name);
            ordered.push((variable.name.clone(), value));
        }
    }
    for (name, value) in &sources.services {
        if !known.contains_key(name) {
            ordered.push((name.clone(), value.clone()));
        }
    }
    Ok(ordered)
}

/// The variables that tell of one service, in the form that containers have known since Docker links.
pub fn service_variables(
    name: &str,
    ip: &str,
    ports: &[(Option<String>, i32, String)],
) -> BTreeMap<String, String> {
    let upper = name.to_uppercase().replace('-', "_");
    let mut env = BTreeMap::new();
    let Some((_, first, protocol)) = ports.first() else {
        return env;
    };
    env.insert(format!("{upper}_SERVICE_HOST"), ip.to_owned());
    env.insert(format!("{upper}_SERVICE_PORT"), first.to_string());
    env.insert(
        format!("{upper}_PORT"),
        format!("{}://{ip}:{first}", protocol.to_lowercase()),
    );
    for (port_name, port, protocol) in ports {
        if let Some(port_name) = port_name {
            let suffix = port_name.to_uppercase().replace('-', "_");
            env.insert(format!("{upper}_SERVICE_PORT_{suffix}"), port.to_string());
        }
        let prefix = format!("{upper}_PORT_{port}_{protocol}");
        env.insert(
            prefix.clone(),
            format!("{}://{ip}:{port}", protocol.to_lowercase()),
        );
        env.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
        env.insert(format!("{prefix}_PORT"), port.to_string());
        env.insert(format!("{prefix}_ADDR"), ip.to_owned());
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_expand_and_unknown_ones_stay() {
        let value = |name: &str| (name == "A").then(|| "1".to_owned());
        let rows = ["$(A)-$(B)", "$$(A)", "$", "a$b", "$(A", "$$$(A)"];
        assert_eq!(
            rows.map(|t| expand(t, value)),
            ["1-$(B)", "$(A)", "$", "a$b", "$(A", "$1"]
        );
    }

    #[test]
    fn the_environment_is_put_together_in_order() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "labels": {"app": "x"}},
            "spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "1500m"}},
                "envFrom": [{"prefix": "C_", "configMapRef": {"name": "m"}}],
                "env": [
                    {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                    {"name": "BOTH", "value": "$(NAME)-$(C_k)-$(S)"},
                    {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}}]}]}}))
        .expect("valid");
        let sources = Sources {
            config_maps: BTreeMap::from([("m".into(), BTreeMap::from([("k".into(), "v".into())]))]),
            services: BTreeMap::from([("S".into(), "svc".into())]),
            ..Default::default()
        };
        let container = &pod.spec.as_ref().expect("set").containers[0];
        let env = environment(&pod, container, &sources).expect("complete");
        let text: Vec<String> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(text, ["C_k=v", "NAME=x", "CPU=2", "BOTH=x-v-svc", "S=svc"]);
    }

    #[test]
    fn a_missing_key_names_the_object() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [
            {"name": "a", "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]}]}}))
        .expect("valid");
        let container = &pod.spec.as_ref().expect("set").containers[0];
        let error = environment(&pod, container, &Sources::default()).expect_err("missing");
        assert_eq!(error, "configmap \"m\" not found");
    }
}
