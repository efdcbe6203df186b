//! Kubernetes versions: parsing, skew limits, and chained upgrades across minors.

use std::fmt;

/// A version without pre-release and build parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
    /// Patch.
    pub patch: u32,
}

impl Version {
    /// Reads `v1.36.3`, `1.36.3` or `v1.36.3+anything`.
    pub fn parse(text: &str) -> Option<Self> {
        let core = text.trim_start_matches('v').split(['+', '-']).next()?;
        let mut parts = core.split('.').map(str::parse::<u32>);
        let mut next = || parts.next()?.ok();
        let version = Version {
            major: next()?,
            minor: next()?,
            patch: next()?,
        };
        parts.next().is_none().then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "v{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Kubelets may be this many minors older than the API server (2 before 1.28).
fn oldest_kubelet(control_plane: Version) -> u32 {
    let skew = if control_plane.minor >= 28 { 3 } else { 2 };
    control_plane.minor.saturating_sub(skew)
}

/// Tells whether kubelets of `workers` may join an API server of `control_plane`.
pub fn kubelet_skew_ok(control_plane: Version, workers: Version) -> bool {
    workers.major == control_plane.major
        && workers.minor <= control_plane.minor
        && workers.minor >= oldest_kubelet(control_plane)
}

/// Tells whether kubeadm of `workers` can join machines: the same minor only.
pub fn kubeadm_skew_ok(control_plane: Version, workers: Version) -> bool {
    (workers.major, workers.minor) == (control_plane.major, control_plane.minor)
}

/// The steps of an upgrade across minors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpgradePlan {
    /// Versions that the control plane goes through.
    pub control_plane: Vec<Version>,
    /// Versions that the workers go through; fewer, since they may lag behind.
    pub workers: Vec<Version>,
}

/// An upgrade that cannot be planned as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The class has no version of this minor.
    #[error("no version of minor 1.{minor} is offered")]
    MissingMinor {
        /// The minor.
        minor: u32,
    },
    /// The steps given are not an upgrade from here to there.
    #[error("{what}")]
    Steps {
        /// What is wrong.
        what: String,
    },
}

/// Plans an upgrade with the newest offered patch of each minor on the way. Workers (None: there are none)
/// move only where the next control-plane step would leave them more than three minors behind, and at the end.
pub fn plan_upgrade(
    offered: &[Version],
    control_plane: Version,
    workers: Option<Version>,
    desired: Version,
) -> Result<UpgradePlan, PlanError> {
    let mut steps = Vec::new();
    for minor in control_plane.minor + 1..desired.minor {
        let newest = offered
            .iter()
            .filter(|v| v.major == desired.major && v.minor == minor)
            .max();
        steps.push(*newest.ok_or(PlanError::MissingMinor { minor })?);
    }
    if control_plane != desired {
        steps.push(desired);
    }
    let workers = workers
        .map(|from| worker_steps(control_plane, &steps, from, desired))
        .unwrap_or_default();
    Ok(UpgradePlan {
        control_plane: steps,
        workers,
    })
}

/// The versions that workers must go through while the control plane takes `steps`.
fn worker_steps(
    control_plane: Version,
    steps: &[Version],
    workers: Version,
    desired: Version,
) -> Vec<Version> {
    let (mut current, mut at, mut found) = (workers, control_plane, Vec::new());
    for step in steps {
        if !kubelet_skew_ok(*step, current) && current < at {
            found.push(at);
            current = at;
        }
        at = *step;
    }
    if current != desired {
        found.push(desired);
    }
    found
}

/// Checks steps that somebody gave, and fills in the workers' steps where they were left out.
pub fn check_plan(
    control_plane: Version,
    workers: Option<Version>,
    desired: Version,
    given: &UpgradePlan,
) -> Result<UpgradePlan, PlanError> {
    let fail = |what: String| Err(PlanError::Steps { what });
    let mut at = control_plane;
    for step in &given.control_plane {
        if *step <= at || step.minor > at.minor + 1 {
            return fail(format!("control plane cannot go from {at} to {step}"));
        }
        at = *step;
    }
    if at != desired {
        return fail(format!("control plane ends at {at} instead of {desired}"));
    }
    let Some(from) = workers else {
        return Ok(given.clone());
    };
    if given.workers.is_empty() {
        let workers = worker_steps(control_plane, &given.control_plane, from, desired);
        return Ok(UpgradePlan {
            control_plane: given.control_plane.clone(),
            workers,
        });
    }
    check_workers(control_plane, from, desired, given)?;
    Ok(given.clone())
}

fn check_workers(
    control_plane: Version,
    from: Version,
    desired: Version,
    given: &UpgradePlan,
) -> Result<(), PlanError> {
    let fail = |what: String| Err(PlanError::Steps { what });
    let mut at = from;
    for step in &given.workers {
        if *step <= at {
            return fail(format!("workers cannot go from {at} to {step}"));
        }
        if *step != control_plane && !given.control_plane.contains(step) {
            return fail(format!(
                "workers' step {step} is not a version of the control plane"
            ));
        }
        at = *step;
    }
    if at != desired {
        return fail(format!("workers end at {at} instead of {desired}"));
    }
    let mut workers = from;
    for step in &given.control_plane {
        let before = given
            .control_plane
            .iter()
            .copied()
            .chain([control_plane])
            .filter(|v| v < step)
            .max();
        if let Some(done) = given.workers.iter().copied().filter(|v| Some(*v) <= before).max() {
            workers = workers.max(done);
        }
        if !kubelet_skew_ok(*step, workers) {
            return fail(format!(
                "workers at {workers} are too old for control plane {step}"
            ));
        }
    }
    Ok(())
}
