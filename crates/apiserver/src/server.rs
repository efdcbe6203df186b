//! The server as a value: caches, catalog, hooks, clock. What every handler gets.

use std::sync::Arc;

use fastrand::Rng;
use mainstay_base::clock::SharedClock;
use mainstay_store::Store;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::allocate::Allocator;
use crate::cache::Caches;
use crate::proxy::NodeClient;
use crate::resources::Catalog;
use mainstay_access::hooks::{Hooks, World};

/// The version that `/version` tells and that clients check: no pre-release suffix, helm's constraints refuse it.
pub const GIT_VERSION: &str = concat!("v1.36.3+mainstay.", env!("CARGO_PKG_VERSION"));

/// What a server is made of.
pub struct Config {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: SharedClock,
    /// Seeds generated names and watch jitter.
    pub seed: u64,
    /// Service addresses, IPv4, for example `10.96.0.0/12`.
    pub service_cidr: String,
    /// Node ports, first and last.
    pub node_ports: (u16, u16),
    /// How the server reaches node agents for logs, exec and the like; `None` = it cannot.
    pub node_client: Option<Arc<NodeClient>>,
    /// Seats of each lane of requests (see [`crate::flow`]).
    pub seats: u32,
}

impl Config {
    /// A server over `store` with upstream's defaults.
    pub fn new(store: Arc<dyn Store>, clock: SharedClock) -> Self {
        Config {
            store,
            clock,
            seed: 0,
            service_cidr: "10.96.0.0/12".into(),
            node_ports: (30_000, 32_767),
            node_client: None,
            seats: crate::flow::SEATS,
        }
    }
}

/// Everything a handler needs.
pub struct Server {
    caches: Arc<Caches>,
    catalog: RwLock<Arc<Catalog>>,
    pub(crate) hooks: Hooks,
    pub(crate) clock: SharedClock,
    pub(crate) allocator: Allocator,
    pub(crate) turns: crate::registry::turns::Turns,
    pub(crate) node_client: Option<Arc<NodeClient>>,
    pub(crate) metrics: crate::metrics::Metrics,
    pub(crate) lanes: crate::flow::Lanes,
    rng: Mutex<Rng>,
    drain: watch::Sender<bool>,
}

impl Server {
    /// Loads the caches and makes a server; nothing is served yet.
    pub(crate) async fn load(
        config: Config,
        hooks: impl FnOnce(Arc<dyn World>) -> Hooks,
    ) -> Result<Arc<Self>, mainstay_store::Error> {
        let caches = Caches::load(config.store).await?;
        let server = Arc::new(Server {
            hooks: hooks(caches.clone()),
            catalog: RwLock::new(Arc::new(Catalog::new([]))),
            allocator: Allocator::new(&config.service_cidr, config.node_ports),
            turns: crate::registry::turns::Turns::default(),
            clock: config.clock,
            node_client: config.node_client,
            metrics: crate::metrics::Metrics::default(),
            lanes: crate::flow::Lanes::new(config.seats),
            rng: Mutex::new(match config.seed {
                0 => Rng::new(),
                seed => Rng::with_seed(seed),
            }),
            drain: watch::Sender::new(false),
            caches,
        });
        Ok(server)
    }

    /// The watch caches.
    pub fn caches(&self) -> &Arc<Caches> {
        &self.caches
    }

    /// What is served now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.read().clone()
    }

    /// Serves another catalog from now on.
    pub(crate) fn set_catalog(&self, catalog: Catalog) {
        *self.catalog.write() = Arc::new(catalog);
    }

    /// The address of the `kubernetes` Service.
    pub fn api_address(&self) -> std::net::Ipv4Addr {
        self.allocator.api_address()
    }

    /// A random number below `bound`.
    pub(crate) fn random_below(&self, bound: u64) -> u64 {
        self.rng.lock().u64(..bound)
    }

    /// A suffix for a generated name.
    pub(crate) fn suffix(&self) -> String {
        mainstay_base::ids::suffix(&mut self.rng.lock(), 5)
    }

    /// Resolves when the server drains.
    pub(crate) async fn draining(&self) {
        let mut drain = self.drain.subscribe();
        if drain.wait_for(|draining| *draining).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether the server drains.
    pub(crate) fn is_draining(&self) -> bool {
        *self.drain.borrow()
    }

    /// Ends watches; new requests are still answered.
    pub(crate) fn drain(&self) {
        self.drain.send_replace(true);
        self.caches.end_watches();
    }
}
