//! Node problem detection: log monitors, custom plugins, conditions and events.
//!
//! Reads node-problem-detector's configuration files unchanged. A source (kernel log, file, plugin run) gives
//! records; [`rules`] and [`plugin::judge`] are pure and turn them into [`status::Status`]es; the [`exporter`]
//! writes conditions and events with the node's own identity.

pub mod config;
pub mod exporter;
pub mod kmsg;
pub mod layout;
pub mod monitor;
pub mod pattern;
pub mod plugin;
pub mod rules;
pub mod services;
pub mod status;
pub mod tail;

pub use config::{ConfigError, Monitor, load};
pub use monitor::{Options, run};
