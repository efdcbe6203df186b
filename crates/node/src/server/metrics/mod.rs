//! Metrics in Prometheus' text form: the agent's own, resource usage, and the series of cgroups.

mod cadvisor;
mod own;
mod resource;

use std::fmt::{Display, Write};

use http::StatusCode;

use super::{Answer, text};

pub use cadvisor::cadvisor;
pub use own::own;
pub use resource::resource;

/// One family of series.
struct Family {
    text: String,
    name: &'static str,
}

impl Family {
    fn new(name: &'static str, kind: &str, help: &str) -> Self {
        Family {
            text: format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"),
            name,
        }
    }

    fn counter(name: &'static str, help: &str) -> Self {
        Self::new(name, "counter", help)
    }

    fn gauge(name: &'static str, help: &str) -> Self {
        Self::new(name, "gauge", help)
    }

    fn add(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.text += self.name;
        for (number, (name, value)) in labels.iter().enumerate() {
            let before = if number == 0 { '{' } else { ',' };
            // Writing to a String cannot fail.
            let _ = write!(self.text, "{before}{name}=\"{}\"", escaped(value));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }

    fn with(mut self, labels: &[(&str, &str)], value: impl Display) -> Self {
        self.add(labels, value);
        self
    }
}

/// A label's value as the text form writes it.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn join(families: impl IntoIterator<Item = Family>) -> Answer {
    let all: String = families.into_iter().map(|f| f.text).collect();
    text(StatusCode::OK, all)
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
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
            family.text,
            "# HELP a What it is.\n# TYPE a gauge\na 1\na{b=\"x\",c=\"q\\\"\\\\\\n\"} 2.5\n"
        );
    }
}
