//! How long a pod may take to end.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

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
