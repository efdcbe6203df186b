//! `/metrics`: the agent itself, under the kubelet's names.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use mainstay_base::metrics::process;

use super::{Answer, Family, join};
use crate::context::Shared;
use crate::cri::{Operations, runtime_v1 as v1};
use crate::disk::{self, Filesystem};
use crate::identity::Store;
use crate::pods::manager::Manager;
use crate::{podspec, volumes};

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
    families.extend(counted_pods(manager));
    families.extend(last_listed(shared));
    if let Some(tree) = &shared.cgroups {
        let version = if tree.is_v2() { 2 } else { 1 };
        families
            .push(Family::gauge("kubelet_cgroup_version", "cgroup version on the hosts.").with(&[], version));
    }
    families.extend(shared.cri.operations().into_iter().flat_map(Operations::families));
    families.extend(shared.tally.families());
    let (root, pods) = (shared.settings.dirs.root.clone(), manager.pods());
    // A filesystem may take its time.
    let claims = tokio::task::spawn_blocking(move || claims(&root, &pods)).await;
    families.extend(of_claims(&claims.unwrap_or_default()));
    families.extend(process::families());
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

/// Pods by where they come from: those that are to be here, and of them those that run or may run again.
fn counted_pods(manager: &Manager) -> [Family; 3] {
    let (pods, in_use) = (manager.pods(), manager.uids_in_use());
    let (fixed, others): (Vec<_>, Vec<_>) = pods.iter().partition(|pod| podspec::is_static(pod));
    let by_source = |mut family: Family, count: &dyn Fn(&[&Arc<Pod>]) -> usize| {
        for (label, pods) in [("", &others), ("true", &fixed)] {
            family.add(&[("static", label)], count(pods));
        }
        family
    };
    let active = |pods: &[&Arc<Pod>]| {
        let active = pods.iter().filter(|pod| in_use.contains(podspec::uid(pod)));
        active.count()
    };
    let help = "The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.";
    let active = by_source(Family::gauge("kubelet_active_pods", help), &active);
    let help = "The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.";
    let desired = by_source(Family::gauge("kubelet_desired_pods", help), &|pods| pods.len());
    let help = "The number of mirror pods the kubelet will try to create (one per admitted static pod)";
    let mirrors = Family::gauge("kubelet_mirror_pods", help).with(&[], fixed.len());
    [active, desired, mirrors]
}

/// When the runtime was last listed; no series before the first time.
fn last_listed(shared: &Shared) -> Option<Family> {
    let age = shared.tally.since(shared.health.listed_at()?);
    let at = shared.clock.now().as_second() - age.as_secs() as i64;
    let help = "Timestamp in seconds when PLEG was last seen active.";
    Some(Family::gauge("kubelet_pleg_last_seen_seconds", help).with(&[], at))
}

/// A value of a filesystem.
type OfFilesystem = fn(&Filesystem) -> u64;

/// Families of claimed volumes: name, help, value.
const OF_CLAIMS: [(&str, &str, OfFilesystem); 6] = [
    (
        "kubelet_volume_stats_available_bytes",
        "Number of available bytes in the volume",
        |fs| fs.available_bytes,
    ),
    (
        "kubelet_volume_stats_capacity_bytes",
        "Capacity in bytes of the volume",
        |fs| fs.capacity_bytes,
    ),
    (
        "kubelet_volume_stats_inodes",
        "Maximum number of inodes in the volume",
        |fs| fs.inodes,
    ),
    (
        "kubelet_volume_stats_inodes_free",
        "Number of free inodes in the volume",
        |fs| fs.inodes_free,
    ),
    (
        "kubelet_volume_stats_inodes_used",
        "Number of used inodes in the volume",
        |fs| fs.inodes.saturating_sub(fs.inodes_free),
    ),
    (
        "kubelet_volume_stats_used_bytes",
        "Number of used bytes in the volume",
        |fs| fs.used_bytes,
    ),
];

/// Claims that pods use here, by namespace and name, with the filesystem that each is on.
fn claims(root: &Path, pods: &[Arc<Pod>]) -> BTreeMap<(String, String), Filesystem> {
    let mut found = BTreeMap::new();
    for pod in pods {
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        for volume in volumes {
            let Some(claim) = &volume.persistent_volume_claim else {
                continue;
            };
            let path = volumes::host_path(root, podspec::uid(pod), volume);
            if let Some(fs) = path.and_then(|path| disk::filesystem(&path)) {
                found.insert((podspec::namespace(pod).to_owned(), claim.claim_name.clone()), fs);
            }
        }
    }
    found
}

fn of_claims(claims: &BTreeMap<(String, String), Filesystem>) -> impl Iterator<Item = Family> {
    OF_CLAIMS.into_iter().map(move |(name, help, value)| {
        let mut family = Family::gauge(name, help);
        for ((namespace, claim), fs) in claims {
            let labels = [
                ("namespace", namespace.as_str()),
                ("persistentvolumeclaim", claim),
            ];
            family.add(&labels, value(fs));
        }
        family
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_base::metrics::text;
    use serde_json::json;

    #[test]
    fn a_claim_is_told_once_however_many_pods_use_it() {
        let root = tempfile::tempdir().expect("a folder");
        let pod = |uid: &str, claim: &str| {
            let folder = root
                .path()
                .join(format!("pods/{uid}/volumes/kubernetes.io~local-volume/v"));
            std::fs::create_dir_all(folder).expect("made");
            let pod = json!({"metadata": {"name": uid, "namespace": "n", "uid": uid}, "spec": {"containers": [],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}, {"name": "w", "emptyDir": {}}]}});
            Arc::new(serde_json::from_value::<Pod>(pod).expect("a pod"))
        };
        let claims = claims(root.path(), &[pod("a", "c"), pod("b", "c"), pod("d", "e")]);
        let text = text(of_claims(&claims));
        for claim in ["c", "e"] {
            let series = format!(
                "kubelet_volume_stats_capacity_bytes{{namespace=\"n\",persistentvolumeclaim=\"{claim}\"}} "
            );
            let values: Vec<&str> = text
                .lines()
                .filter_map(|line| line.strip_prefix(&series))
                .collect();
            assert_eq!(values.len(), 1, "{text}");
            assert!(values[0].parse::<u64>().expect("a number") > 0);
        }
    }
}
