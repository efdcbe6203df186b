//! What the agent is told: the join file and the `KubeletConfiguration` in it or beside it.

pub mod duration;
pub mod gates;
pub mod join;
pub mod kubelet;

pub use join::{ClusterNetwork, NodeConfig};
pub use kubelet::KubeletConfiguration;

/// Why a configuration was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The text is not valid.
    #[error("failed to parse {what}")]
    Parse {
        /// Which document.
        what: String,
        /// Where and why.
        #[source]
        source: serde_yaml_ng::Error,
    },
    /// A field has a value that this agent cannot honour.
    #[error("{field}: {why}")]
    Refused {
        /// The field's path.
        field: String,
        /// What is wrong and what is possible.
        why: String,
    },
}

/// Reads a file of configuration.
fn read(path: &std::path::Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.display().to_string(),
        source,
    })
}
