//! `/metrics/cadvisor`: the accounts of all cgroups under the names that dashboards and alerting rules know: of the machine
//! (`id="/"`), of the pods' tree, of each pod (no container), of each container. A pod's network is that of its namespace.

use std::sync::Arc;

use super::{Answer, Family, join, seconds};
use crate::cgroups::CgroupTree;
use crate::cgroups::account::{Account, Pressure};
use crate::pods::manager::Manager;
use crate::server::traffic::{self, Interface};
use crate::usage::{ContainerUsage, PodUsage, measured};
use crate::{podspec, qos};
use mainstay_semantics::qos::Class;

/// A value of an account.
type Value = fn(&Account) -> Option<f64>;

/// Families of one value for each cgroup: name, whether it only grows, help, value.
const FAMILIES: &[(&str, bool, &str, Value)] = &[
    (
        "container_cpu_user_seconds_total",
        true,
        "Cumulative user cpu time consumed in seconds.",
        |a| Some(seconds(a.cpu[0])),
    ),
    (
        "container_cpu_system_seconds_total",
        true,
        "Cumulative system cpu time consumed in seconds.",
        |a| Some(seconds(a.cpu[1])),
    ),
    (
        "container_cpu_cfs_periods_total",
        true,
        "Number of elapsed enforcement period intervals.",
        |a| limited(a, a.throttled[0] as f64),
    ),
    (
        "container_cpu_cfs_throttled_periods_total",
        true,
        "Number of throttled period intervals.",
        |a| limited(a, a.throttled[1] as f64),
    ),
    (
        "container_cpu_cfs_throttled_seconds_total",
        true,
        "Total time duration the container has been throttled.",
        |a| limited(a, seconds(a.throttled[2])),
    ),
    (
        "container_memory_usage_bytes",
        false,
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |a| Some(a.usage.memory_bytes as f64),
    ),
    (
        "container_memory_working_set_bytes",
        false,
        "Current working set in bytes.",
        |a| Some(a.usage.working_set_bytes as f64),
    ),
    (
        "container_memory_max_usage_bytes",
        false,
        "Maximum memory usage recorded in bytes",
        |a| a.peak.map(|v| v as f64),
    ),
    ("container_memory_rss", false, "Size of RSS in bytes.", |a| {
        Some(a.usage.rss_bytes as f64)
    }),
    (
        "container_memory_cache",
        false,
        "Number of bytes of page cache memory.",
        |a| Some(a.cache as f64),
    ),
    (
        "container_memory_mapped_file",
        false,
        "Size of memory mapped files in bytes.",
        |a| Some(a.mapped as f64),
    ),
    (
        "container_memory_swap",
        false,
        "Container swap usage in bytes.",
        |a| a.swap.map(|v| v as f64),
    ),
    (
        "container_memory_failcnt",
        true,
        "Number of memory usage hits limits",
        |a| Some(a.limit_hits as f64),
    ),
    (
        "container_oom_events_total",
        true,
        "Count of out of memory events observed for the container",
        |a| Some(a.oom_kills as f64),
    ),
    (
        "container_threads",
        false,
        "Number of threads running inside the container",
        |a| Some(a.usage.pids as f64),
    ),
    (
        "container_spec_memory_limit_bytes",
        false,
        "Memory limit for the container.",
        |a| Some(a.memory_limit.unwrap_or(0) as f64),
    ),
    (
        "container_spec_cpu_quota",
        false,
        "CPU quota of the container.",
        |a| a.cpu_limit.map(|(quota, _)| quota as f64),
    ),
    (
        "container_spec_cpu_period",
        false,
        "CPU period of the container.",
        |a| a.cpu_limit.map(|(_, period)| period as f64),
    ),
    (
        "container_pressure_cpu_waiting_seconds_total",
        true,
        "Total time duration tasks in the container have waited due to CPU congestion.",
        |a| some(a.pressure[0]),
    ),
    (
        "container_pressure_cpu_stalled_seconds_total",
        true,
        "Total time duration no tasks in the container could make progress due to CPU congestion.",
        |a| full(a.pressure[0]),
    ),
    (
        "container_pressure_memory_waiting_seconds_total",
        true,
        "Total time duration tasks in the container have waited due to memory congestion.",
        |a| some(a.pressure[1]),
    ),
    (
        "container_pressure_memory_stalled_seconds_total",
        true,
        "Total time duration no tasks in the container could make progress due to memory congestion.",
        |a| full(a.pressure[1]),
    ),
    (
        "container_pressure_io_waiting_seconds_total",
        true,
        "Total time duration tasks in the container have waited due to IO congestion.",
        |a| some(a.pressure[2]),
    ),
    (
        "container_pressure_io_stalled_seconds_total",
        true,
        "Total time duration no tasks in the container could make progress due to IO congestion.",
        |a| full(a.pressure[2]),
    ),
];

