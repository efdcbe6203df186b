//! Whether the machine is going down, and telling a service of it.

use crate::command::program;
use crate::error::Error;

/// Tells whether systemd is taking the machine down; false where there is no systemd.
pub fn is_going_down() -> bool {
    const STOPPING: &str = "stopping";
    match program("systemctl").arg("is-system-running").run() {
        Ok(state) => state.trim() == STOPPING,
        // Every state but `running` ends the program with a failure.
        Err(Error::Program { output, .. }) => output.trim() == STOPPING,
        Err(_) => false,
    }
}

/// Tells a process that the power is about to go (SIGPWR).
pub fn announce_power_loss(pid: u32) {
    if let Ok(pid @ 1..) = i32::try_from(pid) {
        // SAFETY: takes no pointer; a process that is gone is an error nobody needs.
        unsafe { libc::kill(pid, libc::SIGPWR) };
    }
}
