//! Exit codes: one table for every command.

use std::process::ExitCode;

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

impl Code {
    /// Every code, in order.
    pub const ALL: [Code; 9] = [
        Code::Ok,
        Code::No,
        Code::Usage,
        Code::Preflight,
        Code::TimedOut,
        Code::Refused,
        Code::Unreachable,
        Code::Bug,
        Code::Interrupted,
    ];

    /// What the code tells a script.
    pub fn meaning(self) -> &'static str {
        match self {
            Code::Ok => "yes, healthy, no change, done",
            Code::No => "the answer is no: unhealthy, differences, not met",
            Code::Usage => "wrong usage, configuration or manifests; nothing was changed",
            Code::Preflight => "this computer lacks something; nothing was changed",
            Code::TimedOut => "the time limit passed; work goes on in the background",
            Code::Refused => "not allowed, or not found",
            Code::Unreachable => "the other side could not be reached",
            Code::Bug => "a defect of this program",
            Code::Interrupted => "interrupted (Ctrl-C); work goes on in the background",
        }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> ExitCode {
        ExitCode::from(code as u8)
    }
}
