//! Carries out the steps of one machine; each may be repeated after a crash without harm.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, ResourceExt};
use mainstay_api::{
    ComputeNode, ComputeNodeStatus, FINALIZER, Host, HostState, HostStatus, ObjectRef, Rack,
    common::MachineAddress,
    compute::{ImageSlots, Initialization},
    conditions::{condition, reasons, set, types},
    host::ImageCommit,
    join,
};
use mainstay_control::{Error, write};
use mainstay_provider::{Error as ProviderError, PowerOperation, ProvisionRequest, RequestId, Task, Wipe};
use serde_json::json;

use super::{
    Work,
    choose::{Inventory, choose, domain},
    plan::{FAILED, Seen, Step, recorded},
};
use crate::host::{host_id, provider_host};

/// Carries out one step and writes the status once, last.
pub async fn apply(work: &Work<'_>, seen: &Seen, step: &Step) -> Result<(), Error> {
    let now = work.ctx.clock.now();
    let mut status = seen.node.status.clone().unwrap_or_default();
    match step {
        Step::Claim => return claim(work, seen, status, now).await,
        Step::Release => return release(work, seen).await,
        Step::Provision { id, commit } => provision(work, seen, id, commit, &mut status).await?,
        Step::Restart { id } => restart(work, seen, id, &mut status, now).await?,
        Step::Deprovision { id } => deprovision(work, seen, id, &mut status).await?,
        Step::Finish => finish(work, seen, &mut status, now).await?,
        Step::Fail { message, evidence } => failed(&mut status, message, evidence.as_deref(), now),
        Step::Wait(reason, message) => waits(&mut status, reason, message, now),
        Step::Rest => rest(work, seen, &mut status, now).await?,
    }
    write::status(&work.nodes, &seen.node, seen.node.status.as_ref(), &status)
        .await
        .map(|_| ())
}

fn waits(status: &mut ComputeNodeStatus, reason: &str, message: &str, now: Timestamp) {
    if !status.initialization.provisioned {
        set(
            &mut status.conditions,
            condition(types::PROVISIONED, false, reason, message, now),
        );
    }
    set(
        &mut status.conditions,
        condition(types::READY, false, reason, message, now),
    );
    if let Some(task) = status.task.as_mut().filter(|_| reason == "Provisioning") {
        task.step = message.to_string();
    }
}

fn failed(status: &mut ComputeNodeStatus, message: &str, evidence: Option<&str>, now: Timestamp) {
    if let Some(task) = status.task.as_mut() {
        task.step = FAILED.to_string();
        task.started_at = Time(now);
    }
    let (reason, text) = match evidence {
        Some(evidence) => (reasons::HARDWARE_BROKEN, format!("{message}: {evidence}")),
        None => (reasons::PROVIDER_REFUSED, message.to_string()),
    };
    set(
        &mut status.conditions,
        condition(types::PROVISIONED, false, reason, text.clone(), now),
    );
    set(
        &mut status.conditions,
        condition(types::READY, false, reason, text, now),
    );
}

/// Chooses a host and writes the claim on the host first: the host's version decides between rivals.
async fn claim(
    work: &Work<'_>,
    seen: &Seen,
    mut status: ComputeNodeStatus,
    now: Timestamp,
) -> Result<(), Error> {
    let _one_at_a_time = work.ctx.choosing.lock().await;
    let inventory = inventory(work).await?;
    let claimed = work.host.as_ref();
    let chosen = match claimed {
        Some(host) => Ok(host),
        None if seen.node.spec.host_ref.is_some() => Err(
            "the host no longer belongs to this machine; delete the machine to get another one".to_string(),
        ),
        None => choose(&seen.node, &inventory),
    };
    let host = match chosen {
        Ok(host) => host,
        Err(why) => {
            waits(&mut status, reasons::NO_HOST, &why, now);
            return write::status(&work.nodes, &seen.node, seen.node.status.as_ref(), &status)
                .await
                .map(|_| ());
        }
    };
    if claimed.is_none() {
        let mut taken = host.status.clone().unwrap_or_default();
        taken.state = HostState::Provisioning;
        taken.consumer_ref = Some(ObjectRef {
            kind: "ComputeNode".into(),
            name: seen.node.name_any(),
        });
        write::status(&work.hosts, host, host.status.as_ref(), &taken).await?;
    }
    let namespace = seen.node.namespace().unwrap_or_default();
    let incarnation = host
        .status
        .as_ref()
        .map_or(0, |status| status.incarnation)
        .max(seen.node.spec.incarnation - 1)
        + 1;
    let spec = json!({
        "hostRef": {"name": host.name_any()},
        "providerID": join::provider_id(&seen.node.spec.provider, &namespace, &seen.node.name_any()),
        "failureDomain": domain(host, &inventory.zones),
        "incarnation": incarnation,
    });
    write::merge(&work.nodes, &seen.node.name_any(), json!({ "spec": spec })).await?;
    tracing::info!(host = host.name_any(), "host claimed");
    Ok(())
}

