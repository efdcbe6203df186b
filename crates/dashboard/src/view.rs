//! What the page shows, as plain data made from objects: the verdict, what automation does, what is spare, and
//! data centre → racks → hosts with the machine on each. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use mainstay_api::conditions::is_bad;
use mainstay_api::repair::RepairState;
use mainstay_api::{
    BreakFixTicket, ClusterDeployment, ComputeNode, DataCenter, Host, HostState, NodePool, OSImage, Rack,
    Repair, SKU_LABEL, Zone,
};
use mainstay_semantics::selector::{LabelSelector, Selector};
use serde::Serialize;

/// How something is, in the order of urgency.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Mark {
    /// As it should be.
    #[default]
    Well,
    /// Something is under way.
    Busy,
    /// Not as it should be.
    Bad,
}

/// One place in a rack.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostView {
    /// The Host's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its SKU.
    pub sku: String,
    /// Lowest rack unit; 0 when unknown.
    pub unit: u16,
    /// Its life-cycle state.
    pub state: String,
    /// Its power as last read back.
    pub power: String,
    /// The ComputeNode on it, if any.
    pub machine: String,
    /// What is wrong or under way, a line each.
    pub notes: Vec<String>,
    /// How it is.
    pub mark: Mark,
}

/// One rack.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RackView {
    /// Its name.
    pub name: String,
    /// Its zone.
    pub zone: String,
    /// Hosts that are not well.
    pub bad: usize,
    /// From the lowest unit up.
    pub hosts: Vec<HostView>,
}

/// One data centre.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PlaceView {
    /// Its name.
    pub name: String,
    /// By name.
    pub racks: Vec<RackView>,
}

/// One pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PoolView {
    /// Its name.
    pub name: String,
    /// Nodes that are ready.
    pub ready: i32,
    /// Nodes that are wanted.
    pub wanted: i32,
    /// The autoscaler's range.
    pub range: Option<(i32, i32)>,
    /// Free hosts that fit it.
    pub spare: usize,
}

/// One cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ClusterView {
    /// Its name.
    pub name: String,
    /// Its phase.
    pub phase: String,
    /// The version it serves.
    pub version: String,
}

/// Something that automation does, or refuses to do, or waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Doing {
    /// About what.
    pub object: String,
    /// What.
    pub what: String,
    /// Since when; empty where nobody noted it.
    pub since: String,
}

/// The whole page.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct View {
    /// How everything is together.
    pub mark: Mark,
    /// Since when the first of what is bad now is bad.
    pub since: String,
    /// Hosts that are not well, of all.
    pub bad_hosts: (usize, usize),
    /// Repairs, rollouts, tasks, composes.
    pub doing: Vec<Doing>,
    /// Tickets that wait for people.
    pub tickets: Vec<Doing>,
    /// By name.
    pub clusters: Vec<ClusterView>,
    /// By name.
    pub pools: Vec<PoolView>,
    /// By name.
    pub places: Vec<PlaceView>,
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
    /// Clusters.
    pub clusters: Vec<ClusterDeployment>,
    /// Images.
    pub images: Vec<OSImage>,
    /// Repairs.
    pub repairs: Vec<Repair>,
    /// Tickets.
    pub tickets: Vec<BreakFixTicket>,
}

/// Makes the page's data.
pub fn view(objects: &Objects) -> View {
    let places = places(objects);
    let hosts = || {
        places
            .iter()
            .flat_map(|place| &place.racks)
            .flat_map(|rack| &rack.hosts)
    };
    let bad = hosts().filter(|host| host.mark == Mark::Bad).count();
    let pools = pools(objects);
    let (doing, tickets) = (doing(objects), tickets(objects));
    let short = pools.iter().any(|pool| pool.ready < pool.wanted);
    let mark = match (bad > 0 || !tickets.is_empty(), short || !doing.is_empty()) {
        (true, _) => Mark::Bad,
        (false, true) => Mark::Busy,
        (false, false) => Mark::Well,
    };
    View {
        mark,
        since: if mark == Mark::Bad {
            since(objects)
        } else {
            String::new()
        },
        bad_hosts: (bad, hosts().count()),
        doing,
        tickets,
        clusters: clusters(objects),
        pools,
        places,
    }
}

fn at(time: Option<&Time>) -> String {
    time.map(|time| time.0.to_string()).unwrap_or_default()
}

/// When the first of what is bad now turned bad.
fn since(objects: &Objects) -> String {
    let machines = objects.machines.iter().flat_map(|node| &node.status);
    let hosts = objects.hosts.iter().flat_map(|host| &host.status);
    let conditions = machines
        .flat_map(|status| &status.conditions)
        .chain(hosts.flat_map(|status| &status.conditions))
        .filter(|condition| is_bad(&condition.type_, &condition.status))
        .map(|condition| condition.last_transition_time.0);
    let opened = objects
        .tickets
        .iter()
        .filter(|ticket| open(ticket))
        .filter_map(|ticket| ticket.metadata.creation_timestamp.as_ref().map(|at| at.0));
    conditions
        .chain(opened)
        .min()
        .map(|time| time.to_string())
        .unwrap_or_default()
}

