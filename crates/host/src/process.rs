//! Processes that this one did not start: identity by pid and start time, signals and waiting through a pidfd.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, io};

/// A process, told apart from later ones with the same pid by its start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// Process id in this namespace.
    pub pid: u32,
    /// Start in clock ticks after boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
}

/// A process held by a pidfd: signals reach it and no successor.
#[derive(Debug)]
pub struct Handle {
    id: ProcessId,
    fd: OwnedFd,
}

/// Sets how gladly the kernel ends this process, and those that it starts from now on, when memory runs out (-1000: never,
/// 1000: first).
///
/// # Errors
/// When the number goes down without CAP_SYS_RESOURCE.
pub fn set_oom_score_adj(score: i64) -> Result<()> {
    const FILE: &str = "/proc/self/oom_score_adj";
    fs::write(FILE, score.to_string()).map_err(io("write", FILE))
}

/// Size of a page of memory.
pub fn page_bytes() -> i64 {
    // SAFETY: takes no pointer; every kernel knows this number.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) }
}

impl ProcessId {
    /// Reads the identity of the process that has this pid now; `None` when there is none or it is a zombie.
    pub fn of(pid: u32) -> Option<ProcessId> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let start_ticks = parse_stat(&stat)?;
        Some(ProcessId { pid, start_ticks })
    }

    /// Tells whether this very process still runs.
    pub fn alive(&self) -> bool {
        ProcessId::of(self.pid) == Some(*self)
    }

    /// Opens the process; `None` when it is gone.
    pub fn open(&self) -> Option<Handle> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Checked after opening: the pid cannot have been reused before this line and be ours after it.
        self.alive().then_some(Handle { id: *self, fd })
    }
}

impl Handle {
    /// Which process this is.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Asks the process to end.
    pub fn terminate(&self) -> Result<()> {
        self.send(Signal::TERM)
    }

    /// Ends the process at once.
    pub fn kill(&self) -> Result<()> {
        self.send(Signal::KILL)
    }

    /// Freezes (`true`) or continues the process.
    pub fn freeze(&self, freeze: bool) -> Result<()> {
        self.send(if freeze { Signal::STOP } else { Signal::CONT })
    }

    fn send(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(io("signal process", self.id.pid.to_string())(errno.into())),
        }
    }

    /// Waits until the process has ended; `false` when the limit passes first.
    pub fn wait(&self, limit: Duration) -> bool {
        let limit = Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        let mut fds = [PollFd::from_borrowed_fd(self.fd.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&limit)) {
            Ok(ready) => ready > 0,
            Err(_) => !self.id.alive(),
        }
    }

    /// Ends the process at once and waits for it.
    ///
    /// # Errors
    /// When it survives ten seconds, as a process stuck in the kernel does.
    pub fn kill_and_wait(&self) -> Result<()> {
        self.kill()?;
        if self.wait(Duration::from_secs(10)) {
            return Ok(());
        }
        Err(Error::Timeout {
            what: format!("end of process {}", self.id.pid),
            seconds: 10,
        })
    }
}

/// Takes the start time out of a stat line; `None` for zombies and dead processes.
fn parse_stat(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// The arguments of a process; empty when it is gone.
pub fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|b| *b == 0)
        .filter(|a| !a.is_empty())
        .map(|a| String::from_utf8_lossy(a).into_owned())
        .collect()
}

/// The pid that the process has in its innermost pid namespace.
pub fn innermost_pid(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace().last()?.parse().ok()
}

/// The parent of a process.
pub fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

/// Resident memory of a process in bytes.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_brackets_does_not_confuse_the_parser() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2";
        assert_eq!(parse_stat(stat), Some(4242));
        assert_eq!(parse_stat(&stat.replace(" S ", " Z ")), None);
    }

    #[test]
    fn a_killed_process_is_seen_to_end() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        let handle = id.open().unwrap();
        assert!(!handle.wait(Duration::from_millis(1)));
        handle.kill_and_wait().unwrap();
        child.wait().unwrap();
        assert!(!id.alive());
        assert!(id.open().is_none());
    }
}
