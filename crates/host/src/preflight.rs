//! Questions to ask the host before anything is changed. Answers are facts; what they mean is the caller's matter.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use crate::cgroup::Hierarchies;
use crate::command::{find, package, program};
use crate::error::{Result, io};
use crate::network;

/// Tells whether this process may do what root may.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Free bytes for root on the filesystem that has this path (or its nearest existing parent).
pub fn free_bytes(path: &Path) -> Result<u64> {
    let existing = path
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(existing)
        .map_err(|errno| io("look at the filesystem of", existing)(errno.into()))?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Tells whether this process may write to this path, or make it (in its nearest existing parent).
pub fn writable(path: &Path) -> bool {
    let existing = path
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    rustix::fs::access(
        existing,
        rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
    )
    .is_ok()
}

/// Looks a program up on PATH.
pub fn installed(program: &str) -> bool {
    find(program).is_some()
}

/// Memory that can be used without swapping, in bytes.
pub fn available_memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// Whether an address can be listened on, and who has it otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// Nobody listens.
    Free,
    /// Somebody listens.
    Held {
        /// The holder's pid and program, when it can be found.
        by: Option<(u32, String)>,
    },
    /// The address is not one of this host, or may not be used.
    Refused(String),
}

/// Tries to listen on an address.
pub fn port(address: SocketAddr) -> Port {
    match TcpListener::bind(address) {
        Ok(_) => Port::Free,
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Port::Held {
            by: holder(address.port()),
        },
        Err(error) => Port::Refused(error.to_string()),
    }
}

/// Finds the process that listens on a TCP port.
fn holder(port: u16) -> Option<(u32, String)> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let text = fs::read_to_string(table).ok()?;
        text.lines().find_map(|line| listening_inode(line, port))
    })?;
    let wanted = format!("socket:[{inode}]");
    let pids = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|pid| holds(*pid, &wanted)).map(|pid: u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        (pid, name.trim().to_owned())
    })
}

/// The inode of a line of `/proc/net/tcp` that listens on this port.
fn listening_inode(line: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
    let listens = *fields.get(3)? == LISTEN && u16::from_str_radix(local_port, 16).ok()? == port;
    listens.then(|| fields.get(9)?.parse().ok()).flatten()
}

fn holds(pid: u32, socket: &str) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    descriptors
        .into_iter()
        .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy() == socket))
}

/// A program of the host and its version line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Program name.
    pub name: &'static str,
    /// The Debian package that brings it.
    pub package: &'static str,
    /// First line of its version output; `None` when it is not installed.
    pub version: Option<String>,
}

/// Programs that composing an image and running local machines need, each with the flag that shows its version.
const TOOLS: &[(&str, &str)] = &[
    ("ip", "-V"),
    ("nft", "--version"),
    ("ostree", "--version"),
    ("mmdebstrap", "--version"),
    ("mkfs.ext4", "-V"),
    ("apt-get", "--version"),
    ("busybox", "--help"),
];

/// Looks for every program that is needed.
pub fn tools() -> Vec<Tool> {
    TOOLS
        .iter()
        .map(|(name, flag)| Tool {
            name,
            package: package(name),
            version: version(name, flag),
        })
        .collect()
}

fn version(name: &str, flag: &str) -> Option<String> {
    let path = find(name)?;
    let text = program(path).arg(flag).run().unwrap_or_default();
    let line = text
        .lines()
        .find(|line| line.chars().any(|letter| letter.is_ascii_digit()))
        .unwrap_or("installed");
    Some(line.trim().to_owned())
}

/// Kernel facts that machines depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Control group controllers that are missing.
    pub missing_controllers: Vec<&'static str>,
    /// Filesystems of `overlay` and `ext4` that the kernel does not know.
    pub missing_filesystems: Vec<&'static str>,
    /// `fs.inotify.max_user_instances`: containerd uses a few per machine.
    pub inotify_instances: u64,
    /// `fs.inotify.max_user_watches`.
    pub inotify_watches: u64,
    /// Whether the host forwards IPv4: without it machines reach the host and each other only.
    pub ip_forward: bool,
    /// Whether loop devices can be made.
    pub loop_control: bool,
}

/// Reads the kernel facts.
pub fn kernel() -> Result<Kernel> {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let knows = |kind: &str| {
        known
            .lines()
            .any(|line| line.split_ascii_whitespace().last() == Some(kind))
    };
    let number = |name: &str| {
        network::sysctl(name)
            .ok()
            .and_then(|value| value.parse().ok())
            .unwrap_or(0)
    };
    Ok(Kernel {
        missing_controllers: Hierarchies::detect()?.missing(),
        missing_filesystems: ["overlay", "ext4"]
            .into_iter()
            .filter(|kind| !knows(kind))
            .collect(),
        inotify_instances: number("fs.inotify.max_user_instances"),
        inotify_watches: number("fs.inotify.max_user_watches"),
        ip_forward: number("net.ipv4.ip_forward") == 1,
        loop_control: Path::new("/dev/loop-control").exists(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_port_names_its_holder() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // Children of tests that run at the same time have the socket too, until they run their program.
        let Port::Held { by: Some((_, name)) } = port(address) else {
            panic!("{:?}", port(address))
        };
        assert!(!name.is_empty());
        assert_eq!(port("127.0.0.1:0".parse().unwrap()), Port::Free);
        assert!(matches!(port("192.0.2.1:1".parse().unwrap()), Port::Refused(_)));
    }

    #[test]
    fn facts_of_this_host_can_be_read() {
        assert!(writable(Path::new("/tmp/not/there")) && !writable(Path::new("/etc/passwd/not/there")));
        assert!(free_bytes(Path::new("/var/lib/mainstay/not/there")).unwrap() > 0);
        assert!(available_memory_bytes() > 0);
        assert!(kernel().is_ok());
        assert!(
            tools()
                .iter()
                .any(|tool| tool.name == "ip" && tool.version.is_some())
        );
    }
}
