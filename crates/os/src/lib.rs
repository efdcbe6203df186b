//! Operating system images: treefile, snapshot of package sources, compose into an ostree commit, deployments.

mod agent;
pub mod compose;
mod deb;
pub mod deploy;
mod digest;
mod error;
mod host_sources;
pub mod images;
mod layout;
pub mod repository;
mod rpm;
pub mod serve;
pub mod snapshot;
pub mod treefile;

pub use agent::{Agent, IMAGE_FACTS, ImageFacts, PAUSE_IMAGE, SERVICES, node_services};
pub use compose::{Composed, Store};
pub use deploy::Spare;
pub use error::{Error, Result};
pub use mainstay_host::supervise::Service;
pub use treefile::Treefile;

/// The treefile of the image that local machines boot.
pub const NODE_TREEFILE: &str = include_str!("../assets/node.yaml");
