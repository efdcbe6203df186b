//! `mainstay init`: pid 1 of a local machine, in the place of systemd. Prepares /etc, /var and the network
//! settings, keeps the image's services running, reaps, and stops everything on SIGTERM.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_base::clock::{Clock, SystemClock, rfc3339_seconds};
use mainstay_host::command::program;
use mainstay_host::supervise::{self, Service, Signal};
use mainstay_host::{cgroup, network, power};

use super::facts::{FACTS, IMAGES, MachineFacts, NODE_CONFIG};

/// The image's list of services.
const SERVICES: &str = "/usr/lib/mainstay/services.json";
/// The image's kernel settings; those of the network namespace are set, the rest is the host's matter.
const SYSCTLS: &str = "/usr/lib/mainstay/sysctls.json";
/// Folders that programs expect in /var and /run of a fresh machine.
const FOLDERS: &[&str] = &[
    "/var/log",
    "/var/log/pods",
    "/var/log/containers",
    "/var/cache",
    "/var/tmp",
    "/var/home",
    "/var/roothome",
    "/var/opt",
    "/var/srv",
    "/var/mnt",
    "/var/usrlocal",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/lib/mainstay/imported",
    "/run/lock",
    "/run/containerd",
    "/run/netns",
    "/etc/cni/net.d",
    "/etc/mainstay",
];
/// Links that programs expect, and what they point to.
const LINKS: &[(&str, &str)] = &[
    ("/etc/mtab", "/proc/self/mounts"),
    ("/var/run", "/run"),
    ("/var/lock", "/run/lock"),
    ("/etc/mainstay/node.json", NODE_CONFIG),
];
/// First and longest pause before a service that ended is started again.
const RESTART_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// A service that ran this long starts again without a longer pause.
const STABLE: Duration = Duration::from_secs(30);
/// How often a file that a service waits for is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// How long services may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(8);
/// The service that runs pods.
const NODE: &str = "node";
/// How long it may take to end them before everything is stopped.
const POD_LIMIT: Duration = Duration::from_secs(5);
/// Where logs are rotated at start.
const LOG_LIMIT_BYTES: u64 = 10 << 20;

/// Runs `mainstay init` with the arguments after `init`; returns the exit status.
///
/// `--boot-id ID` is pid 1. `--import-images` gives containerd the image archives of the machine and ends.
pub fn run(arguments: &[String]) -> i32 {
    match arguments.first().map(String::as_str) {
        Some("--import-images") => import_images(),
        Some("--boot-id") if std::process::id() == 1 => boot(),
        _ => {
            say("init runs as pid 1 of a machine only; nothing was done");
            2
        }
    }
}

/// Writes a line to the console.
fn say(line: &str) {
    // The console may be full or gone: nobody is left to be told.
    let _ = writeln!(
        std::io::stderr(),
        "{} init: {line}",
        rfc3339_seconds(SystemClock::new().now())
    );
}

fn boot() -> i32 {
    if let Err(error) = supervise::hold_signals() {
        say(&format!("cannot hold signals: {error}"));
        return 1;
    }
    let facts = match MachineFacts::read(Path::new(FACTS)) {
        Ok(facts) => facts,
        Err(error) => {
            say(&format!("cannot read {FACTS}: {error}"));
            return 1;
        }
    };
    say(&format!(
        "{} incarnation {} boots {}",
        facts.machine_name, facts.incarnation, facts.commit
    ));
    for (what, result) in [
        ("files", prepare_files(&facts)),
        ("settings", prepare_settings()),
        ("groups", prepare_groups()),
    ] {
        if let Err(error) = result {
            say(&format!("cannot prepare {what}: {error}"));
        }
    }
    let services = read_json::<Vec<Service>>(SERVICES).unwrap_or_default();
    Supervisor::new(services).run();
    supervise::sync();
    say("stopped");
    0
}

fn read_json<T: serde::de::DeserializeOwned>(path: &str) -> Option<T> {
    let read = fs::read(path).map_err(|error| error.to_string());
    let parsed = read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
    parsed
        .map_err(|error| say(&format!("cannot read {path}: {error}")))
        .ok()
}