fn places(objects: &Objects) -> Vec<PlaceView> {
    let center_of: BTreeMap<String, &str> = objects
        .zones
        .iter()
        .map(|zone| (zone.name_any(), zone.spec.data_center.as_str()))
        .collect();
    let mut places: BTreeMap<String, Vec<RackView>> = objects
        .centers
        .iter()
        .map(|center| (center.name_any(), Vec::new()))
        .collect();
    for rack in &objects.racks {
        let center = center_of
            .get(&rack.spec.zone)
            .copied()
            .unwrap_or("unknown data centre");
        places
            .entry(center.into())
            .or_default()
            .push(rack_view(rack, objects));
    }
    let sorted = |(name, mut racks): (String, Vec<RackView>)| {
        racks.sort_by(|a, b| a.name.cmp(&b.name));
        PlaceView { name, racks }
    };
    places.into_iter().map(sorted).collect()
}

fn rack_view(rack: &Rack, objects: &Objects) -> RackView {
    let mut hosts: Vec<HostView> = objects
        .hosts
        .iter()
        .filter(|host| host.spec.rack == rack.name_any())
        .map(|host| host_view(host, &objects.machines))
        .collect();
    hosts.sort_by(|a, b| (a.unit, &a.name).cmp(&(b.unit, &b.name)));
    RackView {
        name: rack.name_any(),
        zone: rack.spec.zone.clone(),
        bad: hosts.iter().filter(|host| host.mark == Mark::Bad).count(),
        hosts,
    }
}

fn host_view(host: &Host, machines: &[ComputeNode]) -> HostView {
    let status = host.status.clone().unwrap_or_default();
    let machine = status
        .consumer_ref
        .as_ref()
        .map(|consumer| consumer.name.clone())
        .unwrap_or_default();
    let running = machines
        .iter()
        .find(|node| node.name_any() == machine && node.namespace() == host.namespace())
        .and_then(|node| node.status.as_ref());
    let mut notes: Vec<String> = status.conditions.iter().filter_map(note).collect();
    notes.extend(
        running
            .into_iter()
            .flat_map(|status| &status.conditions)
            .filter_map(note),
    );
    let task = running
        .and_then(|status| status.task.as_ref())
        .or(status.last_task.as_ref());
    let changing = matches!(
        status.state,
        HostState::Registering | HostState::Inspecting | HostState::Provisioning | HostState::Deprovisioning
    );
    if changing && let Some(task) = task {
        notes.push(format!("{} since {}", task.step, at(Some(&task.started_at))));
    }
    if host.spec.maintenance {
        notes.push("in maintenance: nothing automatic happens".into());
    }
    let mark = match status.state {
        HostState::BreakFix => Mark::Bad,
        _ if host.spec.maintenance || changing => Mark::Busy,
        HostState::Provisioned if !notes.is_empty() => Mark::Bad,
        _ => Mark::Well,
    };
    HostView {
        name: host.name_any(),
        namespace: host.namespace().unwrap_or_default(),
        sku: host.spec.sku.clone(),
        unit: host.spec.unit,
        state: format!("{:?}", status.state),
        power: format!("{:?}", status.power_state),
        machine,
        notes,
        mark,
    }
}

fn note(condition: &Condition) -> Option<String> {
    is_bad(&condition.type_, &condition.status).then(|| {
        format!(
            "{} is {} since {}: {} ({})",
            condition.type_,
            condition.status,
            condition.last_transition_time.0,
            condition.message,
            condition.reason
        )
    })
}

fn pools(objects: &Objects) -> Vec<PoolView> {
    let mut pools: Vec<PoolView> = objects
        .pools
        .iter()
        .map(|pool| pool_view(pool, &objects.hosts))
        .collect();
    pools.sort_by(|a, b| a.name.cmp(&b.name));
    pools
}

fn pool_view(pool: &NodePool, hosts: &[Host]) -> PoolView {
    let selector = serde_json::to_value(&pool.spec.sku_selector).unwrap_or_default();
    let selector = LabelSelector::from_json(&selector).unwrap_or_else(|_| Selector::nothing());
    let free = |host: &&Host| {
        let mut labels = host.labels().clone();
        labels.insert(SKU_LABEL.into(), host.spec.sku.clone());
        let state = host.status.as_ref().map(|status| status.state);
        state == Some(HostState::Available)
            && host.namespace() == pool.namespace()
            && !host.spec.maintenance
            && !host.spec.unmanaged
            && (host.spec.provider.is_empty() || host.spec.provider == pool.spec.provider)
            && host
                .spec
                .reserved_for
                .as_ref()
                .is_none_or(|of| *of == pool.name_any())
            && selector.matches(&labels)
    };
    PoolView {
        name: pool.name_any(),
        ready: pool.status.as_ref().map_or(0, |status| status.ready_replicas),
        wanted: pool.spec.replicas.unwrap_or(0),
        range: pool.spec.autoscaling.as_ref().map(|range| (range.min, range.max)),
        spare: hosts.iter().filter(free).count(),
    }
}

