//! How probes ended, by container, for as long as they go on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// What is probed, in the labels of the series.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Of {
    /// The container.
    pub container: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// Its UID.
    pub pod_uid: String,
    /// What for.
    pub kind: &'static str,
}

/// How one probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeResult {
    /// The container answered as it should.
    Successful,
    /// It did not.
    Failed,
    /// Nobody could ask it.
    Unknown,
}

const RESULTS: [&str; 3] = ["successful", "failed", "unknown"];

/// One probe's ends so far.
#[derive(Debug)]
pub struct Probed {
    /// What is probed.
    pub of: Of,
    counts: [AtomicU64; 3],
}

impl Probed {
    /// Nothing has ended yet.
    pub fn new(of: Of) -> Arc<Self> {
        Arc::new(Probed {
            of,
            counts: Default::default(),
        })
    }

    /// Counts one.
    pub fn count(&self, result: ProbeResult) {
        self.counts[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Results that occurred, and how often.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        RESULTS.into_iter().zip(counts).filter(|(_, count)| *count > 0)
    }
}

/// All probes that go on.
#[derive(Debug, Default)]
pub struct AllProbed(Mutex<Vec<Weak<Probed>>>);

impl AllProbed {
    /// Takes in a probe that begins; it is forgotten when the caller drops it.
    pub fn add(&self, of: Of) -> Arc<Probed> {
        let probed = Probed::new(of);
        let mut all = self.0.lock();
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(&probed));
        probed
    }

    /// All that go on.
    pub fn all(&self) -> Vec<Arc<Probed>> {
        self.0.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_is_over_is_forgotten() {
        let all = AllProbed::default();
        let of = |container: &str| Of {
            container: container.to_owned(),
            namespace: String::new(),
            pod: String::new(),
            pod_uid: String::new(),
            kind: "Startup",
        };
        let (first, _) = (all.add(of("a")), all.add(of("b")));
        first.count(ProbeResult::Unknown);
        let told: Vec<_> = all
            .all()
            .iter()
            .flat_map(|p| p.counts().collect::<Vec<_>>())
            .collect();
        assert_eq!((told, all.all().len()), (vec![("unknown", 1)], 1));
    }
}
