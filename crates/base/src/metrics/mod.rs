//! Counting and timing, and what was counted in Prometheus' text form: what the `/metrics` of agent and server are made of.
//!
//! Labels come from sets that the program knows. Who counts by what a client sends must bound it first: a series is kept for
//! ever.

pub mod process;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::time::Duration;

use parking_lot::Mutex;

/// The media type of the text form.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds in seconds that Prometheus' client libraries use unless told otherwise.
pub const USUAL_BOUNDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The value of a label.
pub type Label = Cow<'static, str>;

/// One family of series as text.
#[derive(Debug, Clone)]
pub struct Family {
    text: String,
    name: &'static str,
}

impl Family {
    /// A family without series yet, of a type that the text form knows.
    pub fn new(name: &'static str, kind: &str, help: &str) -> Self {
        Family {
            text: format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"),
            name,
        }
    }

    /// A family of values that only grow.
    pub fn counter(name: &'static str, help: &str) -> Self {
        Self::new(name, "counter", help)
    }

    /// A family of values that come and go.
    pub fn gauge(name: &'static str, help: &str) -> Self {
        Self::new(name, "gauge", help)
    }

    /// Adds a series.
    pub fn add(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.add_part("", labels, value);
    }

    /// Adds a series; for those that are made in one expression.
    pub fn with(mut self, labels: &[(&str, &str)], value: impl Display) -> Self {
        self.add(labels, value);
        self
    }

    fn add_part(&mut self, part: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text += self.name;
        self.text += part;
        for (number, (name, value)) in labels.iter().enumerate() {
            let before = if number == 0 { '{' } else { ',' };
            // Writing to a String cannot fail.
            let _ = write!(self.text, "{before}{name}=\"{}\"", escaped(value));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }
}

/// A label's value as the text form writes it.
fn escaped(value: &str) -> Cow<'_, str> {
    match value.contains(['\\', '"', '\n']) {
        false => Cow::Borrowed(value),
        true => Cow::Owned(
            value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n"),
        ),
    }
}

/// The text of all families.
pub fn text(families: impl IntoIterator<Item = Family>) -> String {
    families.into_iter().map(|family| family.text).collect()
}

fn pairs<'a, const N: usize>(names: &[&'a str; N], values: &'a [Label; N]) -> Vec<(&'a str, &'a str)> {
    let both = names.iter().zip(values);
    both.map(|(name, value)| (*name, &**value)).collect()
}

/// Something counted, told apart by the values of `N` labels. Without labels it is told from the start, else from its first
/// count on.
#[derive(Debug)]
pub struct Counters<const N: usize> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; N],
    counts: Mutex<BTreeMap<[Label; N], u64>>,
}

impl<const N: usize> Counters<N> {
    /// Nothing counted yet.
    pub const fn new(name: &'static str, help: &'static str, labels: [&'static str; N]) -> Self {
        Counters {
            name,
            help,
            labels,
            counts: Mutex::new(BTreeMap::new()),
        }
    }

    /// Counts one.
    pub fn count(&self, labels: [Label; N]) {
        *self.counts.lock().entry(labels).or_default() += 1;
    }

    /// What was counted so far.
    pub fn family(&self) -> Family {
        let mut family = Family::counter(self.name, self.help);
        let counts = self.counts.lock();
        if N == 0 && counts.is_empty() {
            family.add(&[], 0);
        }
        for (values, count) in counts.iter() {
            family.add(&pairs(&self.labels, values), count);
        }
        family
    }
}

/// How often which duration was seen.
#[derive(Debug, Clone)]
struct Distribution {
    /// Not cumulative; what exceeds the last bound is only in `count`.
    buckets: Vec<u64>,
    sum: Duration,
    count: u64,
}

/// Durations in seconds, told apart by the values of `N` labels.
#[derive(Debug)]
pub struct Histograms<const N: usize> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; N],
    bounds: &'static [f64],
    series: Mutex<BTreeMap<[Label; N], Distribution>>,
}

