//! A node of its own on this computer: containerd, an API server and the agent, as processes in namespaces of their own
//! (mounts, network, processes), so that the kernel takes everything back, however a run ends.

pub mod upstream;
pub mod world;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Set in the process that runs inside the namespaces, to the folder that it may use.
const INSIDE: &str = "MAINSTAY_CHECKS_SITE";

/// The folder of this run, for the process inside.
pub fn inside() -> Option<PathBuf> {
    std::env::var_os(INSIDE).map(PathBuf::from)
}

/// Set in a machine that is all ours, an emulated one: nothing there needs to be kept apart.
pub const MACHINE: &str = "MAINSTAY_CHECKS_MACHINE";

/// Whether the whole machine is ours.
pub fn has_machine() -> bool {
    std::env::var_os(MACHINE).is_some()
}

/// A time limit: longer where every instruction is emulated.
pub fn patience(usual: Duration) -> Duration {
    match has_machine() {
        true => usual * 8,
        false => usual,
    }
}

/// Runs this program again with these arguments inside new namespaces, and undoes what outlives them; what it printed.
pub fn enter(arguments: &[&str]) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let output = Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "--propagation", "private", "--"])
        .arg(std::env::current_exe()?)
        .args(arguments)
        .env(INSIDE, folder.path())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("unshare")?;
    world::remove_cgroups(folder.path())?;
    if !output.status.success() {
        bail!("checks {}: {}", arguments.join(" "), output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}
