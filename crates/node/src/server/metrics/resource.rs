//! `/metrics/resource`: what nodes, pods and containers use now, in the few series that `kubectl top` needs.

use std::sync::Arc;

use super::{Answer, Family, join, seconds};
use crate::cgroups::CgroupTree;
use crate::pods::manager::Manager;
use crate::usage::measured;
use crate::{podspec, qos};

/// Answers `/metrics/resource`.
pub async fn resource(manager: &Arc<Manager>) -> Answer {
    let shared = manager.shared();
    let (pods, failed) = measured(shared, manager.pods()).await;
    let whole = shared
        .cgroups
        .as_ref()
        .and_then(|tree| tree.usage("/"))
        .unwrap_or_default();
    let swap = |path: &str| shared.cgroups.as_ref().and_then(|tree| tree.swap(path));
    let mut node_swap = Family::gauge(
        "node_swap_usage_bytes",
        "Current swap usage of the node in bytes. Reported only on non-windows systems",
    );
    if let Some((bytes, _)) = swap("/") {
        node_swap.add(&[], bytes);
    }
    let mut cpu = Family::counter(
        "container_cpu_usage_seconds_total",
        "Cumulative cpu time consumed by the container in core-seconds",
    );
    let mut memory = Family::gauge(
        "container_memory_working_set_bytes",
        "Current working set of the container in bytes",
    );
    let mut started = Family::gauge(
        "container_start_time_seconds",
        "Start time of the container since unix epoch in seconds",
    );
    let mut container_swap = Family::gauge(
        "container_swap_usage_bytes",
        "Current amount of the container swap usage in bytes. Reported only on non-windows systems",
    );
    let mut swap_limit = Family::gauge(
        "container_swap_limit_bytes",
        "Current amount of the container swap limit in bytes. Reported only on non-windows systems",
    );
    let mut pod_cpu = Family::counter(
        "pod_cpu_usage_seconds_total",
        "Cumulative cpu time consumed by the pod in core-seconds",
    );
    let mut pod_memory = Family::gauge(
        "pod_memory_working_set_bytes",
        "Current working set of the pod in bytes",
    );
    let mut pod_swap = Family::gauge(
        "pod_swap_usage_bytes",
        "Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
    );
    for pod in &pods {
        let (namespace, name) = (podspec::namespace(&pod.pod), podspec::name(&pod.pod));
        let path = |tree: &CgroupTree| tree.pod_path(qos::class(&pod.pod), podspec::uid(&pod.pod));
        for container in &pod.containers {
            let labels = [
                ("container", container.name.as_str()),
                ("namespace", namespace),
                ("pod", name),
            ];
            cpu.add(&labels, seconds(container.cpu_nanos));
            memory.add(&labels, container.working_set_bytes);
            if container.started_at > 0 {
                started.add(&labels, seconds(container.started_at as u64));
            }
            let path = |tree: &CgroupTree| tree.container_path(&path(tree), &container.id);
            if let Some((bytes, limit)) = shared
                .cgroups
                .as_ref()
                .and_then(path)
                .and_then(|path| swap(&path))
            {
                container_swap.add(&labels, bytes);
                if let Some(limit) = limit {
                    swap_limit.add(&labels, limit);
                }
            }
        }
        let labels = [("namespace", namespace), ("pod", name)];
        pod_cpu.add(&labels, seconds(pod.cpu_nanos()));
        pod_memory.add(&labels, pod.working_set_bytes());
        if let Some((bytes, _)) = shared.cgroups.as_ref().and_then(|tree| swap(&path(tree))) {
            pod_swap.add(&labels, bytes);
        }
    }
    let error = u8::from(failed.is_some() || shared.cgroups.is_none());
    let errors = ["resource_scrape_error", "scrape_error"].map(|name| {
        let help = "1 if there was an error while getting container metrics, 0 otherwise";
        Family::gauge(name, help).with(&[], error)
    });
    let node = [
        Family::counter(
            "node_cpu_usage_seconds_total",
            "Cumulative cpu time consumed by the node in core-seconds",
        )
        .with(&[], seconds(whole.cpu_nanos)),
        Family::gauge(
            "node_memory_working_set_bytes",
            "Current working set of the node in bytes",
        )
        .with(&[], whole.working_set_bytes),
        node_swap,
    ];
    let of_pods = [
        cpu,
        memory,
        started,
        container_swap,
        swap_limit,
        pod_cpu,
        pod_memory,
        pod_swap,
    ];
    join(node.into_iter().chain(of_pods).chain(errors))
}
