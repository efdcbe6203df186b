//! The `kubepods` tree: one cgroup per class and pod, on cgroup v1 or v2, made as folders or as slices of systemd.

pub mod account;
mod slices;
mod usage;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use mainstay_host::systemd::{Property, Systemd};
pub use mainstay_nodepolicy::cgroup_name as name;
use mainstay_nodepolicy::memory_qos::Protected;
use mainstay_semantics::qos::Class;

use crate::node_cgroups::{GroupLimits, Tiers};
use crate::qos::{PodCgroup, weight};
pub use name::Naming;
pub use usage::Usage;

/// v1 hierarchies in which the agent sets limits; the runtime makes the others itself.
const CONTROLLERS: &[&str] = &["cpu", "cpuacct", "memory", "pids", "hugetlb"];

/// The cgroup of all pods.
const PODS: &str = "kubepods";

/// The part of a class in a cgroup's name.
fn tier(class: Class) -> &'static str {
    match class {
        Class::Guaranteed => "",
        Class::Burstable => "burstable",
        Class::BestEffort => "besteffort",
    }
}

/// The kernel's name of a hugepage size (`2MB`).
fn page_size_name(bytes: i64) -> String {
    let units = [(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")];
    let found = units.iter().find(|(size, _)| bytes % size == 0);
    found.map_or(bytes.to_string(), |(size, unit)| {
        format!("{}{unit}", bytes / size)
    })
}

/// Why a cgroup could not be made or set.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The kernel refused.
    #[error("failed to {action} {path}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: String,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// systemd refused.
    #[error(transparent)]
    Systemd(#[from] mainstay_host::Error),
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.display().to_string();
    move |source| CgroupError::Kernel { action, path, source }
}

/// The tree of one node.
#[derive(Debug, Clone)]
pub struct CgroupTree {
    mount: PathBuf,
    root: String,
    naming: Naming,
    v2: bool,
    /// Who makes the cgroups, unless it is the agent.
    systemd: Option<Systemd>,
}

impl CgroupTree {
    /// The tree below `root` (empty: the top) of the hierarchies mounted at `mount`.
    pub fn new(mount: &Path, root: &str, naming: Naming) -> Self {
        CgroupTree {
            v2: mount.join("cgroup.controllers").exists(),
            mount: mount.to_path_buf(),
            root: root.trim_end_matches('/').to_owned(),
            naming,
            systemd: (naming == Naming::Systemd).then(Systemd::default),
        }
    }

    /// Whether the one who is to make the cgroups is there.
    ///
    /// # Errors
    /// With the systemd driver where systemd does not run.
    pub fn maker_answers(&self) -> Result<(), CgroupError> {
        Ok(self.systemd.as_ref().map_or(Ok(()), Systemd::greet)?)
    }

    /// Whether the machine uses the unified hierarchy.
    pub fn is_v2(&self) -> bool {
        self.v2
    }

    fn named(&self, parts: &[&str]) -> String {
        let above = self.root.split('/');
        let all: Vec<&str> = above.chain(parts.iter().copied()).collect();
        name::path(self.naming, &all)
    }

    /// The path of `kubepods` or of one class below the hierarchies; Guaranteed pods sit in `kubepods` itself.
    pub fn class_path(&self, class: Class) -> String {
        self.named(&[PODS, tier(class)])
    }

    /// The path of a pod's cgroup below the hierarchies.
    pub fn pod_path(&self, class: Class, uid: &str) -> String {
        self.named(&[PODS, tier(class), &format!("pod{uid}")])
    }

    /// The path of a cgroup outside the pods' tree as the configuration names it.
    pub fn daemon_path(&self, configured: &str) -> String {
        let parts: Vec<&str> = configured.split('/').collect();
        name::path(self.naming, &parts)
    }

    /// UIDs of all pods that have a cgroup in the first hierarchy, with their class.
    pub fn pods(&self) -> Vec<(Class, String)> {
        let mut found = Vec::new();
        for class in [Class::Guaranteed, Class::Burstable, Class::BestEffort] {
            let folder = self.folders(&self.class_path(class)).into_iter().next();
            let entries = folder.and_then(|f| std::fs::read_dir(f).ok());
            for entry in entries.into_iter().flatten().flatten() {
                let path = entry.file_name().to_string_lossy().into_owned();
                let last = name::parts(self.naming, &path).pop();
                let uid = last.as_deref().and_then(|l| l.strip_prefix("pod"));
                if let Some(uid) = uid.filter(|_| entry.path().is_dir()) {
                    found.push((class, uid.to_owned()));
                }
            }
        }
        found
    }

    /// The parent that the runtime is given for a pod: the whole path, or the slice's name.
    pub fn runtime_parent(&self, class: Class, uid: &str) -> String {
        let path = self.pod_path(class, uid);
        match self.naming {
            Naming::Cgroupfs => path,
            Naming::Systemd => slices::unit(&path).to_owned(),
        }
    }

    fn folders(&self, path: &str) -> Vec<PathBuf> {
        let path = path.trim_start_matches('/');
        match self.v2 {
            true => vec![self.mount.join(path)],
            false => CONTROLLERS
                .iter()
                .map(|c| self.mount.join(c))
                .filter(|dir| dir.is_dir())
                .map(|dir| dir.join(path))
                .collect(),
        }
    }

    /// Has systemd do something to a slice, where it makes the cgroups.
    fn by_systemd(
        &self,
        path: &str,
        ask: impl FnOnce(&Systemd, &str) -> mainstay_host::Result<()>,
    ) -> Result<(), CgroupError> {
        match &self.systemd {
            Some(systemd) => Ok(slices::patiently(|| ask(systemd, slices::unit(path)))?),
            None => Ok(()),
        }
    }

    /// Makes a cgroup. What systemd does not know of (v1 hierarchies, hugepages) is the agent's also in slices.
    fn make(&self, path: &str, properties: &[Property]) -> Result<(), CgroupError> {
        self.by_systemd(path, |systemd, unit| systemd.start_slice(unit, properties))?;
        for folder in self.folders(path) {
            std::fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
        }
        if self.v2 {
            self.delegate(path);
        }
        Ok(())
    }

    /// Hands the controllers down to `path` (v2); what is not there cannot be handed down.
    fn delegate(&self, path: &str) {
        let mut folder = self.mount.clone();
        for part in path.trim_start_matches('/').split('/') {
            for controller in ["cpu", "memory", "pids", "io", "cpuset", "hugetlb"] {
                let _ = std::fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
            }
            folder = folder.join(part);
        }
    }

    fn file(&self, path: &str, controller: &str, file: &str) -> PathBuf {
        let path = path.trim_start_matches('/');
        match self.v2 {
            true => self.mount.join(path).join(file),
            false => self.mount.join(controller).join(path).join(file),
        }
    }

    fn has(&self, path: &str, controller: &str, file: &str) -> bool {
        self.file(path, controller, file).exists()
    }

    fn set(&self, path: &str, controller: &str, file: &str, value: &str) -> Result<(), CgroupError> {
        let target = self.file(path, controller, file);
        std::fs::write(&target, value).map_err(failed("write", &target))
    }

    fn set_cpu(&self, path: &str, limits: &PodCgroup) -> Result<(), CgroupError> {
        if self.v2 {
            self.set(path, "cpu", "cpu.weight", &weight(limits.shares).to_string())?;
            let quota = limits.quota_us.map_or("max".to_owned(), |q| q.to_string());
            return self.set(path, "cpu", "cpu.max", &format!("{quota} {}", limits.period_us));
        }
        self.set(path, "cpu", "cpu.shares", &limits.shares.to_string())?;
        if let Some(quota) = limits.quota_us {
            self.set(path, "cpu", "cpu.cfs_period_us", &limits.period_us.to_string())?;
            self.set(path, "cpu", "cpu.cfs_quota_us", &quota.to_string())?;
        }
        Ok(())
    }

    fn memory_file(&self) -> &'static str {
        match self.v2 {
            true => "memory.max",
            false => "memory.limit_in_bytes",
        }
    }

    fn set_limits(&self, path: &str, limits: &PodCgroup) -> Result<(), CgroupError> {
        self.set_cpu(path, limits)?;
        if let Some(bytes) = limits.memory {
            self.set(path, "memory", self.memory_file(), &bytes.to_string())?;
        }
        if let Some(pids) = limits.pids {
            self.set(path, "pids", "pids.max", &pids.to_string())?;
        }
        self.protect(path, limits.protected)?;
        self.limit_hugepages(path, &limits.hugepages)
    }

    /// Asks the kernel to leave memory alone; only v2 can.
    fn protect(&self, path: &str, memory: Protected) -> Result<(), CgroupError> {
        let files = [("memory.min", memory.min), ("memory.low", memory.low)];
        for (file, bytes) in files.into_iter().filter(|_| self.v2) {
            if let Some(bytes) = bytes {
                self.set(path, "memory", file, &bytes.to_string())?;
            }
        }
        Ok(())
    }

    /// Makes `kubepods` and the class cgroups and limits what all pods together may use.
    ///
    /// # Errors
    /// When the kernel refuses; the tree may then exist in part.
    pub fn ensure_node(&self, limits: &GroupLimits) -> Result<(), CgroupError> {
        for class in [Class::Guaranteed, Class::Burstable, Class::BestEffort] {
            self.make(&self.class_path(class), &slices::accounting(self.v2))?;
        }
        self.limit_group(&self.class_path(Class::Guaranteed), limits)
    }

    /// Limits a cgroup that is there.
    ///
    /// # Errors
    /// When it is not there or the kernel refuses.
    pub fn limit_group(&self, path: &str, limits: &GroupLimits) -> Result<(), CgroupError> {
        let properties = slices::of_group(limits, self.v2);
        if !properties.is_empty() {
            self.by_systemd(path, |systemd, unit| systemd.set_properties(unit, &properties))?;
        }
        if let Some(shares) = limits.shares {
            match self.v2 {
                true => self.set(path, "cpu", "cpu.weight", &weight(shares).to_string())?,
                false => self.set(path, "cpu", "cpu.shares", &shares.to_string())?,
            }
        }
        if let Some(bytes) = limits.memory {
            self.set(path, "memory", self.memory_file(), &bytes.to_string())?;
        }
        if let Some(pids) = limits.pids {
            self.set(path, "pids", "pids.max", &pids.to_string())?;
        }
        self.protect(path, limits.protected)?;
        self.limit_hugepages(path, &limits.hugepages)
    }

    fn limit_hugepages(&self, path: &str, limits: &BTreeMap<i64, i64>) -> Result<(), CgroupError> {
        for (size, bytes) in limits {
            let end = if self.v2 { "max" } else { "limit_in_bytes" };
            let file = format!("hugetlb.{}.{end}", page_size_name(*size));
            // A kernel without this controller limits no hugepages.
            if self.has(path, "hugetlb", &file) {
                self.set(path, "hugetlb", &file, &bytes.to_string())?;
            }
        }
        Ok(())
    }

    /// Sets the limits of the classes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_tiers(&self, tiers: &Tiers) -> Result<(), CgroupError> {
        for class in [Class::Guaranteed, Class::Burstable, Class::BestEffort] {
            if let Some(limits) = tiers.of(class) {
                self.limit_group(&self.class_path(class), limits)?;
            }
        }
        Ok(())
    }

    /// Makes a pod's cgroup and sets its limits.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn ensure_pod(&self, class: Class, uid: &str, limits: &PodCgroup) -> Result<(), CgroupError> {
        let path = self.pod_path(class, uid);
        self.make(&path, &slices::of_pod(limits, self.v2))?;
        self.set_limits(&path, limits)
    }

    /// Processes of a cgroup and of all below it.
    pub fn processes(&self, path: &str) -> Vec<u32> {
        let mut found = Vec::new();
        let mut folders: Vec<PathBuf> = self.folders(path).into_iter().take(1).collect();
        while let Some(folder) = folders.pop() {
            let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|pid| pid.parse::<u32>().ok()));
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            folders.extend(entries.map(|e| e.path()).filter(|p| p.is_dir()));
        }
        found
    }

    /// Removes a pod's cgroup with everything below from every hierarchy; one with live processes stays.
    pub fn remove_pod(&self, class: Class, uid: &str) {
        let path = self.pod_path(class, uid);
        self.stop(&path);
        let path = path.trim_start_matches('/');
        let mut tops = vec![self.mount.clone()];
        if !self.v2 {
            let entries = std::fs::read_dir(&self.mount).into_iter().flatten().flatten();
            tops = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
        }
        for top in tops {
            remove_tree(&top.join(path));
        }
    }

    /// Has systemd forget a slice in which nothing runs any more.
    fn stop(&self, path: &str) {
        let is_there = self.folders(path).iter().any(|folder| folder.is_dir());
        if !is_there || !self.processes(path).is_empty() {
            return;
        }
        if let Err(error) = self.by_systemd(path, |systemd, unit| systemd.stop(unit)) {
            let error = mainstay_base::error::chain(&error);
            tracing::warn!(error, path, "could not stop a pod's slice");
        }
    }

    fn read(&self, path: &str, controller: &str, file: &str) -> Option<String> {
        std::fs::read_to_string(self.file(path, controller, file)).ok()
    }

    fn number(&self, path: &str, controller: &str, file: &str) -> Option<u64> {
        self.read(path, controller, file)?.trim().parse().ok()
    }

    /// The folder of a cgroup in a memory hierarchy of its own, which only v1 has.
    pub fn memory_folder(&self, path: &str) -> Option<PathBuf> {
        let folder = self.mount.join("memory").join(path.trim_start_matches('/'));
        (!self.v2).then_some(folder)
    }
}

