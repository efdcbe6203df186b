//! The running agent: makes the parts, starts them, stops them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::NodeAddress;
use mainstay_base::clock::SharedClock;
use mainstay_base::error::chain;
use mainstay_control::events::{EventKind, Recorder};
use mainstay_nodepolicy::admission::sysctl::AllowList;
use mainstay_nodepolicy::memory_qos::MemoryQos;
use mainstay_nodepolicy::numa;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{self, ApiHandle};
use crate::cgroups::{CgroupError, CgroupTree, Naming};
use crate::context::Shared;
use crate::cpus::Cpus;
use crate::cri::{Cri, CriError, runtime_v1 as v1};
use crate::devices::{self, DevicePlugins};
use crate::events::Events;
use crate::facts::{Facts, address_towards};
use crate::fetch::Fetcher;
use crate::node_status::{self, Seen};
use crate::own_node::OwnNode;
use crate::pods::allocations::Allocations;
use crate::pods::manager::Manager;
use crate::pods::turn::Turns;
use crate::pods::watch;
use crate::pods::{processors, source};
use crate::podspec::runtime_config::{NodeSide, Resolver};
use crate::podspec::security;
use crate::pressure::PressureCell;
use crate::probes::AllProbed;
use crate::register::{StatusWriter, register};
use crate::repeated::Repeated;
use crate::runtime_health::RuntimeHealth;
use crate::settings::Settings;
use crate::tally::Tally;
use crate::verdicts::Verdicts;
use crate::{
    eviction, identity, images, lease, logs, network, node_cgroups, node_view, reserve, server, shutdown,
};

/// How often the status is looked at until the node is ready for the first time.
const FIRST_LOOKS: Duration = Duration::from_millis(200);

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A folder cannot be made.
    #[error("failed to make {path}")]
    Folder {
        /// The folder.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The configuration allows sysctls that cannot be allowed.
    #[error("allowedUnsafeSysctls: {why}")]
    Sysctls {
        /// What is wrong.
        why: String,
    },
    /// The machine's processors cannot be managed as the configuration says.
    #[error("cpuManagerPolicy: {why}")]
    Cpus {
        /// What is wrong.
        why: String,
    },
    /// The machine's memory nodes cannot be managed as the configuration says.
    #[error("topologyManagerPolicy: {why}")]
    Topology {
        /// What is wrong.
        why: String,
    },
    /// Nobody makes the cgroups that the configuration wants.
    #[error(
        "cgroupDriver: systemd makes no cgroups on this machine; with cgroupfs the agent makes them itself"
    )]
    Cgroups {
        /// Why it does not.
        #[source]
        source: CgroupError,
    },
    /// The runtime's address cannot be used.
    #[error(transparent)]
    Runtime(#[from] CriError),
}

/// Runs the agent until `stop`. Containers live on after it: the next run adopts them.
///
/// # Errors
/// Only when it cannot start at all; an absent API server or runtime is waited for.
pub async fn run(settings: Settings, clock: SharedClock, stop: CancellationToken) -> Result<(), AgentError> {
    make_folder(&settings.dirs.root)?;
    let mut settings = settings;
    let listener = open_port(&mut settings).await;
    let (slot, handle) = api::handle();
    let shared = Arc::new(share(settings, handle, clock.clone())?);
    make_cgroups(&shared);
    let mut parts = JoinSet::new();
    match shared.settings.client.clone() {
        Some(client) => slot.set(client),
        None => {
            let joining = identity::Joining {
                join: shared.settings.join.clone(),
                access: shared.settings.access.clone(),
                store: identity::Store::new(shared.settings.dirs.certificates()),
                rotate: shared.settings.kubelet.rotate_certificates,
                tally: shared.tally.clone(),
            };
            parts.spawn(identity::keep(joining, slot, clock.clone()));
        }
    }
    parts.spawn(lease::keep(
        shared.api.clone(),
        shared.settings.node_name().to_owned(),
        shared.settings.kubelet.node_lease_duration_seconds,
        clock,
    ));
    let manager = Manager::new(shared.clone());
    let queue = manager.queue.clone();
    let api = shared.api.clone();
    parts.spawn(keep_status(shared.clone()));
    let repeated = Repeated::new(shared.clock.clone());
    parts.spawn(async move { queue.run(api, repeated).await });
    parts.spawn(watch::keep(manager.clone()));
    parts.spawn(source::follow_api(manager.clone()));
    parts.spawn(source::follow_folder(manager.clone()));
    parts.spawn(logs::rotate::keep(shared.clone()));
    parts.spawn(images::keep(shared.clone()));
    parts.spawn(network::keep(shared.clone()));
    parts.spawn(node_view::keep(shared.clone()));
    parts.spawn(eviction::keep(manager.clone()));
    parts.spawn(processors::keep(manager.clone()));
    parts.spawn(devices::registrations::keep(manager.clone()));
    parts.spawn(devices::podresources::keep(manager.clone()));
    if let Some(listener) = listener {
        parts.spawn(server::run(manager.clone(), listener));
    }
    tracing::info!(node = shared.settings.node_name(), "the node agent runs");
    let going_down = shared.settings.going_down.clone();
    tokio::select! {
        biased;
        () = going_down.cancelled() => shutdown::end_pods(&manager).await,
        () = stop.cancelled() => {}
    }
    manager.stop();
    parts.shutdown().await;
    Ok(())
}

