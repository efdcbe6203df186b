//! A machine that goes down in order: pods end in groups, the least important first, each within its grace.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use mainstay_nodepolicy::shutdown::{groups, periods};

use crate::pods::manager::Manager;
use crate::pods::worker::End;
use crate::podspec;

/// Why the node is not ready meanwhile.
pub const NOT_READY: &str = "node is shutting down";
/// Message of pods that ended because the machine goes down.
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// Longest wait for the API server to take the last statuses.
const STATUS_LIMIT: Duration = Duration::from_secs(2);

/// Ends all pods in the order of their groups. A group that takes longer than its grace is left behind.
pub async fn end_pods(manager: &Arc<Manager>) {
    let shared = manager.shared();
    let periods = periods(&shared.settings.kubelet);
    if periods.is_empty() {
        return;
    }
    tracing::info!("the machine goes down: pods are ended");
    shared.shutting_down.store(true, Ordering::Relaxed);
    shared.status_wanted.notify_one();
    let pods = manager.pods();
    let pods: Vec<&Pod> = pods
        .iter()
        .map(|p| &**p)
        .filter(|p| !manager.is_ending(podspec::uid(p)))
        .collect();
    for (period, group) in groups(&periods, &pods) {
        let limit = period.shutdown_grace_period_seconds.max(0);
        let uids: Vec<String> = group.iter().map(|pod| podspec::uid(pod).to_owned()).collect();
        for pod in group {
            manager.end(podspec::uid(pod), end_of(pod, limit));
        }
        let ended = manager.have_ended(&uids);
        if tokio::time::timeout(Duration::from_secs(limit as u64), ended)
            .await
            .is_err()
        {
            tracing::warn!(priority = period.priority, "pods took longer than their grace");
        }
    }
    let _ = tokio::time::timeout(STATUS_LIMIT, manager.queue.is_empty()).await;
}

fn end_of(pod: &Pod, limit_seconds: i64) -> End {
    let own = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    End::Failed {
        reason: "Terminated".to_owned(),
        message: MESSAGE.to_owned(),
        grace_seconds: Some(own.unwrap_or(limit_seconds).min(limit_seconds)),
        disruption: Some(MESSAGE.to_owned()),
    }
}
