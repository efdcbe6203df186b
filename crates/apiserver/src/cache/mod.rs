//! The watch caches: every object of one store keyspace in memory, one [`Resource cache`](ResourceCache) per resource,
//! fed by a single watch of the store. Readers wait for a revision, never for a lock held over I/O.

mod events;
mod labels;
mod queue;
mod resource;
mod selection;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mainstay_store::{Entry, Error, Key, Prefix, Store, WatchItem};
use parking_lot::RwLock;
use tokio::sync::watch;

pub use events::{Change, Event, close, open};
pub use queue::Receiver;
pub use resource::{Page, PageRequest, ResourceCache, Scope, Subscription};
pub use selection::{Selection, Shown};

use crate::resources::{SelectableField, fields};
use mainstay_access::hooks::World;
use mainstay_access::object::Object;

/// How many entries one read of the initial load asks for.
const LOAD_PAGE: usize = 2_000;
/// How long to wait before the store is asked again after a failure.
const RETRY: Duration = Duration::from_millis(200);
/// Revisions that are asked of the store's past after a start: so many, or fewer where the store is too slow.
const RECALLED: [u64; 3] = [10_000, 1_000, 100];
/// How long the store may take to tell them, each time.
const RECALL_LIMIT: Duration = Duration::from_secs(2);
/// How often watches are looked for whose clients read nothing: they end after one to two times this.
const STALLED_EVERY: Duration = Duration::from_secs(30);
/// How long a reader waits for the caches to reach a revision that the store has already reported.
const FRESHNESS_LIMIT: Duration = Duration::from_secs(10);

/// All watch caches of one keyspace.
pub struct Caches {
    store: Arc<dyn Store>,
    resources: RwLock<HashMap<Arc<str>, Arc<ResourceCache>>>,
    applied: watch::Sender<u64>,
    applied_now: AtomicU64,
    /// Everything that happened after this revision stands in the windows.
    known_from: AtomicU64,
}

