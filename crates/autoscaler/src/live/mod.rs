//! The autoscaler of one workload cluster, at work: observe, decide, apply.
//!
//! Watches pods, nodes, daemon sets and budgets of the workload cluster, and NodePools, MachineDeployments and
//! Machines of one management namespace. It alone writes the size of pools with a range and of annotated
//! MachineDeployments, the delete-machine annotation of machines it chose, and the taint of nodes that go.

pub mod apply;
mod drain;
pub mod groups;
pub mod observe;
mod run;
pub mod views;

pub use run::{Config, start};
