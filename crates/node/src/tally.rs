//! What the agent counts and times of its own work, under the kubelet's names. Parts count; `server::metrics` prints.

use std::time::Duration;

use mainstay_base::clock::SharedClock;
use mainstay_base::metrics::{Counters, Family, Histograms, Label, USUAL_BOUNDS};

/// The kubelet's bounds for starts of pods, in seconds.
const OF_STARTS: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0,
    480.0, 600.0, 900.0, 1_200.0, 1_800.0, 2_700.0, 3_600.0,
];
/// The client library's bounds for requests.
const OF_REQUESTS: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
/// The kubelet's bounds for pulls of images.
const OF_PULLS: &[f64] = &[
    1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1_200.0,
    1_800.0, 2_700.0, 3_600.0,
];
/// The kubelet's bounds for statuses on their way.
const OF_STATUSES: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];
/// Sizes from which on an image is of the next class, in MiB, and the class below.
const IMAGE_SIZES: [(u64, &str); 11] = [
    (10, "0-10MB"),
    (100, "10MB-100MB"),
    (500, "100MB-500MB"),
    (1 << 10, "500MB-1GB"),
    (5 << 10, "1GB-5GB"),
    (10 << 10, "5GB-10GB"),
    (20 << 10, "10GB-20GB"),
    (30 << 10, "20GB-30GB"),
    (40 << 10, "30GB-40GB"),
    (60 << 10, "40GB-60GB"),
    (100 << 10, "60GB-100GB"),
];

/// What the agent counts.
#[derive(Debug)]
pub struct Tally {
    clock: SharedClock,
    /// Requests to the API server.
    pub api_requests: Counters<3>,
    /// Their durations.
    pub api_took: Histograms<2>,
    /// Pods that the node did not take.
    pub refused: Counters<1>,
    /// Changes of cgroups.
    pub cgroups: Histograms<1>,
    /// Evicted pods.
    pub evictions: Counters<1>,
    /// Failed attempts to get the certificate that the API server is asked with.
    pub client_renewals_failed: Counters<0>,
    /// Failed attempts to get the certificate that is served with.
    pub server_renewals_failed: Counters<0>,
    /// Requests to this node.
    pub requests: Counters<4>,
    /// Their durations.
    pub requests_took: Histograms<4>,
    /// Images that nobody used.
    pub images_removed: Counters<1>,
    /// Pulls of images with the wait for a turn, by [`size_class`].
    pub pulls: Histograms<1>,
    /// Pods that only the runtime had.
    pub orphans: Counters<0>,
    /// Listings of the runtime.
    pub relists: Histograms<0>,
    /// From one listing to the next.
    pub relist_intervals: Histograms<0>,
    /// From the first sight of a pod until it runs.
    pub pod_starts: Histograms<0>,
    /// From a changed status until the API server has it.
    pub statuses: Histograms<0>,
    /// Steps of pods' workers.
    pub steps: Histograms<1>,
    /// From the first sight of a pod until its worker begins.
    pub worker_starts: Histograms<0>,
    /// Sandboxes in the making.
    pub sandboxes: Histograms<1>,
    /// Sandboxes that the runtime did not make.
    pub sandboxes_failed: Counters<1>,
    /// Containers that were to start.
    pub containers: Counters<1>,
    /// Containers that did not, and the reason that their status gives.
    pub containers_failed: Counters<2>,
    /// Pods that were to get a sandbox.
    pub pods: Counters<0>,
    /// Pods that did not.
    pub pods_failed: Counters<0>,
}

