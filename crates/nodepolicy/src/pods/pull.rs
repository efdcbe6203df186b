//! Pulling images as rules: references, policies, how long to wait after a failure.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use parking_lot::Mutex;

const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Why a container waits: the reason and message of its waiting state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// CamelCase reason.
    pub reason: &'static str,
    /// Details.
    pub message: String,
}

impl Waiting {
    /// Makes one.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Waiting {
            reason,
            message: message.into(),
        }
    }
}

/// One image that could not be pulled. Times are monotonic.
#[derive(Debug, Clone)]
struct FailedPull {
    wait: Duration,
    failed_at: Duration,
    why: String,
}

/// Pull back-off of one pod, by image.
#[derive(Debug, Default)]
pub struct PullBackoff(Mutex<HashMap<String, FailedPull>>);

impl PullBackoff {
    /// The last failure of an image that must still wait at `now`.
    pub fn held_back(&self, image: &str, now: Duration) -> Option<String> {
        let entries = self.0.lock();
        let failed = entries.get(image)?;
        (now.saturating_sub(failed.failed_at) < failed.wait).then(|| failed.why.clone())
    }

    /// Counts a failed pull: the next one waits twice as long, unless the last failure was long ago.
    pub fn failed(&self, image: &str, now: Duration, why: String) {
        let mut entries = self.0.lock();
        let recent = entries
            .get(image)
            .filter(|f| now.saturating_sub(f.failed_at) <= 2 * LONGEST_WAIT);
        let wait = recent.map_or(FIRST_WAIT, |f| (f.wait * 2).min(LONGEST_WAIT));
        let failed = FailedPull {
            wait,
            failed_at: now,
            why,
        };
        entries.insert(image.to_owned(), failed);
    }

    /// The shortest wait of any image, to know when to look again.
    pub fn next(&self, now: Duration) -> Option<Duration> {
        let entries = self.0.lock();
        let left = entries
            .values()
            .map(|f| (f.failed_at + f.wait).saturating_sub(now));
        left.filter(|l| !l.is_zero()).min()
    }
}

/// Adds `:latest` to a reference without tag and digest.
pub fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.contains(':') || last.contains('@') {
        true => image.to_owned(),
        false => format!("{image}:latest"),
    }
}

/// When a container's image is pulled.
pub fn policy(container: &Container, image: &str) -> String {
    match container.image_pull_policy.as_deref() {
        Some(policy) if !policy.is_empty() => policy.to_owned(),
        _ if image.ends_with(":latest") => "Always".to_owned(),
        _ => "IfNotPresent".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_without_tag_means_latest() {
        let rows = ["busybox", "r.io:5000/a/b", "a:1", "a@sha256:00"];
        assert_eq!(
            rows.map(with_tag),
            ["busybox:latest", "r.io:5000/a/b:latest", "a:1", "a@sha256:00"]
        );
    }

    #[test]
    fn pull_waits_double() {
        let backoff = PullBackoff::default();
        let second = Duration::from_secs;
        backoff.failed("i", Duration::ZERO, "gone".into());
        assert_eq!(backoff.held_back("i", second(9)), Some("gone".to_owned()));
        assert_eq!(backoff.held_back("i", second(10)), None);
        backoff.failed("i", second(10), "gone".into());
        assert_eq!(backoff.next(second(10)), Some(second(20)));
    }
}
