//! `mainstay server`: one bare control plane over a folder or over etcd, for scripts and for tests from outside.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mainstay_access::audit::{AuditLog, LogFile, Policy, Rotation};
use mainstay_access::hooks::Audit;
use mainstay_base::clock::SharedClock;
use mainstay_pki::write_private;
use mainstay_store::{EmbeddedEngine, Engine, EtcdEngine, EtcdTls};

use crate::plane::Error;
use crate::{Config, ControlPlane};

/// The keyspace of a bare server.
pub const UID: &str = "server";
/// The name of the first kubeconfig, written when the server is ready.
pub const ADMIN_KUBECONFIG: &str = "admin.kubeconfig";

/// Where objects are kept.
#[derive(Debug, Clone, Default)]
pub struct Storage {
    /// The folder whose `store` is the embedded store.
    pub data_dir: PathBuf,
    /// An etcd cluster instead; empty for the embedded store.
    pub etcd_servers: Vec<String>,
    /// The authority that signed etcd's serving certificates, a PEM file.
    pub etcd_ca: Option<PathBuf>,
    /// Our certificate for etcd and its key, PEM files.
    pub etcd_client: Option<(PathBuf, PathBuf)>,
}

/// Where and how requests are noted.
#[derive(Debug, Clone)]
pub struct AuditArgs {
    /// A policy in upstream's format; the built-in one without it.
    pub policy: Option<PathBuf>,
    /// The log; `-` is standard output.
    pub log: PathBuf,
    /// When the log is turned over.
    pub rotation: Rotation,
}

/// Arguments of `mainstay server`.
#[derive(Debug, Clone)]
pub struct ServerArgs {
    /// Where the store, the keys and `admin.kubeconfig` are.
    pub storage: Storage,
    /// The address to listen on.
    pub listen: SocketAddr,
    /// Static tokens, in upstream's CSV form.
    pub token_auth_file: Option<PathBuf>,
    /// A kubeconfig that names a server to ask about tokens.
    pub token_webhook: Option<PathBuf>,
    /// How long its answers are believed.
    pub token_webhook_ttl: Duration,
    /// Built-in admission plugins to leave out.
    pub disable_admission_plugins: Vec<String>,
    /// The audit log; `None` = none.
    pub audit: Option<AuditArgs>,
    /// Requests at once: seats of each lane.
    pub max_requests_inflight: u32,
}

impl ServerArgs {
    /// A server on a folder, with everything else at its default.
    pub fn new(data_dir: &Path, listen: SocketAddr) -> Self {
        ServerArgs {
            storage: Storage {
                data_dir: data_dir.to_path_buf(),
                ..Storage::default()
            },
            listen,
            token_auth_file: None,
            token_webhook: None,
            token_webhook_ttl: mainstay_access::authn::webhook::REMEMBER,
            disable_admission_plugins: Vec::new(),
            audit: None,
            max_requests_inflight: mainstay_apiserver::flow::SEATS,
        }
    }
}

/// Starts a bare control plane and writes `admin.kubeconfig` (a member of system:masters) when it is ready.
///
/// # Errors
/// When the folder, the store or the address cannot be had.
pub async fn start(args: &ServerArgs, clock: SharedClock) -> Result<ControlPlane, Error> {
    let folder = &args.storage.data_dir;
    std::fs::create_dir_all(folder).map_err(unusable(folder))?;
    let audit = args.audit.as_ref().map(|audit| audit_log(audit, &clock));
    let engine = engine(&args.storage, clock.clone()).await?;
    let config = Config {
        directory: Some(folder.join("pki")),
        listen: Some(args.listen),
        token_auth: args.token_auth_file.clone(),
        token_webhook: args.token_webhook.clone(),
        token_webhook_ttl: args.token_webhook_ttl,
        disabled_admission: args.disable_admission_plugins.clone(),
        audit: audit.transpose()?.into_iter().collect(),
        seats: args.max_requests_inflight,
        name: "mainstay".into(),
        ..Config::new(engine, UID)
    };
    let plane = ControlPlane::start(config, clock).await?;
    let groups = ["system:masters".to_string()];
    let kubeconfig = plane.kubeconfig_for("kubernetes-admin", &groups)?;
    write_private(&folder.join(ADMIN_KUBECONFIG), &kubeconfig)?;
    Ok(plane)
}

/// Runs a bare control plane until `stop` resolves; then answers what is open and ends.
///
/// # Errors
/// As [`start`].
pub async fn run(
    args: ServerArgs,
    clock: SharedClock,
    stop: impl std::future::Future<Output = ()>,
) -> Result<(), Error> {
    let plane = start(&args, clock).await?;
    tracing::info!(url = plane.url(), "the control plane is ready");
    stop.await;
    tracing::info!("draining");
    plane.stop().await;
    Ok(())
}

/// Opens the storage engine.
///
/// # Errors
/// When the folder is locked or damaged, or etcd does not answer.
pub async fn engine(storage: &Storage, clock: SharedClock) -> Result<Arc<dyn Engine>, Error> {
    let failed = |source| Error::Store {
        plane: UID.into(),
        source,
    };
    if !storage.etcd_servers.is_empty() {
        let engine = EtcdEngine::connect(&storage.etcd_servers, etcd_tls(storage)?, clock)
            .await
            .map_err(failed)?;
        return Ok(Arc::new(engine));
    }
    let engine = EmbeddedEngine::open(&storage.data_dir.join("store"), clock).map_err(failed)?;
    Ok(Arc::new(engine))
}

/// Opens the storage engine for reading: a copy of an embedded store, which may be in use, or etcd.
///
/// # Errors
/// When there is no store or it is damaged, or etcd does not answer.
pub async fn reader(storage: &Storage, clock: SharedClock) -> Result<Arc<dyn Engine>, Error> {
    if !storage.etcd_servers.is_empty() {
        return engine(storage, clock).await;
    }
    let path = storage.data_dir.join("store");
    let copy = tokio::task::spawn_blocking(move || EmbeddedEngine::copy_of(&path, clock)).await;
    let copy = copy.unwrap_or(Err(mainstay_store::Error::Closed));
    let failed = |source| Error::Store {
        plane: UID.into(),
        source,
    };
    Ok(Arc::new(copy.map_err(failed)?))
}

fn etcd_tls(storage: &Storage) -> Result<Option<EtcdTls>, Error> {
    if storage.etcd_ca.is_none() && storage.etcd_client.is_none() {
        return Ok(None);
    }
    let client = match &storage.etcd_client {
        None => None,
        Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
    };
    let ca = storage.etcd_ca.as_deref().map(read).transpose()?;
    Ok(Some(EtcdTls {
        ca: ca.unwrap_or_default(),
        client,
    }))
}

fn audit_log(args: &AuditArgs, clock: &SharedClock) -> Result<Arc<dyn Audit>, Error> {
    let policy = match &args.policy {
        None => Policy::standard(),
        Some(path) => Policy::parse(&read(path)?).map_err(|source| Error::AuditPolicy {
            path: path.clone(),
            source,
        })?,
    };
    if args.log == Path::new("-") {
        return Ok(Arc::new(AuditLog::start(policy, std::io::stdout())));
    }
    let file = LogFile::open(&args.log, args.rotation, clock.clone()).map_err(unusable(&args.log))?;
    Ok(Arc::new(AuditLog::start(policy, file)))
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(unusable(path))
}

fn unusable(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::File {
        path: path.to_path_buf(),
        source,
    }
}