/// Removes a folder of the cgroup filesystem, deepest first.
fn remove_tree(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|e| e.path().is_dir()) {
        remove_tree(&entry.path());
    }
    let _ = std::fs::remove_dir(folder);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1() -> (tempfile::TempDir, CgroupTree) {
        let dir = tempfile::tempdir().expect("a folder");
        for controller in ["cpu", "cpuacct", "memory", "pids"] {
            std::fs::create_dir(dir.path().join(controller)).expect("made");
        }
        let tree = CgroupTree::new(dir.path(), "", Naming::Cgroupfs);
        (dir, tree)
    }

    #[test]
    fn names_follow_the_driver() {
        let tree = CgroupTree::new(Path::new("/nowhere"), "", Naming::Systemd);
        assert_eq!(
            tree.pod_path(Class::Burstable, "a-b"),
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poda_b.slice"
        );
        assert_eq!(
            tree.runtime_parent(Class::Guaranteed, "a-b"),
            "kubepods-poda_b.slice"
        );
        let (_dir, tree) = v1();
        assert_eq!(
            tree.runtime_parent(Class::BestEffort, "u"),
            "/kubepods/besteffort/podu"
        );
    }

    #[test]
    fn limits_are_written_where_the_kernel_reads_them() {
        let (dir, tree) = v1();
        let limits = PodCgroup {
            shares: 256,
            quota_us: Some(50_000),
            period_us: 100_000,
            memory: Some(1 << 20),
            pids: Some(64),
            ..Default::default()
        };
        tree.ensure_pod(Class::Burstable, "u", &limits).expect("made");
        let read = |file: &str| {
            std::fs::read_to_string(dir.path().join(file)).unwrap_or_else(|e| format!("{file}: {e}"))
        };
        assert_eq!(read("cpu/kubepods/burstable/podu/cpu.shares"), "256");
        assert_eq!(
            read("memory/kubepods/burstable/podu/memory.limit_in_bytes"),
            "1048576"
        );
        assert_eq!(read("pids/kubepods/burstable/podu/pids.max"), "64");
    }

    #[test]
    fn hugepages_are_limited_where_the_kernel_counts_them() {
        let limits = PodCgroup {
            hugepages: BTreeMap::from([(2 << 20, 64 << 20), (1 << 30, 1 << 30)]),
            ..Default::default()
        };
        // 1 GiB pages are not counted by this kernel.
        let made = |dir: &Path, file: &str| {
            std::fs::create_dir_all(dir).expect("made");
            std::fs::write(dir.join(file), "").expect("written");
        };
        let (dir, tree) = v1();
        let group = dir.path().join("hugetlb/kubepods/burstable/podu");
        made(&group, "hugetlb.2MB.limit_in_bytes");
        tree.ensure_pod(Class::Burstable, "u", &limits).expect("limited");
        let read = |group: &Path, file: &str| std::fs::read_to_string(group.join(file)).ok();
        assert_eq!(
            read(&group, "hugetlb.2MB.limit_in_bytes").as_deref(),
            Some("67108864")
        );
        assert_eq!(read(&group, "hugetlb.1GB.limit_in_bytes"), None);

        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("cgroup.controllers"), "cpu memory hugetlb").expect("written");
        let tree = CgroupTree::new(dir.path(), "", Naming::Cgroupfs);
        let group = dir.path().join("kubepods/burstable/podu");
        made(&group, "hugetlb.2MB.max");
        tree.ensure_pod(Class::Burstable, "u", &limits).expect("limited");
        assert_eq!(read(&group, "hugetlb.2MB.max").as_deref(), Some("67108864"));
    }

    #[test]
    fn a_containers_cgroup_is_found_by_its_id_however_the_runtime_names_it() {
        let (dir, tree) = v1();
        for (name, bytes) in [("c1", "10"), ("cri-containerd-c2.scope", "20")] {
            let group = dir.path().join("memory/kubepods/podu").join(name);
            std::fs::create_dir_all(&group).expect("made");
            std::fs::write(group.join("memory.usage_in_bytes"), bytes).expect("written");
        }
        let used = |id: &str| Some(tree.usage_of_container("/kubepods/podu", id)?.memory_bytes);
        assert_eq!((used("c1"), used("c2"), used("c3")), (Some(10), Some(20), None));
    }

    #[test]
    fn v2_values_are_converted() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("cgroup.controllers"), "cpu memory").expect("written");
        let tree = CgroupTree::new(dir.path(), "", Naming::Cgroupfs);
        let limits = PodCgroup {
            shares: 102,
            quota_us: Some(10_000),
            period_us: 100_000,
            ..Default::default()
        };
        tree.ensure_pod(Class::Guaranteed, "u", &limits).expect("made");
        let read =
            |f: &str| std::fs::read_to_string(dir.path().join("kubepods/podu").join(f)).expect("there");
        assert_eq!(
            (read("cpu.weight"), read("cpu.max")),
            ("17".into(), "10000 100000".into())
        );
    }
}