impl<const N: usize> Histograms<N> {
    /// Nothing timed yet; `bounds` are upper bounds in seconds, ascending.
    pub const fn new(
        name: &'static str,
        help: &'static str,
        labels: [&'static str; N],
        bounds: &'static [f64],
    ) -> Self {
        Histograms {
            name,
            help,
            labels,
            bounds,
            series: Mutex::new(BTreeMap::new()),
        }
    }

    fn empty(&self) -> Distribution {
        Distribution {
            buckets: vec![0; self.bounds.len()],
            sum: Duration::ZERO,
            count: 0,
        }
    }

    /// Takes a duration in.
    pub fn observe(&self, labels: [Label; N], took: Duration) {
        let seconds = took.as_secs_f64();
        let mut series = self.series.lock();
        let found = series.entry(labels).or_insert_with(|| self.empty());
        if let Some(at) = self.bounds.iter().position(|bound| seconds <= *bound) {
            found.buckets[at] += 1;
        }
        found.sum += took;
        found.count += 1;
    }

    /// What was timed so far.
    pub fn family(&self) -> Family {
        let mut family = Family::new(self.name, "histogram", self.help);
        let series = self.series.lock();
        if N == 0 && series.is_empty() {
            self.print(&mut family, Vec::new(), &self.empty());
        }
        for (values, found) in series.iter() {
            self.print(&mut family, pairs(&self.labels, values), found);
        }
        family
    }

    fn print(&self, family: &mut Family, mut labels: Vec<(&str, &str)>, found: &Distribution) {
        let mut below = 0;
        for (bound, count) in self.bounds.iter().zip(&found.buckets) {
            below += count;
            let bound = bound.to_string();
            let all: Vec<(&str, &str)> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
            family.add_part("_bucket", &all, below);
        }
        labels.push(("le", "+Inf"));
        family.add_part("_bucket", &labels, found.count);
        labels.pop();
        family.add_part("_sum", &labels, found.sum.as_secs_f64());
        family.add_part("_count", &labels, found.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_its_head_once_and_labels_escaped() {
        let family = Family::gauge("a", "What it is.")
            .with(&[], 1)
            .with(&[("b", "x"), ("c", "q\"\\\n")], 2.5);
        assert_eq!(
            text([family]),
            "# HELP a What it is.\n# TYPE a gauge\na 1\na{b=\"x\",c=\"q\\\"\\\\\\n\"} 2.5\n"
        );
    }

    #[test]
    fn what_has_no_labels_is_told_before_it_is_counted() {
        let (plain, labelled) = (Counters::new("a", "A.", []), Counters::new("b", "B.", ["x", "y"]));
        let heads = "# HELP a A.\n# TYPE a counter\na 0\n# HELP b B.\n# TYPE b counter\n";
        assert_eq!(text([plain.family(), labelled.family()]), heads);
        plain.count([]);
        labelled.count(["1".into(), "2".into()]);
        labelled.count(["1".into(), "2".into()]);
        assert_eq!(text([plain.family()]).lines().last(), Some("a 1"));
        assert_eq!(
            text([labelled.family()]).lines().last(),
            Some("b{x=\"1\",y=\"2\"} 2")
        );
    }

    #[test]
    fn durations_are_told_by_all_bounds_that_they_keep() {
        let times = Histograms::new("t", "T.", ["x"], &[0.1, 1.0]);
        for millis in [100, 500, 7_000] {
            times.observe(["a".into()], Duration::from_millis(millis));
        }
        let expected = "# HELP t T.\n# TYPE t histogram\nt_bucket{x=\"a\",le=\"0.1\"} 1\nt_bucket{x=\"a\",le=\"1\"} 2\n\
                        t_bucket{x=\"a\",le=\"+Inf\"} 3\nt_sum{x=\"a\"} 7.6\nt_count{x=\"a\"} 3\n";
        assert_eq!(text([times.family()]), expected);
    }
}
