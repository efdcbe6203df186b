//! Starts a process as pid 1 of its own namespaces. What happens between fork and exec is a list of [`Step`]s:
//! data that can be printed and tested, turned into C strings beforehand so that the child allocates nothing.
//!
//! The started process is no child of the caller: it outlives it and is found again by its control group.

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result, io};
use crate::process::ProcessId;

/// One thing that the new process does to itself before it runs its program. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Joins a control group: writes its own pid to this file.
    JoinGroup(PathBuf),
    /// Enters a network namespace.
    EnterNetns(PathBuf),
    /// Leaves the caller's session.
    NewSession,
    /// Makes a new mount namespace.
    UnshareMounts,
    /// Makes new uts, ipc, cgroup and (for children) pid namespaces.
    Unshare,
    /// Goes on in a child, which is pid 1 after [`Step::Unshare`]; its pid is what [`launch`] returns.
    Fork,
    /// Makes all mounts private to the new mount namespace.
    PrivateMounts,
    /// Shares all mounts with namespaces made later: what containers' mount propagation needs.
    SharedMounts,
    /// Mounts a filesystem.
    Mount {
        /// Device or name.
        source: PathBuf,
        /// Mount point.
        target: PathBuf,
        /// Filesystem type.
        kind: &'static str,
        /// Flags.
        flags: MountOptions,
        /// Filesystem options.
        data: String,
    },
    /// Binds a folder or file on another.
    Bind {
        /// What.
        source: PathBuf,
        /// Where.
        target: PathBuf,
        /// Only for reading.
        read_only: bool,
    },
    /// Unmounts at once.
    Unmount(PathBuf),
    /// Makes a folder; an existing one is fine.
    MakeDirectory(PathBuf, u32),
    /// Makes an empty file; an existing one is fine.
    MakeFile(PathBuf),
    /// Makes a character device node.
    MakeDevice(PathBuf, u32, u32),
    /// Makes a symbolic link with this content.
    Symlink(&'static str, PathBuf),
    /// Sets the host name.
    Hostname(String),
    /// Makes this folder, a mount point, the root, and lets go of the old one.
    Pivot(PathBuf),
    /// Takes a capability from the bounding set, for good.
    DropCapability(u32),
}

/// Flags of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Only for reading.
    pub read_only: bool,
    /// No set-user-id, no programs, no devices.
    pub data_only: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::JoinGroup(file) => write!(f, "join {}", file.display()),
            Step::EnterNetns(file) => write!(f, "enter {}", file.display()),
            Step::NewSession => f.write_str("new session"),
            Step::UnshareMounts => f.write_str("unshare the mount namespace"),
            Step::Unshare => f.write_str("unshare uts, ipc, pid and cgroup namespaces"),
            Step::Fork => f.write_str("fork"),
            Step::PrivateMounts => f.write_str("make mounts private"),
            Step::SharedMounts => f.write_str("share mounts"),
            Step::Mount {
                source,
                target,
                kind,
                flags,
                data,
            } => {
                let ro = if flags.read_only { " ro" } else { "" };
                write!(
                    f,
                    "mount {kind} {} on {}{ro} {data}",
                    source.display(),
                    target.display()
                )
            }
            Step::Bind {
                source,
                target,
                read_only,
            } => {
                let ro = if *read_only { " ro" } else { "" };
                write!(f, "bind {} on {}{ro}", source.display(), target.display())
            }
            Step::Unmount(point) => write!(f, "unmount {}", point.display()),
            Step::MakeDirectory(path, mode) => write!(f, "mkdir {} {mode:o}", path.display()),
            Step::MakeFile(path) => write!(f, "touch {}", path.display()),
            Step::MakeDevice(path, major, minor) => write!(f, "mknod {} c {major} {minor}", path.display()),
            Step::Symlink(content, path) => write!(f, "symlink {} to {content}", path.display()),
            Step::Hostname(name) => write!(f, "host name {name}"),
            Step::Pivot(root) => write!(f, "pivot root to {}", root.display()),
            Step::DropCapability(number) => write!(f, "drop capability {number}"),
        }
    }
}

/// What to run after the steps, by its path in the new root.
#[derive(Debug, Clone)]
pub struct Target {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// Standard output and error are appended here (a path outside the new root).
    pub console: PathBuf,
}

