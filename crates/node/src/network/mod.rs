//! The pods' network on this machine: the runtime's configuration from the node's range and, on clusters whose nodes make
//! the network themselves, Services and names. A configuration that somebody else put there is left alone. Routes to
//! other nodes' pods are the machines' network's business (docs/design/0003).

mod names;
mod services;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use mainstay_host::network::{set_sysctl, sysctl};
use serde_json::json;

use crate::context::Shared;

/// Our configuration's file name.
const FILE: &str = "10-mainstay.conflist";
/// How often the node's range is asked for until it is there.
const ASK: Duration = Duration::from_millis(500);
/// How often it is asked for before one is made up from the node's address.
const PATIENCE: u32 = 20;
/// Lets packets of pods through.
const FORWARDING: &str = "net.ipv4.ip_forward";

/// The runtime's network configuration for a range: each pod on a link of its own, everything routed. A bridge would pass
/// answers between two pods of one node past the packet filter, which must undo a Service's translation in them.
pub fn configuration(range: &str, masquerade: bool) -> String {
    json!({
        "cniVersion": "0.4.0", "name": "mainstay",
        "plugins": [
            {"type": "ptp", "ipMasq": masquerade,
             "ipam": {"type": "host-local", "ranges": [[{"subnet": range}]], "routes": [{"dst": "0.0.0.0/0"}]}},
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

fn write(dir: &Path, configuration: &str) -> std::io::Result<()> {
    let file = dir.join(FILE);
    if std::fs::read_to_string(&file).is_ok_and(|text| text == configuration) {
        return Ok(());
    }
    std::fs::create_dir_all(dir)?;
    let temporary = dir.join(".mainstay.new");
    std::fs::write(&temporary, configuration)?;
    std::fs::rename(&temporary, &file)
}

/// Keeps the network for as long as the agent runs.
pub async fn keep(shared: Arc<Shared>) {
    let Some(dir) = shared.settings.dirs.cni.clone() else {
        return;
    };
    let network = shared.settings.join.network.clone();
    let foreign = has_foreign(&dir);
    if foreign && network.is_none() {
        return;
    }
    let Some(range) = range(&shared).await else {
        tracing::error!("no range of pod addresses can be found: pods get no network");
        return;
    };
    let Some(network) = network else {
        return configure(&shared, &dir, &configuration(&range, true));
    };
    let names = tokio::sync::watch::Sender::new(None);
    let readers = names.subscribe();
    if !foreign {
        // What leaves the cluster gets the node's address by the same rules that translate Services.
        configure(&shared, &dir, &configuration(&range, false));
    }
    tokio::join!(
        services::keep(&shared, &network, &range, names),
        names::keep(&shared, &network, readers),
    );
}

fn configure(shared: &Shared, dir: &Path, configuration: &str) {
    if sysctl(FORWARDING).is_ok_and(|value| value != "1")
        && let Err(error) = set_sysctl(FORWARDING, "1")
    {
        tracing::error!(
            error = mainstay_base::error::chain(&error),
            "the kernel forwards no packets: pods reach nothing"
        );
    }
    match write(dir, configuration) {
        Ok(()) => shared.status_wanted.notify_one(),
        Err(error) => tracing::error!(%error, "could not write the runtime's network configuration"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_of_others_is_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        write(dir.path(), &configuration("10.244.1.0/24", true)).expect("written");
        assert!(!has_foreign(dir.path()));
        std::fs::write(dir.path().join("05-other.conf"), "{}").expect("written");
        assert!(has_foreign(dir.path()));
    }

    #[test]
    fn the_range_stands_in_the_configuration() {
        let range = range_of_address("10.99.0.12").expect("an IPv4 address");
        assert_eq!(range, "10.244.12.0/24");
        let text = configuration(&range, false);
        assert!(
            text.contains(r#""subnet":"10.244.12.0/24""#) && text.contains(r#""ipMasq":false"#),
            "{text}"
        );
    }
}
