//! What `up` needs of this computer: every finding has a name and a remedy, and all are shown at once.

use std::net::SocketAddr;
use std::path::Path;

use mainstay_host::preflight::{self, Port};
use serde::Serialize;

/// Free space that composing and two machines need.
const DISK_BYTES: u64 = 6 << 30;
/// Memory that the management plane and two machines need.
const MEMORY_BYTES: u64 = 2 << 30;
/// containerd needs a few inotify instances per machine.
const INOTIFY_INSTANCES: u64 = 64;

/// One problem.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// For `--ignore`.
    pub name: String,
    /// What was seen.
    pub problem: String,
    /// What helps.
    pub fix: String,
}

/// The outcome of all checks.
#[derive(Debug, Clone, Serialize)]
pub struct Preflight {
    /// How many checks ran.
    pub checks: usize,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Preflight {
    fn check(&mut self, name: &str, wrong: bool, problem: impl FnOnce() -> String, fix: &str) {
        self.checks += 1;
        if wrong {
            self.findings.push(Finding {
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

/// Runs every check. `addresses` are those that must be free.
pub fn run(data_dir: &Path, addresses: &[SocketAddr]) -> Preflight {
    let mut all = Preflight {
        checks: 0,
        findings: Vec::new(),
    };
    let root = preflight::is_root();
    all.check(
        "root",
        !root,
        || "local machines need root".into(),
        "run as root, for example with sudo",
    );
    let folder = data_dir
        .ancestors()
        .find(|folder| folder.is_dir())
        .unwrap_or(Path::new("/"));
    let free = preflight::free_bytes(folder).unwrap_or(0);
    let problem = || {
        format!(
            "{} has {} free, needs {}",
            folder.display(),
            gib(free),
            gib(DISK_BYTES)
        )
    };
    all.check(
        "disk-space",
        free < DISK_BYTES,
        problem,
        "free some space, or name another directory with --data-dir",
    );
    let memory = preflight::available_memory_bytes();
    let problem = || {
        format!(
            "{} of memory are available, needs {}",
            gib(memory),
            gib(MEMORY_BYTES)
        )
    };
    all.check(
        "memory",
        memory < MEMORY_BYTES,
        problem,
        "end what uses the memory",
    );
    for address in addresses {
        port(&mut all, *address);
    }
    for tool in preflight::tools() {
        let name = format!("tool-{}", tool.name);
        let problem = || format!("{} is not installed", tool.name);
        all.check(
            &name,
            tool.version.is_none(),
            problem,
            "run scripts/setup as root",
        );
    }
    kernel(&mut all);
    all
}

fn port(all: &mut Preflight, address: SocketAddr) {
    let (wrong, problem) = match preflight::port(address) {
        Port::Free => (false, String::new()),
        Port::Held {
            by: Some((pid, program)),
        } => (true, format!("{address} is held by {program} (pid {pid})")),
        Port::Held { by: None } => (true, format!("{address} is held by another process")),
        Port::Refused(problem) => (true, format!("{address}: {problem}")),
    };
    all.check(
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
            return all.check("cgroups", true, || problem, "mount the control group hierarchies");
        }
    };
    let missing = &kernel.missing_controllers;
    let problem = || format!("control group controllers are missing: {}", missing.join(", "));
    all.check(
        "cgroups",
        !missing.is_empty(),
        problem,
        "mount the controllers or enable them on the kernel command line",
    );
    let missing = &kernel.missing_filesystems;
    let problem = || format!("the kernel does not know {}", missing.join(", "));
    all.check(
        "filesystems",
        !missing.is_empty(),
        problem,
        "load the modules or use a kernel that has them",
    );
    let instances = kernel.inotify_instances;
    let problem = || format!("fs.inotify.max_user_instances is {instances}, needs {INOTIFY_INSTANCES}");
    let fix = "sysctl -w fs.inotify.max_user_instances=512";
    all.check("inotify", instances < INOTIFY_INSTANCES, problem, fix);
    all.check(
        "loop-devices",
        !kernel.loop_control,
        || "/dev/loop-control is missing".into(),
        "load the loop module",
    );
}

fn gib(bytes: u64) -> String {
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
            "   {:<width$}  {}  → {}\n",
            finding.name, finding.problem, finding.fix
        )
    };
    all.findings.iter().map(line).collect()
}
