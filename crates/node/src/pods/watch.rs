//! Notices what happens in the runtime by itself: lists everything, at once when the runtime tells of an end, else now and
//! then, and wakes the workers of pods that look different.
//!
//! What the agent does itself its workers see themselves: only ends are listened to.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::manager::Manager;
use crate::context::Shared;
use crate::cri::{Cri, CriError, runtime_v1 as v1};
use crate::podspec::labels;

/// How often everything is listed when the runtime tells nothing, and how often what the manager decides is looked at again.
const RELIST: Duration = Duration::from_secs(1);
/// How often when it does, should an end be missed.
const RELIST_WITH_EVENTS: Duration = Duration::from_secs(15);
/// From an end that is told to the listing that should show it; containerd tells first and notes then. Doubles until
/// [`RELIST`] is reached: what still runs then has not ended.
const FIRST_LOOK: Duration = Duration::from_millis(25);
/// A runtime that has tell-tales says so at once, or only with the first event.
const REFUSAL: Duration = Duration::from_secs(2);
/// Wait before the runtime's events are asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// Ends that the runtime told of.
#[derive(Debug, Default)]
struct Told {
    ids: Mutex<HashSet<String>>,
    news: Notify,
    /// Whether more would be told.
    listens: AtomicBool,
}

/// Watches the runtime for as long as the agent runs.
pub async fn keep(manager: Arc<Manager>) {
    let told = Told::default();
    let listen = told.listen(&manager.shared().cri);
    tokio::select! {
        () = list_again_and_again(&manager, &told) => {}
        () = listen => {}
        () = settle_again_and_again(&manager) => {}
    }
}

async fn settle_again_and_again(manager: &Manager) {
    loop {
        tokio::time::sleep(RELIST).await;
        manager.settle();
    }
}

impl Told {
    /// Listens for as long as the agent runs.
    async fn listen(&self, cri: &Cri) {
        loop {
            if let Err(error) = self.listen_once(cri).await {
                if error.is_unimplemented() {
                    tracing::info!("the runtime tells no events: it is listed every second");
                    return std::future::pending().await;
                }
                tracing::debug!(error = error.message(), "the runtime's events end");
            }
            self.listens.store(false, Ordering::Relaxed);
            self.news.notify_one();
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn listen_once(&self, cri: &Cri) -> Result<(), CriError> {
        let opening = cri.ends();
        tokio::pin!(opening);
        let mut ends = tokio::select! {
            ends = &mut opening => ends?,
            () = tokio::time::sleep(REFUSAL) => {
                self.begins();
                opening.await?
            }
        };
        self.begins();
        loop {
            let id = ends.next().await?;
            self.ids.lock().insert(id);
            self.news.notify_one();
        }
    }

    /// From now on ends are told; those before are listed.
    fn begins(&self) {
        if !self.listens.swap(true, Ordering::Relaxed) {
            self.news.notify_one();
        }
    }
}

async fn list_again_and_again(manager: &Arc<Manager>, told: &Told) {
    let shared = manager.shared();
    let mut seen = Listing::default();
    let mut expected: HashSet<String> = HashSet::new();
    let mut look = FIRST_LOOK;
    let mut begun = None;
    loop {
        expected.extend(told.ids.lock().drain());
        match timed_listing(shared, &mut begun).await {
            Ok(now) => {
                shared.health.listed();
                seen.differences(&now).for_each(|uid| manager.wake(uid));
                expected.retain(|id| now.live.contains(id));
                manager.remove_orphans(now.pods.keys()).await;
                seen = now;
            }
            Err(error) => tracing::debug!(error = error.message(), "could not list pods"),
        }
        if look >= RELIST {
            expected.clear();
        }
        look = match expected.is_empty() {
            true => FIRST_LOOK,
            false => look * 2,
        };
        let pause = match (expected.is_empty(), told.listens.load(Ordering::Relaxed)) {
            (false, _) => look,
            (true, true) => RELIST_WITH_EVENTS,
            (true, false) => RELIST,
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = manager.list_wanted.notified() => {}
            () = told.news.notified() => {
                look = FIRST_LOOK;
                tokio::time::sleep(FIRST_LOOK).await;
            }
        }
    }
}

/// Lists everything; `begun` is when that was last begun.
async fn timed_listing(shared: &Shared, begun: &mut Option<Duration>) -> Result<Listing, CriError> {
    let tally = &shared.tally;
    let now = tally.now();
    if let Some(last) = begun.replace(now) {
        tally.relist_intervals.observe([], now.saturating_sub(last));
    }
    let listed = Listing::read(&shared.cri).await;
    tally.relists.observe([], tally.since(now));
    listed
}

/// What the runtime has.
#[derive(Debug, Default)]
struct Listing {
    /// A digest of each pod's state.
    pods: HashMap<String, u64>,
    /// Ids of containers that run and of sandboxes that are ready.
    live: HashSet<String>,
}

impl Listing {
    async fn read(cri: &Cri) -> Result<Listing, CriError> {
        let sandboxes = cri.list_sandboxes(v1::ListPodSandboxRequest { filter: None });
        let containers = cri.list_containers(v1::ListContainersRequest { filter: None });
        let (sandboxes, containers) = futures::try_join!(sandboxes, containers)?;
        let sandboxes = sandboxes.items.into_iter().map(|s| {
            let live = s.state == v1::PodSandboxState::SandboxReady as i32;
            (s.labels, s.id, s.state, live)
        });
        let containers = containers.containers.into_iter().map(|c| {
            let live = c.state == v1::ContainerState::ContainerRunning as i32;
            (c.labels, c.id, c.state, live)
        });
        Ok(Listing::of(sandboxes.chain(containers)))
    }

    fn of(all: impl Iterator<Item = (HashMap<String, String>, String, i32, bool)>) -> Listing {
        let mut parts: HashMap<String, Vec<(String, i32)>> = HashMap::new();
        let mut live = HashSet::new();
        for (mut labels, id, state, is_live) in all {
            if is_live {
                live.insert(id.clone());
            }
            if let Some(uid) = labels.remove(labels::POD_UID) {
                parts.entry(uid).or_default().push((id, state));
            }
        }
        let digest = |mut parts: Vec<(String, i32)>| {
            parts.sort_unstable();
            let mut hasher = DefaultHasher::new();
            parts.hash(&mut hasher);
            hasher.finish()
        };
        let pods = parts.into_iter().map(|(uid, parts)| (uid, digest(parts)));
        Listing {
            pods: pods.collect(),
            live,
        }
    }

    /// Pods that look different in a newer listing.
    fn differences<'a>(&'a self, now: &'a Listing) -> impl Iterator<Item = &'a String> {
        let changed = now
            .pods
            .iter()
            .filter(|(uid, digest)| self.pods.get(*uid) != Some(digest));
        let gone = self.pods.keys().filter(|uid| !now.pods.contains_key(*uid));
        changed.map(|(uid, _)| uid).chain(gone)
    }
}

#[cfg(test)]
mod tests;
