//! The four classes every error falls into, and the one way to print an error with its causes.

use std::error::Error;

/// What a caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Try again later with back-off: the world may have changed.
    Transient,
    /// Read again now and decide anew: the decision was made on old data.
    Conflict,
    /// Report it to the author of the input and wait for a change: trying again is pointless.
    Invalid,
    /// A defect of this program.
    Bug,
}

/// Errors that know their class.
pub trait Classify {
    /// Tells what a caller should do about this error.
    fn class(&self) -> Class;
}

/// Prints an error and its causes on one line, each cause after a colon; a cause whose text its parent
/// already ends with is left out.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to open {path}")]
    struct Open {
        path: &'static str,
        #[source]
        source: std::io::Error,
    }

    #[test]
    fn chain_prints_each_cause_once() {
        let cause = std::io::Error::other("disk is gone");
        let error = Open {
            path: "a.log",
            source: cause,
        };
        assert_eq!(chain(&error), "failed to open a.log: disk is gone");
    }
}
