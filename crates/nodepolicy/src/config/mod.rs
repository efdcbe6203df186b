//! What the agent is told: the join file and the `KubeletConfiguration` in it or beside it.

pub mod duration;
pub mod flags;
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

/// Reads a `KubeletConfiguration` file (JSON or YAML) as it stands.
///
/// # Errors
/// When it cannot be read or parsed; an empty file is an empty document.
pub fn document(path: &std::path::Path) -> Result<serde_json::Value, ConfigError> {
    let value: serde_json::Value =
        serde_yaml_ng::from_str(&read(path)?).map_err(|source| ConfigError::Parse {
            what: path.display().to_string(),
            source,
        })?;
    Ok(if value.is_null() {
        serde_json::json!({})
    } else {
        value
    })
}

/// Puts the `*.conf` files of a folder over a document, in the order of their names: maps are merged, all else is
/// replaced.
///
/// # Errors
/// When the folder or one of the files cannot be read or parsed.
pub fn put_folder(folder: &std::path::Path, document: &mut serde_json::Value) -> Result<(), ConfigError> {
    let unreadable = |source| ConfigError::Read {
        path: folder.display().to_string(),
        source,
    };
    let entries = std::fs::read_dir(folder).map_err(unreadable)?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    paths.sort();
    for path in paths {
        put_over(document, self::document(&path)?);
    }
    Ok(())
}

fn put_over(document: &mut serde_json::Value, more: serde_json::Value) {
    match (document, more) {
        (serde_json::Value::Object(there), serde_json::Value::Object(more)) => {
            for (name, value) in more {
                put_over(there.entry(name).or_insert(serde_json::Value::Null), value);
            }
        }
        (place, more) => *place = more,
    }
}

/// Reads a file of configuration.
fn read(path: &std::path::Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.display().to_string(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn files_of_a_folder_are_put_over_each_other_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in [
            (
                "20-more.conf",
                "evictionHard: {memory.available: 2Gi}\nclusterDNS: [10.0.0.1]",
            ),
            (
                "10-first.conf",
                "{maxPods: 7, evictionHard: {memory.available: 1Gi, pid.available: 5%}}",
            ),
            ("notes.txt", "this: [is, not read"),
        ] {
            std::fs::write(folder.path().join(name), text).expect("written");
        }
        let mut document = json!({"maxPods": 50, "clusterDNS": ["10.0.0.9"], "port": 1});
        super::put_folder(folder.path(), &mut document).expect("read");
        let evicted = json!({"memory.available": "2Gi", "pid.available": "5%"});
        assert_eq!(
            document,
            json!({"maxPods": 7, "clusterDNS": ["10.0.0.1"], "port": 1, "evictionHard": evicted})
        );
        assert!(super::put_folder(&folder.path().join("none"), &mut document).is_err());
    }
}
