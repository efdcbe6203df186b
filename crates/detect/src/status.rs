//! What detection finds: events and condition changes of one source.

use jiff::Timestamp;

/// How bad an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Something ended or is merely unknown.
    Info,
    /// A problem.
    Warn,
}

/// A problem that passes, or the change of one that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// How bad.
    pub severity: Severity,
    /// When, by the record itself.
    pub at: Timestamp,
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// A condition's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// The problem is there.
    True,
    /// It is not.
    False,
    /// Nobody could tell.
    Unknown,
}

impl Truth {
    /// The text in the Node object.
    pub fn as_str(self) -> &'static str {
        match self {
            Truth::True => "True",
            Truth::False => "False",
            Truth::Unknown => "Unknown",
        }
    }
}

/// A problem that stays until it is repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// For example `KernelDeadlock`.
    pub kind: String,
    /// Its value.
    pub status: Truth,
    /// Since when.
    pub transition: Timestamp,
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// What one source has to say at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The monitor's name, which becomes the event's source.
    pub source: String,
    /// What happened.
    pub events: Vec<Event>,
    /// All conditions of the source as they are now.
    pub conditions: Vec<Condition>,
}

/// The event that tells a condition's change.
pub fn change_event(condition: &Condition, severity: Severity, at: Timestamp) -> Event {
    let message = format!(
        "Node condition {} is now: {}, reason: {}, message: \"{}\"",
        condition.kind,
        condition.status.as_str(),
        condition.reason,
        condition.message
    );
    Event {
        severity,
        at,
        reason: condition.reason.clone(),
        message,
    }
}