/// Runs the steps and then the program, and returns the identity of the new process in the caller's pid namespace.
///
/// # Errors
/// Names the step that failed; nothing runs then, and the namespaces are gone with the process.
pub fn launch(steps: &[Step], target: &Target) -> Result<ProcessId> {
    let compiled: Vec<Compiled> = steps.iter().map(Compiled::of).collect();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| io("make a pipe for", &target.program)(errno.into()))?;
    let spawned = spawn(target, compiled, writer)?;
    let report = Report::read(reader)?;
    match spawned {
        Ok(()) => report.pid.and_then(ProcessId::of).ok_or_else(|| Error::Launch {
            path: target.program.clone(),
            step: "first instructions (it ended at once)".to_owned(),
            source: std::io::Error::from_raw_os_error(libc::ESRCH),
        }),
        Err(source) => Err(Error::Launch {
            path: target.program.clone(),
            step: report
                .failed
                .and_then(|at| steps.get(at))
                .map_or("exec".to_owned(), Step::to_string),
            source,
        }),
    }
}

/// Starts the process that runs the steps; the outer result is about preparing, the inner about steps and exec.
fn spawn(target: &Target, compiled: Vec<Compiled>, writer: OwnedFd) -> Result<std::io::Result<()>> {
    let console = File::options().create(true).append(true).open(&target.console);
    let console = console.map_err(io("open", &target.console))?;
    let errors = console.try_clone().map_err(io("open", &target.console))?;
    let mut command = Command::new(&target.program);
    command
        .args(&target.arguments)
        .env_clear()
        .envs(target.environment.iter().map(|(k, v)| (k, v)));
    command.stdin(Stdio::null()).stdout(console).stderr(errors);
    // SAFETY: the closure runs between fork and exec and makes system calls on memory prepared before; it neither
    // allocates nor takes locks.
    unsafe { command.pre_exec(move || run_steps(&compiled, writer.as_raw_fd())) };
    Ok(command.spawn().map(|mut between| {
        // The process between us and the new one has ended when its child has started the program.
        let _ = between.wait();
    }))
}

/// What the child said through the pipe.
#[derive(Debug, Default)]
struct Report {
    pid: Option<u32>,
    failed: Option<usize>,
}

const SAYS_PID: u32 = 1;
const SAYS_FAILED: u32 = 2;

impl Report {
    fn read(reader: OwnedFd) -> Result<Report> {
        let mut bytes = Vec::new();
        File::from(reader)
            .read_to_end(&mut bytes)
            .map_err(io("read", "the launch report"))?;
        let mut report = Report::default();
        for message in bytes.chunks_exact(8) {
            let word = |at: usize| {
                u32::from_ne_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]])
            };
            match word(0) {
                SAYS_PID => report.pid = Some(word(4)),
                SAYS_FAILED => report.failed = Some(word(4) as usize),
                _ => {}
            }
        }
        Ok(report)
    }
}

/// Tells the caller something; runs in the child.
fn say(pipe: RawFd, what: u32, value: u32) {
    let mut message = [0u8; 8];
    message[..4].copy_from_slice(&what.to_ne_bytes());
    message[4..].copy_from_slice(&value.to_ne_bytes());
    // SAFETY: the buffer lives through the call; a write of 8 bytes to a pipe is atomic.
    unsafe { libc::write(pipe, message.as_ptr().cast(), message.len()) };
}

fn run_steps(steps: &[Compiled], pipe: RawFd) -> std::io::Result<()> {
    for (at, step) in steps.iter().enumerate() {
        if let Err(error) = step.run(pipe) {
            say(pipe, SAYS_FAILED, at as u32);
            return Err(error);
        }
    }
    Ok(())
}

