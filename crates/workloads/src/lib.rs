//! Built-in controllers: the kube-controller-manager role.
//!
//! [`start`] runs them all over one client and one shared cache per kind. Each controller is `observe → plan → apply`
//! with a pure plan; what it watches and which fields it alone writes stands at the top of its module.

mod account;
mod aggregation;
mod certificates;
mod context;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod garbage;
mod ipam;
mod job;
mod kinds;
mod namespace;
mod node;
mod owner;
mod pods;
mod quota;
mod replicaset;
mod resources;
mod revision;
mod route;
mod statefulset;
#[cfg(test)]
mod testing;
mod ttl;
mod volume;

use std::sync::Arc;

use mainstay_base::clock::SharedClock;
use mainstay_control::CancellationToken;
use tokio::task::JoinHandle;

use context::Context;

/// What the controllers are told from outside.
#[derive(Clone, Default)]
pub struct Config {
    /// The certificate authority that pods trust (PEM); published as ConfigMap `kube-root-ca.crt` in every namespace.
    pub ca_pem: String,
    /// Signs certificate requests; `None` leaves them to somebody else.
    pub signer: Option<Arc<dyn Sign>>,
    /// The range that nodes' pod ranges are cut from; `None` leaves nodes without.
    pub pod_cidr: Option<ipnet::IpNet>,
    /// The network that carries pods' packets between nodes; `None` where it needs no routes or somebody else sets them.
    pub routes: Option<Arc<dyn Routes>>,
    /// When nodes count as lost, and how fast their pods are evicted.
    pub node_health: node::Health,
}

/// The running controllers.
pub struct Handle {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Handle {
    /// Stops all controllers and waits for the work under way.
    pub async fn stop(self) {
        self.stop.cancel();
        futures::future::join_all(self.tasks).await;
    }
}

pub use certificates::{CertificateUse, Sign};
pub use node::Health as NodeHealth;
pub use route::{Route, Routes};

/// Starts all controllers; they end with `shutdown`. The client's user needs the rights of ClusterRole
/// `system:mainstay:controllers` and those of garbage collection: delete and patch everything.
pub fn start(
    client: kube::Client,
    config: Config,
    clock: SharedClock,
    shutdown: CancellationToken,
) -> Handle {
    let stop = shutdown.child_token();
    let context: Arc<Context> = Context::new(client, config, clock, stop.clone());
    let controllers = [
        replicaset::start,
        deployment::start,
        job::start,
        namespace::start,
        account::start,
        endpoints::start,
        endpoints::mirror::start,
        node::start,
        garbage::start,
        aggregation::start,
        certificates::start,
        ipam::start,
        disruption::start,
        cronjob::start,
        route::start,
        daemonset::start,
        statefulset::start,
        volume::start,
        quota::start,
        ttl::start,
    ];
    let tasks = controllers
        .into_iter()
        .map(|start| start(context.clone()))
        .collect();
    Handle { stop, tasks }
}
