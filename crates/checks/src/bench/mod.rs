//! Benchmarks: each prints figures of the product beside a peer or a target, measured in one run.

mod apiserver;
mod autoscaler;
mod load;
mod node;
mod nodes;
mod store;
pub mod up;

pub use apiserver::bare::serve as bare_server;

use anyhow::{Result, bail};
use serde::Serialize;

/// One measured figure.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its unit, for example `ms` or `ops/s`.
    pub unit: &'static str,
    /// The value that must be reached, in the same unit, if there is one.
    pub target: Option<f64>,
    /// How it was measured, the peer's figure, or why it falls short.
    pub note: String,
}

/// The figures of one benchmark.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The benchmark's name.
    pub name: &'static str,
    /// Its figures in the order in which they were taken.
    pub figures: Vec<Figure>,
}

/// A benchmark: builds what it needs, measures, cleans up.
enum Bench {
    /// Measures everything it has.
    Whole(fn() -> Result<Report>),
    /// Measures one of its parts, or all of them; their names.
    Parted(&'static [&'static str], fn(Option<&str>) -> Result<Report>),
}

/// Every benchmark by name.
const BENCHES: &[(&str, Bench)] = &[
    ("apiserver", Bench::Parted(apiserver::PARTS, apiserver::run)),
    ("autoscaler", Bench::Whole(autoscaler::run)),
    ("load", Bench::Whole(load::run)),
    ("node", Bench::Whole(node::run)),
    ("nodes", Bench::Whole(nodes::run)),
    ("store", Bench::Whole(store::run)),
    ("up", Bench::Whole(up::run)),
];

impl Bench {
    fn run(&self, only: Option<&str>) -> Result<Report> {
        match (self, only) {
            (Bench::Whole(bench), None) => bench(),
            (Bench::Whole(_), Some(_)) => bail!("this benchmark has no parts"),
            (Bench::Parted(parts, bench), only) => match only.filter(|only| !parts.contains(only)) {
                None => bench(only),
                Some(only) => bail!("no part {only}; there are: {}", parts.join(" ")),
            },
        }
    }
}

/// Runs one benchmark, `only` one part of it, or all of them, and prints the figures; true when it ran.
pub fn run(name: &str, only: Option<&str>, json: bool) -> Result<bool> {
    let chosen: Vec<_> = BENCHES
        .iter()
        .filter(|(known, _)| name == "all" || *known == name)
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
        bail!("no benchmark {name}; there are: all {}", names.join(" "));
    }
    for (_, bench) in chosen {
        let report = bench.run(only)?;
        if json {
            let run = run_facts();
            println!(
                "{}",
                serde_json::json!({"run": run, "name": report.name, "figures": report.figures})
            );
        } else {
            print(&report);
        }
    }
    Ok(true)
}

/// What a figure is worth nothing without: the commit, the profile, and how busy the machine was otherwise.
fn run_facts() -> String {
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?").to_owned();
    format!("commit {}, {profile}, load {load} at the end", commit())
}

fn commit() -> String {
    let asked = std::process::Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    match asked {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

fn print(report: &Report) {
    println!("{} ({})", report.name, run_facts());
    for figure in &report.figures {
        let target = figure
            .target
            .map(|target| format!("target {target}"))
            .unwrap_or_default();
        println!(
            "  {:<56} {:>12.3} {:<8} {:<16} {}",
            figure.name, figure.value, figure.unit, target, figure.note
        );
    }
}
