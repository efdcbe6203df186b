//! The [`Store`] of one keyspace of this process, and its watches.

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{oneshot, watch};

use super::Handle;
use super::queue::Work;
use crate::error::{Error, Result};
use crate::history::Scan;
use crate::model::{Condition, Entry, Key, Op, Page, Prefix, Revision, Store, Watch, WatchItem, WatchSource};
use crate::snapshot;
use crate::space::{Check, Space};

/// Bytes a change costs in the queue besides key and value.
const CHANGE_BYTES: usize = 64;
/// How far a restore jumps: more revisions than any backup interval can see.
const RESTORE_JUMP: u64 = 1 << 32;
/// Bytes of a restore that are committed together.
const RESTORE_CHUNK_BYTES: usize = 4 << 20;

/// See the module's text.
pub(crate) struct LocalStore {
    engine: Arc<Handle>,
    space: Arc<Space>,
}

impl LocalStore {
    pub(crate) fn new(engine: Arc<Handle>, space: Arc<Space>) -> Self {
        LocalStore { engine, space }
    }

    /// Checks the conditions and queues the operations in one step; `Err` in the inner result = wait, then conflict.
    fn begin(
        &self,
        mut conditions: Vec<Condition>,
        mut ops: Vec<Op>,
        permits: [tokio::sync::OwnedSemaphorePermit; 2],
    ) -> Result<Begun> {
        let mut state = self.space.lock();
        if state.is_dropped() {
            return Err(Error::Closed);
        }
        if !state.accepts() {
            return Err(Error::Restoring);
        }
        state.share(&mut conditions, &mut ops);
        match state.check(&conditions) {
            Check::Conflict(key, current) => return Err(Error::Conflict { key, current }),
            Check::ConflictAfter(key, revision) => return Ok(Begun::ConflictAfter(key, revision)),
            Check::Holds => {}
        }
        self.engine.shared.ensure_running()?;
        if ops.is_empty() {
            return Ok(Begun::Nothing(state.assigned()));
        }
        let now = self.engine.shared.clock.now().as_millisecond();
        let (revision, changes) = state.assign(ops, now);
        let (done, durable) = oneshot::channel();
        self.engine.shared.push(Work::Txn {
            space: self.space.clone(),
            revision,
            changes,
            done: Some(done),
            permits: Some(permits),
        })?;
        Ok(Begun::Queued(durable))
    }

    /// Waits until `revision` is durable.
    async fn settled(&self, revision: u64) -> Result<()> {
        tokio::select! {
            reached = self.space.reached(revision) => reached,
            error = self.engine.shared.stopped() => Err(error),
        }
    }

    async fn fill(&self, filled: &Arc<Space>, revision: u64, reader: &mut snapshot::Reader) -> Result<()> {
        loop {
            let changes = reader.chunk(RESTORE_CHUNK_BYTES)?;
            if changes.is_empty() {
                return Ok(());
            }
            let (done, durable) = oneshot::channel();
            self.engine.shared.push(Work::Fill {
                space: filled.clone(),
                revision,
                changes,
                done,
            })?;
            durable.await.map_err(|_| Error::Closed)??;
        }
    }

    async fn replace(&self, mut reader: snapshot::Reader) -> Result<u64> {
        let assigned = self.space.lock().assigned();
        let revision = assigned.max(reader.revision()) + RESTORE_JUMP;
        let filled = self.engine.shared.new_space(&self.space.uid, revision);
        if let Err(error) = self.fill(&filled, revision, &mut reader).await {
            self.engine.shared.forget_id(filled.lock().id);
            return Err(error);
        }
        let (done, durable) = oneshot::channel();
        self.engine.shared.push(Work::Switch {
            space: self.space.clone(),
            filled,
            done,
        })?;
        durable.await.map_err(|_| Error::Closed)?
    }
}

enum Begun {
    Queued(oneshot::Receiver<Result<u64>>),
    ConflictAfter(Key, u64),
    Nothing(u64),
}

/// Adds up a transaction's bytes and refuses what no engine could keep.
pub(crate) fn measure(ops: &[Op]) -> Result<usize> {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    for op in ops {
        let key = op.key();
        check_key(key)?;
        if ops.len() > 1 && !seen.insert(key) {
            return Err(Error::Invalid(format!("the transaction changes {key} twice")));
        }
        let value = if let Op::Put { value, .. } = op {
            value.len()
        } else {
            0
        };
        bytes += value + key.text_bytes() + CHANGE_BYTES;
    }
    Ok(bytes)
}

