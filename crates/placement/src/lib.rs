//! Pure placement: cluster snapshot, filters, scores, preemption, bin-packing, drain, disruption budgets.
//!
//! The scheduler, the autoscaler, the simulator and the tests all call these functions; nothing here does
//! I/O or reads a clock. Text of reasons is part of the contract: users search for it.

pub mod decide;
pub mod disruption;
pub mod drain;
pub mod filter;
pub mod input;
pub mod interpod;
pub mod node;
pub mod pack;
pub mod pod;
pub mod preempt;
pub mod reason;
pub mod resources;
pub mod score;
pub mod snapshot;
pub mod spread;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod volume;

pub use disruption::{Budget, Budgets};
pub use node::{Node, NodeInfo};
pub use pod::{Eviction, Owner, Pod, Shape};
pub use reason::Reason;
pub use resources::Resources;
pub use snapshot::Snapshot;
