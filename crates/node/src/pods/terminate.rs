//! Ends containers and pods: hooks first, then the stop signal, then, after the grace, the end.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, Pod};
use mainstay_control::events::EventKind;
pub use mainstay_nodepolicy::pods::grace::grace;

use super::create::run_hook;
use crate::context::Shared;
use crate::plan::{ContainerView, PodView, State, is_sidecar};
use crate::podspec;

/// What a container gets even when hooks used up the grace.
const LEAST_STOP: Duration = Duration::from_secs(2);

fn container_of<'p>(pod: &'p Pod, name: &str) -> Option<&'p Container> {
    let spec = pod.spec.as_ref()?;
    let all = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    all.into_iter().find(|c| c.name == name)
}

/// Ends one running container.
///
/// # Errors
/// In the runtime's words.
pub async fn stop_container(
    shared: &Shared,
    pod: &Pod,
    seen: &ContainerView,
    grace: Duration,
    message: &str,
    pod_ip: &str,
) -> Result<(), String> {
    shared
        .events
        .container(pod, &seen.name, EventKind::Normal, "Killing", message);
    let begun = shared.clock.monotonic();
    let container = container_of(pod, &seen.name);
    let hook = container
        .and_then(|c| c.lifecycle.as_ref())
        .and_then(|l| l.pre_stop.as_ref());
    if let (Some(container), Some(hook)) = (container, hook) {
        let ran = tokio::time::timeout(grace, run_hook(shared, container, &seen.id, pod_ip, hook)).await;
        if !matches!(ran, Ok(Ok(()))) {
            shared.events.container(
                pod,
                &seen.name,
                EventKind::Warning,
                "FailedPreStopHook",
                "PreStopHook failed",
            );
        }
    }
    let left = grace
        .saturating_sub(shared.clock.monotonic().saturating_sub(begun))
        .max(LEAST_STOP.min(grace));
    shared
        .cri
        .stop_container(&seen.id, left)
        .await
        .map_err(|e| e.message())
}

/// Ends every container of a pod, sidecars after the others and in reverse order, then its sandboxes.
///
/// # Errors
/// In the runtime's words; calling again goes on where this one stopped.
pub async fn stop_pod(
    shared: &Arc<Shared>,
    pod: &Pod,
    view: &PodView,
    grace: Duration,
) -> Result<(), String> {
    let begun = shared.clock.monotonic();
    let ip = view
        .sandboxes
        .first()
        .and_then(|s| s.ips.first().cloned())
        .unwrap_or_default();
    let inits = pod
        .spec
        .as_ref()
        .and_then(|s| s.init_containers.as_deref())
        .unwrap_or_default();
    let sidecar_order = |name: &str| inits.iter().position(|c| c.name == name && is_sidecar(c));
    let (mut sidecars, others): (Vec<&ContainerView>, Vec<&ContainerView>) =
        view.running().partition(|c| sidecar_order(&c.name).is_some());
    sidecars.sort_by_key(|c| std::cmp::Reverse(sidecar_order(&c.name)));
    let message = |c: &ContainerView| format!("Stopping container {}", c.name);
    let stops = others.iter().map(|c| {
        let message = message(c);
        let ip = &ip;
        async move { stop_container(shared, pod, c, grace, &message, ip).await }
    });
    join_all(stops)
        .await
        .into_iter()
        .collect::<Result<Vec<()>, String>>()?;
    for sidecar in sidecars {
        let left = grace
            .saturating_sub(shared.clock.monotonic().saturating_sub(begun))
            .max(LEAST_STOP.min(grace));
        stop_container(shared, pod, sidecar, left, &message(sidecar), &ip).await?;
    }
    stop_sandboxes(shared, view).await
}

