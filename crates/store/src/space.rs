//! One keyspace in memory: the published map, the heads of what is queued but not durable, and the history.
//!
//! Conditions are checked against the queued heads; reads see only what is published, that is durable. Revisions are
//! handed out under the same lock under which the transaction is queued, so queue order is revision order.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::codec::Names;
use crate::error::{Error, Result};
use crate::history::{History, Scan};
use crate::index::Index;
use crate::model::{Class, Condition, Entry, Event, Key, Op, Page, Prefix, Revision};

/// The revision of a keyspace before its first transaction.
pub(crate) const FIRST_REVISION: u64 = 1;
/// Revisions taken from the history per lock hold.
const SCAN_REVISIONS: usize = 128;

/// A live entry.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    /// What is stored.
    pub value: Bytes,
    /// The revision that wrote it.
    pub revision: u64,
    /// How soon it is written, and how long its history is.
    pub class: Class,
    /// Unix milliseconds; 0 = never.
    pub expires: i64,
    /// The log segment that holds the newest copy; 0 without a log.
    pub segment: u64,
    /// Bytes of that copy in the log.
    pub log_bytes: u32,
}

/// One change on its way to the log.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// The entry that changes.
    pub key: Key,
    /// `None` = delete.
    pub value: Option<Bytes>,
    /// How soon it is written, and how long its history is.
    pub class: Class,
    /// Unix milliseconds; 0 = never.
    pub expires: i64,
    /// The revision that it replaces; 0 when the entry is new.
    pub prev_revision: u64,
    /// The log segment that this change is written to; 0 until it is.
    pub segment: u64,
    /// Bytes that it takes there.
    pub log_bytes: u32,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    revision: u64,
    live: bool,
}

/// The state behind a keyspace's lock.
#[derive(Debug)]
pub(crate) struct State {
    /// Its number in the log.
    pub id: u32,
    map: Index,
    names: Names,
    queued: HashMap<Key, Head>,
    assigned: u64,
    published: u64,
    history: History,
    expiries: BTreeSet<(i64, Key)>,
    live_log_bytes: u64,
    dropped: bool,
    frozen: bool,
}

/// A keyspace; shared by its stores, its watches and the committer.
#[derive(Debug)]
pub(crate) struct Space {
    /// What it is named by outside.
    pub uid: Arc<str>,
    state: Mutex<State>,
    news: watch::Sender<u64>,
}

/// The outcome of checking a transaction.
pub(crate) enum Check {
    /// All conditions hold.
    Holds,
    /// A condition fails against what is published.
    Conflict(Key, Option<Entry>),
    /// A condition fails against what is queued at this revision: answer when that is durable.
    ConflictAfter(Key, u64),
}

impl Space {
    pub(crate) fn new(
        uid: &str,
        id: u32,
        revision: u64,
        history_bytes: usize,
        history_age: Duration,
    ) -> Self {
        Space {
            uid: uid.into(),
            state: Mutex::new(State {
                id,
                map: Index::default(),
                names: Names::default(),
                queued: HashMap::new(),
                assigned: revision,
                published: revision,
                history: History::new(revision, history_bytes, history_age),
                expiries: BTreeSet::new(),
                live_log_bytes: 0,
                dropped: false,
                frozen: false,
            }),
            news: watch::Sender::new(revision),
        }
    }

    /// Gives a keyspace found by recovery its name; nobody has seen it yet.
    pub(crate) fn named(mut self, uid: &str) -> Self {
        self.uid = uid.into();
        let published = self.lock().published;
        self.news.send_replace(published);
        self
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Wakes the watches; called after a batch has been published.
    pub(crate) fn announce(&self) {
        let published = self.lock().published;
        self.news.send_replace(published);
    }

    /// Waits until `revision` is published.
    pub(crate) async fn reached(&self, revision: u64) -> Result<()> {
        let mut news = self.subscribe();
        news.wait_for(|published| *published >= revision)
            .await
            .map(|_| ())
            .map_err(|_| Error::Closed)
    }
}

impl State {
    pub(crate) fn published(&self) -> u64 {
        self.published
    }

