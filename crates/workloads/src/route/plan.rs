//! The decision: which routes are missing, which lead nowhere, and what the nodes are told.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;

use super::Route;
use crate::kinds::{Condition, Node, NodeAddress, condition as find};
use crate::pods::{set_condition, whole_seconds};

const KIND: &str = "NetworkUnavailable";

/// What the decision is made from.
pub(super) struct Seen<'a> {
    pub nodes: &'a [Arc<Node>],
    pub held: &'a [Route],
    pub cluster: IpNet,
    pub provider: &'a str,
}

/// First removes, then adds.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub remove: Vec<Route>,
    pub add: Vec<(String, Route)>,
    /// The nodes that have routes when all this is done.
    pub routed: BTreeSet<Option<String>>,
}

/// What of a node the routes depend on.
pub(super) fn facts(node: &Node) -> (&[String], &[NodeAddress], bool, bool) {
    (
        &node.spec.pod_cidrs,
        &node.status.addresses,
        node.metadata.deletion_timestamp.is_some(),
        find(&node.status.conditions, KIND).is_some_and(|condition| condition.status == "False"),
    )
}

fn wanted(node: &Node, provider: &str) -> Vec<Route> {
    let own = node
        .spec
        .provider_id
        .strip_prefix("mainstay://")
        .and_then(|rest| rest.split('/').next())
        == Some(provider);
    if !own {
        return Vec::new();
    }
    let internal = node
        .status
        .addresses
        .iter()
        .filter(|address| address.kind == "InternalIP");
    let addresses: Vec<IpAddr> = internal
        .filter_map(|address| address.address.parse().ok())
        .collect();
    let of_family = |range: IpNet| {
        let via = addresses
            .iter()
            .find(|via| via.is_ipv4() == range.addr().is_ipv4());
        via.map(|via| Route { range, via: *via })
    };
    let ranges = node.spec.pod_cidrs.iter().filter_map(|text| text.parse().ok());
    ranges.filter_map(of_family).collect()
}

pub(super) fn plan(seen: &Seen<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut all: Vec<Route> = Vec::new();
    for node in seen.nodes {
        let routes = wanted(node, seen.provider);
        if routes.is_empty() {
            continue;
        }
        let name = node.metadata.name.clone();
        let missing = routes.iter().filter(|route| !seen.held.contains(route));
        plan.add
            .extend(missing.map(|route| (name.clone().unwrap_or_default(), *route)));
        plan.routed.insert(name);
        all.extend(routes);
    }
    // Other clusters' routes are in the same table; only what lies in this one's range is ours to judge.
    let stale = |route: &&Route| seen.cluster.contains(&route.range) && !all.contains(route);
    plan.remove = seen.held.iter().filter(stale).copied().collect();
    plan
}

/// The node's conditions with NetworkUnavailable as it is; none when it says so already. Reasons as upstream's.
pub(super) fn condition(node: &Node, problem: Option<&str>, now: Timestamp) -> Option<Vec<Condition>> {
    let (status, reason, message) = match problem {
        None => (
            "False",
            "RouteCreated",
            "RouteController created a route".to_string(),
        ),
        Some(problem) => (
            "True",
            "NoRouteCreated",
            format!("RouteController failed to create a route: {problem}"),
        ),
    };
    let same = |known: &Condition| known.status == status && known.message.as_deref() == Some(&message);
    if find(&node.status.conditions, KIND).is_some_and(same) {
        return None;
    }
    let new = Condition {
        kind: KIND.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.clone()),
        last_heartbeat_time: Some(whole_seconds(now)),
        ..Condition::default()
    };
    let mut conditions = node.status.conditions.clone();
    set_condition(&mut conditions, new, now);
    Some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, decoded};
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn node(name: &str, provider: &str, range: &str, address: &str) -> Arc<Node> {
        Arc::new(decoded(json!({
            "metadata": {"name": name},
            "spec": {"providerID": format!("mainstay://{provider}/default/{name}"), "podCIDR": range, "podCIDRs": [range]},
            "status": {"addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]},
        })))
    }

    fn route(range: &str, via: &str) -> Route {
        Route {
            range: range.parse().expect("a range"),
            via: via.parse().expect("an address"),
        }
    }

    fn check(nodes: &[Arc<Node>], held: &[Route], expected: Expect) {
        let plan = plan(&Seen {
            nodes,
            held,
            cluster: "10.244.0.0/16".parse().expect("a range"),
            provider: "local",
        });
        let removed = plan
            .remove
            .iter()
            .map(|route| format!("remove {} via {}", route.range, route.via));
        let added = plan
            .add
            .iter()
            .map(|(node, route)| format!("add {} via {} for {node}", route.range, route.via));
        expected.assert_eq(&removed.chain(added).collect::<Vec<_>>().join("; "));
    }

    #[test]
    fn every_node_of_the_provider_gets_a_route_to_its_pods() {
        let nodes = [
            node("a", "local", "10.244.0.0/24", "10.89.0.2"),
            node("b", "local", "10.244.1.0/24", "10.89.0.3"),
            node("c", "metal", "10.244.2.0/24", "10.20.0.3"),
        ];
        check(
            &nodes,
            &[route("10.244.0.0/24", "10.89.0.2")],
            expect!["add 10.244.1.0/24 via 10.89.0.3 for b"],
        );
    }

    #[test]
    fn a_range_that_moved_leaves_its_old_route_first_and_other_clusters_keep_theirs() {
        let nodes = [node("a", "local", "10.244.0.0/24", "10.89.0.7")];
        let held = [
            route("10.244.0.0/24", "10.89.0.2"),
            route("10.250.0.0/24", "10.89.0.9"),
            route("10.244.9.0/24", "10.89.0.8"),
        ];
        check(
            &nodes,
            &held,
            expect![
                "remove 10.244.0.0/24 via 10.89.0.2; remove 10.244.9.0/24 via 10.89.0.8; add 10.244.0.0/24 via 10.89.0.7 for a"
            ],
        );
    }

    #[test]
    fn a_node_without_range_or_address_waits() {
        let mut bare = (*node("a", "local", "10.244.0.0/24", "10.89.0.2")).clone();
        bare.spec.pod_cidrs.clear();
        check(
            &[
                Arc::new(bare),
                node("b", "local", "10.244.1.0/24", "not an address"),
            ],
            &[],
            expect![""],
        );
    }

    #[test]
    fn the_condition_changes_with_what_happened_and_only_then() {
        let mut node = (*node("a", "local", "10.244.0.0/24", "10.89.0.2")).clone();
        let good = condition(&node, None, at(9)).expect("it is new");
        assert_eq!(
            (good[0].status.as_str(), good[0].reason.as_deref()),
            ("False", Some("RouteCreated"))
        );
        node.status.conditions = good;
        assert_eq!(condition(&node, None, at(10)), None);
        let bad = condition(&node, Some("File exists"), at(11)).expect("it changed");
        assert_eq!(
            (bad[0].status.as_str(), bad[0].message.as_deref()),
            (
                "True",
                Some("RouteController failed to create a route: File exists")
            )
        );
    }
}
