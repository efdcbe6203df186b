//! What the runtime has, by pod: the truth behind what the agent reports.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use mainstay_cri::{Cri, runtime_v1 as v1};

const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_UID: &str = "io.kubernetes.pod.uid";

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub id: String,
    /// Which start of the container it is, from 0.
    pub attempt: u32,
    /// Its pod's UID.
    pub uid: String,
}

/// Containers that run, by the name of their pod.
///
/// # Errors
/// When the runtime does not answer, or two run for one container of one pod.
pub async fn running(cri: &Cri) -> Result<BTreeMap<String, Running>> {
    let state = v1::ContainerStateValue {
        state: v1::ContainerState::ContainerRunning as i32,
    };
    let filter = v1::ContainerFilter {
        state: Some(state),
        ..Default::default()
    };
    let request = v1::ListContainersRequest { filter: Some(filter) };
    let mut found: BTreeMap<String, Running> = BTreeMap::new();
    for container in cri.list_containers(request).await?.containers {
        let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
        let one = Running {
            uid: label(POD_UID),
            attempt: container.metadata.as_ref().map_or(0, |m| m.attempt),
            id: container.id.clone(),
        };
        let pod = label(POD_NAME);
        if let Some(other) = found.get(&pod).filter(|other| other.uid == one.uid) {
            bail!("two containers run for pod {pod}: {other:?} and {one:?}");
        }
        found.insert(pod, one);
    }
    Ok(found)
}

/// UIDs of the pods that have a sandbox which is ready.
///
/// # Errors
/// When the runtime does not answer, or a pod has two.
pub async fn sandboxes(cri: &Cri) -> Result<BTreeMap<String, String>> {
    let request = v1::ListPodSandboxRequest { filter: None };
    let ready = v1::PodSandboxState::SandboxReady as i32;
    let mut found = BTreeMap::new();
    for sandbox in cri.list_sandboxes(request).await?.items {
        let uid = sandbox.labels.get(POD_UID).cloned().unwrap_or_default();
        if sandbox.state == ready
            && let Some(other) = found.insert(uid.clone(), sandbox.id.clone())
        {
            bail!(
                "two sandboxes are ready for pod {uid}: {other} and {}",
                sandbox.id
            );
        }
    }
    Ok(found)
}
