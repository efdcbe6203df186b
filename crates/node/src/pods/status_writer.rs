//! Writes pods' statuses in the background: the newest of each pod, only when it changed, then deletes ended pods.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{Notify, watch};

use crate::api::ApiHandle;
use crate::podspec;
use crate::repeated::Repeated;

/// Requests under way at once: each has a connection of its own.
const AT_ONCE: usize = 4;
/// Wait after a failed request.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
struct Wanted {
    pod: Arc<Pod>,
    status: PodStatus,
    delete: bool,
}

/// What waits to be written.
#[derive(Debug, Default)]
pub struct StatusQueue {
    wanted: Mutex<HashMap<String, Wanted>>,
    written: Mutex<HashMap<String, PodStatus>>,
    wake: Notify,
    /// Statuses of static pods that the API server does not show yet.
    unshown: Mutex<HashMap<String, Wanted>>,
    /// Statuses that wait or are on their way.
    left: watch::Sender<usize>,
}

impl StatusQueue {
    /// Asks for a pod's status to be written; `delete` also ends the object itself.
    pub fn put(&self, pod: &Arc<Pod>, status: PodStatus, delete: bool) {
        let uid = podspec::uid(pod).to_owned();
        if !delete && self.written.lock().get(&uid) == Some(&status) {
            return;
        }
        let wanted = Wanted {
            pod: pod.clone(),
            status,
            delete,
        };
        self.wanted.lock().insert(uid, wanted);
        self.left.send_modify(|count| *count += 1);
        self.wake.notify_one();
    }

    /// The API server shows this static pod now: what could not be written is.
    pub fn is_shown(&self, uid: &str) {
        let held = self.unshown.lock().remove(uid);
        if let Some(wanted) = held {
            self.put_back(uid.to_owned(), wanted);
            self.wake.notify_one();
        }
    }

    /// Waits until nothing is left to write.
    pub async fn is_empty(&self) {
        let mut left = self.left.subscribe();
        // The sender lives as long as `self`.
        let _ = left.wait_for(|count| *count == 0).await;
    }

    fn count(&self, under_way: usize) {
        let waiting = self.wanted.lock().len();
        self.left.send_replace(waiting + under_way);
    }

    /// Forgets a pod that is gone.
    pub fn forget(&self, uid: &str) {
        self.wanted.lock().remove(uid);
        self.written.lock().remove(uid);
        self.unshown.lock().remove(uid);
    }

    fn take(&self) -> Option<(String, Wanted)> {
        let mut wanted = self.wanted.lock();
        let uid = wanted.keys().next().cloned()?;
        wanted.remove(&uid).map(|w| (uid, w))
    }

    /// Puts back what failed unless something newer came meanwhile.
    fn put_back(&self, uid: String, failed: Wanted) {
        let mut wanted = self.wanted.lock();
        wanted.entry(uid).or_insert(failed);
    }

    /// Writes for as long as the agent runs.
    pub async fn run(&self, api: ApiHandle, repeated: Repeated) {
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < AT_ONCE {
                let Some((uid, wanted)) = self.take() else { break };
                let api = &api;
                let before = self.written.lock().get(&uid).cloned();
                under_way.push(async move {
                    let client = api.joined().await;
                    let result = write(&client, &wanted, before.as_ref()).await;
                    (uid, wanted, result)
                });
            }
            self.count(under_way.len());
            tokio::select! {
                Some((uid, wanted, result)) = under_way.next(), if !under_way.is_empty() => {
                    self.finished(uid, wanted, result, &repeated).await;
                }
                () = self.wake.notified() => {}
            }
        }
    }

    async fn finished(
        &self,
        uid: String,
        wanted: Wanted,
        result: Result<(), kube::Error>,
        repeated: &Repeated,
    ) {
        match result {
            Ok(()) => {
                repeated.works();
                self.written.lock().insert(uid, wanted.status);
            }
            Err(kube::Error::Api(status)) if status.code == 404 && podspec::is_static(&wanted.pod) => {
                self.unshown.lock().insert(uid, wanted);
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => {
                tracing::debug!(
                    pod = podspec::name(&wanted.pod),
                    code = status.code,
                    message = status.message,
                    "a pod's status was refused"
                );
            }
            Err(error) => {
                if let Some(failures) = repeated.fails() {
                    tracing::warn!(
                        pod = podspec::name(&wanted.pod),
                        error = mainstay_base::error::chain(&error),
                        failures,
                        "could not write a pod's status"
                    );
                }
                self.put_back(uid, wanted);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Conditions of ours that come and go: a merge alone would keep those that went.
const PASSING: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// The passing conditions that a status has.
fn passing(status: Option<&PodStatus>) -> impl Iterator<Item = &'static str> {
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let has = move |kind: &&str| conditions.iter().any(|c| c.type_ == *kind);
    PASSING.into_iter().filter(has)
}

/// The patch that brings a status about.
fn patch_of(wanted: &Wanted, before: Option<&PodStatus>) -> serde_json::Value {
    let mut patch = json!({"status": wanted.status});
    let now: Vec<&str> = passing(Some(&wanted.status)).collect();
    let mut gone: Vec<&str> = passing(before)
        .chain(passing(wanted.pod.status.as_ref()))
        .collect();
    gone.sort_unstable();
    gone.dedup();
    gone.retain(|kind| !now.contains(kind));
    if let Some(conditions) = patch["status"]["conditions"].as_array_mut() {
        conditions.extend(
            gone.into_iter()
                .map(|kind| json!({"type": kind, "$patch": "delete"})),
        );
    }
    patch
}

async fn write(
    client: &kube::Client,
    wanted: &Wanted,
    before: Option<&PodStatus>,
) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), podspec::namespace(&wanted.pod));
    let name = podspec::name(&wanted.pod);
    let uid = podspec::uid(&wanted.pod);
    let mut patch = patch_of(wanted, before);
    // The API server's copy of a static pod has another UID.
    let is_static = podspec::is_static(&wanted.pod);
    if !is_static {
        patch["metadata"] = json!({"uid": uid});
    }
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch))
        .await?;
    if wanted.delete && !is_static {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..Default::default()
        };
        api.delete(name, &params).await?;
    }
    Ok(())
}
