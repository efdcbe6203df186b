//! How commands end: a code, or a failure with a stable id and a remedy.

use serde::Serialize;

pub use crate::exit::Code;
use crate::explain::{self, Entry};

/// One of several things that stand in the way of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The stable id, for `mainstay explain`.
    pub id: &'static str,
    /// For `--ignore`, where the finding can be skipped; else the file.
    pub name: String,
    /// What was seen.
    pub problem: String,
    /// What helps.
    pub fix: String,
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
    /// Everything that was found, when it is more than one thing.
    pub findings: Vec<Finding>,
}

impl Failure {
    /// Makes a failure with an id of the catalogue.
    pub fn new(id: &'static str, message: impl Into<String>) -> Self {
        Failure {
            id,
            message: message.into(),
            fix: String::new(),
            findings: Vec::new(),
        }
    }

    /// Makes a failure of what was found: one finding is the failure itself, several stand below `id`. None when
    /// nothing was found.
    pub fn of(id: &'static str, summary: &str, mut findings: Vec<Finding>) -> Option<Self> {
        if findings.len() > 1 {
            let mut failure = Failure::new(id, format!("{} {summary}; nothing was changed", findings.len()));
            failure.findings = findings;
            return Some(failure);
        }
        let Finding {
            id,
            name,
            problem,
            fix,
        } = findings.pop()?;
        Some(Failure::new(id, format!("{name}: {problem}")).fix(fix))
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
