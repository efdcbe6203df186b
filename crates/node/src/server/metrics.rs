//! Metrics in Prometheus' text form: the agent's own, resource usage, and the series of containers.

use std::fmt::Write;
use std::sync::Arc;

use http::StatusCode;

use super::{Answer, text};
use crate::pods::manager::Manager;
use crate::podspec;
use crate::usage::{ContainerUsage, PodUsage, of_pods};

/// One family of series.
struct Family {
    text: String,
    name: &'static str,
}

impl Family {
    fn new(name: &'static str, kind: &str, help: &str) -> Self {
        Family {
            text: format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"),
            name,
        }
    }

    fn add(&mut self, labels: &str, value: impl std::fmt::Display) {
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{labels}}}")
        };
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{}{labels} {value}", self.name);
    }
}

fn join(families: Vec<Family>) -> Answer {
    let all: String = families.into_iter().map(|f| f.text).collect();
    text(StatusCode::OK, all)
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// Answers `/metrics`.
pub fn own(manager: &Arc<Manager>) -> Answer {
    let mut pods = Family::new(
        "kubelet_running_pods",
        "gauge",
        "Number of pods that have a running pod sandbox",
    );
    pods.add("", manager.pods().len());
    let mut node = Family::new(
        "kubelet_node_name",
        "gauge",
        "The node's name. The count is always 1.",
    );
    node.add(&format!("node={:?}", manager.shared().settings.node_name()), 1);
    join(vec![pods, node])
}

fn pod_labels(pod: &PodUsage) -> String {
    format!(
        "namespace={:?},pod={:?}",
        podspec::namespace(&pod.pod),
        podspec::name(&pod.pod)
    )
}

fn container_labels(pod: &PodUsage, container: &ContainerUsage) -> String {
    format!("container={:?},{}", container.name, pod_labels(pod))
}

/// Answers `/metrics/resource`.
pub async fn resource(manager: &Arc<Manager>) -> Answer {
    let shared = manager.shared();
    let pods = of_pods(shared, manager.pods()).await;
    let whole = shared
        .cgroups
        .as_ref()
        .and_then(|t| t.usage("/"))
        .unwrap_or_default();
    let mut families = [
        (
            "node_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the node in core-seconds",
        ),
        (
            "node_memory_working_set_bytes",
            "gauge",
            "Current working set of the node in bytes",
        ),
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the container in core-seconds",
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "Current working set of the container in bytes",
        ),
        (
            "container_start_time_seconds",
            "gauge",
            "Start time of the container since unix epoch in seconds",
        ),
        (
            "pod_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the pod in core-seconds",
        ),
        (
            "pod_memory_working_set_bytes",
            "gauge",
            "Current working set of the pod in bytes",
        ),
        (
            "resource_scrape_error",
            "gauge",
            "1 if there was an error while getting container metrics, 0 otherwise",
        ),
    ]
    .map(|(name, kind, help)| Family::new(name, kind, help));
    families[0].add("", seconds(whole.cpu_nanos));
    families[1].add("", whole.working_set_bytes);
    for pod in &pods {
        for container in &pod.containers {
            let labels = container_labels(pod, container);
            families[2].add(&labels, seconds(container.cpu_nanos));
            families[3].add(&labels, container.working_set_bytes);
            families[4].add(&labels, seconds(container.started_at.max(0) as u64));
        }
        families[5].add(&pod_labels(pod), seconds(pod.cpu_nanos()));
        families[6].add(&pod_labels(pod), pod.working_set_bytes());
    }
    families[7].add("", 0);
    join(families.into())
}

/// Answers `/metrics/cadvisor`.
pub async fn cadvisor(manager: &Arc<Manager>) -> Answer {
    let pods = of_pods(manager.shared(), manager.pods()).await;
    let mut families = [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed in seconds.",
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "Current working set in bytes.",
        ),
        (
            "container_memory_usage_bytes",
            "gauge",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
        ),
        ("container_memory_rss", "gauge", "Size of RSS in bytes."),
        (
            "container_fs_usage_bytes",
            "gauge",
            "Number of bytes that are consumed by the container on this filesystem.",
        ),
        (
            "container_start_time_seconds",
            "gauge",
            "Start time of the container since unix epoch in seconds.",
        ),
    ]
    .map(|(name, kind, help)| Family::new(name, kind, help));
    for pod in &pods {
        for c in &pod.containers {
            let labels = container_labels(pod, c);
            families[0].add(&format!("{labels},cpu=\"total\""), seconds(c.cpu_nanos));
            families[1].add(&labels, c.working_set_bytes);
            families[2].add(&labels, c.memory_bytes);
            families[3].add(&labels, c.rss_bytes);
            families[4].add(&labels, c.rootfs_bytes + c.log_bytes);
            families[5].add(&labels, seconds(c.started_at.max(0) as u64));
        }
    }
    join(families.into())
}
