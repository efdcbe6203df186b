//! Names: the Service that stands for the nodes' own responders, and the servers that machines ask about the rest.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use kube::api::PostParams;
use kube::{Api, Client};
use mainstay_api::join::dns_address;
use mainstay_base::error::chain;
use serde_json::json;

/// Where computers with systemd-resolved keep the servers behind it.
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Makes the Service `kube-system/kube-dns` unless it is there. It has the address that every node answers at; it selects
/// nothing, for no pod serves it.
///
/// # Errors
/// A text for people.
pub async fn ensure(client: &Client, services: &str) -> Result<(), String> {
    let Some(address) = dns_address(services) else {
        return Ok(());
    };
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {
            "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
        }},
        "spec": {"clusterIP": address.to_string(), "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ]},
    }))
    .map_err(|error| error.to_string())?;
    let api: Api<Service> = Api::namespaced(client.clone(), "kube-system");
    let there = api.get_opt("kube-dns").await.map_err(|error| chain(&error))?;
    if there.is_some() {
        return Ok(());
    }
    match api.create(&PostParams::default(), &service).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(format!("service kube-dns: {}", chain(&error))),
    }
}

/// This computer's own name servers, as far as machines can reach them too: none on its loopback.
pub fn servers_for_machines() -> Vec<String> {
    let own = servers("/etc/resolv.conf");
    if own.is_empty() {
        servers(BEHIND_RESOLVED)
    } else {
        own
    }
}

fn servers(file: &str) -> Vec<String> {
    parse(&std::fs::read_to_string(file).unwrap_or_default())
}

fn parse(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("nameserver"));
    lines
        .map(str::trim)
        .filter(|server| {
            server
                .parse::<IpAddr>()
                .is_ok_and(|address| !address.is_loopback())
        })
        .map(String::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_told_servers_that_they_can_reach() {
        let text = "# made by hand\nnameserver 127.0.0.53\nnameserver 192.0.2.53\nsearch example.org\n";
        assert_eq!(parse(text), ["192.0.2.53"]);
    }
}
