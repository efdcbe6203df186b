//! How long a pod may run, and how long it may take to end.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

/// The grace of a pod's end in seconds, and whether it is shorter than `current` (0: none in force yet). It only ever
/// shrinks and is never less than one second.
pub fn effective_grace(pod: &Pod, current: i64, limit: Option<i64>) -> (i64, bool) {
    let spec_grace = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    let mut seconds = current;
    if let Some(given) = pod.metadata.deletion_grace_period_seconds
        && (seconds == 0 || given < seconds)
    {
        seconds = given;
    }
    if let Some(limit) = limit
        && (seconds == 0 || limit < seconds)
    {
        seconds = limit;
    }
    if seconds == 0 && limit.is_none() && pod.metadata.deletion_grace_period_seconds.is_none() {
        seconds = spec_grace.unwrap_or(0);
    }
    let seconds = seconds.max(1);
    (seconds, current > 0 && seconds != current)
}

/// The grace of a pod's end: what its deletion says, else its spec, never more than `limit`.
pub fn grace(pod: &Pod, limit: Option<i64>) -> Duration {
    let spec_grace = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    let (seconds, _) = effective_grace(pod, spec_grace.unwrap_or(30), limit);
    Duration::from_secs(seconds as u64)
}

/// How long a pod may still run since it came to this node; `None`: for ever.
pub fn time_to_run(pod: &Pod, status: Option<&PodStatus>, now: Timestamp) -> Option<Duration> {
    let limit = pod.spec.as_ref()?.active_deadline_seconds?;
    let status = status.or(pod.status.as_ref());
    let begun = status.and_then(|s| s.start_time.as_ref()).map_or(now, |t| t.0);
    let end = begun.as_second().saturating_add(limit);
    let left = i128::from(end) * 1_000_000_000 - now.as_nanosecond();
    Some(Duration::from_nanos(
        u64::try_from(left.max(0)).unwrap_or(u64::MAX),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_runs_until_its_deadline() {
        let left = |deadline: Option<i64>, now: &str| {
            let pod = json!({"spec": {"containers": [], "activeDeadlineSeconds": deadline},
                "status": {"startTime": "2026-01-01T00:00:00Z"}});
            let pod: Pod = serde_json::from_value(pod).expect("valid");
            time_to_run(&pod, None, now.parse().expect("a time"))
        };
        assert_eq!(left(None, "2026-01-01T00:00:01Z"), None);
        assert_eq!(
            left(Some(30), "2026-01-01T00:00:20Z"),
            Some(Duration::from_secs(10))
        );
        assert_eq!(left(Some(30), "2026-01-01T00:01:00Z"), Some(Duration::ZERO));
    }
}
