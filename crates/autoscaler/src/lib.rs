//! The cluster autoscaler: estimator, simulator, expanders and cloud providers.
//!
//! [`core::run_once`] decides, synchronously and on plain data; [`case`] runs scenarios from files through it.
//! It alone writes NodePool/scale of pools with an autoscaling range, and the replicas of foreign
//! MachineDeployments that carry the size annotations.

pub mod balance;
pub mod case;
pub mod core;
pub mod expander;
pub mod live;
pub mod model;
pub mod scale_down;
pub mod scale_up;
pub mod score;
pub mod state;
#[cfg(test)]
mod tests;

pub use case::{Case, simulate};
pub use core::run_once;
pub use live::{Config, start};
