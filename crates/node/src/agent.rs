//! The running agent: makes the parts, starts them, stops them.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerImage, NodeAddress};
use mainstay_base::clock::SharedClock;
use mainstay_base::error::chain;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{self, ApiHandle};
use crate::cri::{Cri, CriError, runtime_v1 as v1};
use crate::facts::{Facts, address_towards};
use crate::identity;
use crate::lease;
use crate::node_status::Seen;
use crate::register::{StatusWriter, register};
use crate::reserve;
use crate::runtime_health::RuntimeHealth;
use crate::settings::Settings;

/// How often the status is looked at until the node is ready for the first time.
const FIRST_LOOKS: Duration = Duration::from_millis(200);
/// Most images in the status.
const STATUS_IMAGES: usize = 50;
/// Most names of one image in the status.
const STATUS_IMAGE_NAMES: usize = 5;

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
    /// The runtime's address cannot be used.
    #[error(transparent)]
    Runtime(#[from] CriError),
}

/// What every part of the agent shares.
pub struct Shared {
    /// What the agent was told.
    pub settings: Settings,
    /// Time.
    pub clock: SharedClock,
    /// The container runtime.
    pub cri: Cri,
    /// The API server.
    pub api: ApiHandle,
    /// What the machine is.
    pub facts: Facts,
    /// How the runtime does.
    pub health: RuntimeHealth,
    /// Asks for a look at the node's status before its turn.
    pub status_wanted: Notify,
}

/// Runs the agent until `stop`. Containers live on after it: the next run adopts them.
///
/// # Errors
/// Only when it cannot start at all; an absent API server or runtime is waited for.
pub async fn run(settings: Settings, clock: SharedClock, stop: CancellationToken) -> Result<(), AgentError> {
    make_folder(&settings.dirs.root)?;
    let (slot, handle) = api::handle();
    let shared = Arc::new(Shared {
        cri: Cri::new(&settings.kubelet.container_runtime_endpoint)?,
        facts: Facts::read(&settings.overrides),
        health: RuntimeHealth::new(clock.clone()),
        status_wanted: Notify::new(),
        api: handle,
        clock: clock.clone(),
        settings,
    });
    let mut parts = JoinSet::new();
    match shared.settings.client.clone() {
        Some(client) => slot.set(client),
        None => {
            let store = identity::Store::new(shared.settings.dirs.root.join("pki"));
            let rotate = shared.settings.kubelet.rotate_certificates;
            parts.spawn(identity::keep(
                shared.settings.join.clone(),
                store,
                rotate,
                slot,
                clock.clone(),
            ));
        }
    }
    parts.spawn(lease::keep(
        shared.api.clone(),
        shared.settings.node_name().to_owned(),
        shared.settings.kubelet.node_lease_duration_seconds,
        clock,
    ));
    parts.spawn(keep_status(shared.clone()));
    tracing::info!(node = shared.settings.node_name(), "the node agent runs");
    stop.cancelled().await;
    parts.shutdown().await;
    Ok(())
}

fn make_folder(path: &std::path::Path) -> Result<(), AgentError> {
    std::fs::create_dir_all(path).map_err(|source| AgentError::Folder {
        path: path.display().to_string(),
        source,
    })
}

/// Registers the node and keeps its status true.
async fn keep_status(shared: Arc<Shared>) {
    loop {
        let client = shared.api.joined().await;
        match register(&client, &shared.settings).await {
            Ok(node) => {
                let mut writer = StatusWriter::registered(&node);
                keep_registered(&shared, &mut writer).await;
            }
            Err(error) => {
                tracing::warn!(error = chain(&error), "could not register the node");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Writes the status when it changes; returns when the Node object is gone.
async fn keep_registered(shared: &Shared, writer: &mut StatusWriter) {
    let kubelet = &shared.settings.kubelet;
    let mut was_ready = false;
    loop {
        shared.health.refresh(&shared.cri).await;
        let seen = look(shared).await;
        was_ready |= seen.not_ready.is_empty();
        let client = shared.api.joined().await;
        let every = kubelet.node_status_report_frequency;
        match writer
            .write(
                &client,
                shared.settings.node_name(),
                &seen,
                every,
                shared.clock.now(),
            )
            .await
        {
            Err(kube::Error::Api(status)) if status.code == 404 => return,
            Err(error) => tracing::warn!(error = chain(&error), "could not write the node's status"),
            Ok(_) => {}
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
    let servers = &shared.settings.join.api_servers;
    let ip = shared
        .settings
        .overrides
        .address
        .or_else(|| servers.iter().find_map(|s| address_towards(s)));
    let mut addresses: Vec<NodeAddress> = ip
        .iter()
        .map(|ip| NodeAddress {
            type_: "InternalIP".to_owned(),
            address: ip.to_string(),
        })
        .collect();
    addresses.push(NodeAddress {
        type_: "Hostname".to_owned(),
        address: shared.settings.node_name().to_owned(),
    });
    addresses
}

/// The images of the runtime in the form and order of a Node's status.
pub fn status_images(mut images: Vec<v1::Image>) -> Vec<ContainerImage> {
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let listed = images.into_iter().take(STATUS_IMAGES);
    listed
        .map(|image| {
            let names = image.repo_digests.into_iter().chain(image.repo_tags);
            ContainerImage {
                names: Some(names.take(STATUS_IMAGE_NAMES).collect()),
                size_bytes: Some(image.size as i64),
            }
        })
        .collect()
}

async fn look(shared: &Shared) -> Seen {
    let known = shared.health.known();
    let settings = &shared.settings;
    let bytes = filesystem_bytes(&settings.dirs.root);
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
        images: images.map(|l| status_images(l.images)).unwrap_or_default(),
        port: settings.kubelet.port,
        not_ready: known.errors,
        ..Default::default()
    }
}

/// The size of the filesystem that `path` is on; 0 when it cannot be told.
pub fn filesystem_bytes(path: &std::path::Path) -> i64 {
    rustix::fs::statvfs(path).map_or(0, |s| (s.f_blocks * s.f_frsize) as i64)
}
