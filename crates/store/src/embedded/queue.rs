//! What stands between the stores and the committer: the bounded queue and the table of keyspaces.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use mainstay_base::clock::SharedClock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::Options;
use crate::error::{Error, Result};
use crate::model::Class;
use crate::space::{Change, FIRST_REVISION, Space};

/// Tells a waiter the outcome of its work.
pub(crate) type Done<T> = oneshot::Sender<Result<T>>;

/// One unit of the committer's work.
pub(crate) enum Work {
    /// A checked transaction with its revision.
    Txn {
        space: Arc<Space>,
        revision: u64,
        changes: Vec<Change>,
        done: Option<Done<u64>>,
        /// Given back when the work is dropped.
        permits: Option<[OwnedSemaphorePermit; 2]>,
    },
    /// Part of a restore: entries for a keyspace that nobody sees yet.
    Fill {
        space: Arc<Space>,
        revision: u64,
        changes: Vec<Change>,
        done: Done<()>,
    },
    /// The end of a restore: `space` takes over the content of `filled`.
    Switch {
        space: Arc<Space>,
        filled: Arc<Space>,
        done: Done<u64>,
    },
    /// The end of a keyspace.
    Drop { space: Arc<Space>, done: Done<()> },
}

impl Work {
    /// Whether the work may wait for company.
    fn is_patient(&self) -> bool {
        let patient = |change: &Change| change.class == Class::Volatile;
        matches!(self, Work::Txn { changes, .. } if !changes.is_empty() && changes.iter().all(patient))
    }
}

#[derive(Default)]
struct Queue {
    work: Vec<Work>,
    urgent: bool,
    closing: bool,
    /// The committer is to be woken.
    waiting: bool,
    stopped: Option<Arc<str>>,
}

#[derive(Default)]
struct Spaces {
    by_uid: HashMap<Arc<str>, Arc<Space>>,
    by_id: HashMap<u32, Arc<Space>>,
    last_id: u32,
}

/// State shared by stores and committer. Lock order: a keyspace's state, then the queue; the table on its own.
pub(crate) struct Shared {
    /// Tells when entries expire.
    pub clock: SharedClock,
    /// As the store was opened with.
    pub options: Options,
    queue: Mutex<Queue>,
    wake: Condvar,
    spaces: Mutex<Spaces>,
    count: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    over: watch::Sender<Option<Arc<str>>>,
}

impl Shared {
    pub(crate) fn new(clock: SharedClock, options: Options) -> Self {
        Shared {
            clock,
            queue: Mutex::default(),
            wake: Condvar::new(),
            spaces: Mutex::default(),
            count: Arc::new(Semaphore::new(options.queue_count)),
            bytes: Arc::new(Semaphore::new(options.queue_bytes)),
            over: watch::Sender::new(None),
            options,
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no holder of the queue's lock panics")
    }

    fn spaces(&self) -> MutexGuard<'_, Spaces> {
        self.spaces
            .lock()
            .expect("no holder of the keyspace table's lock panics")
    }

