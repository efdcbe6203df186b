//! Takes a machine down: hooks, drain, volumes, infrastructure, bootstrap object, Node, finalizer: in this order.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Node, Pod},
    storage::v1::VolumeAttachment,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{
    Api, Client, ResourceExt,
    api::{EvictParams, ListParams},
};
use mainstay_api::conditions;
use mainstay_capi::{
    EXCLUDE_DETACH_ANNOTATION, EXCLUDE_DRAIN_ANNOTATION, MACHINE_FINALIZER, Machine, PRE_DRAIN_HOOK_PREFIX,
    PRE_TERMINATE_HOOK_PREFIX,
};
use mainstay_control::{Error, ObjectKey, Requeue, error::status_code, write};
use serde_json::json;

use super::{Seen, cluster_key, status};
use crate::{
    Context, objects,
    rules::deletion::{Behavior, DrainPod, Gate, Owner, plan_drain, still_wanted},
};

/// How soon a step that is not over is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What the deletion waits for: reason and message of condition Deleting.
type Wait = (&'static str, String);

/// Takes the next step of the deletion.
pub async fn reconcile(ctx: &Context, machines: &Api<Machine>, seen: &Seen) -> Result<Requeue, Error> {
    let Some((reason, message)) = next(ctx, machines, seen).await? else {
        write::remove_finalizer(machines, &seen.machine, MACHINE_FINALIZER).await?;
        return Ok(Requeue::Never);
    };
    let now = ctx.clock.now();
    let mut new = status::compute(seen, now);
    let condition: Condition = conditions::condition("Deleting", true, reason, message, now);
    conditions::set(&mut new.conditions, condition);
    let started = new.deletion.get_or_insert_default();
    match reason {
        "DrainingNode" => drop(started.node_drain_start_time.get_or_insert(Time(now))),
        "WaitingForVolumeDetach" => drop(
            started
                .wait_for_node_volume_detach_start_time
                .get_or_insert(Time(now)),
        ),
        _ => {}
    }
    write::status(machines, &seen.machine, seen.machine.status.as_ref(), &new).await?;
    Ok(Requeue::After(LOOK_AGAIN))
}

fn hook(machine: &Machine, prefix: &str) -> Option<String> {
    machine
        .annotations()
        .keys()
        .find(|key| key.starts_with(prefix))
        .cloned()
}

fn gate(seen: &Seen, annotation: &str, limit: Option<i64>, since: Option<&Time>, now: Timestamp) -> Gate {
    let infrastructure = seen.infrastructure.as_ref();
    Gate {
        excluded: seen.machine.annotations().contains_key(annotation),
        pre_terminate_started: false,
        infrastructure_present: infrastructure.is_some_and(|o| o.metadata.deletion_timestamp.is_none()),
        timeout_seconds: limit,
        lasting_seconds: since.map(|since| now.duration_since(since.0).as_secs()),
    }
}

/// Does the next step and tells what is waited for; None when nothing is left.
async fn next(ctx: &Context, _machines: &Api<Machine>, seen: &Seen) -> Result<Option<Wait>, Error> {
    let (machine, now) = (&seen.machine, ctx.clock.now());
    if let Some(key) = hook(machine, PRE_DRAIN_HOOK_PREFIX) {
        return Ok(Some((
            "WaitingForPreDrainHook",
            format!("annotation {key} is set"),
        )));
    }
    let access = ctx.clusters.access(&cluster_key(machine));
    let limits = &machine.spec.deletion;
    let started = machine
        .status
        .as_ref()
        .and_then(|s| s.deletion.clone())
        .unwrap_or_default();
    if let (Some(access), Some(node)) = (&access, &seen.node) {
        let since = started.node_drain_start_time.as_ref();
        let drain = gate(
            seen,
            EXCLUDE_DRAIN_ANNOTATION,
            limits.node_drain_timeout_seconds,
            since,
            now,
        );
        if still_wanted(drain)
            && let Some(left) =
                drain_node(&access.client, &node.name_any(), node.ready() == "Unknown").await?
        {
            return Ok(Some(("DrainingNode", left)));
        }
        let since = started.wait_for_node_volume_detach_start_time.as_ref();
        let detach = gate(
            seen,
            EXCLUDE_DETACH_ANNOTATION,
            limits.node_volume_detach_timeout_seconds,
            since,
            now,
        );
        if still_wanted(detach)
            && let Some(left) = attached(&access.client, &node.name_any()).await?
        {
            return Ok(Some(("WaitingForVolumeDetach", left)));
        }
    }
    if let Some(key) = hook(machine, PRE_TERMINATE_HOOK_PREFIX) {
        return Ok(Some((
            "WaitingForPreTerminateHook",
            format!("annotation {key} is set"),
        )));
    }
    let namespace = machine.namespace().unwrap_or_default();
    if seen.infrastructure.is_some() {
        objects::delete(&ctx.client, &namespace, &machine.spec.infrastructure_ref).await?;
        return Ok(Some((
            "WaitingForInfrastructureDeletion",
            "the machine is being wiped".to_string(),
        )));
    }
    if seen.bootstrap.is_some() {
        objects::delete(&ctx.client, &namespace, &machine.spec.bootstrap.config_ref).await?;
    }
    delete_node(ctx, &cluster_key(machine), machine).await?;
    Ok(None)
}

async fn delete_node(ctx: &Context, cluster: &ObjectKey, machine: &Machine) -> Result<(), Error> {
    let node = machine.status.as_ref().and_then(|status| status.node_ref.clone());
    let (Some(node), Some(access)) = (node, ctx.clusters.access(cluster)) else {
        return Ok(());
    };
    write::delete(&Api::<Node>::all(access.client), &node.name).await
}

/// Cordons the node and evicts what may go now; tells what is left, None when the node is drained.
async fn drain_node(client: &Client, node: &str, unreachable: bool) -> Result<Option<String>, Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let Some(found) = write::get(&nodes, node).await? else {
        return Ok(None);
    };
    if found.spec.as_ref().and_then(|spec| spec.unschedulable) != Some(true) {
        write::merge(&nodes, node, json!({"spec": {"unschedulable": true}})).await?;
    }
    let (all, here) = (
        Api::<Pod>::all(client.clone()),
        ListParams::default().fields(&format!("spec.nodeName={node}")),
    );
    let listed = all
        .list(&here)
        .await
        .map_err(Error::api(|| format!("list the pods of node {node}")))?;
    // On a node that does not answer, pods that are being deleted will never report back.
    let pods: Vec<Pod> = listed
        .items
        .into_iter()
        .filter(|pod| !(is_over(pod) || unreachable && is_deleting(pod)))
        .collect();
    let views: Vec<DrainPod> = pods.iter().map(drain_pod).collect();
    let plans = plan_drain(&views, &[]);
    let mut left = Vec::new();
    for (pod, plan) in views.iter().zip(plans) {
        if plan.behavior == Behavior::Skip {
            continue;
        }
        let blocked = if plan.evict {
            evict(client, pod, unreachable).await?
        } else {
            None
        };
        let why = blocked.unwrap_or_else(|| {
            if pod.deleting {
                "is ending".into()
            } else {
                "waits".into()
            }
        });
        left.push(format!("{}/{} {why}", pod.namespace, pod.name));
    }
    Ok((!left.is_empty()).then(|| left.join(", ")))
}

fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn drain_pod(pod: &Pod) -> DrainPod {
    let daemon = pod
        .owner_references()
        .iter()
        .any(|owner| owner.kind == "DaemonSet" && owner.controller == Some(true));
    DrainPod {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        labels: pod.labels().clone(),
        namespace_labels: BTreeMap::new(),
        owner: match () {
            () if pod.annotations().contains_key("kubernetes.io/config.mirror") => Owner::Mirror,
            () if daemon => Owner::DaemonSet,
            () => Owner::Other,
        },
        deleting: is_deleting(pod),
    }
}

/// Evicts a pod; tells why it could not, None when it is going.
async fn evict(client: &Client, pod: &DrainPod, unreachable: bool) -> Result<Option<String>, Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let mut params = EvictParams::default();
    if unreachable {
        params.delete_options = Some(kube::api::DeleteParams::default().grace_period(1));
    }
    match pods.evict(&pod.name, &params).await {
        Ok(_) => Ok(Some("is being evicted".to_string())),
        Err(error) => match status_code(&error) {
            Some(404) => Ok(Some("is gone".to_string())),
            Some(429) => Ok(Some("is held by a disruption budget".to_string())),
            _ => Err(Error::api(|| format!("evict pod {}/{}", pod.namespace, pod.name))(error)),
        },
    }
}

/// Names the volumes still attached to the node.
async fn attached(client: &Client, node: &str) -> Result<Option<String>, Error> {
    let attachments: Vec<VolumeAttachment> = match write::list(&Api::all(client.clone()), "").await {
        Ok(all) => all,
        Err(error) if error.is_code(404) => return Ok(None),
        Err(error) => return Err(error),
    };
    let left: Vec<String> = attachments
        .iter()
        .filter(|a| a.spec.node_name == node)
        .map(ResourceExt::name_any)
        .collect();
    Ok((!left.is_empty()).then(|| left.join(", ")))
}
