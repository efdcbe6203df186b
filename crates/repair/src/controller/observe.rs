//! Gathers what is known: probe and node conditions of one machine, the health of the fleet, proof of power.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use mainstay_api::{
    ComputeNode, HostState, POOL_LABEL, Repair,
    conditions::{find, types},
    repair::{FencingProof, RepairPolicySpec, RepairState, Source},
};
use mainstay_capi::CLUSTER_NAME_LABEL;
use mainstay_control::{Error, write};
use mainstay_machines::{self as machines, context::NodeView};
use mainstay_provider::{HostId, PowerState};

use super::{Context, Seen, is_open};
use crate::{
    gates::Member,
    trigger::{Health, Observation, judge},
};

/// The machine's Node in its cluster.
pub fn node(ctx: &Context, seen: &Seen) -> Option<Arc<NodeView>> {
    let machine = seen.machine.as_ref()?;
    let watched = ctx.machines.watch(&machines::machine::cluster_key(machine))?;
    let provider_id = &seen.node.as_ref()?.spec.provider_id;
    watched
        .nodes
        .select(|node| !provider_id.is_empty() && node.spec.provider_id == *provider_id)
        .pop()
}

fn probe(node: &ComputeNode) -> Option<Observation> {
    let conditions = &node.status.as_ref()?.conditions;
    let probe = find(conditions, types::PROBE_PASSED)?;
    Some(Observation {
        source: Source::Probe,
        kind: String::new(),
        status: probe.status.clone(),
        reason: probe.reason.clone(),
        message: probe.message.clone(),
        since: probe.last_transition_time.0,
    })
}

fn conditions(node: &NodeView) -> impl Iterator<Item = Observation> + '_ {
    node.status.conditions.iter().map(|condition| Observation {
        source: Source::NodeCondition,
        kind: condition.kind.clone(),
        status: condition.status.clone(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        since: condition.last_transition_time.unwrap_or(Timestamp::MIN),
    })
}

/// Judges one machine. While it is not provisioned or being deleted nothing is known.
pub fn health(ctx: &Context, seen: &Seen, policy: &RepairPolicySpec) -> Health {
    let Some(compute) = &seen.node else {
        return Health::Unknown;
    };
    let provisioned = compute
        .status
        .as_ref()
        .is_some_and(|status| status.initialization.provisioned);
    if !provisioned || compute.metadata.deletion_timestamp.is_some() {
        return Health::Unknown;
    }
    let mut observations: Vec<Observation> = probe(compute).into_iter().collect();
    if let Some(node) = node(ctx, seen) {
        observations.extend(conditions(&node));
        // An expired Lease shows as Ready=Unknown, set by whoever watches the Leases.
        let lease = node.condition("Ready").map(|ready| Observation {
            source: Source::Lease,
            kind: String::new(),
            status: ready.status.clone(),
            reason: ready.reason.clone(),
            message: ready.message.clone(),
            since: ready.last_transition_time.unwrap_or(Timestamp::MIN),
        });
        observations.extend(lease);
    }
    judge(policy, &observations, ctx.now())
}

/// All machines of a namespace as gates see them.
pub async fn fleet(ctx: &Context, namespace: &str) -> Result<Vec<Member>, Error> {
    let nodes: Vec<ComputeNode> = write::list(&ctx.api(namespace), "").await?;
    let repairs: Vec<Repair> = write::list(&ctx.api(namespace), "").await?;
    let placed = nodes.iter().filter(|node| node.spec.host_ref.is_some());
    Ok(placed.map(|node| of(node, &repairs)).collect())
}

fn of(node: &ComputeNode, repairs: &[Repair]) -> Member {
    let host = node.spec.host_ref.clone().unwrap_or_default().name;
    let label = |key: &str| node.labels().get(key).cloned().unwrap_or_default();
    let repair = repairs
        .iter()
        .find(|r| r.spec.compute_node_ref.name == node.name_any() && is_open(r));
    let status = repair.and_then(|repair| repair.status.clone());
    let state = status.as_ref().map(|status| status.state);
    let probe_failed = probe(node).is_some_and(|probe| probe.status == "False");
    let under_repair = state.is_some_and(|state| state != RepairState::Probation);
    Member {
        pool: label(POOL_LABEL),
        zone: node
            .spec
            .failure_domain
            .split('/')
            .next()
            .unwrap_or_default()
            .to_string(),
        cluster: label(CLUSTER_NAME_LABEL),
        unhealthy: probe_failed || under_repair,
        unfenced: state == Some(RepairState::Ticketed) && status.is_some_and(|s| s.fencing_proof.is_none()),
        repair: state,
        host,
    }
}

/// Finds a machine of the fleet by its host.
pub fn member<'a>(fleet: &'a [Member], host: &str) -> Option<&'a Member> {
    fleet.iter().find(|member| member.host == host)
}

/// Proof that nothing runs on a host that is out for repair: its power read back as off.
pub async fn proof(ctx: &Context, seen: &Seen) -> Option<FencingProof> {
    let host = seen.host.as_ref()?;
    let out = host
        .status
        .as_ref()
        .is_some_and(|status| status.state == HostState::BreakFix);
    let provider = ctx.providers.get(&seen.node.as_ref()?.spec.provider)?;
    let id = HostId::new(&host.namespace().unwrap_or_default(), &host.name_any());
    let off = out && provider.power_state(&id).await == Ok(PowerState::Off);
    off.then(|| FencingProof {
        kind: "PowerOff".to_string(),
        at: Some(Time(ctx.now())),
    })
}
