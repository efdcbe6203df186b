//! Exit codes and failures: one table for every command, every failure with a stable id and a remedy.

use std::process::ExitCode;

use crate::explain::{self, Entry};

/// How a command ended, as the exit code says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Yes, healthy, no change, done.
    Ok = 0,
    /// The answer is "no": unhealthy, differences, not met.
    No = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// The machine or the manifests are not ready; nothing was changed.
    Preflight = 3,
    /// The time limit passed; work goes on in the background.
    TimedOut = 4,
    /// Not allowed or not found.
    Refused = 5,
    /// The other side could not be reached.
    Unreachable = 6,
    /// A defect of this program.
    Bug = 70,
    /// Ctrl-C.
    Interrupted = 130,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> ExitCode {
        ExitCode::from(code as u8)
    }
}

/// Why a command failed: what was seen, and what a person can do.
#[derive(Debug)]
pub struct Failure {
    /// The stable id, for `mainstay explain`.
    pub id: &'static str,
    /// One sentence that names the field, file or host.
    pub message: String,
    /// The remedy; empty where the id's general one holds.
    pub fix: String,
}

impl Failure {
    /// Makes a failure with an id of the catalogue.
    pub fn new(id: &'static str, message: impl Into<String>) -> Self {
        Failure {
            id,
            message: message.into(),
            fix: String::new(),
        }
    }

    /// Adds a remedy that is more precise than the catalogue's.
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }

    /// The catalogue's entry.
    pub fn entry(&self) -> &'static Entry {
        explain::find(self.id).unwrap_or(&explain::CATALOGUE[0])
    }

    /// The exit code that belongs to the id.
    pub fn code(&self) -> Code {
        self.entry().code
    }

    /// The remedy to show.
    pub fn remedy(&self) -> &str {
        if self.fix.is_empty() {
            self.entry().fix
        } else {
            &self.fix
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::new("MS-INT-0001", format!("{error:#}"))
    }
}

/// The result of a command.
pub type Outcome = Result<Code, Failure>;
