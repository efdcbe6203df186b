//! Carries out resizes: the pod's cgroup is widened, its containers changed, the cgroup narrowed to what is left.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use mainstay_nodepolicy::resize::{self, Update};

use super::create::pod_limits;
use crate::context::Shared;
use crate::cri::runtime_v1 as v1;
use crate::podspec::{self, runtime_config};
use crate::qos::{self, PodCgroup};

/// Of two limits the wider one; none is the widest.
fn wider(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a.zip(b).map(|(a, b)| a.max(b))
}

fn widest(a: &PodCgroup, b: &PodCgroup) -> PodCgroup {
    PodCgroup {
        shares: a.shares.max(b.shares),
        quota_us: wider(a.quota_us, b.quota_us),
        memory: wider(a.memory, b.memory),
        ..b.clone()
    }
}

fn set_limits(shared: &Shared, pod: &Pod, limits: &PodCgroup) -> Result<(), String> {
    let Some(tree) = &shared.cgroups else {
        return Ok(());
    };
    let set = || tree.ensure_pod(qos::class(pod), podspec::uid(pod), limits);
    let set = shared.tally.of_cgroup("update", set);
    set.map_err(|error| mainstay_base::error::chain(&error))
}

async fn memory_in_use(shared: &Shared, id: &str) -> Option<i64> {
    let filter = v1::ContainerStatsFilter {
        id: id.to_owned(),
        ..Default::default()
    };
    let request = v1::ListContainerStatsRequest { filter: Some(filter) };
    let answer = shared.cri.container_stats(request).await.ok()?;
    let memory = answer.stats.into_iter().find_map(|s| s.memory)?;
    let bytes = memory.usage_bytes.or(memory.working_set_bytes)?;
    i64::try_from(bytes.value).ok()
}

/// Refuses limits below what is in use: the kernel would refuse, or kill.
async fn check_memory(shared: &Shared, updates: &[Update]) -> Result<(), String> {
    for update in updates {
        let Some(limit) = update.shrinks_to else { continue };
        let name = &update.name;
        match memory_in_use(shared, &update.id).await {
            None => {
                return Err(format!(
                    "cannot decrease memory limits: missing container {name:?} memory usage"
                ));
            }
            Some(used) if used >= limit => {
                return Err(format!(
                    "cannot decrease memory limits: attempting to set container {name:?} memory limit ({limit}) below current usage ({used})"
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

async fn update(shared: &Shared, pod: &Pod, container: &Container, id: &str) -> Result<(), String> {
    let cpus = shared.cpus.share(podspec::uid(pod), &container.name);
    let mut linux = runtime_config::resources(pod, container, &cpus, &shared.node_side);
    // What is not to change stays out of the request.
    linux.unified.clear();
    linux.hugepage_limits.clear();
    let request = v1::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    let answer = shared.cri.update_container(request).await;
    answer.map(drop).map_err(|error| error.message())
}

/// Brings running containers to what their pod was given. `pod` shows that.
///
/// # Errors
/// In words for the pod's condition; what was done until then stays done.
pub async fn carry_out(shared: &Shared, pod: &Arc<Pod>, updates: &[Update]) -> Result<(), String> {
    let uid = podspec::uid(pod);
    check_memory(shared, updates).await?;
    let before = resize::with(pod, &shared.allocations.of(uid).actual);
    let limits = pod_limits(shared, pod);
    set_limits(shared, pod, &widest(&pod_limits(shared, &before), &limits))?;
    let wanted = resize::wanted(pod);
    let containers = pod.spec.iter();
    let containers: Vec<&Container> = containers
        .flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers))
        .collect();
    for planned in updates {
        if let Some(container) = containers.iter().find(|c| c.name == planned.name) {
            update(shared, pod, container, &planned.id).await?;
            shared
                .allocations
                .told(uid, &planned.name, wanted.get(&planned.name));
        }
    }
    set_limits(shared, pod, &limits)
}
