//! What pods were given and what their containers really have, so that a resize ends where it began after a restart of
//! the agent. One small file for each pod, in the pod's own folder.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use mainstay_nodepolicy::resize::{self, Pending, Resources};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{podspec, volumes};

/// File below the pod's folder.
const FILE: &str = "resources.json";

/// One pod's resources.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Allocation {
    /// What it was given.
    pub given: Resources,
    /// What the runtime was last told of each container.
    pub actual: Resources,
    /// Why a change is not taken.
    #[serde(skip)]
    pub pending: Option<Pending>,
    /// Why a change that was taken is not carried out.
    #[serde(skip)]
    pub error: Option<String>,
}

/// All pods' resources.
#[derive(Debug)]
pub struct Allocations {
    root: PathBuf,
    held: Mutex<HashMap<String, Allocation>>,
}

impl Allocations {
    /// Resources of pods whose folders are below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Allocations {
            root: root.into(),
            held: Mutex::default(),
        }
    }

    fn file(&self, uid: &str) -> PathBuf {
        volumes::pod_dir(&self.root, uid).join(FILE)
    }

    fn save(&self, uid: &str, allocation: &Allocation) {
        let file = self.file(uid);
        let temporary = file.with_extension("new");
        let text = serde_json::to_string(allocation).unwrap_or_default();
        let folder = file.parent().map_or(Ok(()), std::fs::create_dir_all);
        let written = folder
            .and_then(|()| std::fs::write(&temporary, text))
            .and_then(|()| std::fs::rename(&temporary, &file));
        if let Err(error) = written {
            tracing::error!(%error, uid, "could not save a pod's resources");
        }
    }

    /// Remembers a pod that the node takes: what an earlier run of the agent gave it, else what its spec asks for.
    pub fn admit(&self, pod: &Pod) {
        let uid = podspec::uid(pod);
        let saved = std::fs::read_to_string(self.file(uid)).ok();
        let saved = saved.and_then(|text| serde_json::from_str::<Allocation>(&text).ok());
        let mut allocation = saved.unwrap_or_default();
        for (name, resources) in resize::wanted(pod) {
            allocation.given.entry(name).or_insert(resources);
        }
        self.held.lock().insert(uid.to_owned(), allocation);
    }

    /// One pod's resources.
    pub fn of(&self, uid: &str) -> Allocation {
        self.held.lock().get(uid).cloned().unwrap_or_default()
    }

    /// The pod with the resources that it was given.
    pub fn given(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        match self.held.lock().get(podspec::uid(pod)) {
            Some(allocation) => resize::with(pod, &allocation.given),
            None => pod.clone(),
        }
    }

    fn change<T>(&self, uid: &str, change: impl FnOnce(&mut Allocation) -> T) -> Option<T> {
        let mut held = self.held.lock();
        let allocation = held.get_mut(uid)?;
        let before = (allocation.given.clone(), allocation.actual.clone());
        let answer = change(allocation);
        if before != (allocation.given.clone(), allocation.actual.clone()) {
            self.save(uid, allocation);
        }
        Some(answer)
    }

    /// The runtime was told a container's resources.
    pub fn told(&self, uid: &str, container: &str, resources: Option<&ResourceRequirements>) {
        let resources = resources.cloned().unwrap_or_default();
        self.change(uid, |a| {
            if a.given.contains_key(container) {
                a.actual.insert(container.to_owned(), resources);
            }
        });
    }

    /// The pod is given what its spec asks for.
    pub fn give(&self, pod: &Pod) {
        self.change(podspec::uid(pod), |a| {
            a.given = resize::wanted(pod);
            a.pending = None;
            a.error = None;
        });
    }

    /// Notes why a change is not taken; tells whether that is news.
    pub fn hold(&self, uid: &str, pending: Option<Pending>) -> bool {
        let changed = self.change(uid, |a| {
            let changed = a.pending != pending;
            a.pending = pending;
            changed
        });
        changed.unwrap_or(false)
    }

    /// Notes why a change is not carried out; tells whether that is news.
    pub fn failed(&self, uid: &str, error: Option<String>) -> bool {
        let changed = self.change(uid, |a| {
            let changed = a.error != error;
            a.error = error;
            changed
        });
        changed.unwrap_or(false)
    }

    /// Pods whose change may be had later.
    pub fn deferred(&self) -> Vec<String> {
        let held = self.held.lock();
        let deferred = held
            .iter()
            .filter(|(_, a)| matches!(a.pending, Some(Pending::Deferred(_))));
        deferred.map(|(uid, _)| uid.clone()).collect()
    }

    /// Forgets a pod; its file goes with its folder.
    pub fn forget(&self, uid: &str) {
        self.held.lock().remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(cpu: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}))
        .expect("valid")
    }

    fn cpu(pod: &Pod) -> String {
        let spec = pod.spec.as_ref().expect("set");
        let resources = spec.containers[0].resources.as_ref().expect("set");
        resources.requests.as_ref().expect("set")["cpu"].0.clone()
    }

    #[test]
    fn what_was_given_outlives_the_agent() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = Allocations::new(dir.path());
        first.admit(&pod("100m"));
        first.told("u", "c", resize::wanted(&pod("100m")).get("c"));
        let again = Allocations::new(dir.path());
        again.admit(&pod("200m"));
        let asked = Arc::new(pod("200m"));
        assert_eq!(cpu(&again.given(&asked)), "100m");
        assert!(again.hold("u", Some(Pending::Deferred("full".into()))));
        assert!(!again.hold("u", Some(Pending::Deferred("full".into()))));
        assert_eq!(again.deferred(), ["u"]);
        again.give(&asked);
        assert_eq!(
            (cpu(&again.given(&asked)), again.deferred().len()),
            ("200m".to_owned(), 0)
        );
        assert!(resize::differs(&asked, &again.of("u").actual));
    }
}
