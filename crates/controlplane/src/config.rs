//! What a control plane is made of.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mainstay_access::hooks::{Admit, Audit, Charge, ListFilter};
use mainstay_store::Engine;

/// The configuration of one control plane.
#[derive(Clone)]
pub struct Config {
    /// The storage engine of the process.
    pub engine: Arc<dyn Engine>,
    /// The plane's keyspace.
    pub uid: String,
    /// The name in kubeconfigs.
    pub name: String,
    /// Where certificate authorities and keys are kept; `None` = made anew at each start, for tests.
    pub directory: Option<PathBuf>,
    /// Where it listens; `None` = in process only. Port 0 takes any free one.
    pub listen: Option<SocketAddr>,
    /// Further names and addresses that the serving certificate names.
    pub serving_names: Vec<String>,
    /// The address that clients are told, when it is not the one it listens on.
    pub advertise: Option<String>,
    /// Service addresses.
    pub service_cidr: String,
    /// A static token file, in upstream's CSV form.
    pub token_auth: Option<PathBuf>,
    /// Another server that is asked who a token belongs to: a kubeconfig file.
    pub token_webhook: Option<PathBuf>,
    /// How long its answers are believed.
    pub token_webhook_ttl: Duration,
    /// Seats of each lane of requests.
    pub seats: u32,
    /// Admission plugins of the surroundings (tenancy), before the webhooks.
    pub admit: Vec<Arc<dyn Admit>>,
    /// Names of built-in admission plugins to leave out.
    pub disabled_admission: Vec<String>,
    /// Further charges.
    pub charge: Vec<Arc<dyn Charge>>,
    /// Where requests are noted.
    pub audit: Vec<Arc<dyn Audit>>,
    /// Filters for lists.
    pub list_filter: Vec<Arc<dyn ListFilter>>,
    /// Seeds generated names; 0 = random.
    pub seed: u64,
}

impl Config {
    /// A plane in process only, with everything at its default.
    pub fn new(engine: Arc<dyn Engine>, uid: impl Into<String>) -> Self {
        let uid = uid.into();
        Config {
            engine,
            name: uid.clone(),
            uid,
            directory: None,
            listen: None,
            serving_names: Vec::new(),
            advertise: None,
            service_cidr: "10.96.0.0/12".into(),
            token_auth: None,
            token_webhook: None,
            token_webhook_ttl: mainstay_access::authn::webhook::REMEMBER,
            seats: mainstay_apiserver::flow::SEATS,
            admit: Vec::new(),
            disabled_admission: Vec::new(),
            charge: Vec::new(),
            audit: Vec::new(),
            list_filter: Vec::new(),
            seed: 0,
        }
    }
}
