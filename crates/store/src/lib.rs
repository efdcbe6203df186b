//! Revisioned key-value store with watch, on an embedded engine or on etcd.
//!
//! The store moves bytes and knows nothing of Kubernetes. One [`Engine`] serves a whole process; each control plane
//! has its own [`Store`], a *keyspace* with its own revisions. What every implementation promises:
//!
//! - a transaction that was acknowledged is durable, and has one revision, higher than all before it in its keyspace;
//! - a watch delivers whole revisions in order and never drops one: a reader that falls behind the kept history gets
//!   [`WatchItem::Compacted`];
//! - reads see every acknowledged write, and nothing that is not durable yet.

mod codec;
mod embedded;
mod error;
mod etcd;
mod history;
mod index;
mod model;
mod snapshot;
mod space;

pub use embedded::{EmbeddedEngine, MemoryEngine, Options};
pub use error::{Error, Result};
pub use etcd::{EtcdEngine, EtcdTls};
pub use model::{
    Class, Condition, Engine, Entry, Event, Key, Op, Page, Prefix, Revision, Store, Watch, WatchItem,
    WatchSource,
};