impl Caches {
    /// Loads the keyspace. [`Caches::follow`] must run from then on.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(store: Arc<dyn Store>) -> Result<Arc<Self>, Error> {
        let caches = Arc::new(Caches {
            store,
            resources: RwLock::default(),
            applied: watch::Sender::new(0),
            applied_now: AtomicU64::new(0),
            known_from: AtomicU64::new(0),
        });
        caches.reload().await?;
        for revisions in RECALLED {
            let recalled = tokio::time::timeout(RECALL_LIMIT, caches.recall(revisions)).await;
            if matches!(recalled, Ok(Ok(()))) {
                return Ok(caches);
            }
        }
        tracing::info!("the store told nothing of the past: watches begin anew");
        Ok(caches)
    }

    /// The cache of one resource; made on first use.
    pub fn resource(&self, name: &str) -> Arc<ResourceCache> {
        if let Some(found) = self.resources.read().get(name) {
            return found.clone();
        }
        let mut resources = self.resources.write();
        if let Some(found) = resources.get(name) {
            return found.clone();
        }
        let name: Arc<str> = name.into();
        // A resource that was never seen has no event since then.
        let floor = self.known_from.load(Ordering::Acquire);
        let made = ResourceCache::new(name.clone(), fields::builtin(&name), floor);
        resources.entry(name).or_insert(Arc::new(made)).clone()
    }

    /// Sets a resource's selectable fields and reads all heads again.
    pub fn set_fields(&self, name: &str, fields: Arc<[SelectableField]>) {
        self.resource(name).set_fields(fields);
    }

    /// The newest revision that all caches contain.
    pub fn revision(&self) -> u64 {
        self.applied_now.load(Ordering::Acquire)
    }

    /// Waits until the caches contain everything that was acknowledged before this call.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn fresh(&self) -> Result<(), Error> {
        let current = self.store.current().await?;
        self.reach(current).await.then_some(()).ok_or(Error::Closed)
    }

    /// Waits until the caches contain `revision`; `false` when that takes too long.
    pub async fn reach(&self, revision: u64) -> bool {
        if self.revision() >= revision {
            return true;
        }
        let mut applied = self.applied.subscribe();
        let reached = applied.wait_for(|now| *now >= revision);
        tokio::time::timeout(FRESHNESS_LIMIT, reached)
            .await
            .is_ok_and(|result| result.is_ok())
    }

    /// Ends every watch; those that begin later are not ended.
    pub fn end_watches(&self) {
        let resources = self.resources.read();
        resources.values().for_each(|cache| cache.end_watches());
    }

    /// Ends, again and again, the watches whose clients read nothing: what waits for them keeps memory alive.
    pub async fn end_stalled(self: Arc<Self>) {
        loop {
            tokio::time::sleep(STALLED_EVERY).await;
            let resources: Vec<_> = self.resources.read().values().cloned().collect();
            resources.iter().for_each(|cache| cache.end_stalled());
        }
    }

    /// How many objects each resource has.
    pub fn counts(&self) -> Vec<(String, usize)> {
        let resources = self.resources.read();
        let mut counts: Vec<_> = resources
            .values()
            .map(|cache| (cache.name().to_string(), cache.count()))
            .collect();
        counts.sort();
        counts
    }

    /// The store behind the caches.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Applies the store's changes until the store is closed.
    pub async fn follow(self: Arc<Self>) {
        loop {
            match self.follow_once().await {
                Ok(()) => {}
                Err(Error::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "watch of the store failed, trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Follows one watch to its end; `Ok` after a reload.
    async fn follow_once(&self) -> Result<(), Error> {
        let mut watch = self.store.watch(Prefix::All, self.revision()).await?;
        loop {
            match watch.next().await? {
                WatchItem::Revision(revision) => self.apply(&revision),
                WatchItem::Progress(revision) => self.publish(revision),
                WatchItem::Compacted(floor) => {
                    tracing::warn!(floor, "fell behind the store's history, reading everything again");
                    return self.reload().await;
                }
            }
        }
    }

    fn apply(&self, revision: &mainstay_store::Revision) {
        let events = &revision.events;
        let mut at = 0;
        while at < events.len() {
            let resource = &events[at].key.resource;
            let run = events[at..]
                .iter()
                .take_while(|event| event.key.resource == *resource)
                .count();
            self.resource(resource)
                .apply(revision.revision, &events[at..at + run]);
            at += run;
        }
        self.publish(revision.revision);
    }

    fn publish(&self, revision: u64) {
        if revision > self.revision() {
            self.applied_now.store(revision, Ordering::Release);
            self.applied.send_replace(revision);
        }
    }

    /// Reads the whole keyspace, ends all watches, forgets all history.
    async fn reload(&self) -> Result<(), Error> {
        let mut loaded: HashMap<Arc<str>, Vec<Entry>> = HashMap::new();
        let (mut at, mut after): (Option<u64>, Option<Key>) = (None, None);
        loop {
            let page = self
                .store
                .range(&Prefix::All, at, after.as_ref(), LOAD_PAGE)
                .await?;
            at = Some(page.revision);
            after = page.entries.last().map(|entry| entry.key.clone());
            for entry in page.entries {
                loaded.entry(entry.key.resource.clone()).or_default().push(entry);
            }
            if !page.more {
                break;
            }
        }
        let revision = at.unwrap_or_default();
        let known: Vec<Arc<str>> = self.resources.read().keys().cloned().collect();
        for name in known {
            loaded.entry(name).or_default();
        }
        self.known_from.store(revision, Ordering::Release);
        for (name, entries) in loaded {
            self.resource(&name).replace(entries, revision);
        }
        self.publish(revision);
        Ok(())
    }

    /// Fills the windows with what the store remembers from before the load, so that watches go on over a restart.
    async fn recall(&self, revisions: u64) -> Result<(), Error> {
        let newest = self.store.current().await?.min(self.revision());
        let mut from = newest.saturating_sub(revisions).max(1);
        let (mut at, mut past) = (from, Vec::new());
        let mut watch = self.store.watch(Prefix::All, from).await?;
        while at < newest {
            match watch.next().await? {
                WatchItem::Revision(revision) => {
                    at = revision.revision;
                    past.push(revision);
                }
                WatchItem::Progress(revision) => at = revision,
                WatchItem::Compacted(floor) if floor > from && floor < newest => {
                    (from, at) = (floor, floor);
                    past.clear();
                    watch = self.store.watch(Prefix::All, from).await?;
                }
                WatchItem::Compacted(_) => return Ok(()),
            }
        }
        self.known_from.store(from, Ordering::Release);
        let known: Vec<_> = self.resources.read().values().cloned().collect();
        known.iter().for_each(|cache| cache.knows_from(from));
        for revision in past.iter().filter(|one| one.revision <= self.revision()) {
            for run in revision
                .events
                .chunk_by(|one, other| one.key.resource == other.key.resource)
            {
                self.resource(&run[0].key.resource).recall(revision.revision, run);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl World for Caches {
    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.resource(resource).get(namespace, name)
    }

    fn list(&self, resource: &str, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.resource(resource).all(namespace)
    }

    fn pods_of(&self, node: &str, namespace: &str) -> Vec<Arc<Object>> {
        self.resource("core/pods").with_place(node, namespace)
    }

    fn generation(&self, resource: &str) -> u64 {
        self.resource(resource).generation()
    }

    async fn catch_up(&self) {
        if let Err(error) = self.fresh().await {
            tracing::debug!(%error, "what was stored last is not seen yet");
        }
    }
}
