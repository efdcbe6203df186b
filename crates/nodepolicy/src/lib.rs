//! What the node agent decides, as functions of plain data: nothing here needs a runtime or an API server.

pub mod admission;
pub mod amount;
pub mod cgroup_name;
pub mod config;
pub mod cpus;
pub mod devices;
pub mod eviction;
pub mod facts;
pub mod memory_qos;
pub mod node_cgroups;
pub mod node_status;
pub mod numa;
pub mod oracle;
pub mod plan;
pub mod pods;
pub mod podspec;
pub mod qos;
pub mod reserve;
pub mod resize;
pub mod shutdown;
pub mod truth;

use mainstay_cri as cri;
