//! Adjustments of a changed object before its defaults: fields that lose their meaning when another changes, so that
//! `kubectl patch svc -p '{"spec":{"type":"ClusterIP"}}'` need not name them.

use serde_json::{Map, Value};

/// Brings `new` into agreement with itself; only values carried over unchanged from `old` are dropped.
pub fn update(group: &str, kind: &str, new: &mut Value, old: &Value) {
    if (group, kind) == ("", "Service")
        && let (Some(spec), Some(before)) = (
            new.get_mut("spec").and_then(Value::as_object_mut),
            old.get("spec").and_then(Value::as_object),
        )
    {
        service(spec, before);
    }
}

fn service(spec: &mut Map<String, Value>, before: &Map<String, Value>) {
    let kind = |spec: &Map<String, Value>| match spec.get("type").and_then(Value::as_str) {
        None | Some("") => "ClusterIP".to_owned(),
        Some(kind) => kind.to_owned(),
    };
    let (now, was) = (kind(spec), kind(before));
    let on_nodes = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if on_nodes(&was) && !on_nodes(&now) {
        forget_node_ports(spec, before);
        forget(spec, before, &["externalTrafficPolicy"]);
    }
    if was == "LoadBalancer" && now != "LoadBalancer" {
        forget(
            spec,
            before,
            &[
                "allocateLoadBalancerNodePorts",
                "loadBalancerClass",
                "healthCheckNodePort",
            ],
        );
    }
    if now == "ExternalName" && was != "ExternalName" {
        forget(
            spec,
            before,
            &[
                "clusterIP",
                "clusterIPs",
                "ipFamilies",
                "ipFamilyPolicy",
                "internalTrafficPolicy",
            ],
        );
    }
    if spec
        .get("sessionAffinity")
        .is_some_and(|affinity| affinity == "None")
    {
        forget(spec, before, &["sessionAffinityConfig"]);
    }
}

fn forget(spec: &mut Map<String, Value>, before: &Map<String, Value>, fields: &[&str]) {
    for field in fields {
        if spec.get(*field) == before.get(*field) {
            spec.remove(*field);
        }
    }
}

fn forget_node_ports(spec: &mut Map<String, Value>, before: &Map<String, Value>) {
    let ports = |spec: &Map<String, Value>| {
        spec.get("ports")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let known: Vec<Value> = ports(before)
        .into_iter()
        .filter_map(|port| port.get("nodePort").cloned())
        .collect();
    let now = spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten();
    for port in now.filter_map(Value::as_object_mut) {
        if port.get("nodePort").is_some_and(|number| known.contains(number)) {
            port.remove("nodePort");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_that_leaves_the_nodes_forgets_its_node_ports() {
        let old = json!({"spec": {"type": "NodePort", "externalTrafficPolicy": "Cluster", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30080}]}});
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        update("", "Service", &mut new, &old);
        assert_eq!(
            new,
            json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1", "ports": [{"port": 80}]}})
        );
        let mut wrong = old.clone();
        wrong["spec"]["type"] = "ClusterIP".into();
        wrong["spec"]["ports"][0]["nodePort"] = 30081.into();
        update("", "Service", &mut wrong, &old);
        assert_eq!(
            wrong["spec"]["ports"][0]["nodePort"], 30081,
            "a new number is the client's mistake to hear of"
        );
    }
}
