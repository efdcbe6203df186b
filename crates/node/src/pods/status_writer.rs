//! Writes pods' statuses in the background: the newest of each pod, only when it changed, then deletes ended pods.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
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
use crate::tally::Tally;

/// Requests under way at once: each has a connection of its own.
const AT_ONCE: usize = 4;
/// Wait after a failed request.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
struct Wanted {
    pod: Arc<Pod>,
    status: Arc<PodStatus>,
    delete: bool,
    /// When the oldest change was told that waits.
    since: Duration,
}

/// What is to be written, by the pods' UIDs. Invariant: of each pod one write at most is under way, so that what was told last
/// is what the API server has last.
#[derive(Debug, Default)]
struct Statuses {
    wanted: HashMap<String, Wanted>,
    /// `None`: of a pod that was forgotten since.
    under_way: HashMap<String, Option<Arc<PodStatus>>>,
    written: HashMap<String, Arc<PodStatus>>,
    /// Passing conditions that the API server may have, since a write with them began.
    passing: HashMap<String, Vec<&'static str>>,
}

impl Statuses {
    /// Takes a status; `false`: nothing is to be done for it.
    fn put(&mut self, uid: String, new: Wanted) -> bool {
        let newest = self.wanted.get(&uid).map(|w| &w.status);
        let newest = newest.or_else(|| self.under_way.get(&uid)?.as_ref());
        let newest = newest.or_else(|| self.written.get(&uid));
        if !new.delete && newest == Some(&new.status) {
            return false;
        }
        match self.wanted.entry(uid) {
            Entry::Occupied(mut waiting) => {
                let since = waiting.get().since;
                waiting.insert(Wanted { since, ..new });
            }
            Entry::Vacant(place) => {
                place.insert(new);
            }
        }
        true
    }

    /// Begins a write: what is to be written, and the passing conditions that are to go.
    fn begin(&mut self) -> Option<(String, Wanted, Vec<&'static str>)> {
        let mut free = self
            .wanted
            .keys()
            .filter(|uid| !self.under_way.contains_key(*uid));
        let uid = free.next()?.clone();
        let wanted = self.wanted.remove(&uid)?;
        self.under_way.insert(uid.clone(), Some(wanted.status.clone()));
        let now: Vec<&str> = passing(Some(&wanted.status)).collect();
        let had = self.passing.remove(&uid).unwrap_or_default();
        let mut may_have: Vec<&str> = passing(wanted.pod.status.as_ref()).chain(had).collect();
        may_have.extend(&now);
        may_have.sort_unstable();
        may_have.dedup();
        let gone = may_have.iter().copied();
        let gone = gone.filter(|kind| !now.contains(kind)).collect();
        self.keep_passing(&uid, may_have);
        Some((uid, wanted, gone))
    }

    fn keep_passing(&mut self, uid: &str, kinds: Vec<&'static str>) {
        if !kinds.is_empty() {
            self.passing.insert(uid.to_owned(), kinds);
        }
    }

    /// Ends a write; `false`: the pod was forgotten meanwhile.
    fn end(&mut self, uid: &str) -> bool {
        matches!(self.under_way.remove(uid), Some(Some(_)))
    }

    fn is_written(&mut self, uid: String, status: Arc<PodStatus>) {
        if self.end(&uid) {
            self.passing.remove(&uid);
            self.keep_passing(&uid, passing(Some(&status)).collect());
            self.written.insert(uid, status);
        }
    }

    /// Ends a write that failed; it is to be made again.
    fn try_again(&mut self, uid: String, failed: Wanted) {
        if self.end(&uid) {
            self.put_back(uid, failed);
        }
    }

    /// Puts back what failed unless something newer came meanwhile.
    fn put_back(&mut self, uid: String, failed: Wanted) {
        let since = failed.since;
        self.wanted.entry(uid).or_insert(failed).since = since;
    }

    fn forget(&mut self, uid: &str) {
        self.wanted.remove(uid);
        self.under_way
            .entry(uid.to_owned())
            .and_modify(|status| *status = None);
        self.written.remove(uid);
        self.passing.remove(uid);
    }
}

/// What waits to be written.
#[derive(Debug)]
pub struct StatusQueue {
    tally: Arc<Tally>,
    statuses: Mutex<Statuses>,
    wake: Notify,
    /// Statuses of static pods that the API server does not show yet.
    unshown: Mutex<HashMap<String, Wanted>>,
    /// How many are waiting or under way.
    left: watch::Sender<usize>,
}

impl StatusQueue {
    /// Nothing to write yet.
    pub fn new(tally: Arc<Tally>) -> Self {
        StatusQueue {
            tally,
            statuses: Mutex::default(),
            wake: Notify::new(),
            unshown: Mutex::default(),
            left: watch::Sender::default(),
        }
    }

    /// Asks for a pod's status to be written; `delete` also ends the object itself.
    pub fn put(&self, pod: &Arc<Pod>, status: Arc<PodStatus>, delete: bool) {
        let wanted = Wanted {
            pod: pod.clone(),
            status,
            delete,
            since: self.tally.now(),
        };
        if !self.statuses.lock().put(podspec::uid(pod).to_owned(), wanted) {
            return;
        }
        self.left.send_modify(|count| *count += 1);
        self.wake.notify_one();
    }

