//! Processors of containers: under the static policy some have their own, kept over restarts of the agent.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use mainstay_nodepolicy::admission::Refusal;
pub use mainstay_nodepolicy::cpus::{CpuShare, policy, policy_of, set, take, topology};
use mainstay_nodepolicy::numa;
use mainstay_nodepolicy::numa::allot::{Giver, Nothing};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::config::KubeletConfiguration;
use policy::{Assignments, StaticPolicy};
use set::CpuSet;
use topology::Topology;

/// File of the checkpoint below the agent's folder.
const FILE: &str = "cpu_assignments.json";

/// The processors of this machine. Without the static policy nobody has any of their own.
#[derive(Debug, Default)]
pub struct Cpus {
    policy: Option<StaticPolicy>,
    /// Who has processors to himself keeps the quota of its limit all the same.
    keeps_quota: bool,
    file: PathBuf,
    held: Mutex<Assignments>,
    pub(crate) changed: Notify,
}

/// The processors that this process may use, as many as the machine is said to have.
fn usable(count: i64) -> CpuSet {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
    let allowed: CpuSet = list.and_then(|l| l.parse().ok()).unwrap_or_default();
    allowed.iter().take(usize::try_from(count).unwrap_or(1)).collect()
}

impl Cpus {
    /// Reads the arrangement of the machine and the checkpoint of an earlier run; one that no longer fits is dropped.
    ///
    /// # Errors
    /// See [`policy_of`].
    pub fn of_machine(config: &KubeletConfiguration, cpus: i64, root: &Path) -> Result<Self, String> {
        if config.cpu_manager_policy != "static" {
            return Ok(Cpus::default());
        }
        let topology = Topology::read(Path::new("/sys/devices/system"), &usable(cpus));
        let policy = policy_of(config, topology)?;
        Ok(Cpus {
            keeps_quota: !config.gate("DisableCPUQuotaWithExclusiveCPUs"),
            ..Cpus::with(policy, root.join(FILE))
        })
    }

    fn with(policy: Option<StaticPolicy>, file: PathBuf) -> Self {
        let initial = policy.as_ref().map(StaticPolicy::initial).unwrap_or_default();
        let text = std::fs::read_to_string(&file).ok();
        let saved = text.as_deref().and_then(Assignments::from_text);
        let fits = |held: &Assignments| policy.as_ref().is_some_and(|p| p.accepts(held));
        if saved.as_ref().is_some_and(|held| !fits(held)) {
            tracing::warn!(file = %file.display(), "assignments of processors do not fit this machine any more; all are free");
        }
        Cpus {
            held: Mutex::new(saved.filter(fits).unwrap_or(initial)),
            policy,
            keeps_quota: false,
            file,
            changed: Notify::new(),
        }
    }

    /// Runs `give` on a draft and keeps what that gave, also on disk, unless it refused.
    ///
    /// # Errors
    /// What `give` said.
    pub fn giving(&self, give: impl FnOnce(&mut dyn Giver) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let Some(policy) = &self.policy else {
            return give(&mut Nothing);
        };
        let mut held = self.held.lock();
        let mut draft = policy.draft(&held);
        give(&mut draft)?;
        if *held != draft.held {
            self.save(&draft.held);
            *held = draft.held;
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Gives a pod its processors, wherever these are.
    ///
    /// # Errors
    /// The refusal of the pod.
    pub fn admit(&self, pod: &Pod) -> Result<(), Refusal> {
        self.giving(|cpus| numa::Manager::default().allot(pod, &mut [cpus]))
    }

    /// Takes a pod's processors back.
    pub fn release(&self, uid: &str) {
        let mut held = self.held.lock();
        if held.release(uid) {
            self.save(&held);
            self.changed.notify_one();
        }
    }

    /// Takes back what pods have that are not known any more.
    pub(crate) fn release_all_but(&self, known: &HashSet<String>) {
        let held = self.held.lock().clone();
        for uid in held.exclusive.keys().filter(|uid| !known.contains(*uid)) {
            self.release(uid);
        }
    }

    fn save(&self, held: &Assignments) {
        let temporary = self.file.with_extension("new");
        let written =
            std::fs::write(&temporary, held.to_text()).and_then(|()| std::fs::rename(&temporary, &self.file));
        if let Err(error) = written {
            tracing::error!(%error, file = %self.file.display(), "could not save the assignments of processors");
        }
    }

    /// The processors of a container.
    pub fn share(&self, uid: &str, container: &str) -> CpuShare {
        if self.policy.is_none() {
            return CpuShare::default();
        }
        let held = self.held.lock();
        match held.of(uid, container) {
            Some(set) => CpuShare {
                list: set.to_string(),
                exclusive: !self.keeps_quota,
            },
            None => CpuShare {
                list: held.shared.to_string(),
                exclusive: false,
            },
        }
    }

    /// The processors that a container has to itself.
    pub fn exclusive(&self, uid: &str, container: &str) -> CpuSet {
        self.held.lock().of(uid, container).cloned().unwrap_or_default()
    }

    /// The processors that containers can have to themselves.
    pub fn allocatable(&self) -> CpuSet {
        self.policy
            .as_ref()
            .map(StaticPolicy::allocatable)
            .unwrap_or_default()
    }

    /// Whether containers can have processors to themselves.
    pub fn is_static(&self) -> bool {
        self.policy.is_some()
    }

    /// Whether a container of the pod has processors of its own and therefore no quota.
    pub fn has_exclusive(&self, uid: &str) -> bool {
        !self.keeps_quota && self.held.lock().exclusive.contains_key(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::topology::Place;
    use super::*;
    use serde_json::json;

    fn cpus(dir: &Path) -> Cpus {
        let topology: Topology = (0..4)
            .map(|cpu| {
                let place = Place {
                    core: cpu,
                    ..Default::default()
                };
                (cpu, place)
            })
            .collect();
        let (config, _) = KubeletConfiguration::parse("cpuManagerPolicy: static\nkubeReserved: {cpu: 500m}")
            .expect("valid");
        let policy = policy_of(&config, topology).expect("enough");
        Cpus::with(policy, dir.join(FILE))
    }

    fn pod(cpu: &str) -> Pod {
        let both = json!({"cpu": cpu, "memory": "1Gi"});
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": both, "limits": both}}]}}))
        .expect("valid")
    }

    #[test]
    fn assignments_outlive_the_agent_until_the_pod_is_gone() {
        let dir = tempfile::tempdir().expect("a folder");
        cpus(dir.path()).admit(&pod("2")).expect("room");
        let again = cpus(dir.path());
        assert_eq!(
            (
                again.share("u", "c").list.as_str(),
                again.share("v", "c").list.as_str()
            ),
            ("1-2", "0,3")
        );
        again.release_all_but(&HashSet::new());
        assert_eq!(cpus(dir.path()).share("v", "c").list, "0-3");
    }

    #[test]
    fn a_pod_that_wants_too_many_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let refusal = cpus(dir.path()).admit(&pod("4")).expect_err("one is reserved");
        assert_eq!(refusal.reason, "UnexpectedAdmissionError");
    }
}