    /// Waits for room in the queue.
    pub(crate) async fn admit(&self, bytes: usize) -> Result<[OwnedSemaphorePermit; 2]> {
        let most = self.options.transaction_bytes.min(self.options.queue_bytes);
        let wanted = u32::try_from(bytes)
            .ok()
            .filter(|_| bytes <= most)
            .ok_or_else(|| {
                Error::Invalid(format!("the transaction has {bytes} bytes, {most} are allowed"))
            })?;
        let count = self
            .count
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| Error::Closed)?;
        let bytes = self
            .bytes
            .clone()
            .acquire_many_owned(wanted)
            .await
            .map_err(|_| Error::Closed)?;
        Ok([count, bytes])
    }

    /// Queues work.
    ///
    /// # Errors
    /// When the engine is closing or has stopped: the work will never happen.
    pub(crate) fn push(&self, work: Work) -> Result<()> {
        let mut queue = self.queue();
        if let Some(why) = &queue.stopped {
            return Err(Error::Stopped(why.clone()));
        }
        if queue.closing {
            return Err(Error::Closed);
        }
        queue.urgent |= !work.is_patient();
        queue.work.push(work);
        if queue.waiting && (queue.work.len() == 1 || queue.urgent) {
            queue.waiting = false;
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Fails when nothing can be committed any more.
    pub(crate) fn ensure_running(&self) -> Result<()> {
        match &self.queue().stopped {
            Some(why) => Err(Error::Stopped(why.clone())),
            None => Ok(()),
        }
    }

    /// Waits until nothing can be committed any more.
    pub(crate) async fn stopped(&self) -> Error {
        let mut over = self.over.subscribe();
        match over.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(why)) => Error::Stopped(why.clone()),
            _ => Error::Closed,
        }
    }

    /// Takes everything queued, waiting up to `tick` for work; `None` = closing and nothing left.
    pub(crate) fn take(&self, tick: Duration) -> Option<Vec<Work>> {
        let idle = |queue: &mut Queue| {
            queue.waiting = queue.work.is_empty() && !queue.closing;
            queue.waiting
        };
        let unpoisoned = "no holder of the queue's lock panics";
        let (mut queue, _) = self
            .wake
            .wait_timeout_while(self.queue(), tick, idle)
            .expect(unpoisoned);
        if !queue.work.is_empty() && !queue.urgent && !self.options.linger.is_zero() {
            let patient = |queue: &mut Queue| {
                queue.waiting = !queue.urgent && !queue.closing;
                queue.waiting
            };
            queue = self
                .wake
                .wait_timeout_while(queue, self.options.linger, patient)
                .expect(unpoisoned)
                .0;
        }
        if queue.closing && queue.work.is_empty() {
            return None;
        }
        queue.urgent = false;
        Some(std::mem::take(&mut queue.work))
    }

    /// Stops accepting work for good and returns what was queued.
    pub(crate) fn stop(&self, why: &Arc<str>) -> Vec<Work> {
        let mut queue = self.queue();
        queue.stopped = Some(why.clone());
        self.over.send_replace(Some(why.clone()));
        std::mem::take(&mut queue.work)
    }

    pub(crate) fn close(&self) {
        self.queue().closing = true;
        self.wake.notify_all();
    }

    pub(crate) fn open_space(&self, uid: &str) -> Result<Arc<Space>> {
        let fits = |letter: u8| letter.is_ascii_alphanumeric() || b"-_.".contains(&letter);
        if uid.is_empty() || uid.len() > 128 || !uid.bytes().all(fits) {
            return Err(Error::Invalid(format!("{uid:?} cannot name a keyspace")));
        }
        if let Some(space) = self.spaces().by_uid.get(uid) {
            return Ok(space.clone());
        }
        let space = self.new_space(uid, FIRST_REVISION);
        Ok(self
            .spaces()
            .by_uid
            .entry(space.uid.clone())
            .or_insert(space)
            .clone())
    }

    /// Makes a keyspace that has an id but no name yet.
    pub(crate) fn new_space(&self, uid: &str, revision: u64) -> Arc<Space> {
        let mut spaces = self.spaces();
        spaces.last_id += 1;
        let id = spaces.last_id;
        let space = Arc::new(self.make(uid, id, revision));
        spaces.by_id.insert(id, space.clone());
        space
    }

    fn make(&self, uid: &str, id: u32, revision: u64) -> Space {
        Space::new(
            uid,
            id,
            revision,
            self.options.history_bytes,
            self.options.history_age,
        )
    }

    pub(crate) fn remove_space(&self, uid: &str) -> Option<Arc<Space>> {
        self.spaces().by_uid.remove(uid)
    }

    /// Forgets an id whose content is gone or has moved to another keyspace.
    pub(crate) fn forget_id(&self, id: u32) {
        self.spaces().by_id.remove(&id);
    }

    /// Points an id at the keyspace that took its content over.
    pub(crate) fn rebind_id(&self, id: u32, space: &Arc<Space>) {
        self.spaces().by_id.insert(id, space.clone());
    }

    pub(crate) fn by_id(&self, id: u32) -> Option<Arc<Space>> {
        self.spaces().by_id.get(&id).cloned()
    }

    /// Takes over what recovery found.
    pub(crate) fn adopt(&self, found: Vec<Space>, last_id: u32) {
        let mut spaces = self.spaces();
        spaces.last_id = last_id;
        for space in found {
            let space = Arc::new(space);
            let id = space.lock().id;
            spaces.by_id.insert(id, space.clone());
            spaces.by_uid.insert(space.uid.clone(), space);
        }
    }

    pub(crate) fn named(&self) -> Vec<Arc<Space>> {
        self.spaces().by_uid.values().cloned().collect()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .named()
            .iter()
            .filter(|space| !space.lock().is_empty())
            .map(|space| space.uid.to_string())
            .collect();
        names.sort();
        names
    }
}
