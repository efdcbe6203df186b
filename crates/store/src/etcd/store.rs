//! The [`Store`] of one keyspace on etcd.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Client, Compare, CompareOp, GetOptions, KeyValue, KvClient, PutOptions, Txn, TxnOp, TxnOpResponse,
};
use mainstay_base::clock::SharedClock;
use parking_lot::Mutex;

use super::watch::EtcdWatch;
use super::{failed, keys};
use crate::embedded::measure;
use crate::error::{Error, Result};
use crate::model::{Class, Condition, Entry, Key, Op, Page, Prefix, Store, Watch};
use crate::snapshot;
use crate::space::Slot;

/// etcd refuses larger requests by default (1.5 MiB with its own overhead).
const TRANSACTION_BYTES: usize = 1_500_000;
/// Entries per request when everything is read.
const READ_PAGE: usize = 500;
/// Operations per transaction of a restore; etcd's default limit is 128.
const RESTORE_OPS: usize = 100;
const RESTORE_BYTES: usize = 1 << 20;
/// Entries with one time to live that are written within this time share a lease.
const LEASE_SHARED_FOR: Duration = Duration::from_secs(10);

/// See the module's text.
pub(crate) struct EtcdStore {
    client: Client,
    uid: String,
    clock: SharedClock,
    /// The runtime that outlives any caller: transactions run on it, so that a dropped caller stops none.
    runtime: tokio::runtime::Handle,
    leases: Mutex<HashMap<u64, (i64, Duration)>>,
}

fn revision_of(header: Option<&etcd_client::ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.revision().cast_unsigned())
}

/// Maps etcd's two errors about revisions.
fn at_revision(asked: u64, action: &'static str) -> impl FnOnce(etcd_client::Error) -> Error {
    move |error| {
        let text = error.to_string();
        if text.contains("required revision has been compacted") {
            return Error::Compacted {
                asked,
                floor: asked + 1,
            };
        }
        if text.contains("required revision is a future revision") {
            return Error::Future {
                asked,
                current: asked.saturating_sub(1),
            };
        }
        failed(action)(error)
    }
}

impl EtcdStore {
    pub(crate) fn new(
        client: Client,
        uid: &str,
        clock: SharedClock,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        EtcdStore {
            client,
            uid: uid.to_string(),
            clock,
            runtime,
            leases: Mutex::default(),
        }
    }

    fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(usize::MAX)
    }

    fn entry(&self, found: &KeyValue) -> Result<Option<Entry>> {
        let Some(key) = keys::parse(&self.uid, found.key())? else {
            return Ok(None);
        };
        let value = keys::unwrap(found.key(), found.value())?;
        Ok(Some(Entry {
            key,
            value,
            revision: found.mod_revision().cast_unsigned(),
        }))
    }

    /// A lease that ends between `ttl` and `ttl` plus [`LEASE_SHARED_FOR`] from now.
    async fn lease(&self, ttl: Duration) -> Result<i64> {
        let (seconds, now) = (ttl.as_secs().max(1), self.clock.monotonic());
        let known = self.leases.lock().get(&seconds).copied();
        if let Some((lease, granted)) = known
            && now.saturating_sub(granted) < LEASE_SHARED_FOR
        {
            return Ok(lease);
        }
        let life = i64::try_from(seconds + LEASE_SHARED_FOR.as_secs()).unwrap_or(i64::MAX);
        let granted = self
            .client
            .lease_client()
            .grant(life, None)
            .await
            .map_err(failed("grant a lease"))?;
        self.leases.lock().insert(seconds, (granted.id(), now));
        Ok(granted.id())
    }

    fn compare(&self, condition: &Condition) -> Compare {
        let key = keys::text(&self.uid, condition.key());
        match condition {
            Condition::Absent(_) => Compare::create_revision(key, CompareOp::Equal, 0),
            Condition::Revision(_, revision) => {
                Compare::mod_revision(key, CompareOp::Equal, revision.cast_signed())
            }
        }
    }

    async fn operation(&self, op: &Op) -> Result<TxnOp> {
        let key = keys::text(&self.uid, op.key());
        Ok(match op {
            Op::Delete { .. } => TxnOp::delete(key, None),
            Op::Put { value, ttl: None, .. } => TxnOp::put(key, keys::wrap(value), None),
            Op::Put {
                value,
                ttl: Some(ttl),
                ..
            } => {
                let options = PutOptions::new().with_lease(self.lease(*ttl).await?);
                TxnOp::put(key, keys::wrap(value), Some(options))
            }
        })
    }

    /// The first condition that failed, with what is there.
    fn conflict(&self, conditions: &[Condition], found: Vec<TxnOpResponse>) -> Result<Error> {
        for (condition, response) in conditions.iter().zip(found) {
            let TxnOpResponse::Get(found) = response else {
                continue;
            };
            let current = found
                .kvs()
                .first()
                .map(|found| self.entry(found))
                .transpose()?
                .flatten();
            let revision = current.as_ref().map_or(0, |entry| entry.revision);
            let holds = match condition {
                Condition::Absent(_) => revision == 0,
                Condition::Revision(_, wanted) => revision == *wanted && revision != 0,
            };
            if !holds {
                return Ok(Error::Conflict {
                    key: condition.key().clone(),
                    current,
                });
            }
        }
        Ok(Error::Etcd {
            action: "compare revisions",
            message: "it reports a failed comparison, but all conditions hold".to_string(),
        })
    }

    async fn commit(&self, txn: Txn) -> Result<etcd_client::TxnResponse> {
        let mut client = self.kv();
        let task = self.runtime.spawn(async move { client.txn(txn).await });
        task.await
            .map_err(|_| Error::Closed)?
            .map_err(failed("commit a transaction"))
    }

    async fn put_all(&self, changes: Vec<crate::space::Change>) -> Result<u64> {
        let now = self.clock.now().as_millisecond();
        let ops: Vec<Op> = changes
            .into_iter()
            .filter_map(|change| {
                let left = Duration::from_millis(u64::try_from(change.expires - now).unwrap_or(0));
                let ttl = (change.expires != 0).then_some(left);
                Some(Op::Put {
                    key: change.key,
                    value: change.value?,
                    ttl,
                    class: change.class,
                })
            })
            .collect();
        let mut revision = 0;
        for part in ops.chunks(RESTORE_OPS) {
            revision = self.txn(Vec::new(), part.to_vec()).await?;
        }
        Ok(revision)
    }

    async fn expiry(&self, lease: i64) -> Result<i64> {
        let left = self
            .client
            .lease_client()
            .time_to_live(lease, None)
            .await
            .map_err(failed("look up a lease"))?;
        Ok(self.clock.now().as_millisecond() + left.ttl().max(0) * 1000)
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let found = self
            .kv()
            .get(keys::text(&self.uid, key), None)
            .await
            .map_err(failed("read an entry"))?;
        found
            .kvs()
            .first()
            .map(|found| self.entry(found))
            .transpose()
            .map(Option::flatten)
    }

    async fn range(
        &self,
        prefix: &Prefix,
        at: Option<u64>,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Page> {
        let first = keys::prefix_text(&self.uid, prefix);
        // The marker sorts first in the keyspace: one more than asked is read where it may be among the answers.
        let start = after.map_or(first.clone(), |after| keys::text(&self.uid, after) + "\0");
        let spare = usize::from(*prefix == Prefix::All && after.is_none());
        let mut options = GetOptions::new().with_range(keys::after_prefix(&first));
        if limit > 0 {
            options = options.with_limit(i64::try_from(limit + spare).unwrap_or(i64::MAX));
        }
        if let Some(at) = at {
            options = options.with_revision(at.cast_signed());
        }
        let found = self
            .kv()
            .get(start, Some(options))
            .await
            .map_err(at_revision(at.unwrap_or(0), "read a range"))?;
        let mut page = Page {
            entries: Vec::new(),
            revision: at.unwrap_or(revision_of(found.header())),
            more: found.more(),
        };
        for found in found.kvs() {
            page.entries.extend(self.entry(found)?);
        }
        if limit > 0 && page.entries.len() > limit {
            page.entries.truncate(limit);
            page.more = true;
        }
        Ok(page)
    }

    async fn txn(&self, conditions: Vec<Condition>, ops: Vec<Op>) -> Result<u64> {
        let bytes = measure(&ops)?;
        if bytes > TRANSACTION_BYTES {
            let text = format!("the transaction has {bytes} bytes, etcd takes {TRANSACTION_BYTES}");
            return Err(Error::Invalid(text));
        }
        let mut operations = Vec::with_capacity(ops.len() + 1);
        for op in &ops {
            operations.push(self.operation(op).await?);
        }
        if !operations.is_empty() {
            operations.push(TxnOp::put(keys::marker(&self.uid), keys::wrap(b""), None));
        }
        let compares: Vec<_> = conditions
            .iter()
            .map(|condition| self.compare(condition))
            .collect();
        let read = |condition: &Condition| TxnOp::get(keys::text(&self.uid, condition.key()), None);
        let reads: Vec<_> = conditions.iter().map(read).collect();
        let done = self
            .commit(Txn::new().when(compares).and_then(operations).or_else(reads))
            .await?;
        if done.succeeded() {
            return Ok(revision_of(done.header()));
        }
        Err(self.conflict(&conditions, done.op_responses())?)
    }

    async fn watch(&self, prefix: Prefix, after: u64) -> Result<Watch> {
        let marker = self
            .kv()
            .get(keys::marker(&self.uid), None)
            .await
            .map_err(failed("read the revision"))?;
        let current = revision_of(marker.header());
        if after > current {
            return Err(Error::Future {
                asked: after,
                current,
            });
        }
        Ok(Watch::new(
            EtcdWatch::start(&self.client, &self.uid, prefix, after).await?,
        ))
    }

    async fn current(&self) -> Result<u64> {
        let found = self
            .kv()
            .get(keys::marker(&self.uid), None)
            .await
            .map_err(failed("read the revision"))?;
        let newest = found
            .kvs()
            .first()
            .map(|marker| marker.mod_revision().cast_unsigned());
        Ok(newest.unwrap_or(revision_of(found.header())))
    }

    async fn compact(&self, revision: u64) -> Result<()> {
        match self.kv().compact(revision.cast_signed(), None).await {
            Err(error) if error.to_string().contains("required revision has been compacted") => Ok(()),
            other => other.map(drop).map_err(at_revision(revision, "compact")),
        }
    }

    async fn snapshot(&self, path: &Path) -> Result<u64> {
        let prefix = keys::plane(&self.uid);
        let end = keys::after_prefix(&prefix);
        let (mut start, mut revision) = (prefix.into_bytes(), 0);
        let (mut entries, mut expiries) = (Vec::new(), HashMap::new());
        loop {
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(READ_PAGE as i64)
                .with_revision(revision);
            let page = self
                .kv()
                .get(start, Some(options))
                .await
                .map_err(at_revision(revision.cast_unsigned(), "read all"))?;
            if revision == 0 {
                revision = revision_of(page.header()).cast_signed();
            }
            for found in page.kvs() {
                let Some(entry) = self.entry(found)? else { continue };
                let expires = match found.lease() {
                    0 => 0,
                    lease => match expiries.get(&lease) {
                        Some(expires) => *expires,
                        None => *expiries.entry(lease).or_insert(self.expiry(lease).await?),
                    },
                };
                let class = if expires == 0 {
                    Class::Durable
                } else {
                    Class::Volatile
                };
                let slot = Slot {
                    value: entry.value,
                    revision: entry.revision,
                    class,
                    expires,
                    segment: 0,
                    log_bytes: 0,
                };
                entries.push((entry.key, slot));
            }
            let Some(last) = page.kvs().last().filter(|_| page.more()) else {
                break;
            };
            start = [last.key(), b"\0"].concat();
        }
        let (path, uid) = (path.to_path_buf(), self.uid.clone());
        let write = move || snapshot::write(&path, &uid, revision.cast_unsigned(), entries);
        tokio::task::spawn_blocking(write)
            .await
            .map_err(|_| Error::Closed)??;
        Ok(revision.cast_unsigned())
    }

    /// On etcd a restore is many transactions, not one: watches see them as changes instead of ending, and the
    /// revision grows as etcd's does. Do it while nobody else writes.
    async fn restore(&self, path: &Path) -> Result<u64> {
        let path = path.to_path_buf();
        let open = move || snapshot::Reader::open(&path);
        let mut reader = tokio::task::spawn_blocking(open)
            .await
            .map_err(|_| Error::Closed)??;
        loop {
            let page = self.range(&Prefix::All, None, None, RESTORE_OPS).await?;
            if page.entries.is_empty() {
                break;
            }
            let deletes = page
                .entries
                .into_iter()
                .map(|entry| Op::delete(entry.key))
                .collect();
            self.txn(Vec::new(), deletes).await?;
        }
        let mut revision = self.current().await?;
        loop {
            let changes = reader.chunk(RESTORE_BYTES / 2)?;
            if changes.is_empty() {
                return Ok(revision);
            }
            revision = self.put_all(changes).await?;
        }
    }
}
