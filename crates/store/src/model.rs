//! What goes into and comes out of a store: keys, entries, transactions, watch items, and the two traits.

use std::cmp::Ordering;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;

/// The name of one object in a keyspace. Orders by resource, then namespace, then name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Group and plural, for example `core/pods` or `apps/deployments`; exactly one slash.
    pub resource: Arc<str>,
    /// The namespace; empty for what is cluster-scoped.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

impl Key {
    /// Makes a key; checks nothing (transactions do).
    pub fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Key {
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Bytes of text in the key.
    pub(crate) fn text_bytes(&self) -> usize {
        self.resource.len() + self.namespace.len() + self.name.len()
    }
}

impl Ord for Key {
    /// Neighbours share the texts of resource and namespace: those are told equal without being read.
    fn cmp(&self, other: &Self) -> Ordering {
        let shared = |one: &Arc<str>, other: &Arc<str>| match Arc::ptr_eq(one, other) {
            true => Ordering::Equal,
            false => one.cmp(other),
        };
        shared(&self.resource, &other.resource)
            .then_with(|| shared(&self.namespace, &other.namespace))
            .then_with(|| self.name.cmp(&other.name))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl std::fmt::Display for Key {
    /// Writes the key as `<resource>/<namespace|->/<name>`, the tail of its text form on etcd.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let namespace = if self.namespace.is_empty() {
            "-"
        } else {
            &self.namespace
        };
        write!(f, "{}/{namespace}/{}", self.resource, self.name)
    }
}

/// One live key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The bytes that were put.
    pub value: Bytes,
    /// The revision of the transaction that put them.
    pub revision: u64,
}

/// A set of keys: everything, one resource, or one resource in one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prefix {
    /// Every key of the keyspace.
    All,
    /// Every key of a resource (`core/pods`), in all namespaces.
    Resource(Arc<str>),
    /// Every key of a resource in one namespace.
    Namespace(Arc<str>, Arc<str>),
}

impl Prefix {
    /// Tells whether `key` belongs to the set.
    pub fn contains(&self, key: &Key) -> bool {
        match self {
            Prefix::All => true,
            Prefix::Resource(resource) => key.resource == *resource,
            Prefix::Namespace(resource, namespace) => {
                key.resource == *resource && key.namespace == *namespace
            }
        }
    }

    /// Tells whether keys of `resource` can belong to the set.
    pub(crate) fn touches(&self, resource: &str) -> bool {
        match self {
            Prefix::All => true,
            Prefix::Resource(own) | Prefix::Namespace(own, _) => **own == *resource,
        }
    }
}

/// What must hold for a transaction to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The key has no entry.
    Absent(Key),
    /// The key's entry was put at exactly this revision.
    Revision(Key, u64),
}

impl Condition {
    /// The key the condition is about.
    pub fn key(&self) -> &Key {
        match self {
            Condition::Absent(key) | Condition::Revision(key, _) => key,
        }
    }
}

/// How a value is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Class {
    /// Written at once, with history.
    #[default]
    Durable,
    /// Leases and events: acknowledged when durable like everything else, but the write may wait some milliseconds
    /// for company, and its history is short (a watcher that falls behind is compacted earlier).
    Volatile,
}

/// One change of a transaction. A transaction names each key at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Creates or replaces an entry.
    Put {
        /// Where.
        key: Key,
        /// The new bytes.
        value: Bytes,
        /// The entry is deleted (a revision of its own) when it has not been put again for this long.
        ttl: Option<Duration>,
        /// How the value is kept.
        class: Class,
    },
    /// Deletes an entry; a key without an entry is left alone and makes no event.
    Delete {
        /// Where.
        key: Key,
    },
}

impl Op {
    /// A durable put without time limit.
    pub fn put(key: Key, value: impl Into<Bytes>) -> Self {
        Op::Put {
            key,
            value: value.into(),
            ttl: None,
            class: Class::Durable,
        }
    }

    /// A delete.
    pub fn delete(key: Key) -> Self {
        Op::Delete { key }
    }

    /// The key that changes.
    pub fn key(&self) -> &Key {
        match self {
            Op::Put { key, .. } | Op::Delete { key } => key,
        }
    }
}

/// One page of a range read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The entries in the engine's key order.
    pub entries: Vec<Entry>,
    /// The revision at which the page is true; later pages must be read `at` it.
    pub revision: u64,
    /// Whether entries follow after the last one.
    pub more: bool,
}

