//! Hosted control planes: each a value over the one storage engine, with its controllers and scheduler.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kube::Client;
use mainstay_access::UserInfo;
use mainstay_api::Endpoint;
use mainstay_base::clock::SharedClock;
use mainstay_base::error::chain;
use mainstay_control::{CancellationToken, ObjectKey};
use mainstay_controlplane::{Config, ControlPlane};
use mainstay_fleet::{PlaneError, PlaneHost, PlaneRequest, RunningPlane};
use mainstay_machines::ClusterAccess;
use mainstay_store::Engine;
use mainstay_workloads::Routes;
use tokio::sync::Mutex;

use crate::commands::version;

/// How often the autoscaler looks while something is pending or unneeded.
const SCAN_INTERVAL: Duration = Duration::from_secs(5);

/// Where hosted planes come from.
pub struct Planes {
    /// The process's storage engine.
    pub engine: Arc<dyn Engine>,
    /// Where each plane keeps its keys.
    pub folder: PathBuf,
    /// The address that machines reach.
    pub address: IpAddr,
    /// The time.
    pub clock: SharedClock,
    /// The management cluster, for the autoscalers.
    pub management: Client,
    /// The machines' network.
    pub routes: Arc<dyn Routes>,
    /// Ends everything.
    pub stop: CancellationToken,
    /// The planes that run.
    pub running: Mutex<HashMap<ObjectKey, Hosted>>,
}

/// A plane that runs.
pub struct Hosted {
    plane: ControlPlane,
    stop: CancellationToken,
    shown: RunningPlane,
}

impl Planes {
    async fn start(&self, request: &PlaneRequest) -> Result<Hosted, PlaneError> {
        let port = request
            .endpoint
            .as_ref()
            .map_or(0, |endpoint| endpoint.port as u16);
        let mut config = Config::new(self.engine.clone(), request.uid.clone());
        config.name = request.key.name.clone();
        config.directory = Some(self.folder.join(&request.uid));
        config.listen = Some(SocketAddr::new(self.address, port));
        config.serving_names = vec![self.address.to_string(), request.key.name.clone()];
        config.service_cidr = request.services.clone();
        let plane = ControlPlane::start(config, self.clock.clone())
            .await
            .map_err(|error| failed(chain(&error)))?;
        let stop = self.stop.child_token();
        // Tenants are a cluster's own: the rules run in every plane and need their kind there.
        let tenants = mainstay_api::crds()
            .into_iter()
            .filter(|kind| kind.spec.names.kind == "Tenant");
        super::install_kinds(&plane.client(UserInfo::admin()), tenants)
            .await
            .map_err(failed)?;
        super::dns::ensure(&plane.client(UserInfo::admin()), &request.services)
            .await
            .map_err(failed)?;
        let routes = Some(self.routes.clone());
        super::controllers::start(&plane, Some(&request.pods), routes, self.clock.clone(), &stop)
            .map_err(failed)?;
        let shown = self.describe(&plane, request)?;
        self.start_autoscaler(&plane, &request.key, &stop);
        Ok(Hosted { plane, stop, shown })
    }

    fn describe(&self, plane: &ControlPlane, request: &PlaneRequest) -> Result<RunningPlane, PlaneError> {
        let bound = plane
            .address()
            .ok_or_else(|| failed("it does not listen".into()))?;
        let server = format!("https://{bound}");
        let kubeconfig = super::admin_kubeconfig(plane).map_err(failed)?;
        let access = ClusterAccess {
            client: plane.client(UserInfo::component("system:mainstay:fleet")),
            approver: plane.client(UserInfo::component("system:mainstay:csr-approver")),
            api_servers: vec![server],
            ca_bundle: plane.ca_pem().to_string(),
        };
        let endpoint = Endpoint {
            host: bound.ip().to_string(),
            port: i32::from(bound.port()),
        };
        tracing::info!(plane = %request.key, address = %bound, "control plane serves");
        Ok(RunningPlane {
            access,
            endpoint,
            version: version::TEXT.into(),
            kubeconfig,
        })
    }

    fn start_autoscaler(&self, plane: &ControlPlane, key: &ObjectKey, stop: &CancellationToken) {
        let config = mainstay_autoscaler::Config {
            management: self.management.clone(),
            workload: plane.client(UserInfo::component("system:mainstay:autoscaler")),
            namespace: key.namespace.clone(),
            cluster: key.name.clone(),
            options: Default::default(),
            scan_interval: SCAN_INTERVAL,
        };
        mainstay_autoscaler::start(config, self.clock.clone(), stop.clone());
    }

    /// Ends all planes; their data stays.
    pub async fn stop_all(&self) {
        let all: Vec<Hosted> = self.running.lock().await.drain().map(|(_, one)| one).collect();
        let ends = all.into_iter().map(|hosted| {
            hosted.stop.cancel();
            hosted.plane.stop()
        });
        futures::future::join_all(ends).await;
    }
}

fn failed(problem: String) -> PlaneError {
    PlaneError::Failed { problem }
}

#[async_trait]
impl PlaneHost for Planes {
    async fn ensure(&self, request: &PlaneRequest) -> Result<RunningPlane, PlaneError> {
        let mut running = self.running.lock().await;
        if let Some(hosted) = running
            .get(&request.key)
            .filter(|hosted| hosted.plane.uid() == request.uid)
        {
            return Ok(hosted.shown.clone());
        }
        let hosted = self.start(request).await?;
        let shown = hosted.shown.clone();
        running.insert(request.key.clone(), hosted);
        Ok(shown)
    }

    async fn remove(&self, key: &ObjectKey, uid: &str) -> Result<(), PlaneError> {
        let mut running = self.running.lock().await;
        if running.get(key).is_some_and(|hosted| hosted.plane.uid() == uid)
            && let Some(hosted) = running.remove(key)
        {
            hosted.stop.cancel();
            hosted.plane.stop().await;
        }
        self.engine
            .drop_keyspace(uid)
            .await
            .map_err(|error| failed(chain(&error)))?;
        match std::fs::remove_dir_all(self.folder.join(uid)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error.to_string())),
            _ => Ok(()),
        }
    }
}
