//! One cluster's control plane as a value: API server with its policy, over a keyspace of a storage engine. A process
//! holds as many as it likes.

mod certificates;
pub mod config;
mod endpoint;
mod plane;
mod policy;
pub mod server;
pub mod webhook;

pub use certificates::Certificates;
pub use config::Config;
pub use plane::{ControlPlane, Error};
