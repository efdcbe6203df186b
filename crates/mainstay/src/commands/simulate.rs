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

fn repair(_seed: u64, _schedules: u64, _output: &Output) -> Outcome {
    Err(Failure::new(
        "MS-SIM-0001",
        "the repair simulation is not part of this build",
    ))
}