/// Opens the serving port; 0 becomes the port that the system chose. The node works without it.
async fn open_port(settings: &mut Settings) -> Option<tokio::net::TcpListener> {
    let kubelet = &settings.kubelet;
    match server::listen(&kubelet.address, kubelet.port).await {
        Ok(listener) => {
            let chosen = listener.local_addr().map(|a| a.port());
            settings.kubelet.port = chosen.unwrap_or(settings.kubelet.port);
            Some(listener)
        }
        Err(error) => {
            tracing::error!(%error, port = kubelet.port, "could not open the serving port: logs and exec will not work");
            None
        }
    }
}

fn share(settings: Settings, api: ApiHandle, clock: SharedClock) -> Result<Shared, AgentError> {
    let facts = Facts::read(&settings.overrides);
    let kubelet = &settings.kubelet;
    let naming = match kubelet.cgroup_driver.as_str() {
        "systemd" => Naming::Systemd,
        _ => Naming::Cgroupfs,
    };
    let cgroups = kubelet
        .cgroups_per_qos
        .then(|| CgroupTree::new(&settings.dirs.cgroups, &kubelet.cgroup_root, naming));
    if let Some(tree) = &cgroups {
        tree.maker_answers()
            .map_err(|source| AgentError::Cgroups { source })?;
    }
    let sysctls = AllowList::of_node(&facts.kernel, &kubelet.allowed_unsafe_sysctls)
        .map_err(|why| AgentError::Sysctls { why })?;
    let cpus =
        Cpus::of_machine(kubelet, facts.cpus, &settings.dirs.root).map_err(|why| AgentError::Cpus { why })?;
    let numa = numa::Manager::of(kubelet, numa::Nodes::read(Path::new("/sys/devices/system/node")))
        .map_err(|why| AgentError::Topology { why })?;
    Ok(Shared {
        starts: Turns::new(facts.cpus),
        pulls: kubelet.parallel_pulls().map(tokio::sync::Semaphore::new),
        allocations: Allocations::new(&settings.dirs.root),
        numa,
        cri: Cri::new(&kubelet.container_runtime_endpoint)?.counted(clock.clone()),
        tally: Arc::new(Tally::new(clock.clone())),
        health: RuntimeHealth::new(clock.clone()),
        status_wanted: Notify::new(),
        events: Events::default(),
        fetch: Fetcher::new(api.clone(), clock.clone()),
        node_side: node_side(&settings, &facts),
        verdicts: Verdicts::default(),
        probed: AllProbed::default(),
        pressure: PressureCell::default(),
        own_node: OwnNode::default(),
        cpus,
        shutting_down: AtomicBool::new(false),
        devices: Arc::new(DevicePlugins::new(&settings.dirs.root, clock.clone())),
        sysctls,
        host_ips: address(&settings).into_iter().collect(),
        cgroups,
        api,
        facts,
        clock,
        settings,
    })
}

fn node_side(settings: &Settings, facts: &Facts) -> NodeSide {
    let kubelet = &settings.kubelet;
    let resolver = std::fs::read_to_string(&kubelet.resolv_conf).unwrap_or_default();
    NodeSide {
        logs: kubelet.pod_logs_dir.clone(),
        resolver: Resolver::parse(&resolver),
        cluster_dns: kubelet.cluster_dns.clone(),
        cluster_domain: kubelet.cluster_domain.clone(),
        security: security::Defaults {
            seccomp: kubelet.seccomp_default,
            seccomp_profiles: settings.dirs.root.join("seccomp").display().to_string(),
        },
        memory_bytes: facts.memory_bytes,
        oom_group: is_v2(settings) && kubelet.single_process_oom_kill != Some(true),
        memory_qos: memory_qos(settings, facts),
        hugepage_sizes: facts.hugepages.iter().map(|(size, _)| *size).collect(),
        quota_period_us: kubelet
            .cpu_cfs_quota
            .then_some(kubelet.cpu_cfs_quota_period.as_micros() as i64),
    }
}

