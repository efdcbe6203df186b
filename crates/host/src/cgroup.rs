//! Control groups of both versions: one [`Group`] is the same path in every hierarchy of this host.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result, io};
use crate::mounts;
use crate::process::ProcessId;

/// The period of CPU quotas in microseconds (the kernel's default).
const CPU_PERIOD_MICROS: u64 = 100_000;
/// How long members may take to die before a group counts as stuck.
const KILL_LIMIT: Duration = Duration::from_secs(15);

/// Which hierarchies this host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies {
    /// Version 1: controller (or `name=...`) to mount point.
    pub v1: BTreeMap<String, PathBuf>,
    /// Version 2: mount point.
    pub v2: Option<PathBuf>,
}

impl Hierarchies {
    /// Reads the mounts of this process.
    pub fn detect() -> Result<Hierarchies> {
        Ok(Self::of(&mounts::list()?))
    }

    fn of(mounts: &[mounts::Mount]) -> Hierarchies {
        let mut found = Hierarchies {
            v1: BTreeMap::new(),
            v2: None,
        };
        for mount in mounts {
            match mount.kind.as_str() {
                "cgroup2" => found.v2 = Some(mount.point.clone()),
                "cgroup" => {
                    for option in mount
                        .super_options
                        .split(',')
                        .filter(|o| !matches!(*o, "rw" | "ro" | "xattr"))
                    {
                        found
                            .v1
                            .entry(option.to_owned())
                            .or_insert_with(|| mount.point.clone());
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Tells whether version 2 owns the controllers (`true`) or version 1 does.
    pub fn unified(&self) -> bool {
        !self.v1.contains_key("memory") && self.v2.is_some()
    }

    /// Every distinct mount point that a group must exist under.
    pub fn mount_points(&self) -> Vec<&Path> {
        let mut points: Vec<&Path> = self
            .v1
            .values()
            .map(PathBuf::as_path)
            .chain(self.v2.as_deref())
            .collect();
        points.sort();
        points.dedup();
        points
    }

    /// Controllers that machines need and this host has not.
    pub fn missing(&self) -> Vec<&'static str> {
        const NEEDED: [&str; 4] = ["cpu", "memory", "pids", "cpuset"];
        let v2 = self
            .v2
            .as_ref()
            .and_then(|p| fs::read_to_string(p.join("cgroup.controllers")).ok());
        let v2: Vec<&str> = v2.as_deref().unwrap_or("").split_ascii_whitespace().collect();
        NEEDED
            .into_iter()
            .filter(|c| !self.v1.contains_key(*c) && !v2.contains(c))
            .collect()
    }
}

/// Limits of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// CPU in thousandths of a core.
    pub cpu_millis: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub max_pids: u64,
}

/// The same path in every hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    hierarchies: Hierarchies,
    path: String,
}

impl Group {
    /// Names a group by its path from the hierarchies' roots, without a slash in front.
    pub fn new(hierarchies: Hierarchies, path: &str) -> Group {
        Group {
            hierarchies,
            path: path.to_owned(),
        }
    }

    /// The path from the hierarchies' roots.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The group's folder in every hierarchy.
    pub fn folders(&self) -> Vec<PathBuf> {
        self.hierarchies
            .mount_points()
            .into_iter()
            .map(|point| point.join(&self.path))
            .collect()
    }

    /// Files that a process writes its pid to in order to join.
    pub fn join_files(&self) -> Vec<PathBuf> {
        self.folders()
            .into_iter()
            .map(|folder| folder.join("cgroup.procs"))
            .collect()
    }

    /// Makes the group in every hierarchy; existing ones stay as they are.
    pub fn create(&self) -> Result<()> {
        for folder in self.folders() {
            fs::create_dir_all(&folder).map_err(io("create the control group", &folder))?;
        }
        if let Some(root) = self.hierarchies.v1.get("cpuset") {
            inherit_cpuset(root, &self.path)?;
        }
        if let Some(root) = self
            .hierarchies
            .v2
            .as_ref()
            .filter(|_| self.hierarchies.unified())
        {
            enable_controllers(root, &self.path)?;
        }
        Ok(())
    }

    /// Sets the limits.
    pub fn limit(&self, limits: &Limits) -> Result<()> {
        let quota = limits.cpu_millis * CPU_PERIOD_MICROS / 1000;
        let (memory, pids) = (limits.memory_bytes.to_string(), limits.max_pids.to_string());
        if self.hierarchies.unified() {
            self.set("", "cpu.max", &format!("{quota} {CPU_PERIOD_MICROS}"))?;
            self.set("", "memory.max", &memory)?;
            return self.set("", "pids.max", &pids);
        }
        self.set("cpu", "cpu.cfs_period_us", &CPU_PERIOD_MICROS.to_string())?;
        self.set("cpu", "cpu.cfs_quota_us", &quota.to_string())?;
        self.set("memory", "memory.limit_in_bytes", &memory)?;
        self.set("pids", "pids.max", &pids)
    }

    /// Forbids these devices (version 1 form, such as `b *:* rw`) to the group and all below it. Version 2 has no
    /// device files: no-op.
    pub fn deny_devices(&self, rules: &[&str]) -> Result<()> {
        if !self.hierarchies.v1.contains_key("devices") {
            return Ok(());
        }
        rules
            .iter()
            .try_for_each(|rule| self.set("devices", "devices.deny", rule))
    }

    /// Writes one file of the group; `controller` picks the version-1 hierarchy.
    pub fn set(&self, controller: &str, file: &str, value: &str) -> Result<()> {
        let path = self.file(controller, file);
        fs::write(&path, value).map_err(io("write", &path))
    }

    /// Reads one file of the group.
    pub fn get(&self, controller: &str, file: &str) -> Result<String> {
        let path = self.file(controller, file);
        fs::read_to_string(&path)
            .map(|text| text.trim_end().to_owned())
            .map_err(io("read", &path))
    }

    fn file(&self, controller: &str, file: &str) -> PathBuf {
        let root = self
            .hierarchies
            .v1
            .get(controller)
            .or(self.hierarchies.v2.as_ref());
        root.map(PathBuf::as_path)
            .unwrap_or(Path::new("/sys/fs/cgroup"))
            .join(&self.path)
            .join(file)
    }

    /// Memory in use, in bytes.
    pub fn memory_bytes(&self) -> Result<u64> {
        let file = if self.hierarchies.unified() {
            "memory.current"
        } else {
            "memory.usage_in_bytes"
        };
        Ok(self.get("memory", file)?.parse().unwrap_or(0))
    }

    /// Processes in the group and all groups below it, in any hierarchy.
    pub fn processes(&self) -> Vec<ProcessId> {
        let mut pids: Vec<u32> = self
            .folders()
            .iter()
            .flat_map(|folder| pids_below(folder))
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids.into_iter().filter_map(ProcessId::of).collect()
    }

    /// Kills every process in the group and below, and waits for their end.
    ///
    /// # Errors
    /// When some survive [`KILL_LIMIT`].
    pub fn kill(&self) -> Result<()> {
        let per_round = Duration::from_millis(200);
        for _ in 0..(KILL_LIMIT.as_millis() / per_round.as_millis()) {
            let handles: Vec<_> = self.processes().iter().filter_map(ProcessId::open).collect();
            if handles.is_empty() {
                return Ok(());
            }
            handles.iter().try_for_each(|handle| handle.kill())?;
            handles.iter().all(|handle| handle.wait(per_round));
        }
        Err(Error::Timeout {
            what: format!("end of control group {}", self.path),
            seconds: KILL_LIMIT.as_secs(),
        })
    }

    /// Removes the group and all below it, in every hierarchy; missing ones are no error.
    pub fn remove(&self) -> Result<()> {
        self.folders().iter().try_for_each(|folder| remove_below(folder))
    }
}

/// Removes the groups above this path that nothing is left in. Not for use while others make groups there.
pub(crate) fn remove_empty_parents(hierarchies: &Hierarchies, path: &str) {
    for point in hierarchies.mount_points() {
        for parent in Path::new(path)
            .ancestors()
            .skip(1)
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            // A group that is still used refuses, and that is right.
            let _ = fs::remove_dir(point.join(parent));
        }
    }
}

/// A new version-1 cpuset is empty and refuses processes: fill it, and those above it, from their parents.
fn inherit_cpuset(root: &Path, path: &str) -> Result<()> {
    let mut folder = root.to_owned();
    for part in path.split('/') {
        let parent = folder.clone();
        folder.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (own, above) = (folder.join(file), parent.join(file));
            let present = fs::read_to_string(&own).map_err(io("read", &own))?;
            if present.trim().is_empty() {
                let value = fs::read_to_string(&above).map_err(io("read", &above))?;
                fs::write(&own, value.trim()).map_err(io("write", &own))?;
            }
        }
    }
    // Groups that containerd makes inside inherit by themselves then.
    let clone = folder.join("cgroup.clone_children");
    fs::write(&clone, "1").map_err(io("write", &clone))
}

