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
        match self.v2 {
            true => self.usage_v2(path),
            false => self.usage_v1(path),
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

    fn usage_v1(&self, path: &str) -> Option<Usage> {
        let memory_bytes = self.number(path, "memory", "memory.usage_in_bytes")?;
        let stat = self.read(path, "memory", "memory.stat").unwrap_or_default();
        let inactive = keyed(&stat, "total_inactive_file").unwrap_or(0);
        Some(Usage {
            cpu_nanos: self.number(path, "cpuacct", "cpuacct.usage").unwrap_or(0),
            memory_bytes,
            working_set_bytes: memory_bytes.saturating_sub(inactive),
            rss_bytes: keyed(&stat, "total_rss").unwrap_or(0),
            pids: self.number(path, "pids", "pids.current").unwrap_or(0),
        })
    }

    fn usage_v2(&self, path: &str) -> Option<Usage> {
        let stat = self.read(path, "", "memory.stat")?;
        let memory_bytes = self.number(path, "", "memory.current").or_else(|| {
            // The root cgroup has no memory.current.
            Some(keyed(&stat, "anon")? + keyed(&stat, "file")?)
        })?;
        let cpu = self.read(path, "", "cpu.stat").unwrap_or_default();
        let inactive = keyed(&stat, "inactive_file").unwrap_or(0);
        Some(Usage {
            cpu_nanos: keyed(&cpu, "usage_usec").unwrap_or(0) * 1000,
            memory_bytes,
            working_set_bytes: memory_bytes.saturating_sub(inactive),
            rss_bytes: keyed(&stat, "anon").unwrap_or(0),
            pids: self.number(path, "", "pids.current").unwrap_or(0),
        })
    }
}

/// One value of a `key value` file.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|l| l.split_whitespace().next() == Some(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