fn is_v2(settings: &Settings) -> bool {
    settings.dirs.cgroups.join("cgroup.controllers").exists()
}

/// How memory is protected and throttled, which only cgroup v2 can.
fn memory_qos(settings: &Settings, facts: &Facts) -> Option<MemoryQos> {
    let kubelet = &settings.kubelet;
    let capacity = reserve::capacity(facts, kubelet, None);
    let allocatable = reserve::allocatable(&capacity, kubelet, &kubelet.hard_thresholds());
    let page = mainstay_host::process::page_bytes();
    let memory = allocatable.get("memory").copied().unwrap_or(0);
    MemoryQos::new(kubelet, memory, page).filter(|_| is_v2(settings))
}

/// Makes the top of the cgroup tree; a kernel that refuses costs the limits, not the node.
fn make_cgroups(shared: &Shared) {
    let Some(tree) = &shared.cgroups else { return };
    let kubelet = &shared.settings.kubelet;
    let enforced = |what: &str| kubelet.enforce_node_allocatable.iter().any(|e| e == what);
    let of_pods = node_cgroups::limits(&reserve::of_pods(&shared.facts, kubelet), !enforced("pods"));
    if let Err(error) = tree.ensure_node(&of_pods) {
        tracing::warn!(error = chain(&error), "could not set up the cgroups of pods");
    }
    let daemons = [
        (
            "system-reserved",
            &kubelet.system_reserved,
            &kubelet.system_reserved_cgroup,
        ),
        (
            "kube-reserved",
            &kubelet.kube_reserved,
            &kubelet.kube_reserved_cgroup,
        ),
    ];
    for (what, reserved, cgroup) in daemons {
        let compressible = enforced(&format!("{what}-compressible"));
        if !enforced(what) && !compressible {
            continue;
        }
        let mut limits = node_cgroups::limits(&reserve::amounts(reserved), compressible);
        if shared.node_side.memory_qos.is_some() {
            limits.protected.min = limits.memory;
        }
        if let Err(error) = tree.limit_group(&tree.daemon_path(cgroup), &limits) {
            tracing::warn!(what, error = chain(&error), "could not enforce a reservation");
        }
    }
}

/// The node's address: as told, else the one that faces the API server.
fn address(settings: &Settings) -> Option<String> {
    let servers = &settings.join.api_servers;
    let ip = settings
        .overrides
        .address
        .or_else(|| servers.iter().find_map(|s| address_towards(s)));
    ip.map(|ip| ip.to_string())
}

fn make_folder(path: &std::path::Path) -> Result<(), AgentError> {
    std::fs::create_dir_all(path).map_err(|source| AgentError::Folder {
        path: path.display().to_string(),
        source,
    })
}

