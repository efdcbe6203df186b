//! ComputeNode controller: host, installation, restart, wipe. Watches ComputeNodes, NodeConfigs, OSImages and
//! Hosts; alone writes ComputeNode.spec.{hostRef, providerID, failureDomain, image} once,
//! ComputeNode.status except the probe's conditions, and Host.status.{consumerRef, image, incarnation}.

mod act;
pub mod choose;
pub mod plan;

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use mainstay_api::{ComputeNode, Host, HostState, NodeJoin, OSImage};
use mainstay_capi::Machine;
use mainstay_control::{Error, ObjectKey, Requeue, write};
use mainstay_machines::objects::controller_of;
use mainstay_provider::{PowerState, Provider, RequestId};
use std::sync::Arc;

use crate::{Context, host::host_id};
use plan::{Seen, Step, plan};

/// How soon a running task is looked at again.
const POLL: Duration = Duration::from_secs(1);
/// How soon a machine that waits for another object is looked at again at the latest.
const WAIT: Duration = Duration::from_secs(10);

/// What the steps need besides the plan.
pub(crate) struct Work<'a> {
    pub ctx: &'a Context,
    pub nodes: Api<ComputeNode>,
    pub hosts: Api<Host>,
    pub provider: Arc<dyn Provider>,
    pub host: Option<Host>,
    pub join: Option<String>,
}

/// Brings one machine a step further.
pub async fn reconcile(key: ObjectKey, ctx: &Context) -> Result<Requeue, Error> {
    let nodes: Api<ComputeNode> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let Some(node) = write::get(&nodes, &key.name).await? else {
        return Ok(Requeue::Never);
    };
    if node.annotations().contains_key(mainstay_api::PAUSED_ANNOTATION) {
        return Ok(Requeue::Never);
    }
    let deleting = node.metadata.deletion_timestamp.is_some();
    if deleting && !node.finalizers().iter().any(|f| f == mainstay_api::FINALIZER) {
        return Ok(Requeue::Never);
    }
    if !deleting && write::add_finalizer(&nodes, &node, mainstay_api::FINALIZER).await? {
        return Ok(Requeue::After(Duration::ZERO));
    }
    let Some(provider) = ctx.providers.get(&node.spec.provider).cloned() else {
        return Err(Error::Invalid {
            object: format!("ComputeNode {key}"),
            problem: format!("spec.provider: there is no provider {:?}", node.spec.provider),
        });
    };
    let hosts: Api<Host> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let mut work = Work {
        ctx,
        nodes,
        hosts,
        provider,
        host: None,
        join: None,
    };
    let seen = observe(&mut work, node).await?;
    let step = plan(&seen, ctx.clock.now());
    tracing::debug!(step = ?step, "compute node step");
    act::apply(&work, &seen, &step).await?;
    Ok(match step {
        Step::Claim | Step::Fail { .. } => Requeue::After(POLL * 5),
        Step::Wait("WaitingForImage" | "WaitingForBootstrapData", _) => Requeue::After(WAIT),
        Step::Release | Step::Rest => Requeue::Never,
        _ => Requeue::After(POLL),
    })
}

async fn observe(work: &mut Work<'_>, node: ComputeNode) -> Result<Seen, Error> {
    work.host = find_host(work, &node).await?;
    let task_id = node
        .status
        .as_ref()
        .and_then(|status| status.task.as_ref())
        .map(|task| RequestId(task.id.clone()));
    let task = match task_id {
        Some(id) => work.provider.task(&id).await.ok(),
        None => None,
    };
    let commit = image_commit(work, &node).await?;
    let (join, join_incarnation) = join_data(work, &node).await?;
    work.join = join;
    let deleting = node.metadata.deletion_timestamp.is_some();
    let host = work.host.as_ref().map(ResourceExt::name_any);
    let fenced = deleting && is_fenced(work).await;
    Ok(Seen {
        node,
        host,
        commit,
        join_incarnation,
        task,
        deleting,
        fenced,
    })
}

/// The host is out for repair and reads back as switched off.
async fn is_fenced(work: &Work<'_>) -> bool {
    let Some(host) = &work.host else { return false };
    let out = host
        .status
        .as_ref()
        .is_some_and(|status| status.state == HostState::BreakFix);
    out && work.provider.power_state(&host_id(host)).await == Ok(PowerState::Off)
}

/// The host that the machine has: the named one, or one that was claimed before the name was written.
async fn find_host(work: &Work<'_>, node: &ComputeNode) -> Result<Option<Host>, Error> {
    let claimed_by_us = |host: &Host| {
        let consumer = host
            .status
            .as_ref()
            .and_then(|status| status.consumer_ref.clone());
        consumer.is_some_and(|consumer| consumer.kind == "ComputeNode" && consumer.name == node.name_any())
    };
    if let Some(reference) = &node.spec.host_ref {
        let host = write::get(&work.hosts, &reference.name).await?;
        return Ok(host.filter(claimed_by_us));
    }
    Ok(write::list(&work.hosts, "")
        .await?
        .into_iter()
        .find(claimed_by_us))
}

async fn image_commit(work: &Work<'_>, node: &ComputeNode) -> Result<Option<String>, Error> {
    if let Some(image) = &node.spec.image {
        return Ok(Some(image.commit.clone()).filter(|commit| !commit.is_empty()));
    }
    let Some(reference) = &node.spec.image_ref else {
        return Ok(None);
    };
    let images: Api<OSImage> =
        Api::namespaced(work.ctx.client.clone(), &node.namespace().unwrap_or_default());
    let image = write::get(&images, &reference.name).await?;
    Ok(image
        .and_then(|image| image.status)
        .map(|status| status.commit)
        .filter(|commit| !commit.is_empty()))
}

/// The join document of the machine's Secret and the incarnation it was made for.
async fn join_data(work: &Work<'_>, node: &ComputeNode) -> Result<(Option<String>, Option<i64>), Error> {
    let Some(owner) = controller_of(node, "Machine") else {
        return Ok((None, None));
    };
    let namespace = node.namespace().unwrap_or_default();
    let machines: Api<Machine> = Api::namespaced(work.ctx.client.clone(), &namespace);
    let machine = write::get(&machines, &owner).await?;
    let Some(name) = machine.and_then(|machine| machine.spec.bootstrap.data_secret_name.clone()) else {
        return Ok((None, None));
    };
    let secrets: Api<Secret> = Api::namespaced(work.ctx.client.clone(), &namespace);
    let value = write::get(&secrets, &name)
        .await?
        .and_then(|secret| secret.data?.remove("value"));
    let text = value.and_then(|value| String::from_utf8(value.0).ok());
    let parsed = text
        .as_deref()
        .and_then(|text| serde_json::from_str::<NodeJoin>(text).ok());
    Ok((text, parsed.map(|join| join.incarnation)))
}
