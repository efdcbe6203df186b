//! Everything that touches the operating system underneath: child processes, mounts, namespaces, cgroups, links,
//! packet filter, loop devices. All `unsafe` code and every `Command` of the product live in this crate.
//!
//! Calls block; async callers run them on a blocking thread. Whatever outlives its maker is written to a
//! [`ledger::Ledger`] before it is made.

// Child processes start in this crate and nowhere else.
#![allow(clippy::disallowed_methods)]

pub mod cgroup;
pub mod command;
mod error;
pub mod launch;
pub mod ledger;
pub mod loops;
pub mod memory;
pub mod mounts;
pub mod network;
pub mod power;
pub mod preflight;
pub mod probe;
pub mod process;
pub mod supervise;
pub mod systemd;

pub use error::{Error, Result};