impl Tally {
    /// Nothing counted yet.
    pub fn new(clock: SharedClock) -> Self {
        Tally {
            clock,
            api_requests: Counters::new(
                "rest_client_requests_total",
                "Number of HTTP requests, partitioned by status code, method, and host.",
                ["code", "host", "method"],
            ),
            api_took: Histograms::new(
                "rest_client_request_duration_seconds",
                "Request latency in seconds. Broken down by verb, and host.",
                ["host", "verb"],
                OF_REQUESTS,
            ),
            refused: Counters::new(
                "kubelet_admission_rejections_total",
                "Cumulative number pod admission rejections by the Kubelet.",
                ["reason"],
            ),
            cgroups: Histograms::new(
                "kubelet_cgroup_manager_duration_seconds",
                "Duration in seconds for cgroup manager operations. Broken down by method.",
                ["operation_type"],
                USUAL_BOUNDS,
            ),
            evictions: Counters::new(
                "kubelet_evictions",
                "Cumulative number of pod evictions by eviction signal",
                ["eviction_signal"],
            ),
            client_renewals_failed: Counters::new(
                "kubelet_certificate_manager_client_expiration_renew_errors",
                "Counter of certificate renewal errors.",
                [],
            ),
            server_renewals_failed: Counters::new(
                "kubelet_server_expiration_renew_errors",
                "Counter of certificate renewal errors.",
                [],
            ),
            requests: Counters::new(
                "kubelet_http_requests_total",
                "Number of the http requests received since the server started",
                ["long_running", "method", "path", "server_type"],
            ),
            requests_took: Histograms::new(
                "kubelet_http_requests_duration_seconds",
                "Duration in seconds to serve http requests",
                ["long_running", "method", "path", "server_type"],
                USUAL_BOUNDS,
            ),
            images_removed: Counters::new(
                "kubelet_image_garbage_collected_total",
                "Total number of images garbage collected by the kubelet, whether through disk usage or image age.",
                ["reason"],
            ),
            pulls: Histograms::new(
                "kubelet_image_pull_duration_seconds",
                "Duration in seconds to pull an image.",
                ["image_size_in_bytes"],
                OF_PULLS,
            ),
            orphans: Counters::new(
                "kubelet_orphaned_runtime_pods_total",
                "Number of pods that have been detected in the container runtime without being already known to the pod worker. This typically indicates the kubelet was restarted while a pod was force deleted in the API or in the local configuration, which is unusual.",
                [],
            ),
            relists: Histograms::new(
                "kubelet_pleg_relist_duration_seconds",
                "Duration in seconds for relisting pods in PLEG.",
                [],
                USUAL_BOUNDS,
            ),
            relist_intervals: Histograms::new(
                "kubelet_pleg_relist_interval_seconds",
                "Interval in seconds between relisting in PLEG.",
                [],
                USUAL_BOUNDS,
            ),
            pod_starts: Histograms::new(
                "kubelet_pod_start_duration_seconds",
                "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
                [],
                OF_STARTS,
            ),
            statuses: Histograms::new(
                "kubelet_pod_status_sync_duration_seconds",
                "Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status until the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.",
                [],
                OF_STATUSES,
            ),
            steps: Histograms::new(
                "kubelet_pod_worker_duration_seconds",
                "Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync",
                ["operation_type"],
                USUAL_BOUNDS,
            ),
            worker_starts: Histograms::new(
                "kubelet_pod_worker_start_duration_seconds",
                "Duration in seconds from kubelet seeing a pod to starting a worker.",
                [],
                USUAL_BOUNDS,
            ),
            sandboxes: Histograms::new(
                "kubelet_run_podsandbox_duration_seconds",
                "Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.",
                ["runtime_handler"],
                USUAL_BOUNDS,
            ),
            sandboxes_failed: Counters::new(
                "kubelet_run_podsandbox_errors_total",
                "Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.",
                ["runtime_handler"],
            ),
            containers: Counters::new(
                "kubelet_started_containers_total",
                "Cumulative number of containers started",
                ["container_type"],
            ),
            containers_failed: Counters::new(
                "kubelet_started_containers_errors_total",
                "Cumulative number of errors when starting containers",
                ["code", "container_type"],
            ),
            pods: Counters::new(
                "kubelet_started_pods_total",
                "Cumulative number of pods started",
                [],
            ),
            pods_failed: Counters::new(
                "kubelet_started_pods_errors_total",
                "Cumulative number of errors when starting pods",
                [],
            ),
        }
    }

