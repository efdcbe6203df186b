//! `mainstay simulate`: decisions on scenarios, by the functions that production calls.

use std::path::Path;

use mainstay_autoscaler::Case;
use serde_json::json;

use crate::args::SimulateCommand;
use crate::outcome::{Code, Failure, Outcome};
use crate::output::Output;

/// Runs the command.
pub fn run(command: &SimulateCommand, output: &Output) -> Outcome {
    match command {
        SimulateCommand::Autoscaler { file } => autoscaler(file, output),
        SimulateCommand::Repair { seed, schedules } => repair(*seed, *schedules, output),
    }
}

fn wrong(file: &Path, problem: impl std::fmt::Display) -> Failure {
    Failure::new("MS-SIM-0001", format!("{}: {problem}", file.display()))
}

fn autoscaler(file: &Path, output: &Output) -> Outcome {
    let text = std::fs::read_to_string(file).map_err(|error| wrong(file, error))?;
    let mut outcomes = Vec::new();
    for (number, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let place = |problem: String| wrong(file, format!("line {}: {problem}", number + 1));
        let case: Case = serde_json::from_str(line).map_err(|error| place(error.to_string()))?;
        let outcome = mainstay_autoscaler::simulate(&case).map_err(|error| place(error.to_string()))?;
        outcomes.push(json!({"id": case.id, "outcome": outcome}));
    }
    let lines = || outcomes.iter().map(|outcome| format!("{outcome}\n")).collect();
    output.answer("AutoscalerSimulation", json!({"items": outcomes}), lines);
    Ok(Code::Ok)
}

fn repair(seed: u64, schedules: u32, output: &Output) -> Outcome {
    let report = mainstay_repair::simulate(seed, schedules);
    let document = serde_json::to_value(&report).unwrap_or_default();
    output.answer("RepairSimulation", document, || format!("{report}\n"));
    Ok(if report.violations.is_empty() {
        Code::Ok
    } else {
        Code::No
    })
}