async fn inventory(work: &Work<'_>) -> Result<Inventory, Error> {
    let racks: Vec<Rack> = write::list(&Api::all(work.ctx.client.clone()), "").await?;
    let placed = write::list(&work.nodes, "")
        .await?
        .into_iter()
        .filter(|node| node.spec.host_ref.is_some());
    Ok(Inventory {
        hosts: write::list(&work.hosts, "").await?,
        zones: racks
            .into_iter()
            .map(|rack| (rack.name_any(), rack.spec.zone))
            .collect(),
        placed: placed.collect(),
    })
}

fn the_host<'a>(work: &'a Work<'_>, seen: &Seen) -> Result<&'a Host, Error> {
    work.host.as_ref().ok_or_else(|| Error::Waiting {
        what: format!("the host of machine {}", seen.node.name_any()),
    })
}

/// Records a started task or why it was refused.
fn started(
    status: &mut ComputeNodeStatus,
    id: &RequestId,
    task: Result<Task, ProviderError>,
    now: Timestamp,
) {
    match task {
        Ok(task) => {
            status.task = Some(recorded(&task, now));
            if status.task.as_ref().is_some_and(|task| task.step == FAILED) {
                // The next pass reads the reason from the task itself.
                status.task.as_mut().expect("it was just set").step = "Started".to_string();
            }
        }
        Err(error) => {
            status.task = Some(mainstay_api::host::HostTask::new(id.0.clone(), "Refused", now));
            failed(status, &error.to_string(), error.evidence(), now);
        }
    }
}

async fn provision(
    work: &Work<'_>,
    seen: &Seen,
    id: &RequestId,
    commit: &str,
    status: &mut ComputeNodeStatus,
) -> Result<(), Error> {
    let (host, now) = (the_host(work, seen)?, work.ctx.clock.now());
    let incarnation = seen.node.spec.incarnation.max(1);
    mark_host(work, host, |status| {
        status.state = HostState::Provisioning;
        status.incarnation = status.incarnation.max(incarnation);
    })
    .await?;
    let request = ProvisionRequest {
        request: id.clone(),
        host: provider_host(host),
        machine_name: seen.node.name_any(),
        commit: commit.to_string(),
        machine_data: work.join.clone().unwrap_or_default(),
        incarnation: u64::try_from(incarnation).unwrap_or(1),
    };
    tracing::info!(host = host.name_any(), incarnation, commit, "provisioning");
    started(status, id, work.provider.provision(request).await, now);
    let commit = ImageSlots {
        booted: commit.to_string(),
        ..Default::default()
    };
    status.image = Some(commit);
    Ok(())
}

async fn restart(
    work: &Work<'_>,
    seen: &Seen,
    id: &RequestId,
    status: &mut ComputeNodeStatus,
    now: Timestamp,
) -> Result<(), Error> {
    let host = the_host(work, seen)?;
    tracing::info!(host = host.name_any(), "restarting");
    started(
        status,
        id,
        work.provider
            .power(&host_id(host), PowerOperation::Reset, id)
            .await,
        now,
    );
    Ok(())
}

async fn deprovision(
    work: &Work<'_>,
    seen: &Seen,
    id: &RequestId,
    status: &mut ComputeNodeStatus,
) -> Result<(), Error> {
    let (host, now) = (the_host(work, seen)?, work.ctx.clock.now());
    mark_host(work, host, |status| status.state = HostState::Deprovisioning).await?;
    waits(status, reasons::DEPROVISIONING, "the machine is being wiped", now);
    started(
        status,
        id,
        work.provider.deprovision(&host_id(host), Wipe::Quick, id).await,
        now,
    );
    Ok(())
}

