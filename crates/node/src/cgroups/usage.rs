//! What a cgroup uses, read from the files of either version.

use super::CgroupTree;

/// Usage of one cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time in nanoseconds.
    pub cpu_nanos: u64,
    /// Memory in use, bytes.
    pub memory_bytes: u64,
    /// Memory in use without inactive page cache, bytes.
    pub working_set_bytes: u64,
    /// Anonymous memory, bytes.
    pub rss_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

impl CgroupTree {
    /// Memory in use, page cache included: one small file.
    pub fn memory_in_use(&self, path: &str) -> Option<u64> {
        let file = if self.v2 {
            "memory.current"
        } else {
            "memory.usage_in_bytes"
        };
        self.number(path, "memory", file)
    }

    /// Reads the usage of a cgroup (`/` for the whole machine); `None` when it is not there.
    pub fn usage(&self, path: &str) -> Option<Usage> {
        self.stats(path)?.usage(self.v2)
    }

    /// Swap in use, and how much may be, where a limit is told: v1 limits it only together with memory.
    pub fn swap(&self, path: &str) -> Option<(u64, Option<u64>)> {
        match self.v2 {
            true => {
                let used = self.number(path, "", "memory.swap.current")?;
                Some((used, self.number(path, "", "memory.swap.max")))
            }
            false => {
                let stat = self.read(path, "memory", "memory.stat")?;
                Some((keyed(&stat, "total_swap")?, None))
            }
        }
    }

    /// Reads the usage of a container below its pod's cgroup.
    pub fn usage_of_container(&self, pod: &str, id: &str) -> Option<Usage> {
        self.usage(&self.container_path(pod, id)?)
    }

    /// The path of a container's cgroup below its pod's, which the runtime names after the container's id; `None` when it is
    /// not there.
    pub fn container_path(&self, pod: &str, id: &str) -> Option<String> {
        let controller = if self.v2 { "" } else { "memory" };
        let folder = self.mount.join(controller).join(pod.trim_start_matches('/'));
        if folder.join(id).is_dir() {
            return Some(format!("{pod}/{id}"));
        }
        let mut names = std::fs::read_dir(folder).ok()?.flatten().map(|e| e.file_name());
        let named = names.find(|name| name.to_string_lossy().contains(id))?;
        Some(format!("{pod}/{}", named.to_string_lossy()))
    }

    /// The files that a usage is read from; `None` when the cgroup is not there.
    pub(super) fn stats(&self, path: &str) -> Option<Stats> {
        match self.v2 {
            true => Some(Stats {
                in_use: self.number(path, "", "memory.current"),
                memory: self.read(path, "", "memory.stat")?,
                cpu: self.read(path, "", "cpu.stat").unwrap_or_default(),
                pids: self.number(path, "", "pids.current"),
            }),
            false => Some(Stats {
                in_use: Some(self.number(path, "memory", "memory.usage_in_bytes")?),
                memory: self.read(path, "memory", "memory.stat").unwrap_or_default(),
                cpu: self.read(path, "cpuacct", "cpuacct.usage").unwrap_or_default(),
                pids: self.number(path, "pids", "pids.current"),
            }),
        }
    }
}

/// Files of a cgroup as they were read.
pub(super) struct Stats {
    in_use: Option<u64>,
    /// `memory.stat`.
    pub(super) memory: String,
    /// `cpu.stat` of v2, `cpuacct.usage` of v1.
    pub(super) cpu: String,
    pids: Option<u64>,
}

impl Stats {
    /// What they say of either version.
    pub(super) fn usage(&self, v2: bool) -> Option<Usage> {
        let of = |key: &str| keyed(&self.memory, key);
        // The root cgroup of v2 has no memory.current.
        let memory_bytes = self.in_use.or_else(|| Some(of("anon")? + of("file")?))?;
        let (anonymous, inactive) = match v2 {
            true => ("anon", "inactive_file"),
            false => ("total_rss", "total_inactive_file"),
        };
        let cpu_nanos = match v2 {
            true => keyed(&self.cpu, "usage_usec").map(|micros| micros * 1_000),
            false => self.cpu.trim().parse().ok(),
        };
        Some(Usage {
            cpu_nanos: cpu_nanos.unwrap_or(0),
            memory_bytes,
            working_set_bytes: memory_bytes.saturating_sub(of(inactive).unwrap_or(0)),
            rss_bytes: of(anonymous).unwrap_or(0),
            pids: self.pids.unwrap_or(0),
        })
    }
}

/// One value of a `key value` file.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|l| l.split_whitespace().next() == Some(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
