//! Pod Security Standards: which checks a pod fails at a level and policy version.
//!
//! Levels, checks and the versions they changed in are those of the Kubernetes documentation, "Pod Security
//! Standards", and of `k8s.io/pod-security-admission` 0.36. Nothing here decides about exemptions or namespaces:
//! see [`Policy`] for what a namespace's labels ask for.

mod baseline;
mod pod;
mod restricted;

use std::fmt;

use serde_json::Value;

use pod::Pod;
pub use pod::pod_of;

/// How strict a policy is; each level includes the checks of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// No check.
    Privileged,
    /// No known privilege escalation.
    Baseline,
    /// Hardening by the current best practice.
    Restricted,
}

/// Why a label's value is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not one of the three levels.
    #[error("must be one of privileged, baseline, restricted")]
    Level,
    /// Neither `latest` nor `v1.<minor>`.
    #[error("must be \"latest\" or \"v1.x\"")]
    Version,
}

impl Level {
    /// Reads a label's value.
    ///
    /// # Errors
    /// When the text is none of the three levels.
    pub fn parse(text: &str) -> Result<Level, Malformed> {
        match text {
            "privileged" => Ok(Level::Privileged),
            "baseline" => Ok(Level::Baseline),
            "restricted" => Ok(Level::Restricted),
            _ => Err(Malformed::Level),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })
    }
}

/// The policy version: the minor release of Kubernetes whose rules hold, or the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u32);

impl Version {
    /// The newest rules known here.
    pub const LATEST: Version = Version(u32::MAX);

    /// Reads `latest` or `v1.<minor>`.
    ///
    /// # Errors
    /// When the text is neither.
    pub fn parse(text: &str) -> Result<Version, Malformed> {
        if text == "latest" {
            return Ok(Version::LATEST);
        }
        let minor = text.strip_prefix("v1.").ok_or(Malformed::Version)?;
        let canonical = minor == "0" || !minor.starts_with('0');
        let minor: u32 = minor.parse().map_err(|_| Malformed::Version)?;
        if canonical {
            Ok(Version(minor))
        } else {
            Err(Malformed::Version)
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Version::LATEST => out.write_str("latest"),
            Version(minor) => write!(out, "v1.{minor}"),
        }
    }
}

/// A level at a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standard {
    /// The level.
    pub level: Level,
    /// The version.
    pub version: Version,
}

impl fmt::Display for Standard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.level, self.version)
    }
}

/// What a namespace asks for in its three modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Pods that violate it are refused.
    pub enforce: Standard,
    /// Violations are noted in the audit log.
    pub audit: Standard,
    /// Violations are told to the client.
    pub warn: Standard,
}

impl Policy {
    /// Reads the labels `pod-security.kubernetes.io/{enforce,audit,warn}[-version]` of a namespace; `defaults`
    /// hold where a label is missing. Also returns the malformed labels: a malformed level means
    /// restricted for enforcing and no change otherwise, a malformed version means latest, as upstream has it.
    pub fn of_labels(labels: &Value, defaults: Standard) -> (Policy, Vec<(String, Malformed)>) {
        let mut wrong = Vec::new();
        let enforce = standard(labels, "enforce", defaults, Level::Restricted, &mut wrong);
        let follow = |level: Level| Standard {
            level,
            version: Version::LATEST,
        };
        let audit = standard(
            labels,
            "audit",
            follow(Level::Privileged),
            Level::Privileged,
            &mut wrong,
        );
        let mut warn = standard(
            labels,
            "warn",
            follow(Level::Privileged),
            Level::Privileged,
            &mut wrong,
        );
        if labels.get("pod-security.kubernetes.io/warn").is_none() && enforce.level > warn.level {
            warn = enforce;
        }
        (Policy { enforce, audit, warn }, wrong)
    }
}

fn standard(
    labels: &Value,
    mode: &str,
    default: Standard,
    on_bad_level: Level,
    wrong: &mut Vec<(String, Malformed)>,
) -> Standard {
    let mut found = default;
    let label = format!("pod-security.kubernetes.io/{mode}");
    if let Some(text) = labels.get(&label).and_then(Value::as_str) {
        found.level = Level::parse(text).unwrap_or_else(|error| {
            wrong.push((label.clone(), error));
            on_bad_level
        });
    }
    let label = format!("{label}-version");
    if let Some(text) = labels.get(&label).and_then(Value::as_str) {
        found.version = Version::parse(text).unwrap_or_else(|error| {
            wrong.push((label.clone(), error));
            Version::LATEST
        });
    }
    found
}

/// One failed check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The check's name.
    pub check: &'static str,
    /// What is forbidden, in a few words.
    pub reason: String,
    /// Where and how.
    pub detail: String,
}

/// What a check says: a reason and a detail when the pod fails it.
type Verdict = Option<(String, String)>;

/// One revision of a check.
struct Check {
    id: &'static str,
    level: Level,
    /// The first minor release it holds from, up to the next revision of the same id.
    since: u32,
    /// The check of a lower level that this one implies.
    implies: &'static str,
    run: fn(&Pod<'_>) -> Verdict,
}

/// Lists the checks in force: the newest revision of each check that is not newer than the version.
fn checks(standard: Standard) -> Vec<&'static Check> {
    let Version(minor) = standard.version;
    let mut found: Vec<&Check> = Vec::new();
    let known = baseline::CHECKS.iter().chain(restricted::CHECKS);
    for check in known.filter(|check| check.level <= standard.level && check.since <= minor) {
        match found.iter_mut().find(|other| other.id == check.id) {
            Some(other) if other.since < check.since => *other = check,
            Some(_) => {}
            None => found.push(check),
        }
    }
    found
}

fn run<'c>(checks: impl Iterator<Item = &'c Check>, pod: &Pod<'_>) -> Vec<Violation> {
    let fails = |check: &'c Check| {
        let (reason, detail) = (check.run)(pod)?;
        Some(Violation {
            check: check.id,
            reason,
            detail,
        })
    };
    checks.filter_map(fails).collect()
}

/// Tells what a pod violates; empty means allowed. A check that a stricter one implies is left out.
pub fn violations(standard: Standard, metadata: &Value, spec: &Value) -> Vec<Violation> {
    if standard.level == Level::Privileged {
        return Vec::new();
    }
    let in_force = checks(standard);
    let implied = |id: &str| in_force.iter().any(|check| check.implies == id);
    run(
        in_force.iter().copied().filter(|check| !implied(check.id)),
        &Pod::new(metadata, spec),
    )
}

/// Tells the names of all checks that fail when each runs alone, sorted.
pub fn failed_checks(standard: Standard, metadata: &Value, spec: &Value) -> Vec<&'static str> {
    let found = run(checks(standard).into_iter(), &Pod::new(metadata, spec));
    let mut ids: Vec<&'static str> = found.iter().map(|violation| violation.check).collect();
    ids.sort_unstable();
    ids
}

/// Joins violations as the refusal shows them: `reason (detail), reason (detail)`.
pub fn describe(violations: &[Violation]) -> String {
    let texts = violations.iter().map(|v| match v.detail.is_empty() {
        true => v.reason.clone(),
        false => format!("{} ({})", v.reason, v.detail),
    });
    texts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
