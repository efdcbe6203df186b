//! Moves running containers to the processors that they should have.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::manager::Manager;
use crate::context::Shared;
use crate::cri::runtime_v1 as v1;
use crate::podspec::labels;

/// How often containers are compared with what they should have.
const PERIOD: Duration = Duration::from_secs(10);

/// Moves running containers to the processors that they should have, for as long as the agent runs.
pub async fn keep(manager: Arc<Manager>) {
    let shared = manager.shared();
    if !shared.cpus.is_static() {
        return std::future::pending().await;
    }
    let mut applied: HashMap<String, String> = HashMap::new();
    loop {
        if manager.knows_all() {
            shared.cpus.release_all_but(&manager.uids(|_| true));
        }
        reconcile(shared, &mut applied).await;
        tokio::select! {
            () = shared.cpus.changed.notified() => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

async fn reconcile(shared: &Shared, applied: &mut HashMap<String, String>) {
    let running = v1::ContainerStateValue {
        state: v1::ContainerState::ContainerRunning as i32,
    };
    let filter = v1::ContainerFilter {
        state: Some(running),
        ..Default::default()
    };
    let request = v1::ListContainersRequest { filter: Some(filter) };
    let Ok(listed) = shared.cri.list_containers(request).await else {
        return;
    };
    applied.retain(|id, _| listed.containers.iter().any(|c| c.id == *id));
    for container in &listed.containers {
        let label = |key: &str| container.labels.get(key).map_or("", String::as_str);
        let share = shared
            .cpus
            .share(label(labels::POD_UID), label(labels::CONTAINER_NAME));
        if applied.get(&container.id) == Some(&share.list) {
            continue;
        }
        match shared.cri.set_cpus(&container.id, &share.list).await {
            Ok(()) => {
                applied.insert(container.id.clone(), share.list);
            }
            Err(error) => {
                tracing::debug!(
                    error = error.message(),
                    "could not move a container to its processors"
                );
            }
        }
    }
}
