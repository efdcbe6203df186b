//! The node agent: pods, cgroups, eviction, images, logs, volumes.

pub mod admission;
pub mod agent;
pub mod amount;
pub mod api;
pub mod cgroups;
pub mod config;
pub mod context;
pub mod cri;
pub mod disk;
pub mod events;
pub mod eviction;
pub mod facts;
pub mod fetch;
pub mod identity;
pub mod images;
pub mod lease;
pub mod logs;
pub mod node_status;
pub mod plan;
pub mod pods;
pub mod podspec;
pub mod pressure;
pub mod probes;
pub mod qos;
pub mod register;
pub mod reserve;
pub mod runtime_health;
pub mod server;
pub mod settings;
pub mod usage;
pub mod verdicts;
pub mod volumes;

pub use agent::{AgentError, run};
pub use config::{KubeletConfiguration, NodeConfig};
pub use facts::Overrides;
pub use settings::{Dirs, Settings};
