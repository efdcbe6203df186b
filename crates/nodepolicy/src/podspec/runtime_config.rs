//! The runtime's description of a pod's sandbox and of its containers, made from the pod's spec.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{labels, security};
use crate::amount;
use crate::cpus::CpuShare;
use crate::cri::runtime_v1 as v1;
use crate::facts::hugepage_name;
use crate::memory_qos::MemoryQos;
use crate::plan::spec_hash;
use crate::qos;

/// Most bytes of a host name.
const HOSTNAME_LIMIT: usize = 63;

/// The resolver settings of the node itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resolver {
    /// `nameserver` lines.
    pub servers: Vec<String>,
    /// Last `search` line.
    pub searches: Vec<String>,
    /// `options`.
    pub options: Vec<String>,
}

impl Resolver {
    /// Parses a resolv.conf.
    pub fn parse(text: &str) -> Self {
        let mut resolver = Resolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let values = |words: std::str::SplitWhitespace<'_>| words.map(str::to_owned).collect::<Vec<_>>();
            match words.next() {
                Some("nameserver") => resolver.servers.extend(words.next().map(str::to_owned)),
                Some("search") => resolver.searches = values(words),
                Some("options") => resolver.options = values(words),
                _ => {}
            }
        }
        resolver
    }
}

/// What of the node goes into every sandbox and container.
#[derive(Debug, Clone)]
pub struct NodeSide {
    /// Root of pod logs.
    pub logs: String,
    /// The node's resolver.
    pub resolver: Resolver,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<String>,
    /// Domain of cluster names.
    pub cluster_domain: String,
    /// Security defaults.
    pub security: security::Defaults,
    /// Memory of the machine.
    pub memory_bytes: i64,
    /// Whether running out of memory ends all processes of a container together (cgroup v2).
    pub oom_group: bool,
    /// How memory is protected and throttled; `None`: not at all.
    pub memory_qos: Option<MemoryQos>,
    /// Quota period in microseconds; `None`: no quotas.
    pub quota_period_us: Option<i64>,
    /// Sizes of the host's hugepages in bytes.
    pub hugepage_sizes: Vec<i64>,
}

/// The resolver settings of a pod.
pub fn dns(pod: &Pod, node: &NodeSide) -> v1::DnsConfig {
    let spec = pod.spec.as_ref();
    let policy = spec
        .and_then(|s| s.dns_policy.as_deref())
        .unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !super::host_network(pod),
        _ => false,
    };
    let mut config = match policy {
        "None" => v1::DnsConfig::default(),
        _ if cluster && !node.cluster_dns.is_empty() => cluster_dns(pod, node),
        _ => v1::DnsConfig {
            servers: node.resolver.servers.clone(),
            searches: node.resolver.searches.clone(),
            options: node.resolver.options.clone(),
        },
    };
    if let Some(own) = spec.and_then(|s| s.dns_config.as_ref()) {
        let add = |to: &mut Vec<String>, more: &Option<Vec<String>>| {
            for value in more.iter().flatten() {
                if !to.contains(value) {
                    to.push(value.clone());
                }
            }
        };
        add(&mut config.servers, &own.nameservers);
        add(&mut config.searches, &own.searches);
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            config
                .options
                .retain(|o| o.split(':').next() != Some(name.as_str()));
            config.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name,
            });
        }
    }
    config
}

