//! Scale-up and scale-down decisions on big clusters, beside the CPU seconds of the real cluster-autoscaler.

use anyhow::{Context, Result};
use mainstay_autoscaler::case::{Case, simulate};
use mainstay_base::clock::{Clock, SystemClock};

use super::{Figure, Report};

/// Scenario, what it is, the peer's CPU seconds for its whole loop on the reference machine.
const SCENARIOS: [(&str, &str, f64); 6] = [
    ("bigup-p1000-g20-rs50", "1,000 pending x 20 groups", 1.60),
    ("bigup-p10000-g1-rs100", "10,000 pending x 1 group", 3.81),
    ("bigup-p10000-g20-rs100", "10,000 pending x 20 groups", 40.4),
    (
        "bigup-nocap-def-p10000-g20-rs100",
        "the same, at most 1,000 nodes",
        19.5,
    ),
    ("bigdown-n1000-p20000", "scale-down, 1,000 nodes", 1.13),
    ("bigdown-n5000-p100000", "scale-down, 5,000 nodes", 6.24),
];
/// We aim at a hundredth of the peer's time.
const SHARE: f64 = 0.01;

/// Measures each scenario, reading and building its cluster included; one thread, so wall time is CPU time
/// on an idle machine.
pub fn run() -> Result<Report> {
    let clock = SystemClock::new();
    let folder = mainstay_base::testdata::shared_dir().join("oracle/autoscaler/big");
    let mut figures = Vec::new();
    for (file, what, peer) in SCENARIOS {
        let text = std::fs::read_to_string(folder.join(format!("{file}.json")))
            .with_context(|| format!("no scenario {file}"))?;
        let begin = clock.monotonic();
        let case: Case = serde_json::from_str(&text)?;
        let outcome = simulate(&case)?;
        let seconds = (clock.monotonic() - begin).as_secs_f64();
        let step = &outcome.steps[0];
        let decided: usize = step.increase.values().sum::<usize>();
        figures.push(Figure {
            name: what.to_owned(),
            value: seconds * 1000.0,
            unit: "ms",
            target: Some(peer * 1000.0 * SHARE),
            note: format!(
                "+{decided} nodes, -{}; the peer takes {:.0} ms",
                step.deleted.len(),
                peer * 1000.0
            ),
        });
    }
    Ok(Report {
        name: "autoscaler",
        figures,
    })
}
