//! Errors of the operating system, with what was tried on what.

use std::path::{Path, PathBuf};

use mainstay_base::error::{Class, Classify};

/// Result of an operation on the host.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on the host failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a path.
    #[error("failed to {operation} {}", path.display())]
    Io {
        /// What was tried, such as `mount`.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// A program is not installed.
    #[error("program {program} is not installed: install the package {package}")]
    Missing {
        /// The program.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program ended badly.
    #[error("{program} {} ended with {status}: {output}", arguments.join(" "))]
    Program {
        /// The program.
        program: String,
        /// Its arguments.
        arguments: Vec<String>,
        /// Exit status as text.
        status: String,
        /// The end of what it wrote.
        output: String,
    },
    /// A step of starting a process in namespaces of its own.
    #[error("failed to start {}: step {step}", path.display())]
    Launch {
        /// The program in its new root.
        path: PathBuf,
        /// The step, printed.
        step: String,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// A file that this program wrote does not parse.
    #[error("{} line {line} is damaged: {message}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// systemd refused.
    #[error("systemd did not {action} {unit}: {message}")]
    Systemd {
        /// What was asked for.
        action: &'static str,
        /// Of which unit.
        unit: String,
        /// Its answer.
        message: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {seconds} s")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
    },
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Error::Io { .. }
            | Error::Program { .. }
            | Error::Launch { .. }
            | Error::Systemd { .. }
            | Error::Timeout { .. } => Class::Transient,
            Error::Missing { .. } => Class::Invalid,
            Error::Damaged { .. } => Class::Bug,
        }
    }
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
