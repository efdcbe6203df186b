//! Request counters under upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mainstay_access::info::RequestInfo;
use parking_lot::Mutex;

/// Upper bounds of the latency histogram, in seconds.
const BOUNDS: [f64; 12] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0, 10.0];

/// Series at most: clients choose what stands in a path, and must not choose how much memory that takes.
const SERIES: usize = 4_096;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Labels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
}

impl Labels {
    /// What requests beyond the limit are counted under.
    fn other() -> Self {
        let other = || String::from("other");
        Labels {
            verb: other(),
            group: other(),
            version: other(),
            resource: other(),
            subresource: other(),
        }
    }
}

#[derive(Debug, Default)]
struct Series {
    codes: BTreeMap<u16, u64>,
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

/// What the server counts.
#[derive(Debug, Default)]
pub struct Metrics {
    series: Mutex<BTreeMap<Labels, Series>>,
    inflight: AtomicU64,
}

impl Metrics {
    /// Counts a request in; the guard counts it out.
    pub fn begin(&self) -> InFlight<'_> {
        self.inflight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }

    /// Counts an answer.
    pub fn answered(&self, info: &RequestInfo, code: u16, took: Duration) {
        let mut labels = Labels {
            verb: info.verb.to_ascii_uppercase(),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
        };
        let mut all = self.series.lock();
        if all.len() >= SERIES && !all.contains_key(&labels) {
            labels = Labels::other();
        }
        let series = all.entry(labels).or_default();
        *series.codes.entry(code).or_default() += 1;
        let seconds = took.as_secs_f64();
        series.count += 1;
        series.sum += seconds;
        for (bucket, bound) in series.buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(seconds <= bound);
        }
    }

    /// Prints everything in Prometheus' text format; `refused`: requests that found no seat.
    pub fn print(&self, objects: impl Iterator<Item = (String, usize)>, refused: usize) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "# TYPE apiserver_current_inflight_requests gauge");
        let inflight = self.inflight.load(Ordering::Relaxed);
        let _ = writeln!(
            out,
            "apiserver_current_inflight_requests{{request_kind=\"all\"}} {inflight}"
        );
        self.print_requests(&mut out);
        let name = "apiserver_flowcontrol_rejected_requests_total";
        let _ = writeln!(
            out,
            "# TYPE {name} counter\n{name}{{reason=\"time-out\"}} {refused}"
        );
        let _ = writeln!(out, "# TYPE apiserver_storage_objects gauge");
        for (resource, count) in objects {
            let _ = writeln!(
                out,
                "apiserver_storage_objects{{resource=\"{resource}\"}} {count}"
            );
        }
        out
    }

    fn print_requests(&self, out: &mut String) {
        let all = self.series.lock();
        let _ = writeln!(out, "# TYPE apiserver_request_total counter");
        for (labels, series) in all.iter() {
            for (code, count) in &series.codes {
                let _ = writeln!(out, "apiserver_request_total{{code=\"{code}\",{labels}}} {count}");
            }
        }
        let name = "apiserver_request_duration_seconds";
        let _ = writeln!(out, "# TYPE {name} histogram");
        for (labels, series) in all.iter() {
            for (bucket, bound) in series.buckets.iter().zip(BOUNDS) {
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {bucket}");
            }
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", series.count);
            let _ = writeln!(out, "{name}_sum{{{labels}}} {}", series.sum);
            let _ = writeln!(out, "{name}_count{{{labels}}} {}", series.count);
        }
    }
}

impl std::fmt::Display for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "group=\"{}\",resource=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
            self.group, self.resource, self.subresource, self.verb, self.version
        )
    }
}

/// A request that is being answered.
pub struct InFlight<'a>(&'a Metrics);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.inflight.fetch_sub(1, Ordering::Relaxed);
    }
}
