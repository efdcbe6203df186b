//! Carries out what the ladder asks for; everything may be asked for again.

use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt};
use mainstay_api::{
    BreakFixTicket, BreakFixTicketSpec, ComputeNode, NameRef, Repair, RepairStatus,
    repair::RESTART_SERVICES_ANNOTATION,
};
use mainstay_capi::Machine;
use mainstay_control::{Error, write};
use mainstay_machines as machines;
use mainstay_provider::{HostId, PowerOperation, RequestId};
use serde_json::json;

use super::{Context, Seen, observe};
use crate::ladder::Ask;

/// Carries out one ask; records the ticket in `status`.
pub async fn carry_out(
    ctx: &Context,
    seen: &Seen,
    repair: &Repair,
    ask: &Ask,
    status: &mut RepairStatus,
) -> Result<(), Error> {
    let namespace = repair.namespace().unwrap_or_default();
    let name = &repair.spec.compute_node_ref.name;
    let nodes: Api<ComputeNode> = ctx.api(&namespace);
    match ask {
        Ask::RestartService { id } => restart_service(ctx, seen, id).await,
        Ask::Restart { id } => write::merge(&nodes, name, json!({"spec": {"restart": {"id": id}}}))
            .await
            .map(|_| ()),
        Ask::Reprovision { incarnation } => {
            write::merge(&nodes, name, json!({"spec": {"incarnation": incarnation}}))
                .await
                .map(|_| ())
        }
        Ask::OpenTicket => open_ticket(ctx, seen, repair, status).await,
        Ask::Replace => match &seen.machine {
            Some(machine) => write::delete(&ctx.api::<Machine>(&namespace), &machine.name_any()).await,
            None => write::delete(&nodes, name).await,
        },
    }
}

async fn restart_service(ctx: &Context, seen: &Seen, id: &str) -> Result<(), Error> {
    let cluster = seen.machine.as_ref().map(machines::machine::cluster_key);
    let access = cluster.and_then(|cluster| ctx.machines.clusters.access(&cluster));
    let (Some(node), Some(access)) = (observe::node(ctx, seen), access) else {
        return Ok(());
    };
    let nodes: Api<Node> = Api::all(access.client);
    let patch = json!({"metadata": {"annotations": {RESTART_SERVICES_ANNOTATION: id}}});
    write::merge(&nodes, &node.name_any(), patch).await.map(|_| ())
}

/// Opens the ticket (which takes the host out) and switches the host off.
async fn open_ticket(
    ctx: &Context,
    seen: &Seen,
    repair: &Repair,
    status: &mut RepairStatus,
) -> Result<(), Error> {
    let namespace = repair.namespace().unwrap_or_default();
    let name = repair.name_any();
    let mut ticket = BreakFixTicket::new(&name, ticket_spec(seen, repair, status));
    ticket.metadata.namespace = Some(namespace.clone());
    write::create(&ctx.api(&namespace), &ticket).await?;
    status.ticket_ref = Some(NameRef::new(name.clone()));
    let provider = seen
        .node
        .as_ref()
        .and_then(|node| ctx.providers.get(&node.spec.provider));
    let Some(provider) = provider else { return Ok(()) };
    let host = HostId::new(&namespace, &repair.spec.host_ref.name);
    if let Err(error) = provider
        .power(&host, PowerOperation::Off, &RequestId(format!("off-{name}")))
        .await
    {
        tracing::warn!(host = %host, problem = %error, "host could not be switched off; its machine is not replaced yet");
    }
    Ok(())
}

fn ticket_spec(seen: &Seen, repair: &Repair, status: &RepairStatus) -> BreakFixTicketSpec {
    let fault = &repair.spec.fault;
    let what = fault.name();
    let asset = seen
        .host
        .as_ref()
        .map(|host| host.spec.clone())
        .unwrap_or_default();
    let mut evidence = vec![format!("{what}: {} {}", fault.reason, fault.message)];
    evidence.extend(status.steps.iter().map(|step| {
        let started = step
            .started_at
            .as_ref()
            .map(|time| time.0.to_string())
            .unwrap_or_default();
        format!("{started} {:?}: {} {}", step.action, step.result, step.evidence)
    }));
    BreakFixTicketSpec {
        host_ref: repair.spec.host_ref.clone(),
        repair_ref: Some(NameRef::new(repair.name_any())),
        summary: format!(
            "{what} persists after {} actions",
            status.steps.len().saturating_sub(1)
        ),
        rack: asset.rack,
        unit: asset.unit,
        serial: asset.serial,
        warranty_until: asset.warranty_until,
        evidence,
        resolved: false,
    }
}
