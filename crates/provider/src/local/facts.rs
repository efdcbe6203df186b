//! What a local machine knows of itself: the contract between the provider and the programs inside.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Sku;

/// The facts, inside the machine.
pub const FACTS: &str = "/run/mainstay/machine/machine.json";
/// The join data, inside the machine; readable by root only.
pub const NODE_CONFIG: &str = "/run/mainstay/machine/node-config";
/// Container image archives to import, inside the machine.
pub const IMAGES: &str = "/run/mainstay/images";

/// `/run/mainstay/machine/machine.json`. The machine's size is here and in its control group; `/proc/meminfo` and
/// `/proc/cpuinfo` show the host's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineFacts {
    /// `namespace/name` of the Host object.
    pub host: String,
    /// Host name.
    pub machine_name: String,
    /// The machine's size.
    pub sku: Sku,
    /// What `/etc/machine-id` holds.
    pub machine_id: String,
    /// What a BIOS would give as system UUID.
    pub system_uuid: String,
    /// Of this start; `/proc/sys/kernel/random/boot_id` shows the same.
    pub boot_id: String,
    /// Of this provisioning.
    pub incarnation: u64,
    /// The image that runs.
    pub commit: String,
    /// This start is a trial of the image: it falls back unless confirmed good.
    pub trial: bool,
    /// The machine's address with prefix length.
    pub address: String,
    /// The host's address on the machines' bridge.
    pub gateway: String,
    /// Name servers.
    pub dns: Vec<String>,
}

impl MachineFacts {
    /// Reads the facts of the machine this process runs in.
    ///
    /// # Errors
    /// When the file is missing (this is no local machine) or damaged.
    pub fn read(path: &Path) -> std::io::Result<MachineFacts> {
        serde_json::from_slice(&std::fs::read(path)?).map_err(std::io::Error::other)
    }

    /// The address without its prefix length.
    pub fn ip(&self) -> &str {
        self.address.split('/').next().unwrap_or_default()
    }
}
