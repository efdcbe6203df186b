//! The node agent: pods, cgroups, eviction, images, logs, volumes.

pub mod admission;
pub mod agent;
pub mod api;
mod api_calls;
pub mod cgroups;
pub mod context;
pub mod cpus;
pub mod devices;
pub mod disk;
pub mod events;
pub mod eviction;
pub mod fetch;
pub mod identity;
pub mod images;
pub mod lease;
pub mod logs;
pub mod network;
pub mod node_view;
pub mod own_node;
pub mod pods;
pub mod pressure;
pub mod probes;
pub mod register;
pub mod repeated;
pub mod runtime_health;
pub mod server;
pub mod settings;
pub mod shutdown;
pub mod tally;
pub mod usage;
pub mod verdicts;
pub mod volumes;

pub use agent::{AgentError, run};
pub use mainstay_cri as cri;
pub use mainstay_nodepolicy::{
    amount, config, facts, node_cgroups, node_status, plan, podspec, qos, reserve,
};

pub use config::{KubeletConfiguration, NodeConfig};
pub use facts::Overrides;
pub use settings::{Access, Dirs, Settings};