/// Changes the host's status unless it has left for repair.
async fn mark_host(work: &Work<'_>, host: &Host, change: impl FnOnce(&mut HostStatus)) -> Result<(), Error> {
    let mut status = host.status.clone().unwrap_or_default();
    if status.state == HostState::BreakFix {
        return Ok(());
    }
    change(&mut status);
    write::status(&work.hosts, host, host.status.as_ref(), &status)
        .await
        .map(|_| ())
}

/// Reads what runs now.
async fn refresh(work: &Work<'_>, host: &Host, status: &mut ComputeNodeStatus) {
    let id = host_id(host);
    if let Ok(Some(boot)) = work.provider.boot_identity(&id).await {
        status.boot_id = boot.boot_id;
    }
    if let Ok(Some(machine)) = work.provider.machine(&id).await {
        let address = |address: String| MachineAddress {
            kind: "InternalIP".into(),
            address,
        };
        status.addresses = machine.addresses.into_iter().map(address).collect();
        status.image = Some(ImageSlots {
            booted: machine.image.booted,
            staged: machine.image.staged.unwrap_or_default(),
            previous: machine.image.previous.unwrap_or_default(),
            tries_left: machine.image.tries_left,
            last_failure: machine.image.last_failure.unwrap_or_default(),
        });
    }
}

async fn finish(
    work: &Work<'_>,
    seen: &Seen,
    status: &mut ComputeNodeStatus,
    now: Timestamp,
) -> Result<(), Error> {
    let host = the_host(work, seen)?;
    refresh(work, host, status).await;
    let restart = status
        .task
        .as_ref()
        .is_some_and(|task| task.id.starts_with("restart-"));
    status.task = None;
    status.provisioned_at = Some(Time(now));
    if restart {
        status.restarted = seen
            .node
            .spec
            .restart
            .as_ref()
            .map(|asked| asked.id.clone())
            .unwrap_or_default();
    } else {
        status.incarnation = seen.node.spec.incarnation.max(1);
        status.initialization = Initialization { provisioned: true };
        status.failure_domain = host.spec.rack.clone();
        let commit = status
            .image
            .as_ref()
            .map(|image| image.booted.clone())
            .unwrap_or_default();
        mark_host(work, host, |host| {
            host.state = HostState::Provisioned;
            host.image = Some(ImageCommit { commit });
        })
        .await?;
    }
    good(seen, status, now);
    Ok(())
}

fn good(seen: &Seen, status: &mut ComputeNodeStatus, now: Timestamp) {
    set(
        &mut status.conditions,
        condition(types::PROVISIONED, true, reasons::AS_EXPECTED, "", now),
    );
    let booted = status
        .image
        .as_ref()
        .map(|image| image.booted.as_str())
        .unwrap_or_default();
    let current = seen.commit.as_deref().is_none_or(|wanted| wanted == booted);
    let (reason, message) = match (&seen.commit, current) {
        (Some(wanted), false) => (reasons::OUTDATED, format!("runs {booted}, wanted is {wanted}")),
        _ => (reasons::AS_EXPECTED, String::new()),
    };
    set(
        &mut status.conditions,
        condition(types::IMAGE_UP_TO_DATE, current, reason, message, now),
    );
    let probed = mainstay_api::conditions::find(&status.conditions, types::PROBE_PASSED);
    let alive = probed.is_none_or(|probe| probe.status != "False");
    let (reason, message) = match alive {
        true => (reasons::AS_EXPECTED, ""),
        false => (reasons::PROBE_FAILED, "the liveness probe fails"),
    };
    set(
        &mut status.conditions,
        condition(types::READY, alive, reason, message, now),
    );
}

async fn rest(
    work: &Work<'_>,
    seen: &Seen,
    status: &mut ComputeNodeStatus,
    now: Timestamp,
) -> Result<(), Error> {
    if let Some(host) = &work.host {
        refresh(work, host, status).await;
    }
    good(seen, status, now);
    Ok(())
}

/// Gives the host back (unless it is in repair) and lets the object go.
async fn release(work: &Work<'_>, seen: &Seen) -> Result<(), Error> {
    if let Some(host) = &work.host {
        let mut status = host.status.clone().unwrap_or_default();
        if status.state != HostState::BreakFix {
            status.state = HostState::Available;
        }
        status.consumer_ref = None;
        status.image = None;
        write::status(&work.hosts, host, host.status.as_ref(), &status).await?;
        tracing::info!(host = host.name_any(), "host released");
    }
    write::remove_finalizer::<ComputeNode>(&work.nodes, &seen.node, FINALIZER)
        .await
        .map(|_| ())
}
