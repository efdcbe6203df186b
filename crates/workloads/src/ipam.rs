//! Node IPAM: gives each node a range of pod addresses. Watches Nodes; alone writes `spec.podCIDR(s)`. Runs only when
//! the configuration names the cluster's range.

use std::collections::HashSet;
use std::sync::Arc;

use ipnet::IpNet;
use mainstay_control::{Controller, Error, EventKind, ObjectKey, Requeue, events};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::kinds::Node;

/// Prefix length of a node's range: 256 addresses, or for IPv6 a /64 as upstream.
const NODE_PREFIX_V4: u8 = 24;
const NODE_PREFIX_V6: u8 = 64;

/// Starts the controller. One key at a time: two allocations must not see the same free range.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    Controller::new("nodeipam")
        .concurrency(1)
        .wake_on(&context.caches.nodes, |change| vec![change.key.clone()])
        .run(context.stop.clone(), move |key| reconcile(context.clone(), key))
}

/// The first free range of a node within the cluster's.
fn next_free(cluster: IpNet, used: &HashSet<IpNet>) -> Option<IpNet> {
    let prefix = if matches!(cluster, IpNet::V4(_)) {
        NODE_PREFIX_V4
    } else {
        NODE_PREFIX_V6
    };
    let overlaps = |range: &IpNet| {
        used.iter()
            .any(|held| held.contains(range) || range.contains(held))
    };
    cluster
        .subnets(prefix.max(cluster.prefix_len()))
        .ok()?
        .find(|range| !used.contains(range) && !overlaps(range))
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let Some(cluster) = context.config.pod_cidr else {
        return Ok(Requeue::Never);
    };
    let Some(node) = context.caches.nodes.get(&key) else {
        return Ok(Requeue::Never);
    };
    if node.spec.pod_cidr.is_some() || node.metadata.deletion_timestamp.is_some() {
        return Ok(Requeue::Never);
    }
    let held = context.caches.nodes.list();
    let used = held
        .iter()
        .filter_map(|node| node.spec.pod_cidr.as_ref()?.parse().ok())
        .collect();
    let Some(range) = next_free(cluster, &used) else {
        let message = format!("Node {key} status is now: CIDRNotAvailable");
        context.events.record(
            events::reference(&*node),
            EventKind::Normal,
            "CIDRNotAvailable",
            message,
        );
        return Err(Error::Waiting {
            what: format!("a free range in {cluster}"),
        });
    };
    let range = range.to_string();
    let patch = json!({
        "metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"podCIDR": range, "podCIDRs": [range]},
    });
    context.patch::<Node>(&key, None, patch).await?;
    context
        .caches
        .nodes
        .settle(|nodes| nodes.get(&key).is_none_or(|node| node.spec.pod_cidr.is_some()))
        .await;
    Ok(Requeue::Never)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_given_out_once_until_none_is_left() {
        let net = |text: &str| text.parse::<IpNet>().expect("a range");
        let used = HashSet::from([net("10.244.0.0/24"), net("10.244.1.0/25")]);
        assert_eq!(next_free(net("10.244.0.0/22"), &used), Some(net("10.244.2.0/24")));
        assert_eq!(next_free(net("10.244.0.0/23"), &used), None);
    }
}
