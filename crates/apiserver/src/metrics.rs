//! Request counters under upstream's names.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mainstay_access::info::RequestInfo;
use parking_lot::Mutex;

/// Upper bounds of the latency histogram, in seconds.
const BOUNDS: [f64; 12] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0, 10.0];

/// Series at most: clients choose what stands in a path, and must not choose how much memory that takes.
const SERIES: usize = 4_096;

/// What stands before a family's series.
fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Labels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
}

impl Labels {
    fn of(info: &RequestInfo) -> Self {
        Labels {
            verb: info.verb.to_ascii_uppercase(),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
        }
    }

    fn are_of(&self, info: &RequestInfo) -> bool {
        self.verb.eq_ignore_ascii_case(&info.verb)
            && self.group == info.group
            && self.version == info.version
            && self.resource == info.resource
            && self.subresource == info.subresource
    }

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

#[derive(Debug)]
struct Series {
    labels: Labels,
    codes: BTreeMap<u16, u64>,
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl Series {
    fn new(labels: Labels) -> Self {
        Series {
            labels,
            codes: BTreeMap::new(),
            buckets: [0; BOUNDS.len()],
            count: 0,
            sum: 0.0,
        }
    }

    fn count(&mut self, code: u16, took: Duration) {
        *self.codes.entry(code).or_default() += 1;
        let seconds = took.as_secs_f64();
        self.count += 1;
        self.sum += seconds;
        for (bucket, bound) in self.buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(seconds <= bound);
        }
    }
}

/// All series. Found by a hash of what a request is about, so that counting it copies no text.
#[derive(Debug, Default)]
struct All {
    by_hash: HashMap<u64, Vec<Series>>,
    hasher: RandomState,
    series: usize,
}

impl All {
    fn of(&mut self, info: &RequestInfo) -> &mut Series {
        let parts = (
            &info.verb,
            &info.group,
            &info.version,
            &info.resource,
            &info.subresource,
        );
        let hash = self.hasher.hash_one(parts);
        let known = |series: &Series| series.labels.are_of(info);
        let at = self
            .by_hash
            .get(&hash)
            .and_then(|list| list.iter().position(known));
        if at.is_none() && self.series >= SERIES {
            return self.other();
        }
        let list = self.by_hash.entry(hash).or_default();
        let at = at.unwrap_or_else(|| {
            self.series += 1;
            list.push(Series::new(Labels::of(info)));
            list.len() - 1
        });
        &mut list[at]
    }

    fn other(&mut self) -> &mut Series {
        let list = self.by_hash.entry(0).or_default();
        let at = list.iter().position(|series| series.labels == Labels::other());
        let at = at.unwrap_or_else(|| {
            list.push(Series::new(Labels::other()));
            list.len() - 1
        });
        &mut list[at]
    }

    fn sorted(&self) -> Vec<&Series> {
        let mut all: Vec<&Series> = self.by_hash.values().flatten().collect();
        all.sort_by(|one, other| one.labels.cmp(&other.labels));
        all
    }
}

/// What the server counts.
#[derive(Debug, Default)]
pub struct Metrics {
    series: Mutex<All>,
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
        self.series.lock().of(info).count(code, took);
    }

    /// Prints everything in Prometheus' text format; `refused`: requests that found no seat.
    pub fn print(&self, objects: impl Iterator<Item = (String, usize)>, refused: usize) -> String {
        let mut out = String::new();
        let name = "apiserver_current_inflight_requests";
        head(
            &mut out,
            name,
            "gauge",
            "Requests that are worked on now, by request kind.",
        );
        let inflight = self.inflight.load(Ordering::Relaxed);
        let _ = writeln!(out, "{name}{{request_kind=\"all\"}} {inflight}");
        self.print_requests(&mut out);
        let name = "apiserver_flowcontrol_rejected_requests_total";
        head(&mut out, name, "counter", "Requests that were told to come back.");
        let _ = writeln!(out, "{name}{{reason=\"time-out\"}} {refused}");
        let name = "apiserver_storage_objects";
        head(&mut out, name, "gauge", "Number of stored objects by kind.");
        for (resource, count) in objects {
            let _ = writeln!(out, "{name}{{resource=\"{resource}\"}} {count}");
        }
        out
    }

    fn print_requests(&self, out: &mut String) {
        let all = self.series.lock();
        let all = all.sorted();
        let name = "apiserver_request_total";
        head(
            out,
            name,
            "counter",
            "Requests by verb, resource and code of the answer.",
        );
        for series in &all {
            let labels = &series.labels;
            for (code, count) in &series.codes {
                let _ = writeln!(out, "{name}{{code=\"{code}\",{labels}}} {count}");
            }
        }
        let name = "apiserver_request_duration_seconds";
        head(out, name, "histogram", "Time to answer requests in seconds.");
        for series in &all {
            let labels = &series.labels;
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
