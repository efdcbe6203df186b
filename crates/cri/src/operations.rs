//! How many calls the runtime got, how long they took and how many failed, under the kubelet's names.

use std::time::Duration;

use mainstay_base::clock::SharedClock;
use mainstay_base::metrics::{Counters, Family, Histograms, Label};
use tonic::{Response, Status};

use crate::BoxFuture;

/// The kubelet's bounds for calls: from 5 ms on, each two and a half times the one before.
const BOUNDS: &[f64] = &[
    0.005,
    0.0125,
    0.03125,
    0.078125,
    0.1953125,
    0.48828125,
    1.220703125,
    3.0517578125,
    7.62939453125,
    19.073486328125,
    47.6837158203125,
    119.20928955078125,
    298.0232238769531,
    745.0580596923828,
];

/// Calls of the runtime by what they do.
#[derive(Debug)]
pub struct Operations {
    clock: SharedClock,
    all: Counters<1>,
    failed: Counters<1>,
    took: Histograms<1>,
}

impl Operations {
    pub(crate) fn new(clock: SharedClock) -> Self {
        let labels = ["operation_type"];
        Operations {
            clock,
            all: Counters::new(
                "kubelet_runtime_operations_total",
                "Cumulative number of runtime operations by operation type.",
                labels,
            ),
            failed: Counters::new(
                "kubelet_runtime_operations_errors_total",
                "Cumulative number of runtime operation errors by operation type.",
                labels,
            ),
            took: Histograms::new(
                "kubelet_runtime_operations_duration_seconds",
                "Duration in seconds of runtime operations. Broken down by operation type.",
                labels,
                BOUNDS,
            ),
        }
    }

    /// The series so far.
    pub fn families(&self) -> [Family; 3] {
        [self.all.family(), self.failed.family(), self.took.family()]
    }

    /// Counts a call of this CRI method.
    pub(crate) async fn count<T>(
        &self,
        call: &str,
        answer: BoxFuture<'_, Result<Response<T>, Status>>,
    ) -> Result<Response<T>, Status> {
        let begun = self.clock.monotonic();
        let answer = answer.await;
        let took = self.clock.monotonic().saturating_sub(begun);
        self.note(call, took, answer.is_err());
        answer
    }

    fn note(&self, call: &str, took: Duration, failed: bool) {
        let kind: Label = operation(call).into();
        self.all.count([kind.clone()]);
        if failed {
            self.failed.count([kind.clone()]);
        }
        self.took.observe([kind], took);
    }
}

/// The kubelet's name of a CRI method: its words in small letters, "pod sandbox" as one, and one that is shorter.
fn operation(call: &str) -> String {
    let mut name = String::new();
    for letter in call.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    match name.as_str() {
        "update_container_resources" => "update_container".to_owned(),
        _ => name.replace("pod_sandbox", "podsandbox"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_base::clock::FakeClock;
    use mainstay_base::metrics::text;

    #[test]
    fn calls_have_the_kubelets_names() {
        let names = [
            ("Version", "version"),
            ("RunPodSandbox", "run_podsandbox"),
            ("ListContainerStats", "list_container_stats"),
            ("UpdateContainerResources", "update_container"),
            ("ReopenContainerLog", "reopen_container_log"),
        ];
        for (call, expected) in names {
            assert_eq!(operation(call), expected);
        }
    }

    #[test]
    fn a_call_that_fails_counts_as_a_call_too() {
        let operations = Operations::new(FakeClock::new());
        operations.note("Status", Duration::from_millis(6), false);
        operations.note("Status", Duration::from_secs(800), true);
        let text = text(operations.families());
        for line in [
            "kubelet_runtime_operations_total{operation_type=\"status\"} 2",
            "kubelet_runtime_operations_errors_total{operation_type=\"status\"} 1",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"status\",le=\"0.0125\"} 1",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"status\",le=\"745.0580596923828\"} 1",
            "kubelet_runtime_operations_duration_seconds_count{operation_type=\"status\"} 2",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line}: {text}");
        }
    }
}