fn clusters(objects: &Objects) -> Vec<ClusterView> {
    let mut clusters: Vec<ClusterView> = objects
        .clusters
        .iter()
        .map(|cluster| {
            let status = cluster.status.clone().unwrap_or_default();
            ClusterView {
                name: cluster.name_any(),
                phase: status.phase,
                version: status.version,
            }
        })
        .collect();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    clusters
}

fn open(ticket: &BreakFixTicket) -> bool {
    ticket
        .status
        .as_ref()
        .is_none_or(|status| status.state != "Closed")
}

fn tickets(objects: &Objects) -> Vec<Doing> {
    let open = objects.tickets.iter().filter(|ticket| open(ticket));
    let mut tickets: Vec<Doing> = open
        .map(|ticket| Doing {
            object: format!("host/{}", ticket.spec.host_ref.name),
            what: ticket.spec.summary.clone(),
            since: at(ticket.metadata.creation_timestamp.as_ref()),
        })
        .collect();
    tickets.sort_by(|a, b| a.since.cmp(&b.since));
    tickets
}

fn doing(objects: &Objects) -> Vec<Doing> {
    let mut all: Vec<Doing> = objects.repairs.iter().filter_map(repair).collect();
    all.extend(objects.pools.iter().filter_map(rollout));
    all.extend(objects.images.iter().filter_map(compose));
    all.sort_by(|a, b| a.object.cmp(&b.object));
    all
}

fn repair(repair: &Repair) -> Option<Doing> {
    let status = repair.status.clone().unwrap_or_default();
    let over = matches!(
        status.state,
        RepairState::Healthy | RepairState::Cancelled | RepairState::Probation | RepairState::Ticketed
    );
    if over {
        return None;
    }
    let fault = &repair.spec.fault.kind;
    let mut what = format!(
        "{:?} because of {fault} (step {} of the ladder, attempt {})",
        status.state,
        status.rung + 1,
        status.attempt.max(1)
    );
    if let Some(waiting) = &status.waiting_for {
        what += &format!("; held back by {}", waiting.gate);
        if let Some(look) = &waiting.next_look {
            what += &format!(", next look {}", look.0);
        }
    }
    Some(Doing {
        object: format!("host/{}", repair.spec.host_ref.name),
        what,
        since: at(status.since.as_ref()),
    })
}

fn rollout(pool: &NodePool) -> Option<Doing> {
    let rollout = pool.status.as_ref()?.rollout.as_ref()?;
    let mut what = format!("rollout, wave {} of {}", rollout.wave, rollout.of);
    if !rollout.blocked_by.is_empty() {
        what += &format!("; waits: {}", rollout.blocked_by);
    }
    Some(Doing {
        object: format!("pool/{}", pool.name_any()),
        what,
        since: String::new(),
    })
}

