//! A server under load with one tenant who means harm: nothing is lost, the others are served, memory stays bounded. How
//! quick heartbeats stay is printed, not judged: `checks bench load` with a release build judges it.

use std::process::Command;

use serde_json::Value;

use crate::tools::{mainstay, run};

/// What the debug binary may take: the release binary's bound, and its larger frames.
const MEMORY_MB: f64 = 600.0;

#[test]
fn an_abusive_tenant_is_held_back_and_nobody_else_notices() {
    assert!(mainstay().exists());
    let said = run(Command::new(env!("CARGO_BIN_EXE_checks")).args(["bench", "load", "--json"]));
    assert!(said.well, "{}{}", said.out, said.err);
    let report: Value = serde_json::from_str(&said.out).expect("a report");
    let figures = report["figures"].as_array().expect("figures");
    let value = |name: &str| {
        let found = figures.iter().find(|figure| figure["name"] == name);
        let found = found.unwrap_or_else(|| panic!("no {name} in {report:#}"));
        eprintln!("{name}: {} {}", found["value"], found["note"]);
        found["value"].as_f64().expect("a number")
    };
    for nothing in [
        "heartbeats that failed",
        "writes and watches that failed",
        "writes lost after kill -9",
        "events missed or repeated",
    ] {
        assert_eq!(value(nothing), 0.0, "{nothing}: {report:#}");
    }
    for some in [
        "writes acknowledged",
        "events delivered",
        "tenant's requests answered",
        "tenant told to come back (429)",
        "tenant over quota (403)",
        "tenant's bodies too large (413)",
    ] {
        assert!(value(some) > 0.0, "{some}: {report:#}");
    }
    value("heartbeat p99");
    assert!(value("memory peak") < MEMORY_MB, "{report:#}");
}
