//! Where a proxied request goes: a node agent, a pod's port, or a pod behind a service.

use crate::serve::Call;
use crate::server::Server;
use mainstay_access::hooks::World as _;
use mainstay_access::object::Object;
use mainstay_access::status::{ApiError, ApiResult};

/// The port of node agents that do not tell theirs.
const AGENT_PORT: u16 = 10_250;

/// The other side of a proxied request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Host and port.
    pub address: String,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Path and query.
    pub path: String,
}

/// `name`, `name:port` or `scheme:name:port`.
#[derive(Debug, PartialEq, Eq)]
struct Named<'a> {
    tls: bool,
    name: &'a str,
    port: &'a str,
}

fn split(text: &str) -> Named<'_> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [name] => Named {
            tls: false,
            name,
            port: "",
        },
        [name, port] => Named {
            tls: false,
            name,
            port,
        },
        [scheme, name, port, ..] => Named {
            tls: *scheme == "https",
            name,
            port,
        },
        [] => Named {
            tls: false,
            name: "",
            port: "",
        },
    }
}

fn path_and_query(call: &Call) -> String {
    let query = call
        .parts
        .uri
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let slash = if call.info.path.ends_with('/') && !call.info.rest.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{slash}{query}", call.info.rest)
}

/// The agent of a node.
///
/// # Errors
/// 404 without the node, 503 without an address.
pub fn agent(server: &Server, node: &str, kind: &str, path: String) -> ApiResult<Target> {
    let found = server.caches().get("core/nodes", "", node);
    let found = found.ok_or_else(|| ApiError::not_found("", kind, node))?;
    let value = found.value();
    let port = value["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let addresses = value["status"]["addresses"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let of = |wanted: &str| {
        addresses
            .iter()
            .find(|one| one["type"] == wanted)
            .and_then(|one| one["address"].as_str())
    };
    let host = ["InternalIP", "Hostname", "InternalDNS", "ExternalIP"]
        .into_iter()
        .find_map(of);
    let host = host.ok_or_else(|| ApiError::unavailable(format!("node {node:?} has no address")))?;
    let port = port.filter(|port| *port > 0).unwrap_or(u64::from(AGENT_PORT));
    Ok(Target {
        address: join(host, &port.to_string()),
        tls: true,
        path,
    })
}

fn join(host: &str, port: &str) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The target of `nodes/NAME/proxy`.
///
/// # Errors
/// As [`agent`].
pub fn node(server: &Server, call: &Call) -> ApiResult<Target> {
    let named = split(&call.info.name);
    let mut target = agent(server, named.name, "nodes", path_and_query(call))?;
    if !named.port.is_empty() {
        let host = target
            .address
            .rsplit_once(':')
            .map_or("", |(host, _)| host)
            .to_string();
        target.address = format!("{host}:{}", named.port);
    }
    Ok(target)
}

/// The target of `pods/NAME/proxy`.
///
/// # Errors
/// 404 without the pod, 503 without an address.
pub fn pod(server: &Server, call: &Call) -> ApiResult<Target> {
    let named = split(&call.info.name);
    let pod = server.caches().get("core/pods", &call.info.namespace, named.name);
    let pod = pod.ok_or_else(|| ApiError::not_found("", "pods", named.name))?;
    let host = address(&pod)?;
    let port = if named.port.is_empty() {
        first_port(&pod)
    } else {
        named.port.to_string()
    };
    Ok(Target {
        address: join(&host, &port),
        tls: named.tls,
        path: path_and_query(call),
    })
}

fn address(pod: &Object) -> ApiResult<String> {
    let host = pod.scalar("status.podIP").into_owned();
    match host.is_empty() {
        true => Err(ApiError::unavailable("address not allowed: the pod has none yet")),
        false => Ok(host),
    }
}

fn first_port(pod: &Object) -> String {
    let value = pod.value();
    let containers = value["spec"]["containers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let port = containers
        .iter()
        .find_map(|container| container["ports"][0]["containerPort"].as_u64());
    port.unwrap_or(80).to_string()
}

/// The target of `services/NAME/proxy`: a ready endpoint.
///
/// # Errors
/// 404 without the service, 503 without a ready endpoint.
pub fn service(server: &Server, call: &Call) -> ApiResult<Target> {
    let named = split(&call.info.name);
    let namespace = call.info.namespace.as_str();
    let service = server.caches().get("core/services", namespace, named.name);
    service.ok_or_else(|| ApiError::not_found("", "services", named.name))?;
    let slices = server
        .caches()
        .list("discovery.k8s.io/endpointslices", Some(namespace));
    for slice in slices
        .iter()
        .filter(|slice| slice.label("kubernetes.io/service-name").as_deref() == Some(named.name))
    {
        let value = slice.value();
        let ports = value["ports"].as_array().cloned().unwrap_or_default();
        let port = ports.iter().find(|port| {
            named.port.is_empty()
                || port["name"] == named.port
                || port["port"]
                    .as_u64()
                    .is_some_and(|number| named.port.parse() == Ok(number))
        });
        let ready = value["endpoints"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["conditions"]["ready"] != false);
        if let (Some(port), Some(host)) = (port, ready.and_then(|one| one["addresses"][0].as_str())) {
            let address = join(host, &port["port"].to_string());
            return Ok(Target {
                address,
                tls: named.tls,
                path: path_and_query(call),
            });
        }
    }
    Err(ApiError::unavailable(format!(
        "no endpoints available for service {:?}",
        call.info.name
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_carry_scheme_and_port() {
        assert_eq!(
            split("a"),
            Named {
                tls: false,
                name: "a",
                port: ""
            }
        );
        assert_eq!(
            split("a:80"),
            Named {
                tls: false,
                name: "a",
                port: "80"
            }
        );
        assert_eq!(
            split("https:a:443"),
            Named {
                tls: true,
                name: "a",
                port: "443"
            }
        );
    }
}
