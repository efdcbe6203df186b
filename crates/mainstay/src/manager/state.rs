//! What lies where in the data directory, and who runs on it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use mainstay_host::process::ProcessId;
use serde::{Deserialize, Serialize};

/// The data directory's places.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The data directory itself.
    pub root: PathBuf,
}

impl Layout {
    /// Names the places below `root`; makes nothing.
    pub fn new(root: &Path) -> Self {
        // Absolute: the background process has another working directory.
        Layout {
            root: std::path::absolute(root).unwrap_or_else(|_| root.to_path_buf()),
        }
    }

    /// Makes the folders, readable by their owner only.
    ///
    /// # Errors
    /// As the filesystem says.
    pub fn make(&self) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        for folder in [
            self.root.clone(),
            self.store(),
            self.pki(),
            self.planes(),
            self.logs(),
            self.os(),
        ] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        Ok(())
    }

    /// The storage engine's log and snapshots.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// The management plane's keys.
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// The hosted planes' keys, a folder each.
    pub fn planes(&self) -> PathBuf {
        self.root.join("planes")
    }

    /// Composed images, their repository and cache.
    pub fn os(&self) -> PathBuf {
        self.root.join("os")
    }

    /// Container image archives for machines.
    pub fn container_images(&self) -> PathBuf {
        self.root.join("container-images")
    }

    /// Local machines.
    pub fn machines(&self) -> PathBuf {
        self.root.join("machines")
    }

    /// Everything made on the computer.
    pub fn ledger(&self) -> PathBuf {
        self.root.join("ledger.jsonl")
    }

    /// Logs of the background process.
    pub fn logs(&self) -> PathBuf {
        self.root.join("log")
    }

    /// The background process's log.
    pub fn log(&self) -> PathBuf {
        self.logs().join("manage.log")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("admin.kubeconfig")
    }

    fn running(&self) -> PathBuf {
        self.root.join("running.json")
    }

    /// Removes the record of who runs.
    pub fn forget_running(&self) {
        // A record that cannot be removed is seen through: its process is gone.
        let _ = std::fs::remove_file(self.running());
    }
}

/// Who runs on a data directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// The background process.
    pub process: ProcessId,
    /// Where the management API listens.
    pub listen: SocketAddr,
    /// The dashboard with its token.
    pub dashboard: String,
    /// It serves; before that it starts.
    #[serde(default)]
    pub serving: bool,
}

impl Running {
    /// Reads the record; none when nothing runs, also after a crash.
    pub fn read(layout: &Layout) -> Option<Running> {
        let text = std::fs::read_to_string(layout.running()).ok()?;
        let running: Running = serde_json::from_str(&text).ok()?;
        running.process.alive().then_some(running)
    }

    /// Writes the record.
    ///
    /// # Errors
    /// As the filesystem says.
    pub fn write(&self, layout: &Layout) -> io::Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        mainstay_pki::write_private(&layout.running(), &text).map_err(io::Error::other)
    }
}
