//! Chooses the host for a machine: one that fits, in the failure domain with fewest machines of the same pool.

use std::collections::BTreeMap;

use kube::ResourceExt;
use mainstay_api::{ComputeNode, Host, HostState, POOL_LABEL, SKU_LABEL};
use mainstay_machines::objects::selector;

/// Everything the choice depends on.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Hosts of the namespace.
    pub hosts: Vec<Host>,
    /// Rack name → zone name.
    pub zones: BTreeMap<String, String>,
    /// Machines that have a host.
    pub placed: Vec<ComputeNode>,
}

/// The domain of a host, as `zone/rack`.
pub fn domain(host: &Host, zones: &BTreeMap<String, String>) -> String {
    format!(
        "{}/{}",
        zones.get(&host.spec.rack).map_or("", String::as_str),
        host.spec.rack
    )
}

fn pool_of(node: &ComputeNode) -> Option<&String> {
    node.labels().get(POOL_LABEL)
}

/// Tells whether a host may become this machine now.
fn usable(host: &Host, node: &ComputeNode, zones: &BTreeMap<String, String>) -> bool {
    let status = host.status.clone().unwrap_or_default();
    let mut labels = host.labels().clone();
    labels.insert(SKU_LABEL.into(), host.spec.sku.clone());
    let zone_ok = node.spec.zones.is_empty()
        || zones
            .get(&host.spec.rack)
            .is_some_and(|zone| node.spec.zones.contains(zone));
    status.state == HostState::Available
        && status.consumer_ref.is_none()
        && host.metadata.deletion_timestamp.is_none()
        && !host.spec.maintenance
        && !host.spec.unmanaged
        && (host.spec.provider.is_empty() || host.spec.provider == node.spec.provider)
        && host
            .spec
            .reserved_for
            .as_ref()
            .is_none_or(|of| pool_of(node) == Some(of))
        && zone_ok
        && selector(&node.spec.sku_selector).matches(&labels)
}

/// Chooses a host: least used zone, then least used rack, then reserved ones first, then by name.
///
/// # Errors
/// A sentence that says why none fits.
pub fn choose<'a>(node: &ComputeNode, inventory: &'a Inventory) -> Result<&'a Host, String> {
    let peers: Vec<&str> = inventory
        .placed
        .iter()
        .filter(|other| pool_of(other) == pool_of(node) && other.name_any() != node.name_any())
        .map(|other| other.spec.failure_domain.as_str())
        .collect();
    let count = |fits: &dyn Fn(&str) -> bool| peers.iter().filter(|domain| fits(domain)).count();
    let rank = |host: &&Host| {
        let domain = domain(host, &inventory.zones);
        let zone = domain.split('/').next().unwrap_or_default().to_string();
        let in_zone = count(&|peer| peer.split('/').next() == Some(zone.as_str()));
        let in_rack = count(&|peer| peer == domain);
        (
            in_zone,
            in_rack,
            host.spec.reserved_for.is_none(),
            host.name_any(),
        )
    };
    let best = inventory
        .hosts
        .iter()
        .filter(|host| usable(host, node, &inventory.zones))
        .min_by_key(rank);
    best.ok_or_else(|| explain(node, inventory))
}

fn explain(node: &ComputeNode, inventory: &Inventory) -> String {
    let mut by_state: BTreeMap<String, usize> = BTreeMap::new();
    let wanted = selector(&node.spec.sku_selector);
    let fitting = inventory.hosts.iter().filter(|host| {
        let mut labels = host.labels().clone();
        labels.insert(SKU_LABEL.into(), host.spec.sku.clone());
        wanted.matches(&labels) && (host.spec.provider.is_empty() || host.spec.provider == node.spec.provider)
    });
    for host in fitting {
        let state = host
            .status
            .as_ref()
            .map(|status| status.state)
            .unwrap_or_default();
        *by_state.entry(format!("{state:?}")).or_default() += 1;
    }
    if by_state.is_empty() {
        let provider = &node.spec.provider;
        return format!(
            "none of {} hosts matches skuSelector {wanted} with provider {provider}",
            inventory.hosts.len()
        );
    }
    let states: Vec<String> = by_state
        .iter()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    format!("no free host: of those that match, {}", states.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_api::{ComputeNodeSpec, HostSpec, HostStatus};

    fn host(name: &str, rack: &str, state: HostState) -> Host {
        let spec = HostSpec {
            rack: rack.into(),
            sku: "small".into(),
            provider: "sim".into(),
            ..Default::default()
        };
        let mut host = Host::new(name, spec);
        host.status = Some(HostStatus {
            state,
            ..Default::default()
        });
        host
    }

    fn node(name: &str, domain: &str) -> ComputeNode {
        let spec = ComputeNodeSpec {
            provider: "sim".into(),
            failure_domain: domain.into(),
            ..Default::default()
        };
        let mut node = ComputeNode::new(name, spec);
        node.labels_mut().insert(POOL_LABEL.into(), "a".into());
        node
    }

    fn inventory(placed: Vec<ComputeNode>) -> Inventory {
        use HostState::{Available, BreakFix, Provisioned};
        let hosts = vec![
            host("h1", "r1", Available),
            host("h2", "r1", Available),
            host("h3", "r2", Available),
            host("h4", "r3", Provisioned),
            host("h5", "r3", BreakFix),
        ];
        let zones = [("r1", "z1"), ("r2", "z1"), ("r3", "z2")]
            .map(|(r, z)| (r.to_string(), z.to_string()))
            .into();
        Inventory { hosts, zones, placed }
    }

    #[test]
    fn machines_spread_over_racks() {
        let chosen = |placed| choose(&node("n", ""), &inventory(placed)).map(ResourceExt::name_any);
        assert_eq!(chosen(vec![]), Ok("h1".to_string()));
        assert_eq!(chosen(vec![node("o", "z1/r1")]), Ok("h3".to_string()));
    }

    #[test]
    fn a_refusal_counts_the_hosts_by_state() {
        let mut wanted = node("n", "");
        wanted.spec.zones = vec!["z2".into()];
        let why = choose(&wanted, &inventory(vec![])).map(ResourceExt::name_any);
        assert_eq!(
            why,
            Err("no free host: of those that match, 3 Available, 1 BreakFix, 1 Provisioned".to_string())
        );
    }
}