    pub(crate) fn assigned(&self) -> u64 {
        self.assigned
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped
    }

    /// Whether transactions may begin: neither dropped nor being restored.
    pub(crate) fn accepts(&self) -> bool {
        !self.dropped && !self.frozen
    }

    /// Begins a restore; `false` = one is under way.
    pub(crate) fn freeze(&mut self) -> bool {
        !std::mem::replace(&mut self.frozen, true)
    }

    /// Ends a restore.
    pub(crate) fn thaw(&mut self) {
        self.frozen = false;
    }

    /// The published revision and all entries: reference counts, no copied values.
    pub(crate) fn copy(&self) -> (u64, Vec<(Key, Slot)>) {
        let entries = self.map.range(..).map(|(key, slot)| (key.clone(), slot.clone()));
        (self.published, entries.collect())
    }

    pub(crate) fn live_log_bytes(&self) -> u64 {
        self.live_log_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub(crate) fn slot(&self, key: &Key) -> Option<&Slot> {
        self.map.get(key)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Entry> {
        self.map.get(key).map(|slot| entry(key, slot))
    }

    /// The revision of the newest put, queued or published; 0 = no entry.
    fn head_revision(&self, key: &Key) -> u64 {
        match self.queued.get(key) {
            Some(head) if head.live => head.revision,
            Some(_) => 0,
            None => self.map.get(key).map_or(0, |slot| slot.revision),
        }
    }

    /// Makes keys share their texts with those in the map, which are found sooner then.
    pub(crate) fn share(&mut self, conditions: &mut [Condition], ops: &mut [Op]) {
        for condition in conditions {
            let (Condition::Absent(key) | Condition::Revision(key, _)) = condition;
            self.names.share(key);
        }
        for op in ops {
            let (Op::Put { key, .. } | Op::Delete { key }) = op;
            self.names.share(key);
        }
    }

    /// Learns the texts that recovery has shared among the keys.
    pub(crate) fn learn(&mut self) {
        let mut last: Option<&Key> = None;
        for key in self.map.keys() {
            let same =
                |text: fn(&Key) -> &Arc<str>| last.is_some_and(|last| Arc::ptr_eq(text(last), text(key)));
            if !same(|key| &key.resource) {
                self.names.learn(&key.resource);
            }
            if !same(|key| &key.namespace) {
                self.names.learn(&key.namespace);
            }
            last = Some(key);
        }
    }

    pub(crate) fn check(&self, conditions: &[Condition]) -> Check {
        let holds = |condition: &&Condition| match condition {
            Condition::Absent(key) => self.head_revision(key) == 0,
            Condition::Revision(key, revision) => self.head_revision(key) == *revision && *revision != 0,
        };
        let Some(failed) = conditions.iter().find(|condition| !holds(condition)) else {
            return Check::Holds;
        };
        let key = failed.key().clone();
        match self.queued.get(&key) {
            Some(head) => Check::ConflictAfter(key, head.revision),
            None => Check::Conflict(key.clone(), self.get(&key)),
        }
    }

    /// Hands out the next revision and makes the operations the queued heads.
    pub(crate) fn assign(&mut self, ops: Vec<Op>, now: i64) -> (u64, Vec<Change>) {
        self.assigned += 1;
        let revision = self.assigned;
        let changes = ops.into_iter().map(|op| self.queue(op, revision, now)).collect();
        (revision, changes)
    }

    fn queue(&mut self, op: Op, revision: u64, now: i64) -> Change {
        let prev_revision = self.head_revision(op.key());
        let live = matches!(op, Op::Put { .. });
        self.queued.insert(op.key().clone(), Head { revision, live });
        let change = |key, value, class, expires| Change {
            key,
            value,
            class,
            expires,
            prev_revision,
            segment: 0,
            log_bytes: 0,
        };
        match op {
            Op::Delete { key } => change(key, None, Class::Durable, 0),
            Op::Put {
                key,
                value,
                ttl,
                class,
            } => {
                let life = ttl.map(|ttl| i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX));
                change(
                    key,
                    Some(value),
                    class,
                    life.map_or(0, |life| now.saturating_add(life)),
                )
            }
        }
    }

    /// Applies a durable transaction. `at` is monotonic time. Tells whether each change replaced what it says it did.
    pub(crate) fn publish(&mut self, revision: u64, changes: Vec<Change>, at: Duration) -> bool {
        let (mut volatile, mut known) = (!changes.is_empty(), true);
        let mut events = Vec::with_capacity(changes.len());
        for change in changes {
            let own = |head: &Head| head.revision == revision;
            if self.queued.get(&change.key).is_some_and(own) {
                self.queued.remove(&change.key);
            }
            let (key, value) = (change.key.clone(), change.value.clone());
            let (class, replaced) = (change.class, change.prev_revision);
            let before = self.put(revision, change);
            let was_volatile = before.as_ref().is_some_and(|slot| slot.class == Class::Volatile);
            volatile &= was_volatile || value.is_some() && class == Class::Volatile;
            known &= before.as_ref().map_or(0, |slot| slot.revision) == replaced;
            if value.is_none() && before.is_none() {
                continue;
            }
            events.push(Event {
                key,
                value,
                prev_revision: before.as_ref().map_or(0, |slot| slot.revision),
                prev: before.map(|slot| slot.value),
            });
        }
        self.published = revision;
        self.assigned = self.assigned.max(revision);
        let events = events.into();
        self.history.push(Revision { revision, events }, volatile, at);
        known
    }

    /// Applies a transaction found in the log. When an entry it replaced is no longer in the log, the history begins
    /// after it.
    pub(crate) fn replay(&mut self, revision: u64, changes: Vec<Change>, at: Duration) {
        let follows = revision == self.published + 1;
        let complete = self.publish(revision, changes, at) && follows;
        if !complete {
            self.history.compact(revision);
        }
    }

    /// Sets or removes one slot and returns the one before.
    pub(crate) fn put(&mut self, revision: u64, change: Change) -> Option<Slot> {
        let before = match change.value {
            None => self.map.remove(&change.key),
            Some(value) => {
                if change.expires != 0 {
                    self.expiries.insert((change.expires, change.key.clone()));
                }
                self.live_log_bytes += u64::from(change.log_bytes);
                let slot = Slot {
                    value,
                    revision,
                    class: change.class,
                    expires: change.expires,
                    segment: change.segment,
                    log_bytes: change.log_bytes,
                };
                self.map.insert(change.key.clone(), slot)
            }
        };
        if let Some(slot) = &before {
            self.live_log_bytes -= u64::from(slot.log_bytes);
            let still = |now: &Slot| now.expires == slot.expires;
            if slot.expires != 0 && !self.map.get(&change.key).is_some_and(still) {
                self.expiries.remove(&(slot.expires, change.key));
            }
        }
        before
    }

    /// Notes that an entry's newest copy moved to another segment, unless the entry changed meanwhile.
    pub(crate) fn moved(&mut self, key: &Key, revision: u64, segment: u64) {
        if let Some(slot) = self.map.get_mut(key).filter(|slot| slot.revision == revision) {
            slot.segment = segment;
        }
    }

    /// Raises the revision without a transaction: recovery knows it from the log's keyspace records.
    pub(crate) fn raise(&mut self, revision: u64) {
        if revision > self.published {
            self.published = revision;
            self.assigned = revision;
            self.history.compact(revision);
        }
    }

    /// Forgets history up to and including `revision`.
    pub(crate) fn compact(&mut self, revision: u64) -> Result<()> {
        if revision > self.published {
            return Err(self.future(revision));
        }
        self.history.compact(revision);
        Ok(())
    }

    /// Takes over the content of a finished restore; open watches find themselves compacted.
    pub(crate) fn replace(&mut self, other: &mut State) {
        self.id = other.id;
        self.map = std::mem::take(&mut other.map);
        self.expiries = std::mem::take(&mut other.expiries);
        self.live_log_bytes = other.live_log_bytes;
        self.queued.clear();
        self.published = other.published;
        self.assigned = other.published;
        self.history.compact(other.published);
    }

    /// Empties a dropped keyspace.
    pub(crate) fn clear(&mut self) {
        self.dropped = true;
        self.map = Index::default();
        self.expiries = BTreeSet::new();
        self.live_log_bytes = 0;
        self.history.compact(self.published);
    }

    /// Up to `limit` keys whose time is over and that nothing queued touches, as (key, revision).
    pub(crate) fn expired(&self, now: i64, limit: usize) -> Vec<Key> {
        let due = self
            .expiries
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, key)| key);
        due.filter(|key| !self.queued.contains_key(*key))
            .take(limit)
            .cloned()
            .collect()
    }

