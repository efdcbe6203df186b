//! What the page shows, as plain data made from objects: data centre → racks → hosts with the machine on each.

use std::collections::BTreeMap;

use kube::ResourceExt;
use mainstay_api::{ComputeNode, DataCenter, Host, NodePool, Rack, Zone};

/// One place in a rack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostView {
    /// The Host's name.
    pub name: String,
    /// Its SKU.
    pub sku: String,
    /// Its life-cycle state.
    pub state: String,
    /// The ComputeNode on it, if any.
    pub machine: String,
    /// Whether it is as it should be.
    pub well: bool,
}

/// One rack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RackView {
    /// Its name.
    pub name: String,
    /// Its zone.
    pub zone: String,
    /// From the lowest unit up.
    pub hosts: Vec<HostView>,
}

/// One data centre.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceView {
    /// Its name.
    pub name: String,
    /// By name.
    pub racks: Vec<RackView>,
}

/// The whole page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// By name.
    pub places: Vec<PlaceView>,
    /// A line per pool: name, ready, wanted.
    pub pools: Vec<(String, i32, i32)>,
}

/// Everything the page is made from.
#[derive(Debug, Default)]
pub struct Objects {
    /// Data centres.
    pub centers: Vec<DataCenter>,
    /// Zones.
    pub zones: Vec<Zone>,
    /// Racks.
    pub racks: Vec<Rack>,
    /// Hosts.
    pub hosts: Vec<Host>,
    /// Machines.
    pub machines: Vec<ComputeNode>,
    /// Pools.
    pub pools: Vec<NodePool>,
}

/// Makes the page's data.
pub fn view(objects: &Objects) -> View {
    let center_of: BTreeMap<String, String> = objects
        .zones
        .iter()
        .map(|zone| (zone.name_any(), zone.spec.data_center.clone()))
        .collect();
    let mut places: BTreeMap<String, Vec<RackView>> = objects
        .centers
        .iter()
        .map(|center| (center.name_any(), Vec::new()))
        .collect();
    for rack in &objects.racks {
        let center = center_of
            .get(&rack.spec.zone)
            .cloned()
            .unwrap_or_else(|| "unknown data centre".into());
        places.entry(center).or_default().push(rack_view(rack, objects));
    }
    let places = places.into_iter().map(|(name, mut racks)| {
        racks.sort_by(|a, b| a.name.cmp(&b.name));
        PlaceView { name, racks }
    });
    let mut pools: Vec<_> = objects.pools.iter().map(pool_line).collect();
    pools.sort();
    View {
        places: places.collect(),
        pools,
    }
}

fn pool_line(pool: &NodePool) -> (String, i32, i32) {
    let ready = pool.status.as_ref().map_or(0, |status| status.ready_replicas);
    (pool.name_any(), ready, pool.spec.replicas.unwrap_or(0))
}

fn rack_view(rack: &Rack, objects: &Objects) -> RackView {
    let mut hosts: Vec<&Host> = objects
        .hosts
        .iter()
        .filter(|host| host.spec.rack == rack.name_any())
        .collect();
    hosts.sort_by_key(|host| (host.spec.unit, host.name_any()));
    let hosts = hosts
        .into_iter()
        .map(|host| host_view(host, &objects.machines))
        .collect();
    RackView {
        name: rack.name_any(),
        zone: rack.spec.zone.clone(),
        hosts,
    }
}

fn host_view(host: &Host, machines: &[ComputeNode]) -> HostView {
    let status = host.status.clone().unwrap_or_default();
    let machine = status
        .consumer_ref
        .map(|consumer| consumer.name)
        .unwrap_or_default();
    let object = machines.iter().find(|node| node.name_any() == machine);
    let broken = |node: &ComputeNode| {
        let conditions = node.status.iter().flat_map(|status| &status.conditions);
        conditions
            .filter(|condition| condition.type_ != "Provisioned")
            .any(|condition| condition.status == "False")
    };
    let state = format!("{:?}", status.state);
    let well = state != "BreakFix" && !object.is_some_and(broken);
    HostView {
        name: host.name_any(),
        sku: host.spec.sku.clone(),
        state,
        machine,
        well,
    }
}