fn compose(image: &OSImage) -> Option<Doing> {
    let status = image.status.as_ref();
    if status.is_some_and(|status| !status.commit.is_empty()) {
        return None;
    }
    let problem = status
        .into_iter()
        .flat_map(|status| &status.conditions)
        .find_map(note);
    Some(Doing {
        object: format!("image/{}", image.name_any()),
        what: problem.unwrap_or_else(|| "is being composed".into()),
        since: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn of<K: serde::de::DeserializeOwned>(kind: &str, name: &str, rest: Value) -> K {
        let mut object = rest;
        let version = if kind == "Machine" {
            "cluster.x-k8s.io/v1beta2"
        } else {
            "mainstay.dev/v1alpha1"
        };
        object["apiVersion"] = version.into();
        object["kind"] = kind.into();
        object["metadata"]["name"] = name.into();
        serde_json::from_value(object).unwrap_or_else(|error| panic!("{kind} {name}: {error}"))
    }

    fn host(name: &str, unit: u16, status: Value) -> Host {
        let spec = json!({"rack": "r1", "unit": unit, "sku": "small", "provider": "local"});
        of("Host", name, json!({"spec": spec, "status": status}))
    }

    fn fleet() -> Objects {
        let consumer = json!({"kind": "ComputeNode", "name": "demo-a-1"});
        Objects {
            centers: vec![of("DataCenter", "desk", json!({"spec": {"region": "home"}}))],
            zones: vec![of("Zone", "z1", json!({"spec": {"dataCenter": "desk"}}))],
            racks: vec![of("Rack", "r1", json!({"spec": {"zone": "z1"}}))],
            hosts: vec![
                host("h2", 2, json!({"state": "Available", "powerState": "Off"})),
                host(
                    "h1",
                    1,
                    json!({"state": "Provisioned", "powerState": "On", "consumerRef": consumer}),
                ),
            ],
            machines: vec![of("ComputeNode", "demo-a-1", json!({"spec": {}, "status": {}}))],
            pools: vec![of(
                "NodePool",
                "demo-a",
                json!({
                    "spec": {"replicas": 1, "autoscaling": {"min": 1, "max": 2}, "imageRef": {"name": "node"}},
                    "status": {"readyReplicas": 1},
                }),
            )],
            ..Objects::default()
        }
    }

    fn check(objects: &Objects, want: Expect) {
        let view = view(objects);
        let mut text = format!("{:?} {} {:?}\n", view.mark, view.since, view.bad_hosts);
        for one in view.doing.iter().chain(&view.tickets) {
            text += &format!("{}: {} [{}]\n", one.object, one.what, one.since);
        }
        for pool in &view.pools {
            text += &format!(
                "{} {}/{} {:?} spare {}\n",
                pool.name, pool.ready, pool.wanted, pool.range, pool.spare
            );
        }
        for host in view.places.iter().flat_map(|p| &p.racks).flat_map(|r| &r.hosts) {
            text += &format!(
                "{} {:?} {} {} {:?}\n",
                host.name, host.mark, host.state, host.machine, host.notes
            );
        }
        want.assert_eq(&text);
    }

    #[test]
    fn a_fleet_that_is_well() {
        check(
            &fleet(),
            expect![[r#"
            Well  (0, 2)
            demo-a 1/1 Some((1, 2)) spare 1
            h1 Well Provisioned demo-a-1 []
            h2 Well Available  []
        "#]],
        );
    }

    #[test]
    fn a_silent_machine_is_seen_with_since_and_what_the_repair_does() {
        let mut objects = fleet();
        let probe = json!({
            "type": "ComputeNodeProbePassed", "status": "False", "reason": "ProbeFailed", "message": "no answer",
            "lastTransitionTime": "2026-01-01T03:02:20Z",
        });
        objects.machines = vec![of(
            "ComputeNode",
            "demo-a-1",
            json!({"spec": {}, "status": {"conditions": [probe]}}),
        )];
        objects.repairs = vec![of(
            "Repair",
            "r",
            json!({
                "spec": {"hostRef": {"name": "h1"}, "fault": {"source": "Probe", "type": "ComputeNodeProbePassed"}},
                "status": {"state": "Waiting", "since": "2026-01-01T03:03:00Z", "waitingFor": {"gate": "breaker"}},
            }),
        )];
        check(
            &objects,
            expect![[r#"
            Bad 2026-01-01T03:02:20Z (1, 2)
            host/h1: Waiting because of ComputeNodeProbePassed (step 1 of the ladder, attempt 1); held back by breaker [2026-01-01T03:03:00Z]
            demo-a 1/1 Some((1, 2)) spare 1
            h1 Bad Provisioned demo-a-1 ["ComputeNodeProbePassed is False since 2026-01-01T03:02:20Z: no answer (ProbeFailed)"]
            h2 Well Available  []
        "#]],
        );
    }

    #[test]
    fn work_under_way_is_no_fault() {
        let mut objects = fleet();
        objects.hosts[0] = host("h2", 2, json!({"state": "Provisioning"}));
        objects.images = vec![of("OSImage", "node", json!({"spec": {}}))];
        check(
            &objects,
            expect![[r#"
            Busy  (0, 2)
            image/node: is being composed []
            demo-a 1/1 Some((1, 2)) spare 0
            h1 Well Provisioned demo-a-1 []
            h2 Busy Provisioning  []
        "#]],
        );
    }

    #[test]
    fn a_ticket_waits_for_a_person() {
        let mut objects = fleet();
        objects.hosts[0] = host("h2", 2, json!({"state": "BreakFix"}));
        objects.tickets = vec![of(
            "BreakFixTicket",
            "t",
            json!({
                "metadata": {"creationTimestamp": "2026-01-01T05:00:00Z"},
                "spec": {"hostRef": {"name": "h2"}, "summary": "disk array lost"},
            }),
        )];
        check(
            &objects,
            expect![[r#"
            Bad 2026-01-01T05:00:00Z (1, 2)
            host/h2: disk array lost [2026-01-01T05:00:00Z]
            demo-a 1/1 Some((1, 2)) spare 0
            h1 Well Provisioned demo-a-1 []
            h2 Bad BreakFix  []
        "#]],
        );
    }
}
