//! Controller glue over kube-rs: one shared cache of small projections per kind, work queues, the reconcile
//! runner, events and API error classes.
//!
//! A controller is `observe → plan → apply` around a pure `plan`. It reads from [`Cache`]s, is woken by keys
//! that cache changes are mapped to, and writes through a [`kube::Client`]:
//!
//! ```no_run
//! # use mainstay_control::{Cache, Controller, ObjectKey, Requeue, Scope, projection, Error};
//! # use serde::Deserialize;
//! projection! {
//!     /// The few fields of a Deployment that this controller decides on.
//!     pub struct Deployment = "apps" "v1" "Deployment" "deployments" namespaced {
//!         pub spec: DeploymentSpec,
//!     }
//! }
//! #[derive(Debug, Clone, Default, Deserialize)]
//! pub struct DeploymentSpec { pub replicas: Option<i32> }
//!
//! # async fn example(client: kube::Client, stop: tokio_util::sync::CancellationToken) {
//! let deployments: Cache<Deployment> = Cache::start(&client, Scope::default(), stop.clone());
//! Controller::new("deployment")
//!     .wake_on(&deployments, |change| vec![change.key.clone()])
//!     .run(stop, move |key: ObjectKey| {
//!         let deployments = deployments.clone();
//!         async move {
//!             let Some(_seen) = deployments.get(&key) else { return Ok(Requeue::Never) };
//!             Ok::<_, Error>(Requeue::Never)
//!         }
//!     });
//! # }
//! ```

pub mod cache;
pub mod controller;
pub mod error;
pub mod events;
pub mod key;
pub mod projection;
pub mod queue;
mod seen;
pub mod write;

pub use cache::{Cache, Change, Scope};
pub use controller::{Controller, Requeue};
pub use error::Error;
pub use events::{EventKind, Recorder};
pub use key::ObjectKey;
pub use projection::Projection;
pub use tokio_util::sync::CancellationToken;

#[doc(hidden)]
pub mod reexport {
    pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    pub use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
    pub use kube;
    pub use serde;
}