/// One key's change within a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Key,
    /// The new bytes; `None` = deleted.
    pub value: Option<Bytes>,
    /// The bytes before; `None` = created.
    pub prev: Option<Bytes>,
    /// The revision of `prev`; 0 when there was none.
    pub prev_revision: u64,
}

/// One transaction as a watcher sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Its revision.
    pub revision: u64,
    /// Its changes that belong to the watched prefix, in the transaction's order; never empty in a watch.
    pub events: Arc<[Event]>,
}

/// What a watch delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchItem {
    /// The next transaction that touches the prefix.
    Revision(Revision),
    /// Everything up to and including this revision has been delivered.
    Progress(u64),
    /// History before this revision is gone and the reader was not there yet: read again, then watch anew.
    /// The watch is over.
    Compacted(u64),
}

/// The engine's side of a [`Watch`].
#[async_trait]
pub trait WatchSource: Send {
    /// Waits for the next item. Cancel-safe: a dropped call loses nothing.
    async fn next(&mut self) -> Result<WatchItem>;
}

/// A stream of changes. Dropping it ends the watch.
pub struct Watch(Box<dyn WatchSource>);

impl Watch {
    /// Wraps an engine's source.
    pub fn new(source: impl WatchSource + 'static) -> Self {
        Watch(Box::new(source))
    }

    /// Waits for the next item. Cancel-safe: a dropped call loses nothing.
    ///
    /// # Errors
    /// [`crate::Error::Closed`] when the engine or keyspace went away; on etcd also its transport errors. After an
    /// error or [`WatchItem::Compacted`] the watch is over.
    pub async fn next(&mut self) -> Result<WatchItem> {
        self.0.next().await
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

/// One keyspace: the whole persistent state of one control plane. A fresh one stands at revision 1.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads one entry.
    async fn get(&self, key: &Key) -> Result<Option<Entry>>;

    /// Reads up to `limit` entries of a prefix (0 = no limit) that follow `after` in key order, as of revision `at`
    /// (`None` = now).
    ///
    /// # Errors
    /// [`crate::Error::Compacted`] when `at` is older than the kept history (tens of seconds under normal load),
    /// [`crate::Error::Future`] when it has not happened yet.
    async fn range(
        &self,
        prefix: &Prefix,
        at: Option<u64>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page>;

    /// Applies all operations as one revision if all conditions hold, and returns the revision once it is durable.
    /// Dropping the future does not undo or stop it. Without operations it only checks.
    ///
    /// # Errors
    /// [`crate::Error::Conflict`] with the first failed condition's key and its present entry.
    async fn txn(&self, conditions: Vec<Condition>, ops: Vec<Op>) -> Result<u64>;

    /// Watches what changes after revision `after`. When that is older than the kept history, the first item is
    /// [`WatchItem::Compacted`].
    ///
    /// # Errors
    /// [`crate::Error::Future`] when `after` has not happened yet.
    async fn watch(&self, prefix: Prefix, after: u64) -> Result<Watch>;

    /// The revision of the last durable transaction; linearizable.
    async fn current(&self) -> Result<u64>;

    /// Forgets history up to and including `revision`; live entries stay.
    async fn compact(&self, revision: u64) -> Result<()>;

    /// Writes all live entries to a checksummed file of their own format and returns the revision they had. The file
    /// appears whole or not at all, mode 0600.
    async fn snapshot(&self, path: &Path) -> Result<u64>;

    /// Replaces the whole content by a snapshot's, atomically. Every entry gets the returned revision, which lies far
    /// above both the present one and the snapshot's, so that nobody goes back in time unnoticed; open watches end
    /// with [`WatchItem::Compacted`].
    async fn restore(&self, path: &Path) -> Result<u64>;
}

/// A storage engine: one per process.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Opens a keyspace, making it if it is new. The uid consists of letters, digits, `-`, `_` and `.`.
    fn keyspace(&self, uid: &str) -> Result<Arc<dyn Store>>;

    /// Names the keyspaces that hold data.
    async fn keyspaces(&self) -> Result<Vec<String>>;

    /// Deletes a keyspace with all its data; its open watches end with an error.
    async fn drop_keyspace(&self, uid: &str) -> Result<()>;
}