fn cluster_dns(pod: &Pod, node: &NodeSide) -> v1::DnsConfig {
    let domain = &node.cluster_domain;
    let mut searches = Vec::new();
    if !domain.is_empty() {
        let namespace = super::namespace(pod);
        searches = vec![
            format!("{namespace}.svc.{domain}"),
            format!("svc.{domain}"),
            domain.clone(),
        ];
    }
    searches.extend(node.resolver.searches.iter().cloned());
    v1::DnsConfig {
        servers: node.cluster_dns.clone(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

/// Cuts a host name to what the kernel takes; a cut one does not end in `-` or `.`.
///
/// # Errors
/// When nothing is left, in the kubelet's words.
pub fn truncated_hostname(pod: &str, hostname: &str) -> Result<String, String> {
    if hostname.len() <= HOSTNAME_LIMIT {
        return Ok(hostname.to_owned());
    }
    let fits = |end: &usize| hostname.is_char_boundary(*end);
    let end = (0..=HOSTNAME_LIMIT).rev().find(fits).unwrap_or(0);
    match hostname[..end].trim_end_matches(['-', '.']) {
        "" => Err(format!("hostname for pod {pod:?} was invalid: {hostname:?}")),
        cut => Ok(cut.to_owned()),
    }
}

/// The host name a pod sees: `spec.hostname`, else its name, cut to what the kernel takes.
pub fn hostname(pod: &Pod) -> String {
    let given = pod.spec.as_ref().and_then(|s| s.hostname.as_deref());
    let given = given
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| super::name(pod));
    truncated_hostname(super::name(pod), given).unwrap_or_else(|why| {
        tracing::warn!(why, "a pod's host name cannot be used; the runtime chooses one");
        String::new()
    })
}

fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    HashMap::from([
        (labels::POD_NAME.to_owned(), super::name(pod).to_owned()),
        (labels::POD_NAMESPACE.to_owned(), super::namespace(pod).to_owned()),
        (labels::POD_UID.to_owned(), super::uid(pod).to_owned()),
    ])
}

fn protocol(name: Option<&str>) -> i32 {
    let protocol = match name {
        Some("UDP") => v1::Protocol::Udp,
        Some("SCTP") => v1::Protocol::Sctp,
        _ => v1::Protocol::Tcp,
    };
    protocol as i32
}

fn port_mappings(pod: &Pod) -> Vec<v1::PortMapping> {
    let Some(spec) = pod.spec.as_ref() else {
        return Vec::new();
    };
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| crate::plan::is_sidecar(c));
    let ports = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten());
    ports
        .filter(|p| p.host_port.is_some_and(|h| h > 0))
        .map(|p| v1::PortMapping {
            protocol: protocol(p.protocol.as_deref()),
            container_port: p.container_port,
            host_port: p.host_port.unwrap_or(0),
            host_ip: p.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

/// The description of a pod's sandbox.
pub fn sandbox(pod: &Pod, attempt: u32, cgroup_parent: String, node: &NodeSide) -> v1::PodSandboxConfig {
    let host_network = super::host_network(pod);
    let mut all_labels: HashMap<String, String> = pod
        .metadata
        .labels
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    all_labels.extend(pod_labels(pod));
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let sysctls = context.and_then(|c| c.sysctls.as_ref()).into_iter().flatten();
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: super::name(pod).to_owned(),
            uid: super::uid(pod).to_owned(),
            namespace: super::namespace(pod).to_owned(),
            attempt,
        }),
        // A host-network sandbox shares the host's name; setting one is refused by the runtime.
        hostname: if host_network {
            String::new()
        } else {
            hostname(pod)
        },
        log_directory: super::log_dir(&node.logs, pod).display().to_string(),
        dns_config: Some(dns(pod, node)),
        port_mappings: if host_network {
            Vec::new()
        } else {
            port_mappings(pod)
        },
        labels: all_labels,
        annotations: annotations.into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent,
            security_context: Some(security::sandbox(pod, &node.security)),
            sysctls: sysctls.map(|s| (s.name.clone(), s.value.clone())).collect(),
            ..Default::default()
        }),
        windows: None,
    }
}

/// What is found out before a container can be described.
#[derive(Debug, Clone, Default)]
pub struct Prepared {
    /// The resolved image.
    pub image: v1::Image,
    /// Reference by which the container is made.
    pub image_ref: String,
    /// Environment, in order.
    pub env: Vec<(String, String)>,
    /// Mounts, termination message and hosts file included.
    pub mounts: Vec<v1::Mount>,
    /// Devices.
    pub devices: Vec<v1::Device>,
    /// Annotations for the runtime alone.
    pub annotations: HashMap<String, String>,
    /// Devices by their names in the container device interface.
    pub cdi_devices: Vec<String>,
    /// Processors.
    pub cpus: CpuShare,
}