    /// The time that durations are measured by.
    pub fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// What has passed since `begun`.
    pub fn since(&self, begun: Duration) -> Duration {
        self.now().saturating_sub(begun)
    }

    /// Does something to a cgroup, and times it as this kind of change.
    pub fn of_cgroup<T>(&self, kind: &'static str, change: impl FnOnce() -> T) -> T {
        let begun = self.now();
        let done = change();
        self.cgroups.observe([kind.into()], self.since(begun));
        done
    }

    /// All series.
    pub fn families(&self) -> Vec<Family> {
        vec![
            self.api_requests.family(),
            self.api_took.family(),
            self.refused.family(),
            self.cgroups.family(),
            self.evictions.family(),
            self.client_renewals_failed.family(),
            self.server_renewals_failed.family(),
            self.requests.family(),
            self.requests_took.family(),
            self.images_removed.family(),
            self.pulls.family(),
            self.orphans.family(),
            self.relists.family(),
            self.relist_intervals.family(),
            self.pod_starts.family(),
            self.statuses.family(),
            self.steps.family(),
            self.worker_starts.family(),
            self.sandboxes.family(),
            self.sandboxes_failed.family(),
            self.containers.family(),
            self.containers_failed.family(),
            self.pods.family(),
            self.pods_failed.family(),
        ]
    }
}

/// The class of an image's size in bytes.
pub fn size_class(bytes: u64) -> Label {
    let above = IMAGE_SIZES.iter().find(|(below, _)| bytes < below << 20);
    above.map_or("GT100GB", |(_, class)| class).into()
}

/// Why a pod was refused, as far as the series tells it: resources that only some nodes have are one.
pub fn refusal(reason: &str) -> Label {
    const KNOWN: &[&str] = &[
        "AppArmor",
        "Evicted",
        "InitContainerRestartPolicyForbidden",
        "InvalidNodeInfo",
        "NodeShutdown",
        "OutOfcpu",
        "OutOfephemeral-storage",
        "OutOfmemory",
        "OutOfpods",
        "PodFeatureUnsupported",
        "PodLevelResourcesNotSupported",
        "PodOSNotSupported",
        "PodOSSelectorNodeLabelDoesNotMatch",
        "SupplementalGroupsPolicyNotSupported",
        "SysctlForbidden",
        "TopologyAffinityError",
        "UnexpectedAdmissionError",
        "UnexpectedPredicateFailureType",
        "UnknownReason",
        "VolumeAttachmentLimitExceeded",
    ];
    match KNOWN.iter().find(|known| **known == reason) {
        Some(known) => Label::Borrowed(known),
        None if reason.starts_with("OutOf") => "OutOfExtendedResources".into(),
        None => "Other".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_base::clock::FakeClock;
    use mainstay_base::metrics::text;

    #[test]
    fn images_are_classed_by_size_and_refusals_by_known_reasons() {
        let sizes = [0, (10 << 20) - 1, 10 << 20, 7 << 30, 1 << 40];
        let classes = sizes.map(size_class);
        assert_eq!(classes, ["0-10MB", "0-10MB", "10MB-100MB", "5GB-10GB", "GT100GB"]);
        let reasons = ["OutOfcpu", "OutOfexample.com/gpu", "Strange"].map(refusal);
        assert_eq!(reasons, ["OutOfcpu", "OutOfExtendedResources", "Other"]);
    }

    #[test]
    fn a_family_has_a_name_of_its_own_and_what_is_timed_is_told() {
        let clock = FakeClock::new();
        let tally = Tally::new(clock.clone());
        tally.of_cgroup("create", || clock.advance(Duration::from_millis(20)));
        let text = text(tally.families());
        let mut names: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        let line =
            "kubelet_cgroup_manager_duration_seconds_bucket{operation_type=\"create\",le=\"0.025\"} 1\n";
        assert!(text.contains(line), "{text}");
    }
}