/// Families of reading and writing by device: name, help, whether requests are counted or bytes, direction.
const IO: [(&str, &str, bool, usize); 4] = [
    (
        "container_fs_reads_bytes_total",
        "Cumulative count of bytes read",
        false,
        0,
    ),
    (
        "container_fs_writes_bytes_total",
        "Cumulative count of bytes written",
        false,
        1,
    ),
    (
        "container_fs_reads_total",
        "Cumulative count of reads completed",
        true,
        0,
    ),
    (
        "container_fs_writes_total",
        "Cumulative count of writes completed",
        true,
        1,
    ),
];

/// Families of the network by interface: name, help, column.
const NETWORK: [(&str, &str, fn(&Interface) -> u64); 8] = [
    (
        "container_network_receive_bytes_total",
        "Cumulative count of bytes received",
        |i| i.received.bytes,
    ),
    (
        "container_network_receive_packets_total",
        "Cumulative count of packets received",
        |i| i.received.packets,
    ),
    (
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        |i| i.received.dropped,
    ),
    (
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        |i| i.received.errors,
    ),
    (
        "container_network_transmit_bytes_total",
        "Cumulative count of bytes transmitted",
        |i| i.sent.bytes,
    ),
    (
        "container_network_transmit_packets_total",
        "Cumulative count of packets transmitted",
        |i| i.sent.packets,
    ),
    (
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        |i| i.sent.dropped,
    ),
    (
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        |i| i.sent.errors,
    ),
];

/// Only those with a limit are ever held back by it.
fn limited(account: &Account, value: f64) -> Option<f64> {
    account.cpu_limit.map(|_| value)
}

fn some(pressure: Option<Pressure>) -> Option<f64> {
    pressure.map(|p| p.some.total_us as f64 / 1e6)
}

fn full(pressure: Option<Pressure>) -> Option<f64> {
    pressure.map(|p| p.full.total_us as f64 / 1e6)
}

/// The labels of a cgroup's series; those that do not apply are empty.
#[derive(Default)]
struct Named {
    container: String,
    id: String,
    image: String,
    name: String,
    namespace: String,
    pod: String,
}

impl Named {
    fn labels(&self) -> Vec<(&'static str, &str)> {
        vec![
            ("container", &self.container),
            ("id", &self.id),
            ("image", &self.image),
            ("name", &self.name),
            ("namespace", &self.namespace),
            ("pod", &self.pod),
        ]
    }
}

/// One cgroup's series.
struct Row {
    named: Named,
    account: Account,
    /// Of containers: bytes of the writable layer and logs, and the start in nanoseconds since the epoch.
    container: Option<(u64, i64)>,
    network: Vec<Interface>,
}