/// A limit for every page size of the host: what a container does not ask for it may not use.
fn hugepage_limits(container: &Container, sizes: &[i64]) -> Vec<v1::HugepageLimit> {
    let limits = amount::amounts(container.resources.as_ref().and_then(|r| r.limits.as_ref()));
    let limit = |size: &i64| v1::HugepageLimit {
        // The kernel writes 2MB where Kubernetes writes 2Mi.
        page_size: hugepage_name(*size).replace("hugepages-", "").replace('i', "B"),
        limit: limits.get(&hugepage_name(*size)).map_or(0, |bytes| *bytes as u64),
    };
    sizes.iter().map(limit).collect()
}

/// Files of cgroup v2 that the runtime has no other word for.
fn unified(pod: &Pod, container: &Container, node: &NodeSide) -> HashMap<String, String> {
    let given = container.resources.as_ref();
    let memory = |list| amount::amounts(list).get("memory").copied().unwrap_or(0);
    let (request, limit) = (
        memory(given.and_then(|r| r.requests.as_ref())),
        memory(given.and_then(|r| r.limits.as_ref())),
    );
    let mut files = node
        .memory_qos
        .map(|policy| policy.of_container(qos::class(pod), request, limit))
        .unwrap_or_default();
    if node.oom_group {
        files.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    files
}

/// The resource part of a container's description. Who has processors to himself needs no quota.
pub fn resources(
    pod: &Pod,
    container: &Container,
    cpus: &CpuShare,
    node: &NodeSide,
) -> v1::LinuxContainerResources {
    let period = node.quota_period_us.filter(|_| !cpus.exclusive);
    let limits = qos::container_limits(pod, container, node.memory_bytes, period);
    v1::LinuxContainerResources {
        cpuset_cpus: cpus.list.clone(),
        unified: unified(pod, container, node),
        cpu_period: if limits.quota_us > 0 {
            period.unwrap_or(0)
        } else {
            0
        },
        cpu_quota: limits.quota_us,
        cpu_shares: limits.shares,
        memory_limit_in_bytes: limits.memory,
        oom_score_adj: limits.oom_score_adj,
        hugepage_limits: hugepage_limits(container, &node.hugepage_sizes),
        ..Default::default()
    }
}

fn annotations(pod: &Pod, container: &Container, attempt: u32) -> HashMap<String, String> {
    let grace = pod
        .spec
        .as_ref()
        .and_then(|s| s.termination_grace_period_seconds)
        .unwrap_or(30);
    let path = container
        .termination_message_path
        .as_deref()
        .unwrap_or("/dev/termination-log");
    let policy = container.termination_message_policy.as_deref().unwrap_or("File");
    [
        (labels::HASH, spec_hash(container)),
        (labels::RESTARTS, attempt.to_string()),
        (labels::GRACE, grace.to_string()),
        (labels::MESSAGE_PATH, path.to_owned()),
        (labels::MESSAGE_POLICY, policy.to_owned()),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into()
}

/// The description of a container. `$(NAME)` in command and arguments is replaced from the environment.
pub fn container(
    pod: &Pod,
    container: &Container,
    attempt: u32,
    prepared: Prepared,
    node: &NodeSide,
) -> v1::ContainerConfig {
    let env: HashMap<&str, &str> = prepared
        .env
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
        let words = words.iter().flatten();
        words
            .map(|w| super::env::expand(w, |name| env.get(name).map(|v| (*v).to_owned())))
            .collect()
    };
    let mut labels = pod_labels(pod);
    labels.insert(labels::CONTAINER_NAME.to_owned(), container.name.clone());
    let (command, args) = (expanded(&container.command), expanded(&container.args));
    let security = security::container(pod, container, &prepared.image, &node.security);
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: container.name.clone(),
            attempt,
        }),
        image: Some(v1::ImageSpec {
            image: prepared.image_ref,
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command,
        args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: prepared
            .env
            .into_iter()
            .map(|(key, value)| v1::KeyValue { key, value })
            .collect(),
        mounts: prepared.mounts,
        devices: prepared.devices,
        labels,
        annotations: prepared
            .annotations
            .into_iter()
            .chain(annotations(pod, container, attempt))
            .collect(),
        cdi_devices: prepared
            .cdi_devices
            .into_iter()
            .map(|name| v1::CdiDevice { name })
            .collect(),
        log_path: format!("{}/{attempt}.log", container.name),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources(pod, container, &prepared.cpus, node)),
            security_context: Some(security),
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node() -> NodeSide {
        NodeSide {
            logs: "/var/log/pods".into(),
            resolver: Resolver::parse("nameserver 9.9.9.9\nsearch lab.example\noptions rotate"),
            cluster_dns: vec!["10.96.0.10".into()],
            cluster_domain: "cluster.local".into(),
            security: security::Defaults {
                seccomp: false,
                seccomp_profiles: "/p".into(),
            },
            memory_bytes: 1 << 30,
            oom_group: false,
            memory_qos: None,
            quota_period_us: Some(100_000),
            hugepage_sizes: vec![2 << 20, 1 << 30],
        }
    }

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec}),
        )
        .expect("valid")
    }

    #[test]
    fn names_resolve_in_the_cluster_first() {
        let pod = pod(json!({"containers": [], "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}));
        let dns = dns(&pod, &node());
        assert_eq!(
            dns.searches,
            [
                "ns.svc.cluster.local",
                "svc.cluster.local",
                "cluster.local",
                "lab.example"
            ]
        );
        assert_eq!(
            (dns.servers, dns.options),
            (vec!["10.96.0.10".to_owned()], vec!["ndots:2".to_owned()])
        );
    }

    #[test]
    fn a_host_network_sandbox_has_no_name_and_no_port_mappings() {
        let pod = pod(json!({"hostNetwork": true,
            "containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 80}]}]}));
        let config = sandbox(&pod, 0, "/kubepods/podu".into(), &node());
        assert_eq!((config.hostname.as_str(), config.port_mappings.len()), ("", 0));
        assert_eq!(config.log_directory, "/var/log/pods/ns_p_u");
    }

    #[test]
    fn command_and_arguments_are_expanded() {
        let pod =
            pod(json!({"containers": [{"name": "a", "command": ["/bin/$(X)"], "args": ["$$(X)", "$(Y)"]}]}));
        let prepared = Prepared {
            env: vec![("X".into(), "sh".into())],
            ..Default::default()
        };
        let spec = pod.spec.as_ref().expect("set");
        let config = container(&pod, &spec.containers[0], 2, prepared, &node());
        assert_eq!(
            (config.command, config.args),
            (
                vec!["/bin/sh".to_owned()],
                vec!["$(X)".to_owned(), "$(Y)".to_owned()]
            )
        );
        assert_eq!(config.log_path, "a/2.log");
    }

    #[test]
    fn a_container_may_use_the_hugepages_it_asks_for_and_no_others() {
        let pod =
            pod(json!({"containers": [{"name": "a", "resources": {"limits": {"hugepages-2Mi": "4Mi"}}}]}));
        let spec = pod.spec.as_ref().expect("set");
        let limits = resources(&pod, &spec.containers[0], &CpuShare::default(), &node()).hugepage_limits;
        let limits: Vec<(&str, u64)> = limits.iter().map(|l| (l.page_size.as_str(), l.limit)).collect();
        assert_eq!(limits, [("2MB", 4 << 20), ("1GB", 0)]);
    }
}
