//! Probes: one task per container and probe, counting results against their thresholds.

pub mod check;
mod counts;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use mainstay_control::events::EventKind;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::context::Shared;
use crate::plan::ContainerView;
use crate::podspec;
use check::{Outcome, Target};
pub use counts::{AllProbed, Of, ProbeResult, Probed};

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Failure restarts the container.
    Liveness,
    /// Failure takes the pod out of Services.
    Readiness,
    /// The others wait for its success.
    Startup,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
            Kind::Startup => "Startup",
        }
    }
}

/// Counts results in a row.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counter {
    good: i32,
    bad: i32,
}

impl Counter {
    /// Counts one result; answers once a threshold is reached.
    pub fn count(&mut self, good: bool, probe: &Probe) -> Option<bool> {
        let threshold = |given: Option<i32>, default: i32| given.filter(|t| *t > 0).unwrap_or(default);
        if good {
            self.good += 1;
            self.bad = 0;
            (self.good >= threshold(probe.success_threshold, 1)).then_some(true)
        } else {
            self.bad += 1;
            self.good = 0;
            (self.bad >= threshold(probe.failure_threshold, 3)).then_some(false)
        }
    }
}

/// The probe tasks of one pod.
#[derive(Debug, Default)]
pub struct Prober {
    tasks: HashMap<String, Vec<JoinHandle<()>>>,
}

fn probes_of(container: &Container) -> Vec<(Kind, Probe)> {
    let all = [
        (Kind::Startup, &container.startup_probe),
        (Kind::Liveness, &container.liveness_probe),
        (Kind::Readiness, &container.readiness_probe),
    ];
    all.into_iter()
        .filter_map(|(kind, probe)| Some((kind, probe.clone()?)))
        .collect()
}

impl Prober {
    /// Starts the probes of a running container that has none yet.
    pub fn watch(
        &mut self,
        shared: &Arc<Shared>,
        pod: &Arc<Pod>,
        container: &Container,
        seen: &ContainerView,
        pod_ip: &str,
        wake: &Arc<Notify>,
    ) {
        if self.tasks.contains_key(&seen.id) {
            return;
        }
        let tasks = probes_of(container)
            .into_iter()
            .map(|(kind, probe)| {
                let of = Of {
                    container: container.name.clone(),
                    namespace: podspec::namespace(pod).to_owned(),
                    pod: podspec::name(pod).to_owned(),
                    pod_uid: podspec::uid(pod).to_owned(),
                    kind: kind.name(),
                };
                let task = Task {
                    probed: shared.probed.add(of),
                    shared: shared.clone(),
                    pod: pod.clone(),
                    container: container.clone(),
                    id: seen.id.clone(),
                    started_at: seen.started_at,
                    pod_ip: pod_ip.to_owned(),
                    wake: wake.clone(),
                    kind,
                    probe,
                };
                tokio::spawn(task.run())
            })
            .collect();
        self.tasks.insert(seen.id.clone(), tasks);
    }

    /// Ends the probes of containers that no longer run.
    pub fn retain(&mut self, shared: &Shared, running: impl Fn(&str) -> bool) {
        self.tasks.retain(|id, tasks| {
            let keep = running(id);
            if !keep {
                tasks.iter().for_each(JoinHandle::abort);
                shared.verdicts.forget(id);
            }
            keep
        });
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        for task in self.tasks.values().flatten() {
            task.abort();
        }
    }
}

struct Task {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    container: Container,
    id: String,
    started_at: i64,
    pod_ip: String,
    wake: Arc<Notify>,
    kind: Kind,
    probe: Probe,
    probed: Arc<Probed>,
}

impl Task {
    async fn run(self) {
        let seconds = |given: Option<i32>, default: i32| {
            Duration::from_secs(given.filter(|s| *s > 0).unwrap_or(default) as u64)
        };
        let period = seconds(self.probe.period_seconds, 10);
        self.first_wait(period).await;
        let mut counter = Counter::default();
        loop {
            if self.is_my_turn() {
                // Boxed: between two probes its memory is free.
                let done = Box::pin(self.look(&mut counter)).await;
                if done {
                    return;
                }
            }
            let fast = self.kind == Kind::Readiness && counter.good == 0 && counter.bad == 0;
            tokio::time::sleep(if fast { Duration::from_millis(200) } else { period }).await;
        }
    }

    /// Waits for the initial delay; probes of containers adopted at a restart are spread over their period.
    async fn first_wait(&self, period: Duration) {
        let running =
            Duration::from_nanos(self.shared.now_nanos().saturating_sub(self.started_at).max(0) as u64);
        let delay = Duration::from_secs(self.probe.initial_delay_seconds.unwrap_or(0).max(0) as u64);
        let adopted = running > delay + period;
        let wait = match adopted {
            true => period.mul_f64(fastrand::f64()),
            false => delay.saturating_sub(running),
        };
        tokio::time::sleep(wait).await;
    }

    /// The startup probe runs until it has succeeded, the others after that.
    fn is_my_turn(&self) -> bool {
        let started = self.shared.verdicts.of(&self.id, &self.container).started;
        started != (self.kind == Kind::Startup)
    }

    /// Probes once; tells whether this task is over.
    async fn look(&self, counter: &mut Counter) -> bool {
        let target = Target {
            cri: &self.shared.cri,
            container_id: &self.id,
            container: &self.container,
            pod_ip: &self.pod_ip,
        };
        let outcome = check::probe(&target, &self.probe).await;
        self.probed.count(match outcome {
            Outcome::Success => ProbeResult::Successful,
            Outcome::Failure(_) => ProbeResult::Failed,
            Outcome::Error(_) => ProbeResult::Unknown,
        });
        let (good, text) = match outcome {
            Outcome::Success => (true, String::new()),
            Outcome::Failure(text) => (false, text),
            Outcome::Error(text) => {
                self.event(
                    "ProbeError",
                    format!("{} probe errored: {text}", self.kind.name()),
                );
                return false;
            }
        };
        if !good {
            self.event("Unhealthy", format!("{} probe failed: {text}", self.kind.name()));
        }
        let Some(verdict) = counter.count(good, &self.probe) else {
            return false;
        };
        let changed = self
            .shared
            .verdicts
            .update(&self.id, &self.container, |v| match self.kind {
                Kind::Readiness => v.ready = verdict,
                Kind::Liveness => v.liveness_failed = !verdict,
                Kind::Startup => {
                    v.started = verdict;
                    v.startup_failed = !verdict;
                    v.ready |= verdict && self.container.readiness_probe.is_none();
                }
            });
        if changed {
            self.wake.notify_one();
        }
        match self.kind {
            Kind::Startup => true,
            Kind::Liveness => !verdict,
            Kind::Readiness => false,
        }
    }

    fn event(&self, reason: &str, message: String) {
        self.shared.events.container(
            &self.pod,
            &self.container.name,
            EventKind::Warning,
            reason,
            message,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_results_in_a_row() {
        let probe = Probe {
            failure_threshold: Some(2),
            success_threshold: Some(2),
            ..Default::default()
        };
        let mut counter = Counter::default();
        let answers: Vec<Option<bool>> = [false, true, false, false, true, true]
            .map(|good| counter.count(good, &probe))
            .into();
        assert_eq!(answers, [None, None, None, Some(false), None, Some(true)]);
    }
}