fn check_key(key: &Key) -> Result<()> {
    let part_fits = |part: &str| part.len() <= 512 && !part.contains(['\0', '/']);
    let (group, plural) = key.resource.split_once('/').unwrap_or_default();
    let named = !group.is_empty() && !plural.is_empty() && !key.name.is_empty();
    let parts = [group, plural, &key.namespace, &key.name];
    if named && &*key.namespace != "-" && parts.into_iter().all(part_fits) {
        return Ok(());
    }
    Err(Error::Invalid(format!("{key:?} is no valid key")))
}

#[async_trait]
impl Store for LocalStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        Ok(self.space.lock().get(key))
    }

    async fn range(
        &self,
        prefix: &Prefix,
        at: Option<u64>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page> {
        self.space.lock().range(prefix, at, after, limit)
    }

    async fn txn(&self, conditions: Vec<Condition>, ops: Vec<Op>) -> Result<u64> {
        let permits = self.engine.shared.admit(measure(&ops)?).await?;
        match self.begin(conditions, ops, permits)? {
            Begun::Queued(durable) => durable.await.map_err(|_| Error::Closed)?,
            Begun::Nothing(revision) => {
                self.settled(revision).await?;
                Ok(revision)
            }
            Begun::ConflictAfter(key, revision) => {
                self.settled(revision).await?;
                let current = self.space.lock().get(&key);
                Err(Error::Conflict { key, current })
            }
        }
    }

    async fn watch(&self, prefix: Prefix, after: u64) -> Result<Watch> {
        let state = self.space.lock();
        if after > state.published() {
            return Err(state.future(after));
        }
        Ok(Watch::new(LocalWatch {
            _engine: self.engine.clone(),
            news: self.space.subscribe(),
            space: self.space.clone(),
            prefix,
            scanned: after,
            told: after,
            ready: VecDeque::new(),
        }))
    }

    async fn current(&self) -> Result<u64> {
        Ok(self.space.lock().published())
    }

    async fn compact(&self, revision: u64) -> Result<()> {
        self.space.lock().compact(revision)
    }

    async fn snapshot(&self, path: &Path) -> Result<u64> {
        let (revision, entries) = self.space.lock().copy();
        let (path, uid) = (path.to_path_buf(), self.space.uid.clone());
        let write = move || snapshot::write(&path, &uid, revision, entries);
        tokio::task::spawn_blocking(write)
            .await
            .map_err(|_| Error::Closed)??;
        Ok(revision)
    }

    async fn restore(&self, path: &Path) -> Result<u64> {
        let path = path.to_path_buf();
        let open = move || snapshot::Reader::open(&path);
        let reader = tokio::task::spawn_blocking(open)
            .await
            .map_err(|_| Error::Closed)??;
        if !self.space.lock().freeze() {
            return Err(Error::Restoring);
        }
        let outcome = self.replace(reader).await;
        self.space.lock().thaw();
        outcome
    }
}

/// A watch: reads the keyspace's history from where it stands.
struct LocalWatch {
    _engine: Arc<Handle>,
    space: Arc<Space>,
    news: watch::Receiver<u64>,
    prefix: Prefix,
    /// Up to here the history was looked at.
    scanned: u64,
    /// Up to here the reader was told.
    told: u64,
    ready: VecDeque<Revision>,
}

#[async_trait]
impl WatchSource for LocalWatch {
    async fn next(&mut self) -> Result<WatchItem> {
        loop {
            if let Some(revision) = self.ready.pop_front() {
                self.told = revision.revision;
                return Ok(WatchItem::Revision(revision));
            }
            if self.told < self.scanned {
                self.told = self.scanned;
                return Ok(WatchItem::Progress(self.told));
            }
            self.news.borrow_and_update();
            let scan = self.space.lock().scan(&self.prefix, self.scanned)?;
            match scan {
                Scan::Compacted(floor) => return Ok(WatchItem::Compacted(floor)),
                Scan::Found(found, upto) => {
                    self.ready = found.into();
                    if upto > self.scanned {
                        self.scanned = upto;
                        continue;
                    }
                }
            }
            self.news.changed().await.map_err(|_| Error::Closed)?;
        }
    }
}
