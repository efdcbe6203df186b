//! The engine of this process: keyspaces in memory, made durable by one log with group commit.
//!
//! One committer thread serves all keyspaces: it takes the whole queue, writes it as one batch, syncs once, publishes
//! in revision order and wakes the waiters. [`MemoryEngine`] is the same without the log.

mod committer;
mod copy;
#[cfg(test)]
mod faulty;
mod frame;
mod log;
mod media;
mod queue;
mod recover;
mod store;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use mainstay_base::clock::SharedClock;
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::model::{Engine, Store};
use committer::{Committer, Journal, NoJournal};
use queue::{Shared, Work};
use store::LocalStore;
pub(crate) use store::measure;

/// How often a log that seems damaged is copied again.
const COPY_TRIES: usize = 10;

/// Bounds of an engine; the defaults suit production.
#[derive(Debug, Clone)]
pub struct Options {
    /// Superseded values kept per keyspace for watches and reads of the past.
    pub history_bytes: usize,
    /// How long they are kept at most; above the 60 s that a continue token may live.
    pub history_age: Duration,
    /// Transactions that may wait for the committer; further ones wait before they get a revision.
    pub queue_count: usize,
    /// Bytes that may wait for the committer.
    pub queue_bytes: usize,
    /// Keys and values of one transaction. Kubernetes objects are at most 1.5 MiB on etcd, 3 MiB in a request.
    pub transaction_bytes: usize,
    /// How long a batch of volatile writes alone waits for company.
    pub linger: Duration,
    /// Size of a log file.
    pub segment_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            history_bytes: 32 << 20,
            history_age: Duration::from_secs(300),
            queue_count: 8192,
            queue_bytes: 32 << 20,
            transaction_bytes: 8 << 20,
            linger: Duration::from_millis(5),
            segment_bytes: 64 << 20,
        }
    }
}

/// The running engine; the last handle's drop commits what is queued and ends the committer.
pub(crate) struct Handle {
    /// What the committer and every keyspace see.
    pub shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    fn start(shared: Arc<Shared>, journal: Box<dyn Journal>) -> Result<Arc<Handle>> {
        let committer = Committer::new(shared.clone(), journal);
        let thread = std::thread::Builder::new()
            .name("store-commit".into())
            .spawn(move || committer.run())
            .map_err(Error::io("start the committer thread of", "the store"))?;
        Ok(Arc::new(Handle {
            shared,
            thread: Some(thread),
        }))
    }

    fn keyspace(self: &Arc<Self>, uid: &str) -> Result<Arc<dyn Store>> {
        let space = self.shared.open_space(uid)?;
        Ok(Arc::new(LocalStore::new(self.clone(), space)))
    }

    async fn drop_keyspace(&self, uid: &str) -> Result<()> {
        let Some(space) = self.shared.remove_space(uid) else {
            return Ok(());
        };
        let (done, durable) = oneshot::channel();
        self.shared.push(Work::Drop { space, done })?;
        durable.await.map_err(|_| Error::Closed)?
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
        if let Some(thread) = self.thread.take() {
            // A panic of the committer has been reported by the panic hook; there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

/// Keyspaces in memory only: for tests, and for planes that may forget. Behaves like [`EmbeddedEngine`] otherwise.
#[derive(Clone)]
pub struct MemoryEngine(Arc<Handle>);

impl MemoryEngine {
    /// Starts an empty engine.
    pub fn new(clock: SharedClock) -> Result<Self> {
        Self::with_options(clock, Options::default())
    }

    /// Starts an empty engine with its own bounds.
    pub fn with_options(clock: SharedClock, options: Options) -> Result<Self> {
        let options = Options {
            linger: Duration::ZERO,
            ..options
        };
        let shared = Arc::new(Shared::new(clock, options));
        Handle::start(shared, Box::new(NoJournal)).map(MemoryEngine)
    }
}

#[async_trait]
impl Engine for MemoryEngine {
    fn keyspace(&self, uid: &str) -> Result<Arc<dyn Store>> {
        self.0.keyspace(uid)
    }

    async fn keyspaces(&self) -> Result<Vec<String>> {
        Ok(self.0.shared.names())
    }

    async fn drop_keyspace(&self, uid: &str) -> Result<()> {
        self.0.drop_keyspace(uid).await
    }
}

/// Keyspaces in memory, durable in a directory. A second process that opens the same directory gets
/// [`Error::Locked`].
///
/// When a write or sync fails, every waiting and later write fails with [`Error::Stopped`] until the process starts
/// anew; reads go on.
#[derive(Clone)]
pub struct EmbeddedEngine(Arc<Handle>);

impl EmbeddedEngine {
    /// Opens or creates the store in `dir`.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Corrupt`] naming file and offset, [`Error::Io`].
    pub fn open(dir: &Path, clock: SharedClock) -> Result<Self> {
        Self::open_with(dir, clock, Options::default())
    }

    /// Opens or creates the store in `dir` with its own bounds.
    pub fn open_with(dir: &Path, clock: SharedClock, options: Options) -> Result<Self> {
        Self::open_on(Box::new(media::Directory::open(dir)?), clock, options)
    }

    /// Opens a copy in memory of the store in `dir`, which another process may be using: it holds what was acknowledged
    /// before the call. What is written to it is forgotten.
    ///
    /// # Errors
    /// [`Error::Corrupt`] and [`Error::Io`]; nothing is made where there is no store.
    pub fn copy_of(dir: &Path, clock: SharedClock) -> Result<Self> {
        let mut tries = 1..=COPY_TRIES;
        loop {
            let media = Box::new(copy::Copy::of(dir)?);
            match Self::open_on(media, clock.clone(), Options::default()) {
                // Two batches may be written while one page of the tail is read: the first then seems to be missing.
                Err(Error::Corrupt { .. }) if tries.next().is_some() => {}
                outcome => return outcome,
            }
        }
    }

    fn open_on(media: Box<dyn media::Media>, clock: SharedClock, options: Options) -> Result<Self> {
        let shared = Arc::new(Shared::new(clock, options));
        let log = recover::open(media, &shared)?;
        Handle::start(shared, Box::new(log)).map(EmbeddedEngine)
    }
}

#[async_trait]
impl Engine for EmbeddedEngine {
    fn keyspace(&self, uid: &str) -> Result<Arc<dyn Store>> {
        self.0.keyspace(uid)
    }

    async fn keyspaces(&self) -> Result<Vec<String>> {
        Ok(self.0.shared.names())
    }

    async fn drop_keyspace(&self, uid: &str) -> Result<()> {
        self.0.drop_keyspace(uid).await
    }
}