/// The image that a container was made from, as its status names it, else as it was asked for.
fn image(pod: &PodUsage, container: &str) -> String {
    let statuses = pod.pod.status.iter().flat_map(|status| {
        let lists = [
            &status.container_statuses,
            &status.init_container_statuses,
            &status.ephemeral_container_statuses,
        ];
        lists.into_iter().flatten().flatten()
    });
    let told = statuses
        .filter(|status| status.name == container)
        .map(|status| status.image.as_str());
    let asked = pod.pod.spec.iter().flat_map(|spec| {
        let first = spec.init_containers.iter().flatten();
        first.chain(&spec.containers)
    });
    let asked = asked
        .filter(|one| one.name == container)
        .filter_map(|one| one.image.as_deref());
    let mut names = told.chain(asked).filter(|name| !name.is_empty());
    names.next().unwrap_or_default().to_owned()
}

fn of_container(tree: &CgroupTree, pod: &PodUsage, above: &str, usage: &ContainerUsage) -> Option<Row> {
    let id = tree.container_path(above, &usage.id)?;
    Some(Row {
        account: tree.account(&id)?,
        named: Named {
            container: usage.name.clone(),
            image: image(pod, &usage.name),
            name: usage.id.clone(),
            namespace: podspec::namespace(&pod.pod).to_owned(),
            pod: podspec::name(&pod.pod).to_owned(),
            id,
        },
        container: Some((usage.rootfs_bytes + usage.log_bytes, usage.started_at)),
        network: Vec::new(),
    })
}

fn of_pod(tree: &CgroupTree, pod: &PodUsage) -> Vec<Row> {
    let id = tree.pod_path(qos::class(&pod.pod), podspec::uid(&pod.pod));
    let containers = pod
        .containers
        .iter()
        .filter_map(|usage| of_container(tree, pod, &id, usage));
    let mut rows: Vec<Row> = containers.collect();
    if let Some(account) = tree.account(&id) {
        let network = match podspec::host_network(&pod.pod) {
            true => Vec::new(),
            false => tree
                .processes(&id)
                .into_iter()
                .find_map(traffic::of_process)
                .unwrap_or_default(),
        };
        let named = Named {
            namespace: podspec::namespace(&pod.pod).to_owned(),
            pod: podspec::name(&pod.pod).to_owned(),
            id,
            ..Named::default()
        };
        rows.push(Row {
            named,
            account,
            container: None,
            network,
        });
    }
    rows
}

/// The machine and the pods' tree.
fn above_pods(tree: &CgroupTree) -> Vec<Row> {
    let classes = [Class::Guaranteed, Class::Burstable, Class::BestEffort];
    let ids = classes.map(|class| tree.class_path(class));
    let row = |id: String| {
        Some(Row {
            account: tree.account(&id)?,
            network: if id == "/" {
                traffic::of_machine()
            } else {
                Vec::new()
            },
            named: Named {
                id,
                ..Named::default()
            },
            container: None,
        })
    };
    std::iter::once("/".to_owned())
        .chain(ids)
        .filter_map(row)
        .collect()
}

