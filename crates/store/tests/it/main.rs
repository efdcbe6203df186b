//! The store's promises, held against every engine.

mod contract;
mod model;

use std::sync::Arc;

use mainstay_base::clock::{FakeClock, SystemClock};
use mainstay_store::{Engine, MemoryEngine, Store};

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
