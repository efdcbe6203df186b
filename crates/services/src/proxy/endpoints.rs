//! Which endpoints a Service's port has, as this node sees them.
//! Rules: <https://kubernetes.io/docs/reference/networking/virtual-ips/>.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::model::{Endpoint, EndpointSlice, ServicePort};

/// An endpoint's address and port.
pub(super) type Target = (Ipv4Addr, u16);

/// The endpoints to choose from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Endpoints {
    /// Wherever they run.
    pub cluster: Vec<Target>,
    /// Those on this node.
    pub local: Vec<Target>,
}

/// One endpoint's standing.
#[derive(Clone, Copy)]
struct Standing {
    ready: bool,
    leaving: bool,
    local: bool,
}

/// Collects the endpoints of a port; each address once, in order.
pub(super) fn of_port(slices: &[&EndpointSlice], port: &ServicePort, node: &str) -> Endpoints {
    let mut found: BTreeMap<Target, Standing> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let served = slice.ports.iter().flatten().find(|served| served.serves(port));
        let Some(number) = served.and_then(|served| served.port) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            if let Some((address, standing)) = standing(endpoint, node) {
                let known = found.entry((address, number)).or_insert(standing);
                // While a pod moves between slices it may stand in two of them: the better word counts.
                known.ready |= standing.ready;
            }
        }
    }
    Endpoints {
        cluster: usable(&found, |_| true),
        local: usable(&found, |standing| standing.local),
    }
}

fn standing(endpoint: &Endpoint, node: &str) -> Option<(Ipv4Addr, Standing)> {
    let address = endpoint.addresses.first()?.parse().ok()?;
    let standing = Standing {
        ready: endpoint.conditions.is_ready(),
        leaving: endpoint.conditions.is_leaving(),
        local: endpoint.node_name.as_deref() == Some(node),
    };
    Some((address, standing))
}

/// The ready ones; while there are none, those that are about to end and still answer.
fn usable(found: &BTreeMap<Target, Standing>, keep: impl Fn(&Standing) -> bool) -> Vec<Target> {
    let those = |wanted: fn(&Standing) -> bool| -> Vec<Target> {
        found
            .iter()
            .filter(|(_, standing)| keep(standing) && wanted(standing))
            .map(|(target, _)| *target)
            .collect()
    };
    let ready = those(|standing| standing.ready);
    if ready.is_empty() {
        those(|standing| standing.leaving)
    } else {
        ready
    }
}
