//! MachineHealthCheck controller. Watches MachineHealthChecks, Machines and Nodes; alone writes
//! MachineHealthCheck.status and, on Machines, conditions HealthCheckSucceeded and OwnerRemediated.

use std::time::Duration;

use jiff::Timestamp;
use kube::{Api, ResourceExt};
use mainstay_api::conditions::{self, condition};
use mainstay_capi::{
    CLUSTER_NAME_LABEL, CONTROL_PLANE_LABEL, Cluster, Machine, MachineHealthCheck, MachineHealthCheckStatus,
    PAUSED_ANNOTATION, REMEDIATE_MACHINE_ANNOTATION, SKIP_REMEDIATION_ANNOTATION,
};
use mainstay_control::{Error, ObjectKey, Requeue, write};

use crate::{
    Context,
    context::Watched,
    objects,
    rules::health::{Allowance, SeenCondition, SeenNode, Target, Verdict, judge, short_circuit},
};

/// A machine with its verdict.
type Judged = (Machine, Verdict);

/// Judges the machines of one health check and marks those that their owner must replace.
pub async fn reconcile(key: ObjectKey, ctx: &Context) -> Result<Requeue, Error> {
    let checks: Api<MachineHealthCheck> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let Some(check) = write::get(&checks, &key.name).await? else {
        return Ok(Requeue::Never);
    };
    if check.annotations().contains_key(PAUSED_ANNOTATION) {
        return Ok(Requeue::Never);
    }
    let clusters: Api<Cluster> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let Some(cluster) = write::get(&clusters, &check.spec.cluster_name).await? else {
        return Ok(Requeue::Never);
    };
    let now = ctx.clock.now();
    let machines: Api<Machine> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let mine = targets(
        &check,
        write::list(&machines, &format!("{CLUSTER_NAME_LABEL}={}", cluster.name_any())).await?,
    );
    let watched = ctx
        .watch(&ObjectKey::of(&cluster))
        .filter(|watched| watched.nodes.is_ready());
    let judged: Vec<Judged> = mine
        .into_iter()
        .map(|machine| {
            let verdict = judge(
                &target(&machine, &cluster, watched.as_ref()),
                &check.spec.checks,
                now,
            );
            (machine, verdict)
        })
        .collect();
    let healthy = judged
        .iter()
        .filter(|(_, verdict)| *verdict == Verdict::Healthy)
        .count();
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let allowance = short_circuit(
        count(judged.len()),
        count(healthy),
        &check.spec.remediation.trigger_if,
    );
    let allowance = allowance.map_err(|problem| Error::Invalid {
        object: format!("MachineHealthCheck {key}"),
        problem: format!("spec.remediation.triggerIf: {problem}"),
    })?;
    for (machine, verdict) in &judged {
        mark(&machines, machine, verdict, allowance.allowed, now).await?;
    }
    let status = status(&check, &judged, count(healthy), allowance, now);
    write::status(&checks, &check, check.status.as_ref(), &status).await?;
    let waits = judged.iter().filter_map(|(_, verdict)| match verdict {
        Verdict::NotYet(Some(wait)) => Some(wait.unsigned_abs()),
        _ => None,
    });
    Ok(waits.min().map_or(Requeue::Never, |wait| {
        Requeue::After(wait.max(Duration::from_secs(1)))
    }))
}

fn targets(check: &MachineHealthCheck, machines: Vec<Machine>) -> Vec<Machine> {
    let selector = objects::selector(&check.spec.selector);
    let skipped = |m: &Machine| {
        [PAUSED_ANNOTATION, SKIP_REMEDIATION_ANNOTATION]
            .iter()
            .any(|key| m.annotations().contains_key(*key))
    };
    machines
        .into_iter()
        .filter(|m| selector.matches(m.labels()) && !skipped(m) && m.metadata.deletion_timestamp.is_none())
        .collect()
}

