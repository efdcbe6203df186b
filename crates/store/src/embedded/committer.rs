//! The committer: take the queue, make it durable, publish it, wake whoever waits.

use std::sync::Arc;
use std::time::Duration;

use super::queue::{Shared, Work};
use crate::error::Error;
use crate::model::Op;
use crate::space::Space;

/// How often expired entries are looked for; leases live for tens of seconds.
const EXPIRY_TICK: Duration = Duration::from_millis(500);
/// Entries of one keyspace that expire in one transaction: bounds the revision a watcher must take whole.
const EXPIRED_PER_TICK: usize = 512;

/// Makes batches durable.
pub(crate) trait Journal: Send {
    /// Writes and syncs a batch; fills in where each change went. After an error it is never called again.
    fn commit(&mut self, batch: &mut [Work]) -> Result<(), String>;

    /// Called when a batch has been published.
    fn published(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// Called once at the end, unless something failed before.
    fn close(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// The journal of [`super::MemoryEngine`].
pub(crate) struct NoJournal;

impl Journal for NoJournal {
    fn commit(&mut self, _: &mut [Work]) -> Result<(), String> {
        Ok(())
    }
}

/// See the module's text; lives on a thread of its own.
pub(crate) struct Committer {
    shared: Arc<Shared>,
    journal: Box<dyn Journal>,
    looked_for_expired: Duration,
}

impl Committer {
    pub(crate) fn new(shared: Arc<Shared>, journal: Box<dyn Journal>) -> Self {
        Committer {
            shared,
            journal,
            looked_for_expired: Duration::ZERO,
        }
    }

    /// Works until the engine is closed and the queue is empty, or until the journal fails.
    pub(crate) fn run(mut self) {
        while let Some(batch) = self.shared.take(EXPIRY_TICK) {
            if let Err(why) = self.commit(batch) {
                return self.stop(&why.into());
            }
            self.expire();
        }
        if let Err(why) = self.journal.close() {
            tracing::error!(reason = %why, "store failed to close its log; the next start checks it");
        }
    }

    fn commit(&mut self, mut batch: Vec<Work>) -> Result<(), String> {
        if batch.is_empty() {
            return Ok(());
        }
        if let Err(why) = self.journal.commit(&mut batch) {
            let shared: Arc<str> = why.as_str().into();
            batch.into_iter().for_each(|work| refuse(work, &shared));
            return Err(why);
        }
        self.publish(batch);
        self.journal.published()
    }

    fn publish(&self, batch: Vec<Work>) {
        let at = self.shared.clock.monotonic();
        let mut touched: Vec<Arc<Space>> = Vec::new();
        let mut waiters = Vec::with_capacity(batch.len());
        for work in batch {
            match work {
                Work::Txn {
                    space,
                    revision,
                    changes,
                    done,
                    permits,
                } => {
                    space.lock().publish(revision, changes, at);
                    waiters.push((done, revision, permits));
                    note(&mut touched, space);
                }
                Work::Fill {
                    space,
                    revision,
                    changes,
                    done,
                } => {
                    let mut state = space.lock();
                    for change in changes {
                        state.put(revision, change);
                    }
                    // The restore may have been given up meanwhile; then nobody names the keyspace and it is dropped.
                    let _ = done.send(Ok(()));
                }
                Work::Switch { space, filled, done } => {
                    let revision = self.switch(&space, &filled);
                    waiters.push((Some(done), revision, None));
                    note(&mut touched, space);
                }
                Work::Drop { space, done } => {
                    let id = space.lock().id;
                    space.lock().clear();
                    self.shared.forget_id(id);
                    note(&mut touched, space);
                    // Nobody needs to wait for a keyspace's end.
                    let _ = done.send(Ok(()));
                }
            }
        }
        touched.iter().for_each(|space| space.announce());
        for (done, revision, permits) in waiters {
            drop(permits);
            if let Some(done) = done {
                // The caller may have gone away; the write stands all the same.
                let _ = done.send(Ok(revision));
            }
        }
    }

    fn switch(&self, space: &Arc<Space>, filled: &Arc<Space>) -> u64 {
        let mut state = space.lock();
        let mut content = filled.lock();
        let (old, new) = (state.id, content.id);
        state.replace(&mut content);
        self.shared.forget_id(old);
        self.shared.rebind_id(new, space);
        state.published()
    }

    /// Queues deletes of what is over its time, looking at most every [`EXPIRY_TICK`].
    fn expire(&mut self) {
        let monotonic = self.shared.clock.monotonic();
        if monotonic.saturating_sub(self.looked_for_expired) < EXPIRY_TICK {
            return;
        }
        self.looked_for_expired = monotonic;
        let now = self.shared.clock.now().as_millisecond();
        for space in self.shared.named() {
            let mut state = space.lock();
            let due = state.expired(now, EXPIRED_PER_TICK);
            if due.is_empty() || !state.accepts() {
                continue;
            }
            let (revision, changes) = state.assign(due.into_iter().map(Op::delete).collect(), now);
            let work = Work::Txn {
                space: space.clone(),
                revision,
                changes,
                done: None,
                permits: None,
            };
            // Refused only when the engine is closing: the entries expire after the next start.
            let _ = self.shared.push(work);
        }
    }

    fn stop(&self, why: &Arc<str>) {
        tracing::error!(reason = %why, "store stopped accepting writes");
        self.shared
            .stop(why)
            .into_iter()
            .for_each(|work| refuse(work, why));
    }
}

fn note(touched: &mut Vec<Arc<Space>>, space: Arc<Space>) {
    if !touched.iter().any(|seen| Arc::ptr_eq(seen, &space)) {
        touched.push(space);
    }
}

/// Tells a waiter that its work did not happen; a waiter that is gone needs no answer.
fn refuse(work: Work, why: &Arc<str>) {
    let error = Error::Stopped(why.clone());
    match work {
        Work::Txn { done: Some(done), .. } | Work::Switch { done, .. } => drop(done.send(Err(error))),
        Work::Fill { done, .. } | Work::Drop { done, .. } => drop(done.send(Err(error))),
        Work::Txn { done: None, .. } => {}
    }
}
