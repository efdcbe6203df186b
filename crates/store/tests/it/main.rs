//! The store's promises, held against every engine.

mod contract;
mod crash;
mod etcd;
mod model;

use std::sync::Arc;

use mainstay_base::clock::{FakeClock, SystemClock};
use mainstay_store::{EmbeddedEngine, Engine, MemoryEngine, Store};

/// A fresh keyspace in memory.
fn memory() -> Arc<dyn Store> {
    MemoryEngine::new(SystemClock::shared())
        .expect("a thread starts")
        .keyspace("test")
        .expect("a valid name")
}

/// A fresh keyspace in memory whose time the test moves.
fn memory_at(clock: Arc<FakeClock>) -> Arc<dyn Store> {
    MemoryEngine::new(clock)
        .expect("a thread starts")
        .keyspace("test")
        .expect("a valid name")
}

/// A keyspace of an engine on a fresh real directory; the directory goes away with the returned guard.
fn embedded() -> (tempfile::TempDir, Arc<dyn Store>) {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = EmbeddedEngine::open(dir.path(), SystemClock::shared()).expect("an empty directory opens");
    let store = engine.keyspace("test").expect("a valid name");
    (dir, store)
}
