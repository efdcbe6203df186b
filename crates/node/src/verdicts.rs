//! What probes found, by container id: written by probe tasks, read by pod workers.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Container;
use parking_lot::Mutex;

use crate::plan::ProbeVerdict;

/// Verdicts of all containers on the node.
#[derive(Debug, Default)]
pub struct Verdicts(Mutex<HashMap<String, ProbeVerdict>>);

/// The verdict of a container none of whose probes has run: failed where a probe must succeed first.
pub fn initial(container: &Container) -> ProbeVerdict {
    ProbeVerdict {
        started: container.startup_probe.is_none(),
        ready: container.readiness_probe.is_none() && container.startup_probe.is_none(),
        ..Default::default()
    }
}

impl Verdicts {
    /// The verdict on a running container.
    pub fn of(&self, id: &str, container: &Container) -> ProbeVerdict {
        let known = self.0.lock().get(id).copied();
        let mut verdict = known.unwrap_or_else(|| initial(container));
        verdict.ready &= verdict.started;
        verdict
    }

    /// Changes a verdict; tells whether that changed anything.
    pub fn update(&self, id: &str, container: &Container, change: impl FnOnce(&mut ProbeVerdict)) -> bool {
        let mut all = self.0.lock();
        let verdict = all.entry(id.to_owned()).or_insert_with(|| initial(container));
        let before = *verdict;
        change(verdict);
        before != *verdict
    }

    /// Forgets a container.
    pub fn forget(&self, id: &str) {
        self.0.lock().remove(id);
    }
}
