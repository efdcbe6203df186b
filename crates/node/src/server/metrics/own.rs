//! `/metrics`: the agent itself, under the kubelet's names.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Answer, Family, join};
use crate::context::Shared;
use crate::cri::runtime_v1 as v1;
use crate::identity::Store;
use crate::pods::manager::Manager;

/// CPU times in /proc are in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;

/// Answers `/metrics`.
pub async fn own(manager: &Arc<Manager>) -> Answer {
    let shared = manager.shared();
    let mut families = vec![
        Family::gauge("kubelet_node_name", "The node's name. The count is always 1.")
            .with(&[("node", shared.settings.node_name())], 1),
        Family::gauge(
            "kubernetes_build_info",
            "A metric with a constant '1' value labeled by the version that is run.",
        )
        .with(&[("git_version", &shared.settings.version)], 1),
    ];
    families.extend(certificates(shared));
    families.extend(running(shared).await);
    families.extend(process());
    join(families)
}

/// Seconds until the certificates end; without one for ever, as the kubelet says it.
fn certificates(shared: &Shared) -> [Family; 2] {
    let folder = shared.settings.dirs.certificates();
    let left = |store: Store| {
        let end = store.ends()?;
        Some(end.as_second() - shared.clock.now().as_second())
    };
    let told = |left: Option<i64>| left.map_or("+Inf".to_owned(), |seconds| seconds.to_string());
    let serving = shared
        .settings
        .kubelet
        .server_tls_bootstrap
        .then(|| left(Store::serving(&folder)))
        .flatten();
    [
        Family::gauge(
            "kubelet_certificate_manager_client_ttl_seconds",
            "Gauge of the TTL (time-to-live) of the Kubelet's client certificate. The value is in seconds until certificate expiry.",
        )
        .with(&[], told(left(Store::new(&folder)))),
        Family::gauge(
            "kubelet_certificate_manager_server_ttl_seconds",
            "Gauge of the TTL (time-to-live) of the Kubelet's serving certificate. The value is in seconds until certificate expiry.",
        )
        .with(&[], told(serving)),
    ]
}

/// Pods and containers that the runtime has; no series while it does not answer.
async fn running(shared: &Shared) -> Vec<Family> {
    let mut found = Vec::new();
    let state = v1::PodSandboxStateValue {
        state: v1::PodSandboxState::SandboxReady as i32,
    };
    let filter = v1::PodSandboxFilter {
        state: Some(state),
        ..Default::default()
    };
    let request = v1::ListPodSandboxRequest { filter: Some(filter) };
    if let Ok(sandboxes) = shared.cri.list_sandboxes(request).await {
        let help = "Number of pods that have a running pod sandbox";
        found.push(Family::gauge("kubelet_running_pods", help).with(&[], sandboxes.items.len()));
    }
    let request = v1::ListContainersRequest { filter: None };
    if let Ok(containers) = shared.cri.list_containers(request).await {
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        for container in &containers.containers {
            *states.entry(state_name(container.state())).or_default() += 1;
        }
        let mut family = Family::gauge(
            "kubelet_running_containers",
            "Number of containers currently running",
        );
        for (state, count) in states {
            family.add(&[("container_state", state)], count);
        }
        found.push(family);
    }
    found
}

fn state_name(state: v1::ContainerState) -> &'static str {
    match state {
        v1::ContainerState::ContainerCreated => "created",
        v1::ContainerState::ContainerRunning => "running",
        v1::ContainerState::ContainerExited => "exited",
        v1::ContainerState::ContainerUnknown => "unknown",
    }
}

/// What the agent's process uses.
fn process() -> Vec<Family> {
    let mut found = Vec::new();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some(ticks) = cpu_ticks(&stat) {
        let help = "Total user and system CPU time spent in seconds.";
        found.push(
            Family::counter("process_cpu_seconds_total", help).with(&[], ticks as f64 / TICKS_PER_SECOND),
        );
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kilobytes) = resident(&status) {
        let help = "Resident memory size in bytes.";
        found.push(Family::gauge("process_resident_memory_bytes", help).with(&[], kilobytes * 1_024));
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        let help = "Number of open file descriptors.";
        found.push(Family::gauge("process_open_fds", help).with(&[], open.count()));
    }
    found
}

/// Kilobytes of `VmRSS` in `/proc/PID/status`.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Ticks in programs and in the kernel, from `/proc/PID/stat`; the program's name in it may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11).map(str::parse::<u64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn ticks_stand_behind_a_name_with_anything_in_it() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 40 2 0 0 20 0 9 0 1000 1 1\n";
        assert_eq!(super::cpu_ticks(stat), Some(42));
        assert_eq!(super::cpu_ticks(""), None);
    }
}
