//! Cluster API: the rules (pure) and the controllers for Cluster, Machine, MachineSet, MachineDeployment,
//! MachineHealthCheck, bootstrap and node identity.
//!
//! A controller here reads afresh what it decides on and is woken by shared caches; each writes only the
//! fields it names in its module's first lines.

pub mod approver;
pub mod bootstrap;
pub mod cluster;
pub mod context;
pub mod deployment;
pub mod health;
pub mod machine;
pub mod objects;
pub mod oracle;
pub mod rules;
pub mod set;
mod start;

pub use context::{ClusterAccess, ClusterClients, Context};
pub use start::start;
