//! The pods' network on this machine: a bridge configuration for the runtime from the node's range, and routes to the
//! ranges of other nodes on the same network. A configuration that somebody else put there is left alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use serde_json::json;

use crate::context::Shared;

/// Our configuration's file name.
const FILE: &str = "10-mainstay.conflist";
/// How often the node's range is asked for until it is there.
const ASK: Duration = Duration::from_millis(500);
/// How often it is asked for before one is made up from the node's address.
const PATIENCE: u32 = 20;
/// Wait after the list of nodes was lost or refused.
const RETRY: Duration = Duration::from_secs(30);

/// Wait after the API server said that this node may not see others.
const REFUSED_RETRY: Duration = Duration::from_secs(600);

/// The bridge configuration for a range.
pub fn bridge_config(range: &str) -> String {
    json!({
        "cniVersion": "0.4.0", "name": "mainstay",
        "plugins": [
            {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
             "ipam": {"type": "host-local", "ranges": [[{"subnet": range}]]}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        ],
    })
    .to_string()
}

/// Whether another configuration than ours is in the folder.
fn has_foreign(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .any(|name| {
            name != FILE
                && [".conf", ".conflist", ".json"]
                    .iter()
                    .any(|end| name.ends_with(end))
        })
}

/// A range made from the last number of the node's address, for clusters that hand out none.
pub fn range_of_address(address: &str) -> Option<String> {
    match address.parse().ok()? {
        IpAddr::V4(ip) => Some(format!("10.244.{}.0/24", ip.octets()[3])),
        IpAddr::V6(_) => None,
    }
}

async fn range(shared: &Shared) -> Option<String> {
    let configured = shared.settings.kubelet.pod_cidr.clone();
    for _ in 0..PATIENCE {
        let client = shared.api.joined().await;
        let node = Api::<Node>::all(client)
            .get_opt(shared.settings.node_name())
            .await;
        let given = node.ok().flatten().and_then(|n| n.spec).and_then(|s| s.pod_cidr);
        if let Some(range) = given.filter(|r| !r.is_empty()) {
            return Some(range);
        }
        if !configured.is_empty() {
            return Some(configured);
        }
        tokio::time::sleep(ASK).await;
    }
    tracing::warn!("the cluster gave this node no range of pod addresses; one is made from its own address");
    range_of_address(shared.host_ips.first()?)
}

fn write(dir: &Path, range: &str) -> std::io::Result<()> {
    let wanted = bridge_config(range);
    let file = dir.join(FILE);
    if std::fs::read_to_string(&file).is_ok_and(|text| text == wanted) {
        return Ok(());
    }
    std::fs::create_dir_all(dir)?;
    let temporary = dir.join(".mainstay.new");
    std::fs::write(&temporary, wanted)?;
    std::fs::rename(&temporary, &file)
}

/// Keeps the network for as long as the agent runs.
pub async fn keep(shared: Arc<Shared>) {
    let Some(dir) = shared.settings.dirs.cni.clone() else {
        return;
    };
    if has_foreign(&dir) {
        return;
    }
    let Some(range) = range(&shared).await else {
        tracing::error!("no range of pod addresses can be found: pods get no network");
        return;
    };
    match write(&dir, &range) {
        Ok(()) => {
            tracing::info!(range, "pods get addresses of this range");
            shared.status_wanted.notify_one();
        }
        Err(error) => tracing::error!(%error, "could not write the runtime's network configuration"),
    }
    keep_routes(&shared).await;
}

/// Range and address of another node.
fn neighbour(node: &Node, own: &str) -> Option<(String, String)> {
    if node.metadata.name.as_deref() == Some(own) {
        return None;
    }
    let range = node.spec.as_ref()?.pod_cidr.clone()?;
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().find(|a| a.type_ == "InternalIP")?;
    Some((range, internal.address.clone()))
}

async fn keep_routes(shared: &Shared) {
    let mut routes: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let mut refused = false;
        let api: Api<Node> = Api::all(shared.api.joined().await);
        let mut stream = watcher::watcher(api, watcher::Config::default().any_semantic()).boxed();
        while let Some(event) = stream.next().await {
            let node = match event {
                Ok(Event::Apply(node) | Event::InitApply(node)) => node,
                Ok(_) => continue,
                Err(error) => {
                    tracing::debug!(
                        error = mainstay_base::error::chain(&error),
                        "other nodes cannot be seen: no routes to their pods"
                    );
                    refused = matches!(&error, watcher::Error::InitialListFailed(kube::Error::Api(s)) if s.code == 403);
                    break;
                }
            };
            if let Some((range, address)) = neighbour(&node, shared.settings.node_name())
                && routes.get(&range) != Some(&address)
                && add_route(&range, &address).await
            {
                routes.insert(range, address);
            }
        }
        tokio::time::sleep(if refused { REFUSED_RETRY } else { RETRY }).await;
    }
}

async fn add_route(range: &str, address: &str) -> bool {
    let line = format!("route replace {range} via {address}");
    let done = tokio::task::spawn_blocking(move || mainstay_host::network::batch(None, &[line])).await;
    match done {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(
                range,
                address,
                error = mainstay_base::error::chain(&error),
                "could not add a route to another node's pods"
            );
            false
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_of_others_is_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        write(dir.path(), "10.244.1.0/24").expect("written");
        assert!(!has_foreign(dir.path()));
        std::fs::write(dir.path().join("05-other.conf"), "{}").expect("written");
        assert!(has_foreign(dir.path()));
    }

    #[test]
    fn the_range_stands_in_the_bridge_configuration() {
        let range = range_of_address("10.99.0.12").expect("an IPv4 address");
        assert_eq!(range, "10.244.12.0/24");
        assert!(bridge_config(&range).contains(r#""subnet":"10.244.12.0/24""#));
    }

    #[test]
    fn other_nodes_are_neighbours_and_this_one_is_not() {
        let node: Node = serde_json::from_value(
            json!({"metadata": {"name": "b"}, "spec": {"podCIDR": "10.244.2.0/24"},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.2"}]}}),
        )
        .expect("valid");
        assert_eq!(
            neighbour(&node, "a"),
            Some(("10.244.2.0/24".into(), "10.0.0.2".into()))
        );
        assert_eq!(neighbour(&node, "b"), None);
    }
}