/// Stops the sandboxes that are still ready.
async fn stop_sandboxes(shared: &Shared, view: &PodView) -> Result<(), String> {
    for sandbox in view.sandboxes.iter().filter(|s| s.ready) {
        shared
            .cri
            .stop_sandbox(&sandbox.id)
            .await
            .map_err(|e| e.message())?;
    }
    Ok(())
}

/// Removes what is left of ended containers beyond the newest of each name, and stale sandboxes.
pub async fn collect_garbage(shared: &Shared, view: &PodView) {
    let mut kept: Vec<&str> = Vec::new();
    for container in &view.containers {
        let ended = matches!(container.state, State::Exited | State::Created | State::Unknown);
        let first_dead = ended && !kept.contains(&container.name.as_str());
        if container.state == State::Exited && first_dead {
            kept.push(&container.name);
            continue;
        }
        // Created but never started: a start that failed; its successor replaces it.
        if container.state != State::Running && !is_newest(view, container) {
            remove_container(shared, container).await;
        }
    }
    for sandbox in view.sandboxes.iter().skip(1).filter(|s| !s.ready) {
        if !view.containers.iter().any(|c| c.sandbox_id == sandbox.id) {
            let _ = shared.cri.remove_sandbox(&sandbox.id).await;
        }
    }
}

fn is_newest(view: &PodView, container: &ContainerView) -> bool {
    view.latest(&container.name).is_some_and(|c| c.id == container.id)
}

async fn remove_container(shared: &Shared, container: &ContainerView) {
    if let Err(error) = shared.cri.remove_container(&container.id).await {
        tracing::debug!(error = error.message(), "could not remove an ended container");
        return;
    }
    remove_logs(&container.log_path);
}

/// Removes a container's log with its rotated parts.
fn remove_logs(log_path: &str) {
    let path = std::path::Path::new(log_path);
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return;
    };
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(name) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Removes everything the node holds of a pod that has ended: containers, sandboxes, volumes, cgroup, log links.
///
/// # Errors
/// What could not be removed; calling again goes on.
pub async fn remove_pod(shared: &Shared, pod: &Pod, view: &PodView, logs_too: bool) -> Result<(), String> {
    for sandbox in &view.sandboxes {
        shared
            .cri
            .remove_sandbox(&sandbox.id)
            .await
            .map_err(|e| e.message())?;
    }
    release(shared, pod)?;
    if logs_too {
        let dir = podspec::log_dir(&shared.settings.kubelet.pod_logs_dir, pod);
        let _ = std::fs::remove_dir_all(dir);
        remove_links(shared, view);
    }
    Ok(())
}

/// Gives back volumes and cgroup of a pod whose containers have ended.
///
/// # Errors
/// When a volume is still in use.
pub fn release(shared: &Shared, pod: &Pod) -> Result<(), String> {
    let uid = podspec::uid(pod);
    crate::volumes::tear_down(&shared.settings.dirs.root, uid).map_err(|e| e.to_string())?;
    if let Some(tree) = &shared.cgroups {
        let remove = || tree.remove_pod(crate::qos::class(pod), uid);
        shared.tally.of_cgroup("destroy", remove);
    }
    shared.fetch.forget(uid);
    shared.cpus.release(uid);
    shared.devices.release(uid);
    Ok(())
}

fn remove_links(shared: &Shared, view: &PodView) {
    let dir = &shared.settings.dirs.container_links;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if view
            .containers
            .iter()
            .any(|c| name.ends_with(&format!("-{}.log", c.id)))
        {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn grace_only_shrinks_and_is_never_zero() {
        let pod = |deletion: Option<i64>| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"name": "p", "deletionGracePeriodSeconds": deletion},
                "spec": {"containers": [], "terminationGracePeriodSeconds": 20}}),
            )
            .expect("valid")
        };
        let rows = [(None, None), (Some(5), None), (Some(0), None), (None, Some(1))];
        assert_eq!(
            rows.map(|(d, limit)| grace(&pod(d), limit).as_secs()),
            [20, 5, 1, 1]
        );
    }
}