/// A step as system calls with ready arguments.
#[derive(Debug)]
enum Compiled {
    Write(CString, &'static [u8]),
    EnterNetns(CString),
    NewSession,
    Unshare(libc::c_int),
    Fork,
    Mount {
        source: CString,
        target: CString,
        kind: CString,
        flags: libc::c_ulong,
        data: CString,
        remount: bool,
    },
    Unmount(CString),
    MakeDirectory(CString, u32),
    MakeNode(CString, u32, u64),
    Symlink(CString, CString),
    Hostname(CString),
    Pivot(CString),
    DropCapability(u32),
}

fn c_path(path: &Path) -> CString {
    c_text(path.as_os_str().as_bytes())
}

/// Cuts at a NUL byte, which no path and no option of ours has.
fn c_text(bytes: &[u8]) -> CString {
    let whole = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    CString::new(whole).unwrap_or_default()
}

impl Compiled {
    fn of(step: &Step) -> Compiled {
        match step {
            Step::JoinGroup(file) => Compiled::Write(c_path(file), b"0"),
            Step::EnterNetns(file) => Compiled::EnterNetns(c_path(file)),
            Step::NewSession => Compiled::NewSession,
            Step::UnshareMounts => Compiled::Unshare(libc::CLONE_NEWNS),
            Step::Unshare => Compiled::Unshare(
                libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWPID | libc::CLONE_NEWCGROUP,
            ),
            Step::Fork => Compiled::Fork,
            Step::SharedMounts => Compiled::mount("", Path::new("/"), "", libc::MS_REC | libc::MS_SHARED, ""),
            Step::PrivateMounts => {
                Compiled::mount("", Path::new("/"), "", libc::MS_REC | libc::MS_PRIVATE, "")
            }
            Step::Mount {
                source,
                target,
                kind,
                flags,
                data,
            } => {
                let read_only = if flags.read_only { libc::MS_RDONLY } else { 0 };
                let data_only = libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_NODEV;
                let flags = read_only | if flags.data_only { data_only } else { 0 };
                Compiled::mount(&source.to_string_lossy(), target, kind, flags, data)
            }
            Step::Bind {
                source,
                target,
                read_only,
            } => {
                let flags = libc::MS_BIND | if *read_only { 0 } else { libc::MS_REC };
                let mut compiled = Compiled::mount(&source.to_string_lossy(), target, "", flags, "");
                if let Compiled::Mount { remount, .. } = &mut compiled {
                    *remount = *read_only;
                }
                compiled
            }
            Step::Unmount(point) => Compiled::Unmount(c_path(point)),
            Step::MakeDirectory(path, mode) => Compiled::MakeDirectory(c_path(path), *mode),
            Step::MakeFile(path) => Compiled::MakeNode(c_path(path), libc::S_IFREG | 0o644, 0),
            Step::MakeDevice(path, major, minor) => {
                let device = rustix::fs::makedev(*major, *minor);
                Compiled::MakeNode(c_path(path), libc::S_IFCHR | 0o666, device)
            }
            Step::Symlink(content, path) => Compiled::Symlink(c_text(content.as_bytes()), c_path(path)),
            Step::Hostname(name) => Compiled::Hostname(c_text(name.as_bytes())),
            Step::Pivot(root) => Compiled::Pivot(c_path(root)),
            Step::DropCapability(number) => Compiled::DropCapability(*number),
        }
    }

    fn mount(source: &str, target: &Path, kind: &str, flags: libc::c_ulong, data: &str) -> Compiled {
        Compiled::Mount {
            source: c_text(source.as_bytes()),
            target: c_path(target),
            kind: c_text(kind.as_bytes()),
            flags,
            data: c_text(data.as_bytes()),
            remount: false,
        }
    }

    /// Runs the step in the child: system calls only.
    fn run(&self, pipe: RawFd) -> std::io::Result<()> {
        // SAFETY: every pointer comes from a CString or slice that lives in `self`, and no call keeps one.
        unsafe {
            match self {
                Compiled::Write(path, bytes) => write_file(path, bytes),
                Compiled::EnterNetns(path) => enter_netns(path),
                Compiled::NewSession => {
                    // Fails only for a session leader, which is what is wanted.
                    libc::setsid();
                    Ok(())
                }
                Compiled::Unshare(flags) => check(libc::unshare(*flags)),
                Compiled::Fork => fork(pipe),
                Compiled::Mount {
                    source,
                    target,
                    kind,
                    flags,
                    data,
                    remount,
                } => {
                    let (data, kind) = (data.as_ptr().cast(), kind.as_ptr());
                    check(libc::mount(source.as_ptr(), target.as_ptr(), kind, *flags, data))?;
                    if !remount {
                        return Ok(());
                    }
                    let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
                    check(libc::mount(source.as_ptr(), target.as_ptr(), kind, flags, data))
                }
                Compiled::Unmount(point) => check(libc::umount2(point.as_ptr(), libc::MNT_DETACH)),
                Compiled::MakeDirectory(path, mode) => existing_is_fine(libc::mkdir(path.as_ptr(), *mode)),
                Compiled::MakeNode(path, mode, device) => {
                    existing_is_fine(libc::mknod(path.as_ptr(), *mode, *device))?;
                    check(libc::chmod(path.as_ptr(), mode & 0o777))
                }
                Compiled::Symlink(content, path) => {
                    existing_is_fine(libc::symlink(content.as_ptr(), path.as_ptr()))
                }
                Compiled::Hostname(name) => check(libc::sethostname(name.as_ptr(), name.as_bytes().len())),
                Compiled::Pivot(root) => pivot(root),
                Compiled::DropCapability(number) => {
                    let code = libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(*number), 0, 0, 0);
                    check(code)
                }
            }
        }
    }
}