/// Answers `/metrics/cadvisor`.
pub async fn cadvisor(manager: &Arc<Manager>) -> Answer {
    let shared = manager.shared();
    let (pods, _) = measured(shared, manager.pods()).await;
    let facts = &shared.facts;
    let machine = [
        Family::gauge("machine_cpu_cores", "Number of logical CPU cores.").with(&[], facts.cpus),
        Family::gauge(
            "machine_memory_bytes",
            "Amount of memory installed on the machine.",
        )
        .with(&[], facts.memory_bytes),
    ];
    let Some(tree) = shared.cgroups.clone() else {
        return join(machine);
    };
    let now = shared.now_nanos().max(0) as u64;
    // Thousands of small files.
    let series = tokio::task::spawn_blocking(move || {
        let mut rows = above_pods(&tree);
        rows.extend(pods.iter().flat_map(|pod| of_pod(&tree, pod)));
        series(&rows, now)
    });
    match series.await {
        Ok(series) => join(machine.into_iter().chain(series)),
        Err(error) => crate::server::text(http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn series(rows: &[Row], now: u64) -> Vec<Family> {
    let mut families = vec![cpu(rows), faults(rows)];
    families.extend(FAMILIES.iter().map(|(name, grows, help, value)| {
        let mut family = Family::new(name, if *grows { "counter" } else { "gauge" }, help);
        for row in rows {
            if let Some(value) = value(&row.account) {
                family.add(&row.named.labels(), value);
            }
        }
        family
    }));
    families.extend(IO.iter().map(|(name, help, requests, direction)| {
        let mut family = Family::counter(name, help);
        for row in rows {
            for io in &row.account.io {
                let value = if *requests { io.requests } else { io.bytes };
                let mut labels = row.named.labels();
                labels.push(("device", &io.device));
                family.add(&labels, value[*direction]);
            }
        }
        family
    }));
    families.extend(NETWORK.iter().map(|(name, help, value)| {
        let mut family = Family::counter(name, help);
        for row in rows {
            for interface in &row.network {
                let mut labels = row.named.labels();
                labels.push(("interface", &interface.name));
                family.add(&labels, value(interface));
            }
        }
        family
    }));
    families.extend(of_containers(rows, now));
    families
}

fn cpu(rows: &[Row]) -> Family {
    let mut family = Family::counter(
        "container_cpu_usage_seconds_total",
        "Cumulative cpu time consumed in seconds.",
    );
    for row in rows {
        let mut labels = row.named.labels();
        labels.push(("cpu", "total"));
        family.add(&labels, seconds(row.account.usage.cpu_nanos));
    }
    family
}

fn faults(rows: &[Row]) -> Family {
    let mut family = Family::counter(
        "container_memory_failures_total",
        "Cumulative count of memory allocation failures.",
    );
    for row in rows {
        for (kind, count) in ["pgfault", "pgmajfault"].into_iter().zip(row.account.faults) {
            let mut labels = row.named.labels();
            labels.extend([("failure_type", kind), ("scope", "hierarchy")]);
            family.add(&labels, count);
        }
    }
    family
}

fn of_containers(rows: &[Row], now: u64) -> [Family; 3] {
    let mut disk = Family::gauge(
        "container_fs_usage_bytes",
        "Number of bytes that are consumed by the container on this filesystem.",
    );
    let mut started = Family::gauge(
        "container_start_time_seconds",
        "Start time of the container since unix epoch in seconds.",
    );
    let mut seen = Family::gauge(
        "container_last_seen",
        "Last time a container was seen by the exporter",
    );
    for row in rows {
        let labels = row.named.labels();
        seen.add(&labels, now / 1_000_000_000);
        if let Some((bytes, start)) = row.container {
            disk.add(&labels, bytes);
            started.add(&labels, seconds(start.max(0) as u64));
        }
    }
    [disk, started, seen]
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_base::metrics;

    #[test]
    fn values_that_the_kernel_does_not_tell_have_no_series() {
        let row = |id: &str, account: Account| Row {
            named: Named {
                id: id.to_owned(),
                ..Named::default()
            },
            account,
            container: None,
            network: Vec::new(),
        };
        let limited = Account {
            cpu_limit: Some((50_000, 100_000)),
            throttled: [10, 4, 2_500_000_000],
            ..Account::default()
        };
        let rows = [row("/a", limited), row("/b", Account::default())];
        let text = metrics::text(series(&rows, 7_000_000_000));
        let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(count("container_cpu_cfs_throttled_seconds_total{"), 1);
        assert!(text.contains("container_cpu_cfs_throttled_seconds_total{container=\"\",id=\"/a\",image=\"\",name=\"\",namespace=\"\",pod=\"\"} 2.5\n"), "{text}");
        assert_eq!(count("container_memory_working_set_bytes{"), 2);
        assert_eq!(
            [
                count("container_memory_swap{"),
                count("container_pressure_cpu_waiting_seconds_total{")
            ],
            [0, 0]
        );
        assert_eq!(count("container_last_seen{"), 2);
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            assert_eq!(count(line), 1, "{line}");
        }
    }
}
