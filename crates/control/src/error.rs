//! API errors with what was tried on which object, and their class.

use mainstay_base::error::{Class, Classify};

/// A failed call of a controller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or could not be reached.
    #[error("failed to {action}")]
    Api {
        /// What was tried, for example `create pod default/web-x7k2p`.
        action: String,
        /// The answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// The object cannot be handled as it is; a condition or event has said so.
    #[error("{object}: {problem}")]
    Invalid {
        /// The object's kind and name.
        object: String,
        /// What is wrong, naming the field.
        problem: String,
    },
    /// Something outside the API is not there yet.
    #[error("waiting for {what}")]
    Waiting {
        /// What is waited for.
        what: String,
    },
}

impl Error {
    /// Wraps an API error with what was tried; for use in `map_err(Error::api(|| ...))`.
    pub fn api<A: Into<String>>(action: impl FnOnce() -> A) -> impl FnOnce(kube::Error) -> Error {
        move |source| Error::Api {
            action: action().into(),
            source: Box::new(source),
        }
    }

    /// Tells whether the API server answered with this HTTP status code.
    pub fn is_code(&self, code: u16) -> bool {
        matches!(self, Error::Api { source, .. } if status_code(source) == Some(code))
    }
}

/// Reads the HTTP status code of an API answer; none when no answer came.
pub fn status_code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Tells whether the answer was "not found".
pub fn is_not_found(error: &kube::Error) -> bool {
    status_code(error) == Some(404)
}

/// Tells whether the answer was a conflict or "already exists" (both are 409).
pub fn is_conflict(error: &kube::Error) -> bool {
    status_code(error) == Some(409)
}

/// Turns "not found" into `None`: for reads of objects that may be gone and for deletes.
///
/// # Errors
/// Any other error as it was.
pub fn found<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Error::Invalid { .. } => Class::Invalid,
            Error::Waiting { .. } => Class::Transient,
            Error::Api { source, .. } => match status_code(source) {
                Some(409) => Class::Conflict,
                Some(400 | 403 | 405 | 415 | 422) => Class::Invalid,
                _ => Class::Transient,
            },
        }
    }
}