    pub(crate) fn scan(&self, prefix: &Prefix, after: u64) -> Result<Scan> {
        if self.dropped {
            return Err(Error::Closed);
        }
        Ok(self.history.scan(prefix, after, self.published, SCAN_REVISIONS))
    }

    pub(crate) fn future(&self, asked: u64) -> Error {
        Error::Future {
            asked,
            current: self.published,
        }
    }

    pub(crate) fn range(
        &self,
        prefix: &Prefix,
        at: Option<u64>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page> {
        let limit = if limit == 0 { usize::MAX } else { limit };
        let at = at.unwrap_or(self.published);
        if at > self.published {
            return Err(self.future(at));
        }
        let floor = self.history.floor(prefix);
        let mut page = Page {
            entries: Vec::new(),
            revision: at,
            more: false,
        };
        if at == self.published {
            self.fill(prefix, after, limit, &mut page);
        } else if at < floor {
            return Err(Error::Compacted { asked: at, floor });
        } else {
            self.fill_past(prefix, at, after, limit, &mut page);
        }
        Ok(page)
    }

    fn present<'a>(
        &'a self,
        prefix: &'a Prefix,
        after: Option<&Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Slot)> {
        let first = match prefix {
            Prefix::All => Key::new("", "", ""),
            Prefix::Resource(resource) => Key::new(resource, "", ""),
            Prefix::Namespace(resource, namespace) => Key::new(resource, namespace, ""),
        };
        let start = match after {
            Some(after) if *after >= first => Bound::Excluded(after.clone()),
            _ => Bound::Included(first),
        };
        self.map
            .range((start, Bound::Unbounded))
            .take_while(|(key, _)| prefix.contains(key))
    }

