//! Whether the container runtime lives and what it is, kept fresh by one short call.

use std::time::Duration;

use mainstay_base::clock::SharedClock;
use parking_lot::Mutex;

use crate::cri::{Cri, runtime_v1 as v1};

/// A runtime that has not been listed for this long makes the node not ready.
const RELIST_LIMIT: Duration = Duration::from_secs(180);

/// What is known of the runtime.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// `containerd://1.6.20`; empty until it answered once.
    pub version: String,
    /// Why it cannot run pods.
    pub errors: Vec<String>,
}

/// Keeps what is known of the runtime.
#[derive(Debug)]
pub struct RuntimeHealth {
    known: Mutex<Known>,
    listed_at: Mutex<Option<Duration>>,
    clock: SharedClock,
}

impl RuntimeHealth {
    /// Starts with nothing known: the node is not ready.
    pub fn new(clock: SharedClock) -> Self {
        RuntimeHealth {
            known: Mutex::default(),
            listed_at: Mutex::default(),
            clock,
        }
    }

    /// Asks the runtime for its version and conditions.
    pub async fn refresh(&self, cri: &Cri) {
        let mut known = Known::default();
        match cri.version().await {
            Ok(answer) => known.version = format!("{}://{}", answer.runtime_name, answer.runtime_version),
            Err(error) => known
                .errors
                .push(format!("container runtime is down: {}", error.message())),
        }
        if known.errors.is_empty() {
            match cri.status(v1::StatusRequest { verbose: false }).await {
                Ok(answer) => known.errors = unmet(answer.status.unwrap_or_default()),
                Err(error) => known.errors.push(format!(
                    "container runtime status check failed: {}",
                    error.message()
                )),
            }
        }
        let mut held = self.known.lock();
        if known.version.is_empty() {
            known.version = held.version.clone();
        }
        *held = known;
    }

    /// Notes that all pods were listed just now.
    pub fn listed(&self) {
        *self.listed_at.lock() = Some(self.clock.monotonic());
    }

    /// When all pods were last listed, on the clock of [`Clock::monotonic`](mainstay_base::clock::Clock::monotonic).
    pub fn listed_at(&self) -> Option<Duration> {
        *self.listed_at.lock()
    }

    /// What is known, with a stalled listing as one more error.
    pub fn known(&self) -> Known {
        let mut known = self.known.lock().clone();
        if known.version.is_empty() && known.errors.is_empty() {
            known
                .errors
                .push("container runtime status check may not have completed yet".to_owned());
        }
        let listed_at = *self.listed_at.lock();
        let age = listed_at.map(|at| self.clock.monotonic().saturating_sub(at));
        if let Some(age) = age.filter(|a| *a > RELIST_LIMIT) {
            known.errors.push(format!(
                "PLEG is not healthy: pleg was last seen active {}s ago; threshold is 180s",
                age.as_secs()
            ));
        }
        known
    }
}

/// The runtime's required conditions that do not hold, in the kubelet's words.
fn unmet(status: v1::RuntimeStatus) -> Vec<String> {
    let bad = status.conditions.into_iter().filter(|c| !c.status);
    bad.map(|c| match c.r#type.as_str() {
        "NetworkReady" => format!(
            "container runtime network not ready: NetworkReady=false reason:{} message:{}",
            c.reason, c.message
        ),
        kind => format!(
            "container runtime not ready: {kind}=false reason:{} message:{}",
            c.reason, c.message
        ),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_base::clock::FakeClock;

    #[test]
    fn a_listing_that_stalls_is_an_error() {
        let clock = FakeClock::new();
        let health = RuntimeHealth::new(clock.clone());
        health.known.lock().version = "containerd://1".into();
        health.listed();
        assert!(health.known().errors.is_empty());
        clock.advance(Duration::from_secs(181));
        assert_eq!(
            health.known().errors,
            ["PLEG is not healthy: pleg was last seen active 181s ago; threshold is 180s"]
        );
    }
}