fn since(
    conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
    kind: &str,
) -> Option<Timestamp> {
    conditions::find(conditions, kind)
        .filter(|c| c.status == "True")
        .map(|c| c.last_transition_time.0)
}

fn target(machine: &Machine, cluster: &Cluster, watched: Option<&Watched>) -> Target {
    let status = machine.status.clone().unwrap_or_default();
    let of_cluster = cluster.status.clone().unwrap_or_default().conditions;
    let created = machine
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(Timestamp::MIN, |time| time.0);
    let node = match (&status.node_ref, watched) {
        (None, _) => SeenNode::Never,
        // Unreadable cluster: judge nothing about its Nodes.
        (Some(_), None) => SeenNode::There(Vec::new()),
        (Some(node), Some(watched)) => match watched.nodes.get(&ObjectKey::cluster(&node.name)) {
            None => SeenNode::Gone,
            Some(node) => SeenNode::There(
                node.status
                    .conditions
                    .iter()
                    .map(|c| SeenCondition {
                        kind: c.kind.clone(),
                        status: c.status.clone(),
                        since: c.last_transition_time.unwrap_or(created),
                    })
                    .collect(),
            ),
        },
    };
    Target {
        created,
        infrastructure_ready: since(&status.conditions, "InfrastructureReady"),
        control_plane: machine.labels().contains_key(CONTROL_PLANE_LABEL),
        remediate_annotation: machine.annotations().contains_key(REMEDIATE_MACHINE_ANNOTATION),
        node,
        conditions: status
            .conditions
            .iter()
            .map(|c| SeenCondition {
                kind: c.type_.clone(),
                status: c.status.clone(),
                since: c.last_transition_time.0,
            })
            .collect(),
        cluster_infrastructure_ready: since(&of_cluster, "InfrastructureReady"),
        control_plane_initialized: since(&of_cluster, "ControlPlaneInitialized"),
    }
}

async fn mark(
    machines: &Api<Machine>,
    machine: &Machine,
    verdict: &Verdict,
    allowed: bool,
    now: Timestamp,
) -> Result<(), Error> {
    let mut status = machine.status.clone().unwrap_or_default();
    match verdict {
        Verdict::NotYet(_) => return Ok(()),
        Verdict::Healthy => {
            conditions::set(
                &mut status.conditions,
                condition("HealthCheckSucceeded", true, "HealthCheckSucceeded", "", now),
            );
            status.conditions.retain(|c| c.type_ != "OwnerRemediated");
        }
        Verdict::Unhealthy(reason, message) => {
            let failed = condition("HealthCheckSucceeded", false, reason, message.clone(), now);
            conditions::set(&mut status.conditions, failed);
            if allowed {
                let wait = condition(
                    "OwnerRemediated",
                    false,
                    "WaitingForRemediation",
                    message.clone(),
                    now,
                );
                conditions::set(&mut status.conditions, wait);
            }
        }
    }
    write::status(machines, machine, machine.status.as_ref(), &status)
        .await
        .map(|_| ())
}

fn status(
    check: &MachineHealthCheck,
    judged: &[Judged],
    healthy: i32,
    allowance: Allowance,
    now: Timestamp,
) -> MachineHealthCheckStatus {
    let mut conditions = check.status.clone().unwrap_or_default().conditions;
    let message = if allowance.allowed {
        ""
    } else {
        "too many machines are unhealthy"
    };
    let reason = if allowance.allowed {
        "RemediationAllowed"
    } else {
        "TooManyUnhealthy"
    };
    conditions::set(
        &mut conditions,
        condition("RemediationAllowed", allowance.allowed, reason, message, now),
    );
    let mut targets: Vec<String> = judged.iter().map(|(machine, _)| machine.name_any()).collect();
    targets.sort();
    MachineHealthCheckStatus {
        expected_machines: i32::try_from(judged.len()).unwrap_or(i32::MAX),
        current_healthy: healthy,
        remediations_allowed: allowance.remaining,
        targets,
        observed_generation: check.metadata.generation.unwrap_or(0),
        conditions,
    }
}
