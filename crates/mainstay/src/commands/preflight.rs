//! What `up` and `server` need of this computer: every finding has a name and a remedy, and all are shown at once.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use mainstay_host::preflight::{self, Port};

use crate::outcome::Finding;

/// Free space that composing and two machines need.
const DISK_BYTES: u64 = 6 << 30;
/// Free space that a bare server needs: its log is preallocated, and there must be room to compact it.
const SERVER_DISK_BYTES: u64 = 256 << 20;
/// Memory that the management plane and two machines need.
const MEMORY_BYTES: u64 = 2 << 30;
/// containerd needs a few inotify instances per machine.
const INOTIFY_INSTANCES: u64 = 64;

/// How often a port is looked at whose holder cannot be found.
const PORT_LOOKS: u32 = 30;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// The outcome of all checks.
#[derive(Debug, Default)]
pub struct Preflight {
    /// How many checks ran.
    pub checks: usize,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Preflight {
    fn check(
        &mut self,
        id: &'static str,
        name: &str,
        wrong: bool,
        problem: impl FnOnce() -> String,
        fix: &str,
    ) {
        self.checks += 1;
        if wrong {
            self.findings.push(Finding {
                id,
                name: name.into(),
                problem: problem(),
                fix: fix.into(),
            });
        }
    }

    /// Takes out what the user wants to skip.
    pub fn without(mut self, ignored: &[String]) -> Self {
        self.findings.retain(|finding| !ignored.contains(&finding.name));
        self
    }
}

/// Everything that local machines need. `addresses` are those that must be free.
pub fn run(data_dir: &Path, addresses: &[SocketAddr]) -> Preflight {
    let mut all = Preflight::default();
    all.check(
        "MS-PRE-0002",
        "root",
        !preflight::is_root(),
        || "local machines need root".into(),
        "run as root, for example with sudo",
    );
    disk(&mut all, data_dir, DISK_BYTES);
    let memory = preflight::available_memory_bytes();
    all.check(
        "MS-PRE-0004",
        "memory",
        memory < MEMORY_BYTES,
        || {
            format!(
                "{} of memory are available, needs {}",
                size(memory),
                size(MEMORY_BYTES)
            )
        },
        "end what uses the memory",
    );
    for address in addresses {
        port(&mut all, *address);
    }
    for tool in preflight::tools() {
        all.check(
            "MS-PRE-0006",
            &format!("tool-{}", tool.name),
            tool.version.is_none(),
            || format!("{} is not installed", tool.name),
            &format!("apt-get install {}, or run scripts/setup, as root", tool.package),
        );
    }
    kernel(&mut all);
    all
}

/// What a bare server needs: a folder to write to and its address.
pub fn server(data_dir: &Path, address: SocketAddr) -> Preflight {
    let mut all = Preflight::default();
    all.check(
        "MS-PRE-0011",
        "data-dir",
        !preflight::writable(data_dir),
        || format!("{} cannot be written by this user", data_dir.display()),
        "run as its owner or as root, or name another directory with --data-dir",
    );
    disk(&mut all, data_dir, SERVER_DISK_BYTES);
    port(&mut all, address);
    all
}

fn disk(all: &mut Preflight, data_dir: &Path, needed: u64) {
    let folder = data_dir
        .ancestors()
        .find(|folder| folder.is_dir())
        .unwrap_or(Path::new("/"));
    let free = preflight::free_bytes(folder).unwrap_or(0);
    all.check(
        "MS-PRE-0003",
        "disk-space",
        free < needed,
        || {
            format!(
                "{} has {} free, needs {}",
                folder.display(),
                size(free),
                size(needed)
            )
        },
        "free some space, or name another directory with --data-dir",
    );
}

/// Looks at an address again for a while when nobody can be found who holds it: a process that is ending, such as a
/// killed manager, is gone from `/proc` a moment before its sockets are closed.
fn settled(address: SocketAddr) -> Port {
    for _ in 1..PORT_LOOKS {
        match preflight::port(address) {
            Port::Held { by: None } => std::thread::sleep(BETWEEN_LOOKS),
            seen => return seen,
        }
    }
    preflight::port(address)
}

fn port(all: &mut Preflight, address: SocketAddr) {
    let (wrong, problem) = match settled(address) {
        Port::Free => (false, String::new()),
        Port::Held {
            by: Some((pid, program)),
        } => (true, format!("{address} is held by {program} (pid {pid})")),
        Port::Held { by: None } => (true, format!("{address} is held by another process")),
        Port::Refused(problem) => (true, format!("{address}: {problem}")),
    };
    all.check(
        "MS-PRE-0005",
        "port-in-use",
        wrong,
        || problem,
        "end that process, or choose another --listen or --dashboard",
    );
}

fn kernel(all: &mut Preflight) {
    let kernel = match preflight::kernel() {
        Ok(kernel) => kernel,
        Err(error) => {
            let problem = mainstay_base::error::chain(&error);
            let fix = "mount the control group hierarchies";
            return all.check("MS-PRE-0007", "cgroups", true, || problem, fix);
        }
    };
    let missing = &kernel.missing_controllers;
    all.check(
        "MS-PRE-0007",
        "cgroups",
        !missing.is_empty(),
        || format!("control group controllers are missing: {}", missing.join(", ")),
        "mount the controllers or enable them on the kernel command line",
    );
    let missing = &kernel.missing_filesystems;
    all.check(
        "MS-PRE-0008",
        "filesystems",
        !missing.is_empty(),
        || format!("the kernel does not know {}", missing.join(", ")),
        "load the modules or use a kernel that has them",
    );
    let instances = kernel.inotify_instances;
    all.check(
        "MS-PRE-0009",
        "inotify",
        instances < INOTIFY_INSTANCES,
        || format!("fs.inotify.max_user_instances is {instances}, needs {INOTIFY_INSTANCES}"),
        "sysctl -w fs.inotify.max_user_instances=512",
    );
    all.check(
        "MS-PRE-0010",
        "loop-devices",
        !kernel.loop_control,
        || "/dev/loop-control is missing".into(),
        "load the loop module",
    );
}

fn size(bytes: u64) -> String {
    if bytes < 1 << 30 {
        return format!("{} MiB", bytes >> 20);
    }
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// The findings as a person reads them.
pub fn table(all: &Preflight) -> String {
    let width = all
        .findings
        .iter()
        .map(|finding| finding.name.len())
        .max()
        .unwrap_or(0);
    let line = |finding: &Finding| {
        format!(
            " ✗ {}  {:<width$}  {}\n   → {}\n",
            finding.id, finding.name, finding.problem, finding.fix
        )
    };
    all.findings.iter().map(line).collect()
}
