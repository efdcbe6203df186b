//! The four ways a provider call fails.

use mainstay_base::error::{Class, Classify};

/// Result of a provider call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a provider call failed.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The host or its controller did not answer or is busy; try again with back-off.
    #[error("failed to {operation} on host {host}: {message}")]
    Transient {
        /// What was tried.
        operation: &'static str,
        /// On which host.
        host: String,
        /// What went wrong.
        message: String,
    },
    /// The caller decided on old data, such as an incarnation that is no longer current.
    #[error("cannot {operation} on host {host}: {message}")]
    Conflict {
        /// What was tried.
        operation: &'static str,
        /// On which host.
        host: String,
        /// What is the case now.
        message: String,
    },
    /// The request can never succeed as it is.
    #[error("{field}: {message}")]
    Invalid {
        /// Which field of the request.
        field: &'static str,
        /// What was expected.
        message: String,
    },
    /// The hardware is broken and a person must look; retrying is pointless.
    #[error("host {host} is broken: {evidence}")]
    Broken {
        /// Which host.
        host: String,
        /// What was seen, for the ticket.
        evidence: String,
    },
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Error::Transient { .. } => Class::Transient,
            Error::Conflict { .. } => Class::Conflict,
            Error::Invalid { .. } | Error::Broken { .. } => Class::Invalid,
        }
    }
}

impl Error {
    /// What to put into a break-fix ticket; `None` unless the hardware is broken.
    pub fn evidence(&self) -> Option<&str> {
        match self {
            Error::Broken { evidence, .. } => Some(evidence),
            _ => None,
        }
    }
}
