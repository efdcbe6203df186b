//! The agent layer over a base of packages: the `mainstay` binary, its services, and the image's account of itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mainstay_host::command::program;
use mainstay_host::supervise::Service;
use serde::{Deserialize, Serialize};

use crate::digest;
use crate::error::{Result, io};
use crate::snapshot::{Lock, write};
use crate::treefile::Treefile;

/// Where the image says what it is.
pub const IMAGE_FACTS: &str = "usr/lib/mainstay/image.json";
/// What `mainstay init` keeps running.
pub const SERVICES: &str = "usr/lib/mainstay/services.json";
/// The image of the sandbox container, made at set-up and imported at start.
pub const PAUSE_IMAGE: &str = "mainstay.local/pause:1";

/// containerd as the node agent needs it.
const CONTAINERD_CONFIG: &str = r#"version = 2
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp",
]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "mainstay.local/pause:1"
  # Without the capability to lower a score, the sandbox's -998 would fail every pod.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#;

/// The services of a node.
pub fn node_services() -> Vec<Service> {
    let service = |name: &str, command: &str, once: bool, after: Option<&str>| Service {
        name: name.to_owned(),
        command: command.split(' ').map(str::to_owned).collect(),
        once,
        after: after.map(PathBuf::from),
    };
    let containerd = Some("/run/containerd/containerd.sock");
    vec![
        service("containerd", "/usr/bin/containerd", false, None),
        service(
            "images",
            "/usr/bin/mainstay init --import-images",
            true,
            containerd,
        ),
        service(
            "node",
            "/usr/bin/mainstay node --node-config /run/mainstay/machine/node-config",
            false,
            containerd,
        ),
        service("detect", "/usr/bin/mainstay detect", false, None),
    ]
}

/// What is laid over the base.
#[derive(Debug, Clone)]
pub struct Agent {
    /// The program that becomes `/usr/bin/mainstay`.
    pub binary: PathBuf,
    /// Its version.
    pub version: String,
    /// What `mainstay init` keeps running.
    pub services: Vec<Service>,
}

/// The image's account of itself (`/usr/lib/mainstay/image.json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageFacts {
    /// Branch.
    #[serde(rename = "ref")]
    pub branch: String,
    /// Commit of the base layer (an image cannot hold its own commit; `machine.json` has it).
    pub commit: String,
    /// Version of the kernel package, when the image has one.
    pub kernel: Option<String>,
    /// Version of containerd.
    pub containerd: Option<String>,
    /// Version of runc.
    pub runc: Option<String>,
    /// Version of the CNI plugins.
    pub cni: Option<String>,
    /// Version of the agent.
    pub mainstay: String,
    /// Digest of treefile and packages.
    pub inputs_digest: String,
}

impl ImageFacts {
    pub(crate) fn of(treefile: &Treefile, lock: &Lock, base: &str, agent: &Agent) -> ImageFacts {
        let version = |names: &[&str]| {
            names
                .iter()
                .find_map(|name| lock.version(name))
                .map(str::to_owned)
        };
        let kernel = lock
            .packages
            .iter()
            .find(|p| p.name == "kernel" || p.name.starts_with("linux-image-"));
        ImageFacts {
            branch: treefile.branch.clone(),
            commit: base.to_owned(),
            kernel: kernel.map(|package| package.version.clone()),
            containerd: version(&["containerd", "containerd.io"]),
            runc: version(&["runc"]),
            cni: version(&["containernetworking-plugins"]),
            mainstay: agent.version.clone(),
            inputs_digest: lock.inputs_digest(),
        }
    }
}

/// Version of what is done to the agent's layer: a change of the code that changes layers raises it.
const LAYER_FORMAT: u32 = 2;

/// Copies a program without its symbols, which no machine needs: a development build is mostly symbols, and every new
/// agent is a new layer. Copies it as it is where there is no `strip`.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let stripped = program("strip")
        .args(["--strip-all", "-o"])
        .arg(to)
        .arg(from)
        .run();
    match stripped {
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::debug!(error = %error, "the agent keeps its symbols");
            fs::copy(from, to).map(drop).map_err(io("copy", from))
        }
    }
}

impl Agent {
    /// Digest of the layer's content.
    pub(crate) fn digest(&self) -> Result<String> {
        let binary = digest::of_files(&[&self.binary])?.concat();
        let services = serde_json::to_string(&self.services).expect("plain data with string keys serializes");
        let text = [binary.as_str(), &self.version, &services, CONTAINERD_CONFIG].join("\n");
        let text = format!("{LAYER_FORMAT}\n{text}");
        Ok(digest::of_bytes(text.as_bytes()))
    }

    /// Writes the layer into a folder.
    pub(crate) fn write_layer(&self, folder: &Path, facts: &ImageFacts, treefile: &Treefile) -> Result<()> {
        let binary = folder.join("usr/bin/mainstay");
        fs::create_dir_all(folder.join("usr/bin")).map_err(io("create", folder))?;
        strip(&self.binary, &binary)?;
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&binary, executable).map_err(io("change the mode of", &binary))?;
        let json =
            |value: serde_json::Result<Vec<u8>>| value.expect("plain data with string keys serializes");
        write(&folder.join(IMAGE_FACTS), &json(serde_json::to_vec_pretty(facts)))?;
        write(
            &folder.join(SERVICES),
            &json(serde_json::to_vec_pretty(&self.services)),
        )?;
        write(
            &folder.join("usr/lib/mainstay/sysctls.json"),
            &json(serde_json::to_vec_pretty(&treefile.sysctls)),
        )?;
        write(
            &folder.join("usr/etc/containerd/config.toml"),
            CONTAINERD_CONFIG.as_bytes(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_loses_its_symbols_and_anything_else_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let own = std::env::current_exe().unwrap();
        let to = dir.path().join("stripped");
        strip(&own, &to).unwrap();
        let size = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(size(&to) <= size(&own));
        let script = dir.path().join("script");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        strip(&script, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "#!/bin/sh\n");
    }
}