    fn fill(&self, prefix: &Prefix, after: Option<&Key>, limit: usize, page: &mut Page) {
        for (key, slot) in self.present(prefix, after) {
            if page.entries.len() == limit {
                page.more = true;
                return;
            }
            page.entries.push(entry(key, slot));
        }
    }

    /// Merges the present with what is known of the past: keys that changed since `at` are taken from the history.
    fn fill_past(&self, prefix: &Prefix, at: u64, after: Option<&Key>, limit: usize, page: &mut Page) {
        let mut past = self.history.undo(prefix, at);
        if let Some(after) = after {
            past = past.split_off(after);
            past.remove(after);
        }
        let old = past
            .iter()
            .filter_map(|(key, old)| old.as_ref().map(|(value, revision)| (key, value, *revision)));
        let mut old = old.peekable();
        let unchanged = self
            .present(prefix, after)
            .filter(|(key, _)| !past.contains_key(*key));
        let mut unchanged = unchanged
            .map(|(key, slot)| (key, &slot.value, slot.revision))
            .peekable();
        loop {
            let take_old = match (old.peek(), unchanged.peek()) {
                (None, None) => return,
                (Some(old), Some(new)) => old.0 < new.0,
                (old, _) => old.is_some(),
            };
            if page.entries.len() == limit {
                page.more = true;
                return;
            }
            let next = if take_old { old.next() } else { unchanged.next() };
            let (key, value, revision) = next.expect("the peek found one");
            page.entries.push(Entry {
                key: key.clone(),
                value: value.clone(),
                revision,
            });
        }
    }
}

fn entry(key: &Key, slot: &Slot) -> Entry {
    Entry {
        key: key.clone(),
        value: slot.value.clone(),
        revision: slot.revision,
    }
}
