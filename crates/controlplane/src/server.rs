//! `mainstay server`: one bare control plane over a folder or over etcd, for scripts and for tests from outside.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use mainstay_base::clock::SharedClock;
use mainstay_pki::write_private;
use mainstay_store::{EmbeddedEngine, Engine, EtcdEngine};

use crate::plane::Error;
use crate::{Config, ControlPlane};

/// The keyspace of a bare server.
const UID: &str = "server";
/// The name of the first kubeconfig, written when the server is ready.
pub const ADMIN_KUBECONFIG: &str = "admin.kubeconfig";

/// Arguments of `mainstay server`.
#[derive(Debug, Clone)]
pub struct ServerArgs {
    /// Where the store, the keys and `admin.kubeconfig` are.
    pub data_dir: PathBuf,
    /// The address to listen on.
    pub listen: SocketAddr,
    /// An etcd cluster instead of the embedded store; empty for the embedded one.
    pub etcd_servers: Vec<String>,
    /// Static tokens, in upstream's CSV form.
    pub token_auth_file: Option<PathBuf>,
    /// Built-in admission plugins to leave out.
    pub disable_admission_plugins: Vec<String>,
}

/// Starts a bare control plane and writes `admin.kubeconfig` (a member of system:masters) when it is ready.
///
/// # Errors
/// When the folder, the store or the address cannot be had.
pub async fn start(args: &ServerArgs, clock: SharedClock) -> Result<ControlPlane, Error> {
    std::fs::create_dir_all(&args.data_dir).map_err(|source| Error::File {
        path: args.data_dir.clone(),
        source,
    })?;
    let engine = engine(args, clock.clone()).await?;
    let config = Config {
        directory: Some(args.data_dir.join("pki")),
        listen: Some(args.listen),
        token_auth: args.token_auth_file.clone(),
        disabled_admission: args.disable_admission_plugins.clone(),
        name: "mainstay".into(),
        ..Config::new(engine, UID)
    };
    let plane = ControlPlane::start(config, clock).await?;
    let groups = ["system:masters".to_string()];
    let kubeconfig = plane.kubeconfig_for("kubernetes-admin", &groups)?;
    write_private(&args.data_dir.join(ADMIN_KUBECONFIG), &kubeconfig)?;
    Ok(plane)
}

/// Runs a bare control plane until `stop` resolves.
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
    plane.stop().await;
    Ok(())
}

async fn engine(args: &ServerArgs, clock: SharedClock) -> Result<Arc<dyn Engine>, Error> {
    let failed = |source| Error::Store {
        plane: UID.into(),
        source,
    };
    if !args.etcd_servers.is_empty() {
        let engine = EtcdEngine::connect(&args.etcd_servers, None, clock)
            .await
            .map_err(failed)?;
        return Ok(Arc::new(engine));
    }
    let engine = EmbeddedEngine::open(&args.data_dir.join("store"), clock).map_err(failed)?;
    Ok(Arc::new(engine))
}
