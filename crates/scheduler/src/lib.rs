//! The scheduler: queue, extenders, binding; decisions come from placement.
//!
//! Watches pods, nodes, namespaces, claims, volumes and disruption budgets. It alone writes the binding
//! subresource, `status.nominatedNodeName` and the PodScheduled condition of pods that name one of its profiles.

pub mod budgets;
pub mod config;
pub mod cycle;
pub mod extender;
pub mod queue;
mod run;
pub mod volumes;
pub mod world;
mod writes;

pub use config::{Config, ConfigError};
pub use run::{Error, start};
