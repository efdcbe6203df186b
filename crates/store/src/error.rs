//! What can go wrong in a store.

use std::path::PathBuf;
use std::sync::Arc;

use mainstay_base::error::{Class, Classify};

use crate::model::{Entry, Key};

/// The result of a store operation.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in a store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A condition of the transaction did not hold.
    #[error("{key} changed meanwhile")]
    Conflict {
        /// The key of the first condition that failed.
        key: Key,
        /// What is there now.
        current: Option<Entry>,
    },
    /// The asked revision is older than the kept history.
    #[error("revision {asked} is compacted, history starts at {floor}")]
    Compacted {
        /// The revision asked for.
        asked: u64,
        /// The oldest revision that can be asked for.
        floor: u64,
    },
    /// The asked revision has not happened yet.
    #[error("revision {asked} lies in the future, the newest is {current}")]
    Future {
        /// The revision asked for.
        asked: u64,
        /// The newest revision.
        current: u64,
    },
    /// The request itself is wrong: an empty name, one key twice, a transaction above the size limit.
    #[error("invalid store request: {0}")]
    Invalid(String),
    /// Stored bytes fail their checksum or make no sense.
    #[error("{} is corrupt at byte {offset}: {what}", file.display())]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// Another process has the store open.
    #[error("the store in {} is in use by another process", dir.display())]
    Locked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// A file operation failed while opening, saving or restoring.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// A write to the log failed earlier. Nothing is acknowledged until the process has been restarted, because a
    /// failed write or sync leaves it unknown what the disk holds.
    #[error("the store stopped accepting writes: {0}")]
    Stopped(Arc<str>),
    /// The keyspace is being restored from a snapshot and takes no writes until that is over.
    #[error("the store is being restored")]
    Restoring,
    /// The engine was closed or the keyspace dropped.
    #[error("the store is closed")]
    Closed,
    /// Keys below our prefix on etcd that are not ours.
    #[error("etcd holds foreign data at {key}: {what}")]
    Foreign {
        /// The key in text.
        key: String,
        /// Why it cannot be ours.
        what: String,
    },
    /// etcd answered with an error or not at all.
    #[error("etcd failed to {action}: {message}")]
    Etcd {
        /// What was tried.
        action: &'static str,
        /// etcd's words.
        message: String,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io {
            action,
            path,
            source: Arc::new(source),
        }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Error::Conflict { .. } | Error::Compacted { .. } => Class::Conflict,
            Error::Invalid(_) | Error::Corrupt { .. } | Error::Foreign { .. } => Class::Invalid,
            Error::Future { .. }
            | Error::Locked { .. }
            | Error::Io { .. }
            | Error::Stopped(_)
            | Error::Restoring
            | Error::Closed
            | Error::Etcd { .. } => Class::Transient,
        }
    }
}
