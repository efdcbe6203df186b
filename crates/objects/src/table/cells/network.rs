//! Cells of Services, endpoints, ingresses and addresses.

use super::{NONE, formatted, joined, list, number, or_none, text_at, texts};
use serde_json::Value;

/// Upstream shows this many addresses of a list.
const SHOWN_ADDRESSES: usize = 3;

pub(in crate::table) fn pod_selector(policy: &Value, _now: jiff::Timestamp) -> Value {
    formatted(policy.pointer("/spec/podSelector"))
}

fn address(node: &Value, kind: &str) -> Value {
    let found = list(node, "/status/addresses")
        .iter()
        .find(|address| address["type"] == kind);
    or_none(
        found
            .map(|address| text_at(address, "/address").to_owned())
            .unwrap_or_default(),
    )
}

pub(in crate::table) fn internal_ip(node: &Value, _now: jiff::Timestamp) -> Value {
    address(node, "InternalIP")
}

pub(in crate::table) fn external_ip(node: &Value, _now: jiff::Timestamp) -> Value {
    address(node, "ExternalIP")
}

fn balancer(object: &Value) -> Vec<String> {
    let entry = |entry: &Value| match text_at(entry, "/ip") {
        "" => text_at(entry, "/hostname").to_owned(),
        ip => ip.to_owned(),
    };
    list(object, "/status/loadBalancer/ingress")
        .iter()
        .map(entry)
        .filter(|address| !address.is_empty())
        .collect()
}

pub(in crate::table) fn load_balancer(object: &Value, _now: jiff::Timestamp) -> Value {
    joined(balancer(object)).into()
}

pub(in crate::table) fn external_address(service: &Value, _now: jiff::Timestamp) -> Value {
    let mut addresses = texts(service, "/spec/externalIPs");
    match text_at(service, "/spec/type") {
        "ExternalName" => return text_at(service, "/spec/externalName").into(),
        "LoadBalancer" => {
            addresses.splice(0..0, balancer(service));
            if addresses.is_empty() {
                return "<pending>".into();
            }
        }
        _ => {}
    }
    or_none(joined(addresses))
}

pub(in crate::table) fn service_ports(service: &Value, _now: jiff::Timestamp) -> Value {
    let port = |port: &Value| {
        let (number, protocol) = (number(port, "/port"), text_at(port, "/protocol"));
        match port["nodePort"].as_i64().unwrap_or_default() {
            0 => format!("{number}/{protocol}"),
            node => format!("{number}:{node}/{protocol}"),
        }
    };
    or_none(joined(list(service, "/spec/ports").iter().map(port)))
}

/// The first few of a list, and how many more there are.
fn first_few(all: Vec<String>) -> Value {
    let more = all.len().saturating_sub(SHOWN_ADDRESSES);
    let text = joined(all.into_iter().take(SHOWN_ADDRESSES));
    if more > 0 {
        format!("{text} + {more} more...").into()
    } else {
        or_none(text)
    }
}

pub(in crate::table) fn endpoints(endpoints: &Value, _now: jiff::Timestamp) -> Value {
    let mut all = Vec::new();
    for subset in list(endpoints, "/subsets") {
        for address in list(subset, "/addresses") {
            let ip = text_at(address, "/ip");
            match list(subset, "/ports") {
                [] => all.push(ip.to_owned()),
                ports => all.extend(ports.iter().map(|port| format!("{ip}:{}", number(port, "/port")))),
            }
        }
    }
    first_few(all)
}

pub(in crate::table) fn slice_ports(slice: &Value, _now: jiff::Timestamp) -> Value {
    let ports = list(slice, "/ports")
        .iter()
        .map(|port| port.get("port").map_or_else(|| "*".to_owned(), Value::to_string));
    match first_few(ports.collect()) {
        Value::String(text) if text == NONE => "<unset>".into(),
        other => other,
    }
}

pub(in crate::table) fn slice_endpoints(slice: &Value, _now: jiff::Timestamp) -> Value {
    let all = list(slice, "/endpoints")
        .iter()
        .flat_map(|endpoint| texts(endpoint, "/addresses"))
        .collect::<Vec<_>>();
    match first_few(all) {
        Value::String(text) if text == NONE => "<unset>".into(),
        other => other,
    }
}

pub(in crate::table) fn ingress_hosts(ingress: &Value, _now: jiff::Timestamp) -> Value {
    let hosts: Vec<String> = list(ingress, "/spec/rules")
        .iter()
        .map(|rule| text_at(rule, "/host").to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    if hosts.is_empty() {
        "*".into()
    } else {
        first_few(hosts)
    }
}

pub(in crate::table) fn ingress_ports(ingress: &Value, _now: jiff::Timestamp) -> Value {
    if list(ingress, "/spec/tls").is_empty() {
        "80"
    } else {
        "80, 443"
    }
    .into()
}

pub(in crate::table) fn class_parameters(class: &Value, _now: jiff::Timestamp) -> Value {
    let Some(parameters) = class.pointer("/spec/parameters") else {
        return NONE.into();
    };
    let kind = match text_at(parameters, "/apiGroup") {
        "" => text_at(parameters, "/kind").to_owned(),
        group => format!("{}.{group}", text_at(parameters, "/kind")),
    };
    format!("{kind}/{}", text_at(parameters, "/name")).into()
}