    /// The API server shows this static pod now: what could not be written is.
    pub fn is_shown(&self, uid: &str) {
        let held = self.unshown.lock().remove(uid);
        if let Some(wanted) = held {
            self.statuses.lock().put_back(uid.to_owned(), wanted);
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
        let waiting = self.statuses.lock().wanted.len();
        self.left.send_replace(waiting + under_way);
    }

    /// Forgets a pod that is gone.
    pub fn forget(&self, uid: &str) {
        self.statuses.lock().forget(uid);
        self.unshown.lock().remove(uid);
    }

    /// Writes for as long as the agent runs.
    pub async fn run(&self, api: ApiHandle, repeated: Repeated) {
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < AT_ONCE {
                let Some((uid, wanted, gone)) = self.statuses.lock().begin() else {
                    break;
                };
                let api = &api;
                under_way.push(async move {
                    let client = api.joined().await;
                    let result = write(&client, &wanted, &gone).await;
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
                let took = self.tally.since(wanted.since);
                self.tally.statuses.observe([], took);
                self.statuses.lock().is_written(uid, wanted.status);
            }
            Err(kube::Error::Api(status)) if status.code == 404 && podspec::is_static(&wanted.pod) => {
                if self.statuses.lock().end(&uid) {
                    self.unshown.lock().insert(uid, wanted);
                }
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => {
                self.statuses.lock().end(&uid);
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
                self.statuses.lock().try_again(uid, wanted);
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
fn patch_of(status: &PodStatus, gone: &[&str]) -> serde_json::Value {
    let mut patch = json!({"status": status});
    if let Some(conditions) = patch["status"]["conditions"].as_array_mut() {
        let gone = gone.iter();
        conditions.extend(gone.map(|kind| json!({"type": kind, "$patch": "delete"})));
    }
    patch
}

async fn write(client: &kube::Client, wanted: &Wanted, gone: &[&str]) -> Result<(), kube::Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), podspec::namespace(&wanted.pod));
    let name = podspec::name(&wanted.pod);
    let uid = podspec::uid(&wanted.pod);
    let mut patch = patch_of(&wanted.status, gone);
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

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodCondition;

    /// A status of the pod with UID "u", with these conditions.
    fn with(conditions: &[&str]) -> Wanted {
        let condition = |kind: &&str| PodCondition {
            type_: (*kind).to_owned(),
            ..Default::default()
        };
        let conditions = conditions.iter().map(condition).collect();
        let status = PodStatus {
            conditions: Some(conditions),
            ..Default::default()
        };
        Wanted {
            pod: Arc::default(),
            status: Arc::new(status),
            delete: false,
            since: Duration::ZERO,
        }
    }

    fn put(statuses: &mut Statuses, conditions: &[&str]) -> bool {
        statuses.put("u".to_owned(), with(conditions))
    }

    #[test]
    fn of_a_pod_one_status_is_written_after_the_other() {
        let mut statuses = Statuses::default();
        assert!(put(&mut statuses, &["PodResizeInProgress"]));
        let (uid, first, gone) = statuses.begin().expect("waits");
        assert_eq!(gone, [""; 0]);
        assert!(put(&mut statuses, &["Ready"]));
        assert!(statuses.begin().is_none(), "the first is under way");
        statuses.is_written(uid, first.status);
        let (_, second, gone) = statuses.begin().expect("waits");
        assert_eq!(gone, ["PodResizeInProgress"]);
        let patch = patch_of(&second.status, &gone);
        let told =
            json!([{"type": "Ready", "status": ""}, {"type": "PodResizeInProgress", "$patch": "delete"}]);
        assert_eq!(patch["status"]["conditions"], told);
    }

    #[test]
    fn a_failed_write_may_have_reached_the_server() {
        let mut statuses = Statuses::default();
        put(&mut statuses, &["PodResizePending"]);
        let (uid, failed, _) = statuses.begin().expect("waits");
        put(&mut statuses, &["Ready"]);
        statuses.try_again(uid, failed);
        let (_, newer, gone) = statuses.begin().expect("waits");
        assert_eq!(
            (newer.status, gone),
            (with(&["Ready"]).status, vec!["PodResizePending"])
        );
    }

    #[test]
    fn what_changed_back_before_it_was_written_is_written_last() {
        let mut statuses = Statuses::default();
        put(&mut statuses, &["a"]);
        let (uid, first, _) = statuses.begin().expect("waits");
        assert!(!put(&mut statuses, &["a"]), "it is under way");
        statuses.is_written(uid, first.status);
        assert!(!put(&mut statuses, &["a"]), "it is written");
        assert!(put(&mut statuses, &["b"]));
        assert!(put(&mut statuses, &["a"]));
        let (_, last, _) = statuses.begin().expect("waits");
        assert_eq!(last.status, with(&["a"]).status);
    }

    #[test]
    fn nothing_stays_of_a_forgotten_pod() {
        let mut statuses = Statuses::default();
        put(&mut statuses, &["a"]);
        let (uid, first, _) = statuses.begin().expect("waits");
        statuses.forget(&uid);
        assert!(put(&mut statuses, &["a"]), "it is another pod's");
        assert!(statuses.begin().is_none(), "the first is still under way");
        statuses.is_written(uid.clone(), first.status);
        assert!(statuses.written.is_empty() && statuses.passing.is_empty());
        assert!(statuses.begin().is_some());
    }
}
