//! What the provider remembers of each host, as files: survives the manager, is read again at its start.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mainstay_host::process::ProcessId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{BootIdentity, Error, HostId, ImageSlots, Result, Sku};

/// A host that has, or had, a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) host: HostId,
    /// Place on the bridge: the address is the subnet's plus this.
    pub(super) number: u32,
    /// The highest incarnation seen, also after deprovisioning.
    pub(super) incarnation: u64,
    pub(super) system_uuid: String,
    pub(super) machine: Option<Machine>,
}

/// The machine on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) sku: Sku,
    pub(super) image: ImageSlots,
    /// The last start.
    pub(super) boot: Option<Boot>,
}

/// A start of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Boot {
    pub(super) identity: BootIdentity,
    /// Where its init was last seen: a hint, checked against the control group and the boot id.
    pub(super) process: Option<ProcessId>,
}

impl Record {
    pub(super) fn machine(&self) -> Result<&Machine> {
        self.machine.as_ref().ok_or_else(|| no_machine(&self.host))
    }

    pub(super) fn machine_mut(&mut self) -> Result<&mut Machine> {
        let host = self.host.clone();
        self.machine.as_mut().ok_or_else(|| no_machine(&host))
    }
}

pub(super) fn no_machine(host: &HostId) -> Error {
    Error::Invalid {
        field: "host",
        message: format!("host {host} holds no machine"),
    }
}

/// The files of one host.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) folder: PathBuf,
}

impl Files {
    pub(super) fn new(hosts: &Path, host: &HostId) -> Files {
        Files {
            folder: hosts.join(file_name(&host.0)),
        }
    }

    pub(super) fn record(&self) -> PathBuf {
        self.folder.join("record.json")
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn load(&self) -> Result<Option<Record>> {
        read_json(&self.record())
    }

    pub(super) fn save(&self, record: &Record) -> Result<()> {
        write_json(&self.record(), record)
    }
}

/// A file name for any id: letters, digits, `.`, `-` and `_` stay, the rest becomes `%XX`.
pub(super) fn file_name(id: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let name: String = id
        .bytes()
        .map(|byte| {
            if safe(byte) {
                (byte as char).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect();
    match name.strip_prefix('.') {
        Some(rest) => format!("%2E{rest}"),
        None => name,
    }
}

/// Reads a JSON file; a missing one is `None`.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| file_error("read", path, &error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_error("read", path, &error)),
    }
}

/// Writes a JSON file, whole or not at all.
pub(super) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let bytes = serde_json::to_vec_pretty(value).expect("plain data with string keys serializes");
    write_private(path, &bytes)
}

/// Writes a file that only root may read, whole or not at all, and on disk when this returns.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let part = path.with_extension("part");
        let mut file = fs::File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&part)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&part, path)
    };
    write().map_err(|error| file_error("write", path, &error))
}

pub(super) fn file_error(operation: &'static str, path: &Path, error: &dyn std::error::Error) -> Error {
    Error::Transient {
        operation,
        host: "of this computer".to_owned(),
        message: format!("{}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_become_file_names_that_stay_in_their_folder() {
        assert_eq!(file_name("default/h-1.x"), "default%2Fh-1.x");
        assert_eq!(file_name("../x"), "%2E.%2Fx");
    }
}
