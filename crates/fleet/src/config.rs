//! What the fleet controllers are given: the outside world behind traits that the wiring implements.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use kube::Client;
use mainstay_api::{Endpoint, OSImage};
use mainstay_base::clock::SharedClock;
use mainstay_control::{CancellationToken, ObjectKey};
use mainstay_machines::{ClusterAccess, context::AccessTable};
use mainstay_provider::Provider;
use parking_lot::Mutex;

use crate::probe::Prober;

/// Providers by name.
pub type Providers = BTreeMap<String, Arc<dyn Provider>>;

/// What a hosted control plane should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaneRequest {
    /// Namespace and name of the HostedControlPlane.
    pub key: ObjectKey,
    /// UID of the HostedControlPlane: names the keyspace, so that a namesake made later starts empty.
    pub uid: String,
    /// Kubernetes version that is asked for.
    pub version: String,
    /// Pod range.
    pub pods: String,
    /// Service range.
    pub services: String,
    /// The endpoint it had before; kept where possible.
    pub endpoint: Option<Endpoint>,
}

/// A control plane that serves.
#[derive(Debug, Clone)]
pub struct RunningPlane {
    /// Clients and what machines need.
    pub access: ClusterAccess,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Version that it serves.
    pub version: String,
    /// Kubeconfig of an administrator.
    pub kubeconfig: String,
}

/// Why a control plane does not serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaneError {
    /// Asked for something that cannot be.
    #[error("{field}: {problem}")]
    Invalid {
        /// The field of the HostedControlPlane.
        field: &'static str,
        /// What was expected.
        problem: String,
    },
    /// Did not start; try again.
    #[error("control plane did not start: {problem}")]
    Failed {
        /// Why.
        problem: String,
    },
}

/// Runs control planes in this process.
#[async_trait]
pub trait PlaneHost: Send + Sync + 'static {
    /// Starts the control plane, or returns the running one.
    async fn ensure(&self, request: &PlaneRequest) -> Result<RunningPlane, PlaneError>;
    /// Stops the control plane and removes its data. One that is not there is no error.
    async fn remove(&self, key: &ObjectKey, uid: &str) -> Result<(), PlaneError>;
}

/// What a compose made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ComposedImage {
    /// Branch.
    pub reference: String,
    /// Commit.
    pub commit: String,
    /// Digest of the inputs.
    pub inputs_digest: String,
    /// Versions of the parts that matter.
    pub versions: BTreeMap<String, String>,
    /// Number of packages.
    pub packages: u32,
    /// Size of the tree.
    pub size_bytes: u64,
    /// Why the image must not be used, if a rule says so.
    pub known_bad: Option<String>,
}

/// Why there is no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The OSImage asks for something that cannot be.
    #[error("{problem}")]
    Invalid {
        /// Field and problem.
        problem: String,
    },
    /// The compose failed; the text is its end.
    #[error("compose failed: {problem}")]
    Failed {
        /// End of the output.
        problem: String,
    },
    /// Old images could not be removed.
    #[error("failed to remove old images: {problem}")]
    Retention {
        /// Why.
        problem: String,
    },
}

/// Which composed images stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    /// Commits that are offered, run or to be run.
    pub commits: BTreeSet<String>,
    /// How many others, newest first.
    pub spare_commits: usize,
}

/// Composes images.
#[async_trait]
pub trait ImageBuilder: Send + Sync + 'static {
    /// Composes the image; equal inputs give the commit that exists already.
    async fn compose(&self, image: &OSImage) -> Result<ComposedImage, ImageError>;
    /// Removes images that need not stay. What machines of this computer have mounted stays whatever is said here.
    async fn retain(&self, keep: &Keep) -> Result<(), ImageError>;
}

/// Everything that [`crate::start`] needs.
pub struct FleetConfig {
    /// Client of the management cluster.
    pub client: Client,
    /// The time.
    pub clock: SharedClock,
    /// Providers by name.
    pub providers: Providers,
    /// Runs hosted control planes.
    pub planes: Arc<dyn PlaneHost>,
    /// Composes images.
    pub images: Arc<dyn ImageBuilder>,
    /// Probes machines.
    pub prober: Arc<dyn Prober>,
    /// Access to workload clusters; filled by the control-plane controller.
    pub access: Arc<AccessTable>,
    /// Start of the generator of name suffixes.
    pub seed: u64,
    /// Ends everything.
    pub shutdown: CancellationToken,
}

/// What the controllers of this crate share.
pub struct Context {
    /// Client of the management cluster.
    pub client: Client,
    /// The time.
    pub clock: SharedClock,
    /// Providers by name.
    pub providers: Providers,
    /// Runs hosted control planes.
    pub planes: Arc<dyn PlaneHost>,
    /// Composes images.
    pub images: Arc<dyn ImageBuilder>,
    /// Probes machines.
    pub prober: Arc<dyn Prober>,
    /// Access to workload clusters.
    pub access: Arc<AccessTable>,
    /// Ends everything.
    pub stop: CancellationToken,
    /// Results of probes in a row, by ComputeNode.
    pub(crate) probes: Mutex<HashMap<ObjectKey, crate::probe::Streak>>,
    /// One host is chosen at a time, so that two machines never reach for the same one.
    pub(crate) choosing: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Context")
            .field("providers", &self.providers.keys())
            .finish_non_exhaustive()
    }
}
