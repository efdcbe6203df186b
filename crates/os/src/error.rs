//! Errors of composing and deploying images.

use std::path::{Path, PathBuf};

use mainstay_base::error::{Class, Classify};

/// Result of an operation on images.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on an image failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The treefile is wrong.
    #[error("treefile: {field}: {message}")]
    Treefile {
        /// The field, or the line and column when it does not parse.
        field: String,
        /// What is wrong or was expected.
        message: String,
    },
    /// A program or system call failed.
    #[error("failed to {operation}")]
    Host {
        /// What was tried.
        operation: &'static str,
        /// The cause.
        #[source]
        source: mainstay_host::Error,
    },
    /// A file could not be read or written.
    #[error("failed to {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// A downloaded package is not the one that was resolved.
    #[error("package {package} has the digest {found}, expected {expected}")]
    Digest {
        /// File name of the package.
        package: String,
        /// What was resolved.
        expected: String,
        /// What came.
        found: String,
    },
    /// A commit that the repository does not have.
    #[error("the repository has no commit {commit}")]
    NoCommit {
        /// The commit or ref.
        commit: String,
    },
    /// A program answered in a form that is not understood.
    #[error("{program} answered something unexpected: {message}")]
    Answer {
        /// The program.
        program: &'static str,
        /// What is unexpected.
        message: String,
    },
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Error::Treefile { .. } | Error::NoCommit { .. } => Class::Invalid,
            Error::Host { source, .. } => source.class(),
            Error::Io { .. } | Error::Digest { .. } => Class::Transient,
            Error::Answer { .. } => Class::Bug,
        }
    }
}

/// Names what was tried when a program or system call fails.
pub(crate) fn host(operation: &'static str) -> impl FnOnce(mainstay_host::Error) -> Error {
    move |source| Error::Host { operation, source }
}

/// Adds what was tried to an I/O error.
pub(crate) fn io(operation: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.as_ref().to_owned();
    move |source| Error::Io {
        operation,
        path,
        source,
    }
}