/// Hands the controllers down to the group, in version 2.
fn enable_controllers(root: &Path, path: &str) -> Result<()> {
    let mut folder = root.to_owned();
    for part in path.split('/') {
        let control = folder.join("cgroup.subtree_control");
        fs::write(&control, "+cpu +cpuset +memory +pids +io").map_err(io("write", &control))?;
        folder.push(part);
    }
    Ok(())
}

fn pids_below(folder: &Path) -> Vec<u32> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<u32> = text
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid != 0)
        .collect();
    for child in child_folders(folder) {
        pids.extend(pids_below(&child));
    }
    pids
}

fn child_folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_below(folder: &Path) -> Result<()> {
    for child in child_folders(folder) {
        remove_below(&child)?;
    }
    for _ in 0..50 {
        match fs::remove_dir(folder) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            // The kernel lets go of the last dead process a moment after it is gone from the list.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(Duration::from_millis(20))
            }
            Err(error) => return Err(io("remove the control group", folder)(error)),
        }
    }
    Err(io("remove the control group", folder)(
        std::io::Error::from_raw_os_error(libc::EBUSY),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(point: &str, kind: &str, super_options: &str) -> mounts::Mount {
        mounts::Mount {
            root: "/".into(),
            point: point.into(),
            options: "rw".into(),
            kind: kind.into(),
            source: "cgroup".into(),
            super_options: super_options.into(),
        }
    }

    #[test]
    fn joint_hierarchies_count_once_and_unified_is_recognised() {
        let v1 = Hierarchies::of(&[
            mount("/c/cpu,cpuacct", "cgroup", "rw,cpu,cpuacct"),
            mount("/c/memory", "cgroup", "rw,memory"),
            mount("/c/systemd", "cgroup", "rw,name=systemd"),
            mount("/c/unified", "cgroup2", "rw"),
        ]);
        assert_eq!(v1.mount_points().len(), 4);
        assert!(!v1.unified());
        let v2 = Hierarchies::of(&[mount("/c", "cgroup2", "rw,nsdelegate")]);
        assert!(v2.unified());
    }

    #[test]
    fn a_killed_group_is_removed_with_what_is_below() {
        let name = format!("mainstay-test-{}", std::process::id());
        let group = Group::new(Hierarchies::detect().unwrap(), &name);
        group.create().unwrap();
        group
            .limit(&Limits {
                cpu_millis: 500,
                memory_bytes: 64 << 20,
                max_pids: 10,
            })
            .unwrap();
        let inner = Group::new(Hierarchies::detect().unwrap(), &format!("{name}/inner"));
        inner.create().unwrap();
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        for file in inner.join_files() {
            fs::write(file, child.id().to_string()).unwrap();
        }
        assert_eq!(group.processes().len(), 1);
        let reaper = std::thread::spawn(move || child.wait());
        group.kill().unwrap();
        reaper.join().unwrap().unwrap();
        group.remove().unwrap();
        group.remove().unwrap();
        assert!(group.folders().iter().all(|folder| !folder.exists()));
    }
}
