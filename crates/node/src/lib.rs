//! The node agent: pods, cgroups, eviction, images, logs, volumes.

pub mod agent;
pub mod amount;
pub mod api;
pub mod config;
pub mod cri;
pub mod facts;
pub mod identity;
pub mod lease;
pub mod node_status;
pub mod register;
pub mod reserve;
pub mod runtime_health;
pub mod settings;

pub use agent::{AgentError, run};
pub use config::{KubeletConfiguration, NodeConfig};
pub use settings::{Dirs, Settings};
