//! What the runtime shows of one pod.

use std::collections::HashMap;

use futures::future::try_join_all;
use mainstay_nodepolicy::pods::reported::Reported;

use crate::cri::{Cri, CriError, runtime_v1 as v1};
use crate::plan::{ContainerView, PodView, SandboxView, State};
use crate::podspec::labels;

/// Statuses of ended containers, which never change again: saves one call each per look.
#[derive(Debug, Default)]
pub struct EndedCache(HashMap<String, ContainerView>);

fn by_uid(uid: &str) -> HashMap<String, String> {
    HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())])
}

/// Reads everything the runtime has of the pod.
///
/// # Errors
/// When the runtime does not answer. Objects that vanish in between are left out.
pub async fn observe(cri: &Cri, uid: &str, ended: &mut EndedCache) -> Result<PodView, CriError> {
    let (sandboxes, containers) =
        futures::try_join!(observe_sandboxes(cri, uid), observe_containers(cri, uid, ended))?;
    Ok(PodView {
        sandboxes,
        containers,
    })
}

/// Reads what a pod's first start has made: its only sandbox, as it was made, and these containers. Costs one call a
/// container and no listing.
///
/// # Errors
/// As [`observe`].
pub async fn observe_begun(cri: &Cri, sandbox: SandboxView, ids: &[String]) -> Result<PodView, CriError> {
    let statuses = ids
        .iter()
        .map(|id| async { present(cri.container_status(id).await) });
    let statuses = try_join_all(statuses).await?.into_iter().flatten();
    let mut containers: Vec<ContainerView> = statuses.map(|s| container_view(s, &sandbox.id)).collect();
    newest_first(&mut containers);
    Ok(PodView {
        sandboxes: vec![sandbox],
        containers,
    })
}

fn newest_first(containers: &mut [ContainerView]) {
    containers.sort_by_key(|c| std::cmp::Reverse((c.created_at, c.attempt)));
}

/// A status, or nothing when its object has vanished.
fn present<T>(status: Result<T, CriError>) -> Result<Option<T>, CriError> {
    match status {
        Ok(status) => Ok(Some(status)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn observe_sandboxes(cri: &Cri, uid: &str) -> Result<Vec<SandboxView>, CriError> {
    let filter = v1::PodSandboxFilter {
        label_selector: by_uid(uid),
        ..Default::default()
    };
    let listed = cri
        .list_sandboxes(v1::ListPodSandboxRequest { filter: Some(filter) })
        .await?;
    let statuses = listed
        .items
        .iter()
        .map(|item| async { present(cri.sandbox_status(&item.id).await) });
    let statuses = try_join_all(statuses).await?;
    let mut sandboxes: Vec<SandboxView> = statuses.into_iter().flatten().map(sandbox_view).collect();
    sandboxes.sort_by_key(|s| std::cmp::Reverse((s.created_at, s.attempt)));
    Ok(sandboxes)
}

async fn observe_containers(
    cri: &Cri,
    uid: &str,
    ended: &mut EndedCache,
) -> Result<Vec<ContainerView>, CriError> {
    let filter = v1::ContainerFilter {
        label_selector: by_uid(uid),
        ..Default::default()
    };
    let listed = cri
        .list_containers(v1::ListContainersRequest { filter: Some(filter) })
        .await?
        .containers;
    ended.0.retain(|id, _| listed.iter().any(|c| c.id == *id));
    let known = &ended.0;
    let views = listed.iter().map(|item| async {
        if let Some(view) = known.get(&item.id) {
            return Ok(Some(view.clone()));
        }
        let status = present(cri.container_status(&item.id).await)?;
        Ok(status.map(|s| container_view(s, &item.pod_sandbox_id)))
    });
    let views = try_join_all(views).await?;
    let mut containers: Vec<ContainerView> = views.into_iter().flatten().collect();
    let exited = containers.iter().filter(|c| c.state == State::Exited);
    ended.0.extend(exited.map(|c| (c.id.clone(), c.clone())));
    newest_first(&mut containers);
    Ok(containers)
}

/// Turns a CRI sandbox status into a view.
pub fn sandbox_view(status: v1::PodSandboxStatus) -> SandboxView {
    let network = status.network.unwrap_or_default();
    let first = Some(network.ip).filter(|ip| !ip.is_empty());
    let more = network.additional_ips.into_iter().map(|ip| ip.ip);
    SandboxView {
        id: status.id,
        ready: status.state == v1::PodSandboxState::SandboxReady as i32,
        attempt: status.metadata.map_or(0, |m| m.attempt),
        created_at: status.created_at,
        ips: first.into_iter().chain(more).collect(),
    }
}

/// Turns a CRI container status into a view.
pub fn container_view(status: v1::ContainerStatus, sandbox_id: &str) -> ContainerView {
    let state = match v1::ContainerState::try_from(status.state) {
        Ok(v1::ContainerState::ContainerCreated) => State::Created,
        Ok(v1::ContainerState::ContainerRunning) => State::Running,
        Ok(v1::ContainerState::ContainerExited) => State::Exited,
        _ => State::Unknown,
    };
    let metadata = status.metadata.unwrap_or_default();
    let reported = status.resources.and_then(|r| r.linux).map(|linux| Reported {
        cpu_shares: linux.cpu_shares,
        cpu_quota: linux.cpu_quota,
        cpu_period: linux.cpu_period,
        memory: linux.memory_limit_in_bytes,
    });
    let note = |key: &str| status.annotations.get(key).cloned();
    let message_path = note(labels::MESSAGE_PATH)
        .and_then(|path| status.mounts.iter().find(|m| m.container_path == path))
        .map(|mount| mount.host_path.clone());
    ContainerView {
        id: status.id,
        name: metadata.name,
        sandbox_id: sandbox_id.to_owned(),
        attempt: metadata.attempt,
        state,
        exit_code: status.exit_code,
        reason: status.reason,
        message: status.message,
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        image: status.image.map(|i| i.image).unwrap_or_default(),
        image_ref: status.image_ref,
        hash: note(labels::HASH).unwrap_or_default(),
        log_path: status.log_path,
        grace_seconds: note(labels::GRACE).and_then(|g| g.parse().ok()),
        message_path,
        reported,
        message_from_log: note(labels::MESSAGE_POLICY).as_deref() == Some("FallbackToLogsOnError"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runtime_says_of_a_containers_resources_is_read_back() {
        let linux = v1::LinuxContainerResources {
            cpu_shares: 102,
            cpu_quota: 20_000,
            cpu_period: 100_000,
            memory_limit_in_bytes: 64 << 20,
            ..Default::default()
        };
        let status = |linux: Option<v1::LinuxContainerResources>| v1::ContainerStatus {
            resources: linux.map(|linux| v1::ContainerResources {
                linux: Some(linux),
                windows: None,
            }),
            ..Default::default()
        };
        let expected = Reported {
            cpu_shares: 102,
            cpu_quota: 20_000,
            cpu_period: 100_000,
            memory: 64 << 20,
        };
        assert_eq!(container_view(status(Some(linux)), "s").reported, Some(expected));
        // containerd before 1.7 says nothing.
        assert_eq!(container_view(status(None), "s").reported, None);
    }
}