/// Registers the node and keeps its status true.
async fn keep_status(shared: Arc<Shared>) {
    let repeated = Repeated::new(shared.clock.clone());
    loop {
        let client = shared.api.joined().await;
        match register(&client, &shared.settings).await {
            Ok(node) => {
                let name = shared.settings.node_name();
                let recorder = Recorder::start(client, "kubelet", Some(name), shared.clock.clone());
                shared.events.set(recorder);
                let mut writer = StatusWriter::registered(&node);
                shared.own_node.set(node);
                repeated.works();
                keep_registered(&shared, &mut writer, &repeated).await;
            }
            Err(error) => {
                if let Some(failures) = repeated.fails() {
                    tracing::warn!(error = chain(&error), failures, "could not register the node");
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Writes the status when it changes; returns when the Node object is gone.
async fn keep_registered(shared: &Shared, writer: &mut StatusWriter, repeated: &Repeated) {
    let kubelet = &shared.settings.kubelet;
    let name = shared.settings.node_name();
    let mut was_ready = false;
    loop {
        shared.health.refresh(&shared.cri).await;
        let seen = look(shared).await;
        was_ready |= seen.not_ready.is_empty();
        let client = shared.api.joined().await;
        let every = kubelet.node_status_report_frequency;
        if let Some(node) = shared.own_node.get() {
            writer.observe(&node);
        }
        let written = writer.write(&client, name, &seen, every, shared.clock.now());
        match written.await {
            Err(kube::Error::Api(status)) if status.code == 404 => return,
            Err(error) => {
                if let Some(failures) = repeated.fails() {
                    tracing::warn!(
                        error = chain(&error),
                        failures,
                        "could not write the node's status"
                    );
                }
            }
            Ok(None) => {}
            Ok(Some(written)) => {
                repeated.works();
                for reason in &written.events {
                    let text = format!("Node {name} status is now: {reason}");
                    shared.events.node(name, EventKind::Normal, reason, text);
                }
                shared.own_node.set(written.node);
            }
        }
        let pause = if was_ready {
            kubelet.node_status_update_frequency
        } else {
            FIRST_LOOKS
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.status_wanted.notified() => {}
        }
    }
}

fn addresses(shared: &Shared) -> Vec<NodeAddress> {
    let mut addresses: Vec<NodeAddress> = shared
        .host_ips
        .iter()
        .map(|ip| NodeAddress {
            type_: "InternalIP".to_owned(),
            address: ip.clone(),
        })
        .collect();
    addresses.push(NodeAddress {
        type_: "Hostname".to_owned(),
        address: shared.settings.node_name().to_owned(),
    });
    addresses
}

/// Kernel settings that pods are promised with `protectKernelDefaults`.
const KERNEL_DEFAULTS: [(&str, &str); 6] = [
    ("vm.overcommit_memory", "1"),
    ("vm.panic_on_oom", "0"),
    ("kernel.panic", "10"),
    ("kernel.panic_on_oops", "1"),
    ("kernel.keys.root_maxkeys", "1000000"),
    ("kernel.keys.root_maxbytes", "25000000"),
];

/// The kernel settings that this node must have.
fn wanted_sysctls(settings: &Settings) -> BTreeMap<String, String> {
    let mut wanted = settings.join.sysctls.clone();
    if settings.kubelet.protect_kernel_defaults {
        wanted.extend(KERNEL_DEFAULTS.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    wanted
}

/// What is not as the configuration wants it and keeps no pod from running.
fn warnings(kubelet: &crate::KubeletConfiguration) -> Vec<String> {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    let swap_is_on = kubelet.fail_swap_on && swaps.lines().count() > 1;
    let text = "swap is on although failSwapOn is true";
    swap_is_on.then(|| text.to_owned()).into_iter().collect()
}

/// Settings that this machine's image promises and the kernel does not show.
fn wrong_sysctls(wanted: &BTreeMap<String, String>) -> Vec<String> {
    let found = |name: &str| std::fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/")));
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    wanted
        .iter()
        .filter_map(|(name, value)| match found(name) {
            Ok(text) if words(&text) == words(value) => None,
            Ok(text) => Some(format!("sysctl {name} is {} instead of {value}", words(&text))),
            Err(_) => Some(format!("sysctl {name} cannot be read; it should be {value}")),
        })
        .collect()
}

async fn look(shared: &Shared) -> Seen {
    let known = shared.health.known();
    let pressure = shared.pressure.get();
    let settings = &shared.settings;
    let bytes = crate::disk::filesystem(&settings.dirs.root).map(|f| f.capacity_bytes as i64);
    let capacity = reserve::capacity(&shared.facts, &settings.kubelet, bytes);
    let images = match known.errors.as_slice() {
        [] => {
            shared
                .cri
                .list_images(v1::ListImagesRequest { filter: None })
                .await
        }
        _ => Ok(v1::ListImagesResponse::default()),
    };
    Seen {
        addresses: addresses(shared),
        info: shared.facts.node_info(&settings.version, &known.version),
        allocatable: reserve::allocatable(&capacity, &settings.kubelet, &settings.kubelet.hard_thresholds()),
        capacity,
        images: images
            .map(|l| node_status::images(l.images, settings.kubelet.node_status_max_images))
            .unwrap_or_default(),
        devices: shared.devices.status(),
        warnings: warnings(&settings.kubelet),
        port: settings.kubelet.port,
        not_ready: known
            .errors
            .into_iter()
            .chain(
                shared
                    .shutting_down
                    .load(Ordering::Relaxed)
                    .then(|| shutdown::NOT_READY.to_owned()),
            )
            .chain(wrong_sysctls(&wanted_sysctls(settings)))
            .collect(),
        memory_pressure: pressure.memory,
        disk_pressure: pressure.disk,
        pid_pressure: pressure.pid,
    }
}