fn prepare_files(facts: &MachineFacts) -> std::io::Result<()> {
    FOLDERS.iter().try_for_each(fs::create_dir_all)?;
    let name = &facts.machine_name;
    let hosts = format!(
        "127.0.0.1 localhost\n::1 localhost ip6-localhost\n{} {name}\n",
        facts.ip()
    );
    let resolv: String = facts
        .dns
        .iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect();
    let files = [
        ("/etc/hostname", format!("{name}\n")),
        ("/etc/hosts", hosts),
        ("/etc/resolv.conf", resolv),
        ("/etc/machine-id", format!("{}\n", facts.machine_id)),
    ];
    files
        .iter()
        .try_for_each(|(path, text)| write_changed(Path::new(path), text))?;
    for (path, target) in LINKS {
        if fs::symlink_metadata(path).is_err() {
            std::os::unix::fs::symlink(target, path)?;
        }
    }
    Ok(())
}

/// Writes a file unless it holds just this.
fn write_changed(path: &Path, text: &str) -> std::io::Result<()> {
    if fs::read_to_string(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    fs::write(path, text)
}

fn prepare_settings() -> std::io::Result<()> {
    let settings = read_json::<BTreeMap<String, String>>(SYSCTLS).unwrap_or_default();
    for (name, value) in settings.iter().filter(|(name, _)| name.starts_with("net.")) {
        network::set_sysctl(name, value).map_err(std::io::Error::other)?;
    }
    // Pods reach the outside and each other through this machine.
    network::set_sysctl("net.ipv4.ip_forward", "1").map_err(std::io::Error::other)
}

/// Version 2 hands controllers down only from a group without processes: init moves into one of its own.
fn prepare_groups() -> std::io::Result<()> {
    let hierarchies = cgroup::Hierarchies::detect().map_err(std::io::Error::other)?;
    let Some(root) = hierarchies.v2.as_ref().filter(|_| hierarchies.unified()) else {
        return Ok(());
    };
    fs::create_dir_all(root.join("init"))?;
    fs::write(root.join("init/cgroup.procs"), "1")?;
    fs::write(
        root.join("cgroup.subtree_control"),
        "+cpu +cpuset +memory +pids +io",
    )
}

/// A service and how it fares.
#[derive(Debug)]
struct Running {
    service: Service,
    pid: Option<u32>,
    /// When to start it, on the monotonic clock; `None` when it shall not be started again.
    due: Option<Duration>,
    started: Duration,
    pause: Duration,
}

struct Supervisor {
    clock: SystemClock,
    services: Vec<Running>,
}

impl Supervisor {
    fn new(services: Vec<Service>) -> Supervisor {
        let running = |service| Running {
            service,
            pid: None,
            due: Some(Duration::ZERO),
            started: Duration::ZERO,
            pause: RESTART_PAUSE.0,
        };
        Supervisor {
            clock: SystemClock::new(),
            services: services.into_iter().map(running).collect(),
        }
    }

    /// Keeps the services running until a signal says stop.
    fn run(mut self) {
        loop {
            let now = self.clock.monotonic();
            self.services
                .iter_mut()
                .for_each(|running| running.start_if_due(now));
            let signal = supervise::wait_signal(self.next_look(now));
            self.reap();
            if signal == Some(Signal::Stop) {
                return self.stop();
            }
        }
    }

    fn next_look(&self, now: Duration) -> Duration {
        let due = self
            .services
            .iter()
            .filter(|running| running.pid.is_none())
            .filter_map(|running| running.due);
        due.map(|due| due.saturating_sub(now).max(LOOK))
            .min()
            .unwrap_or(Duration::from_secs(3600))
    }

    fn reap(&mut self) {
        let now = self.clock.monotonic();
        for ended in supervise::reap() {
            if let Some(running) = self
                .services
                .iter_mut()
                .find(|running| running.pid == Some(ended.pid))
            {
                running.ended(now, ended.well, &ended.how);
            }
        }
    }

    /// Tells the node agent that the machine goes down and lets it end its pods in their order.
    fn end_pods(&mut self) {
        let node = self.services.iter().find(|r| r.service.name == NODE);
        let Some(pid) = node.and_then(|running| running.pid) else {
            return;
        };
        power::announce_power_loss(pid);
        let limit = self.clock.monotonic() + POD_LIMIT;
        while self.services.iter().any(|r| r.pid == Some(pid)) && self.clock.monotonic() < limit {
            supervise::wait_signal(Duration::from_millis(200));
            self.reap();
        }
    }

    fn stop(mut self) {
        say("stopping");
        self.end_pods();
        supervise::stop_all(false);
        let limit = self.clock.monotonic() + STOP_LIMIT;
        while supervise::has_children() && self.clock.monotonic() < limit {
            supervise::wait_signal(Duration::from_millis(200));
            supervise::reap();
        }
        supervise::stop_all(true);
    }
}

impl Running {
    fn start_if_due(&mut self, now: Duration) {
        let due = self.due.is_some_and(|due| due <= now);
        if self.pid.is_some() || !due || self.service.after.as_ref().is_some_and(|path| !path.exists()) {
            return;
        }
        let log = PathBuf::from(format!("/var/log/{}.log", self.service.name));
        rotate(&log);
        self.started = now;
        match supervise::start(&self.service.command, &[], &log) {
            Ok(pid) => {
                say(&format!("{} started", self.service.name));
                self.pid = Some(pid);
            }
            Err(error) => self.ended(now, false, &error.to_string()),
        }
    }

    fn ended(&mut self, now: Duration, well: bool, how: &str) {
        self.pid = None;
        if self.service.once && well {
            self.due = None;
            return say(&format!("{} done", self.service.name));
        }
        if now.saturating_sub(self.started) > STABLE {
            self.pause = RESTART_PAUSE.0;
        }
        say(&format!(
            "{} ended ({how}), starts again in {} ms",
            self.service.name,
            self.pause.as_millis()
        ));
        self.due = Some(now + self.pause);
        self.pause = (self.pause * 2).min(RESTART_PAUSE.1);
    }
}

/// Keeps one older log of a service.
fn rotate(log: &Path) {
    if fs::metadata(log).is_ok_and(|found| found.len() > LOG_LIMIT_BYTES) {
        // A log that cannot be moved goes on growing; the next start tries again.
        let _ = fs::rename(log, log.with_extension("log.1"));
    }
}

/// Gives containerd every archive that it has not got yet.
fn import_images() -> i32 {
    let archives = fs::read_dir(IMAGES)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let mut failed = 0;
    for archive in archives.filter(|path| path.extension().is_some_and(|extension| extension == "tar")) {
        if let Err(error) = import(&archive) {
            say(&format!("cannot import {}: {error}", archive.display()));
            failed = 1;
        }
    }
    failed
}

fn import(archive: &Path) -> std::io::Result<()> {
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let found = fs::metadata(archive)?;
    let modified = found
        .modified()?
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let version = format!("{} {}", found.len(), modified.as_nanos());
    let marker = Path::new("/var/lib/mainstay/imported").join(&*name);
    if fs::read_to_string(&marker).is_ok_and(|present| present == version) {
        return Ok(());
    }
    let arguments = ["--namespace", "k8s.io", "images", "import", "--digests=false"];
    program("/usr/bin/ctr")
        .args(arguments)
        .arg(archive)
        .run()
        .map_err(std::io::Error::other)?;
    fs::write(marker, version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(once: bool) -> Running {
        let service = Service {
            name: "s".to_owned(),
            command: Vec::new(),
            once,
            after: None,
        };
        Running {
            service,
            pid: Some(7),
            due: Some(Duration::ZERO),
            started: Duration::ZERO,
            pause: RESTART_PAUSE.0,
        }
    }

    #[test]
    fn pauses_grow_until_a_service_has_run_long_enough() {
        let mut service = running(false);
        let pauses: Vec<u128> = (0..8)
            .map(|_| {
                service.ended(Duration::ZERO, false, "exit status 1");
                service.due.unwrap().as_millis()
            })
            .collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        service.ended(Duration::from_secs(31), false, "signal 9");
        assert_eq!(service.due.unwrap(), Duration::from_millis(31_200));
    }

    #[test]
    fn a_service_that_runs_once_starts_again_after_a_failure_only() {
        let mut service = running(true);
        service.ended(Duration::ZERO, false, "exit status 1");
        assert!(service.due.is_some());
        service.ended(Duration::ZERO, true, "exit status 0");
        assert_eq!(service.due, None);
    }
}
