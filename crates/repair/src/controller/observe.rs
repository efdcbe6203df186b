//! Gathers what is known: probe and node conditions of one machine, the health of the fleet, proof of power.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use mainstay_api::{
    ComputeNode, HostState, POOL_LABEL, Repair,
    repair::{FencingProof, RepairPolicySpec, RepairState},
};
use mainstay_capi::CLUSTER_NAME_LABEL;
use mainstay_control::{Error, write};
use mainstay_machines::{self as machines, context::NodeView};
use mainstay_provider::{HostId, PowerState};

use super::{Context, Seen, is_open};
use crate::{
    gates::Member,
    trigger::{self, Health, probe},
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

/// Judges one machine. While it is not provisioned or being deleted nothing is known.
pub fn health(ctx: &Context, seen: &Seen, policy: &RepairPolicySpec) -> Health {
    match &seen.node {
        Some(compute) => trigger::health(policy, compute, node(ctx, seen).as_deref(), ctx.now()),
        None => Health::Unknown,
    }
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

/// Whether the machine has power, asked for only before an action is chosen: management controllers are slow.
pub async fn powered(ctx: &Context, seen: &Seen, repair: &Repair) -> Option<bool> {
    let state = repair
        .status
        .as_ref()
        .map(|status| status.state)
        .unwrap_or_default();
    if !matches!(state, RepairState::Suspect | RepairState::Waiting) {
        return None;
    }
    let host = seen.host.as_ref()?;
    let provider = ctx.providers.get(&seen.node.as_ref()?.spec.provider)?;
    let id = HostId::new(&host.namespace().unwrap_or_default(), &host.name_any());
    match provider.power_state(&id).await {
        Ok(PowerState::On) => Some(true),
        Ok(PowerState::Off) => Some(false),
        _ => None,
    }
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
