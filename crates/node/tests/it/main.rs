//! The agent on a real containerd, in a network namespace of its own.
#![allow(clippy::disallowed_methods)]

mod classes;
mod defence;
mod disks;
mod extras;
mod holders;
mod joined;
mod lives;
mod machine;
mod metrics;
mod plugin;
mod resize;
mod rules;
mod serving;
mod standalone;
