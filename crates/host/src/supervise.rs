//! What a pid 1 needs: starting services with their output in files, signals as values, reaping.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Result, io};
use crate::process::{self, ProcessId};

/// A service of a machine, as an image's `services.json` lists them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Its name; the log is `/var/log/<name>.log`.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Runs to its end once per boot (again after a failure) instead of being kept running.
    #[serde(default)]
    pub once: bool,
    /// Starts when this file or socket exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<PathBuf>,
}

/// A signal that a supervisor acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Stop everything and end (SIGTERM, SIGINT, SIGPWR).
    Stop,
    /// Some child ended.
    ChildEnded,
}

const STOP_SIGNALS: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGPWR];

fn signal_set() -> libc::sigset_t {
    // SAFETY: an all-zero sigset_t is valid memory for sigemptyset to fill.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in STOP_SIGNALS {
            libc::sigaddset(&mut set, signal);
        }
        libc::sigaddset(&mut set, libc::SIGCHLD);
        set
    }
}

/// Keeps the supervisor's signals pending, to be taken by [`wait_signal`]. Call before any thread is started.
pub fn hold_signals() -> Result<()> {
    let set = signal_set();
    // SAFETY: the set is initialized and lives through the call.
    match unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io("hold the signals of process", "self")(
            std::io::Error::last_os_error(),
        )),
    }
}

/// Waits for a signal; `None` when the limit passes first.
pub fn wait_signal(limit: Duration) -> Option<Signal> {
    let set = signal_set();
    let limit = libc::timespec {
        tv_sec: limit.as_secs() as _,
        tv_nsec: limit.subsec_nanos() as _,
    };
    // SAFETY: set and limit live through the call; no siginfo is asked for.
    let signal = unsafe { libc::sigtimedwait(&set, std::ptr::null_mut(), &limit) };
    match signal {
        libc::SIGCHLD => Some(Signal::ChildEnded),
        signal if STOP_SIGNALS.contains(&signal) => Some(Signal::Stop),
        _ => None,
    }
}

/// A child that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its pid.
    pub pid: u32,
    /// Whether it ended by itself with status 0.
    pub well: bool,
    /// For people: `exit status 1`, `signal 9`.
    pub how: String,
}

/// Takes all children that have ended, also adopted ones.
pub fn reap() -> Vec<Ended> {
    let mut ended = Vec::new();
    loop {
        let mut status = 0;
        // SAFETY: the status lives through the call.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        let Ok(pid @ 1..) = u32::try_from(pid) else {
            return ended;
        };
        let how = match libc::WIFSIGNALED(status) {
            true => format!("signal {}", libc::WTERMSIG(status)),
            false => format!("exit status {}", libc::WEXITSTATUS(status)),
        };
        ended.push(Ended {
            pid,
            well: status == 0,
            how,
        });
    }
}

/// Starts a program in its own process group with its output appended to a file.
pub fn start(command: &[String], environment: &[(String, String)], log: &Path) -> Result<u32> {
    let (program, arguments) = command.split_first().ok_or_else(|| {
        io("start the empty command that logs to", log)(std::io::ErrorKind::InvalidInput.into())
    })?;
    let output = File::options()
        .create(true)
        .append(true)
        .open(log)
        .map_err(io("open", log))?;
    let errors = output.try_clone().map_err(io("open", log))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(environment.iter().map(|(k, v)| (k, v)))
        .process_group(0);
    command.stdin(Stdio::null()).stdout(output).stderr(errors);
    // Not waited for here: `reap` does.
    Ok(command.spawn().map_err(io("start", program))?.id())
}

/// Ends services at once, also stopped ones; whoever keeps them starts them again. Gives the names of those that ran.
/// Only children of pid 1 of the caller's pid namespace count: a container may run the same command.
pub fn end_services(services: &[Service]) -> Result<Vec<String>> {
    let entries = std::fs::read_dir("/proc").map_err(io("read", "/proc"))?;
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut ended = Vec::new();
    for pid in pids.filter(|pid| process::parent(*pid) == Some(1)) {
        let line = process::command_line(pid);
        let Some(service) = services.iter().find(|service| service.command == line) else {
            continue;
        };
        // Gone in the meantime is as good.
        if let Some(handle) = ProcessId::of(pid).and_then(|id| id.open()) {
            handle.kill()?;
            ended.push(service.name.clone());
        }
    }
    Ok(ended)
}

/// Sends SIGTERM (or SIGKILL) to every process of this pid namespace but the caller.
pub fn stop_all(at_once: bool) {
    let signal = if at_once { libc::SIGKILL } else { libc::SIGTERM };
    // SAFETY: takes no pointer. Only a pid 1 calls this: -1 means its whole namespace.
    if std::process::id() == 1 {
        unsafe { libc::kill(-1, signal) };
    }
}

/// Tells whether this process has any child left.
pub fn has_children() -> bool {
    // SAFETY: a null siginfo is allowed; WNOWAIT leaves the child as it is.
    let code = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(
            libc::P_ALL,
            0,
            &mut info,
            libc::WEXITED | libc::WNOHANG | libc::WNOWAIT,
        )
    };
    code == 0
}

/// Writes everything to disk.
pub fn sync() {
    rustix::fs::sync();
}