fn check(code: libc::c_int) -> std::io::Result<()> {
    if code < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn existing_is_fine(code: libc::c_int) -> std::io::Result<()> {
    match check(code) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// # Safety
/// To be called between fork and exec with pointers that live through the call.
unsafe fn write_file(path: &CString, bytes: &[u8]) -> std::io::Result<()> {
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        check(fd)?;
        let written = libc::write(fd, bytes.as_ptr().cast(), bytes.len());
        let result = if written < 0 {
            Err(std::io::Error::last_os_error())
        } else {
            Ok(())
        };
        libc::close(fd);
        result
    }
}

/// # Safety
/// To be called between fork and exec: changes the calling process's network namespace.
unsafe fn enter_netns(path: &CString) -> std::io::Result<()> {
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        check(fd)?;
        let result = check(libc::setns(fd, libc::CLONE_NEWNET));
        libc::close(fd);
        result
    }
}

/// # Safety
/// To be called between fork and exec: ends the calling process and goes on in its child.
unsafe fn fork(pipe: RawFd) -> std::io::Result<()> {
    unsafe {
        // The bare system call: no handlers of the C library run, none are needed before exec.
        match libc::syscall(libc::SYS_clone, libc::SIGCHLD as libc::c_long, 0, 0, 0, 0) {
            0 => Ok(()),
            pid if pid < 0 => Err(std::io::Error::last_os_error()),
            pid => {
                say(pipe, SAYS_PID, pid as u32);
                libc::_exit(0)
            }
        }
    }
}

/// # Safety
/// To be called in a mount namespace of one's own.
unsafe fn pivot(root: &CString) -> std::io::Result<()> {
    unsafe {
        check(libc::chdir(root.as_ptr()))?;
        check(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) as libc::c_int)?;
        check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
        check(libc::chdir(c"/".as_ptr()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(dir: &Path, script: &str) -> Target {
        Target {
            program: PathBuf::from("/bin/sh"),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            environment: vec![("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned())],
            console: dir.join("console"),
        }
    }

    #[test]
    fn the_program_is_pid_one_of_namespaces_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let steps = [
            Step::NewSession,
            Step::UnshareMounts,
            Step::Unshare,
            Step::Fork,
            Step::PrivateMounts,
            Step::Hostname("m1".to_owned()),
            Step::DropCapability(16),
        ];
        let script =
            "echo pid $$ on $(cat /proc/sys/kernel/hostname); grep CapBnd /proc/1/status; exec sleep 100";
        let process = launch(&steps, &target(dir.path(), script)).unwrap();
        let handle = process.open().unwrap();
        assert_eq!(crate::process::innermost_pid(process.pid), Some(1));
        let written = || std::fs::read_to_string(dir.path().join("console")).unwrap();
        for _ in 0..200 {
            if written().contains("CapBnd") {
                break;
            }
            handle.wait(std::time::Duration::from_millis(20));
        }
        assert!(written().starts_with("pid 1 on m1\n"), "{}", written());
        handle.kill_and_wait().unwrap();
        assert!(!process.alive());
    }

    #[test]
    fn a_failing_step_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let steps = [
            Step::Unshare,
            Step::Fork,
            Step::PrivateMounts,
            Step::Pivot(dir.path().join("nowhere")),
        ];
        let error = launch(&steps, &target(dir.path(), "true")).unwrap_err();
        let text = mainstay_base::error::chain(&error);
        assert!(
            text.starts_with("failed to start /bin/sh: step pivot root to"),
            "{text}"
        );
        assert!(text.ends_with("No such file or directory (os error 2)"), "{text}");
    }
}
