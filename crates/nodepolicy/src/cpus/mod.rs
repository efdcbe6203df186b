//! Processors of containers: the arrangement of a machine and who gets which.

pub mod policy;
pub mod set;
pub mod take;
pub mod topology;

use crate::config::KubeletConfiguration;
use crate::reserve;
use policy::{Options, StaticPolicy};
use set::CpuSet;
use topology::Topology;

/// Which processors a container runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuShare {
    /// The kernel's list; empty: all.
    pub list: String,
    /// Nobody else's.
    pub exclusive: bool,
}

/// The policy that a configuration asks for; `None`: none.
///
/// # Errors
/// When the configuration cannot be followed on a machine with this arrangement.
pub fn policy_of(config: &KubeletConfiguration, topology: Topology) -> Result<Option<StaticPolicy>, String> {
    if config.cpu_manager_policy != "static" {
        return Ok(None);
    }
    let options = Options::parse(&config.cpu_manager_policy_options)?;
    let named: CpuSet = config
        .reserved_system_cpus
        .parse()
        .map_err(|e: set::NoCpuList| e.to_string())?;
    let milli = reserve::reserved(config, "cpu");
    let count = match named.len() {
        0 => usize::try_from((milli + 999) / 1000).unwrap_or(0),
        named => named,
    };
    if count == 0 {
        return Err(
            "the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero"
                .to_owned(),
        );
    }
    StaticPolicy::new(topology, count, named, options).map(Some)
}
