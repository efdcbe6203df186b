//! Logs and streams of a pod's containers: which container, which node, which path of its agent.

use serde_json::Value;

use super::target::{Target, agent};
use crate::serve::Call;
use crate::server::Server;
use mainstay_access::hooks::World as _;
use mainstay_access::status::{ApiError, ApiResult};

/// Query parameters that are the server\'s own, not the agent\'s.
const OWN: [&str; 2] = ["container", "insecureSkipTLSVerifyBackend"];
/// The agent knows these under other names.
const RENAMED: [(&str, &str); 5] = [
    ("stdin", "input"),
    ("stdout", "output"),
    ("stderr", "error"),
    ("tty", "tty"),
    ("ports", "port"),
];

/// The agent's address and path for a request; `None` for logs of a pod that has no node yet.
///
/// # Errors
/// 404 without pod or node, 400 for a container that the pod does not have.
pub fn target(server: &Server, call: &Call) -> ApiResult<Option<Target>> {
    let info = &call.info;
    let pod = server.caches().get("core/pods", &info.namespace, &info.name);
    let pod = pod
        .ok_or_else(|| ApiError::not_found("", "pods", &info.name))?
        .value();
    let container = match info.subresource.as_str() {
        "portforward" => String::new(),
        _ => container(&pod, call)?,
    };
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return match info.subresource.as_str() {
            "log" => Ok(None),
            _ => Err(ApiError::bad_request(format!(
                "pod {} does not have a host assigned",
                info.name
            ))),
        };
    }
    let (namespace, name) = (&info.namespace, &info.name);
    let path = match info.subresource.as_str() {
        "log" => format!(
            "/containerLogs/{namespace}/{name}/{container}{}",
            query(call, false)
        ),
        "portforward" => format!("/portForward/{namespace}/{name}{}", query(call, false)),
        stream => format!("/{stream}/{namespace}/{name}/{container}{}", query(call, true)),
    };
    agent(server, node, "pods", path).map(Some)
}

fn query(call: &Call, streams: bool) -> String {
    let pairs = call
        .query
        .pairs()
        .iter()
        .filter(|(key, _)| !OWN.contains(&key.as_str()));
    let renamed = |key: &str| {
        let found = RENAMED
            .iter()
            .find(|(from, _)| *from == key && (streams || key == "ports"));
        found.map_or(key.to_string(), |(_, to)| (*to).to_string())
    };
    let value = |value: &str| match (streams, value) {
        (true, "true") => "1".to_string(),
        _ => encode(value),
    };
    let parts: Vec<String> = pairs
        .filter(|(key, text)| !(streams && key != "command" && text == "false"))
        .map(|(key, text)| {
            format!(
                "{}={}",
                encode(&renamed(key)),
                if key == "command" {
                    encode(text)
                } else {
                    value(text)
                }
            )
        })
        .collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!("?{}", parts.join("&"))
    }
}

fn encode(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| {
            if keep(byte) {
                (byte as char).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

fn container(pod: &Value, call: &Call) -> ApiResult<String> {
    let names = |list: &str| -> Vec<String> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers
            .filter_map(|one| one["name"].as_str().map(str::to_string))
            .collect()
    };
    let (own, init, ephemeral) = (
        names("containers"),
        names("initContainers"),
        names("ephemeralContainers"),
    );
    let name = &call.info.name;
    if let Some(wanted) = call.query.text("container") {
        let known = own.iter().chain(&init).chain(&ephemeral).any(|one| one == wanted);
        return match known {
            true => Ok(wanted.to_string()),
            false => Err(ApiError::bad_request(format!(
                "container {wanted} is not valid for pod {name}"
            ))),
        };
    }
    let preferred = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    match (own.as_slice(), preferred) {
        ([only], _) => Ok(only.clone()),
        (list, Some(preferred)) if list.iter().any(|one| one == preferred) => Ok(preferred.to_string()),
        (list, _) => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                list.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(ApiError::bad_request(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_encoded_for_a_query() {
        assert_eq!(encode("a b/ü"), "a%20b%2F%C3%BC");
    }
}
