//! Whole loops of the cluster-autoscaler: rows of `cases.jsonl` (or any `*.jsonl`), and the big scenarios.

use std::path::{Path, PathBuf};

use mainstay_autoscaler::case::{Case, simulate};
use mainstay_autoscaler::score::difference;
use serde_json::Value;

use super::FileResult;

const AREA: &str = "autoscaler";

/// Runs every table of the area.
pub fn run(dir: &Path, filter: Option<&str>) -> Vec<FileResult> {
    if filter.is_some_and(|area| area != AREA) {
        return Vec::new();
    }
    let folder = dir.join(AREA);
    let rows = files(&folder, "jsonl")
        .into_iter()
        .map(|file| table(dir, &file, lines));
    let big = files(&folder.join("big"), "json")
        .into_iter()
        .map(|file| table(dir, &file, whole));
    rows.chain(big).collect()
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|own| own == extension));
    files.sort();
    files
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.trim().is_empty()).collect()
}

fn whole(text: &str) -> Vec<&str> {
    vec![text]
}

fn table(dir: &Path, file: &Path, split: fn(&str) -> Vec<&str>) -> FileResult {
    let name = file.strip_prefix(dir).unwrap_or(file).display().to_string();
    let mut result = FileResult {
        file: name,
        passed: 0,
        failed: Vec::new(),
    };
    match std::fs::read_to_string(file) {
        Err(error) => result.failed.push(error.to_string()),
        Ok(text) => split(&text).into_iter().for_each(|row| match check(row) {
            Ok(()) => result.passed += 1,
            Err(problem) => result.failed.push(problem),
        }),
    }
    result
}

/// A row without expectations passes when it runs to its end.
fn check(text: &str) -> Result<(), String> {
    let row: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let id = row["id"].as_str().unwrap_or("?").to_owned();
    let named = |problem: String| format!("{id}: {problem}");
    let case: Case = serde_json::from_value(row.clone()).map_err(|error| named(error.to_string()))?;
    let outcome = simulate(&case).map_err(|error| named(error.to_string()))?;
    let outcome = serde_json::to_value(outcome).map_err(|error| named(error.to_string()))?;
    if row["expect"].is_null() {
        return Ok(());
    }
    let by = row["scoreBy"].as_str().unwrap_or("exact");
    difference(&outcome, &row["expect"], by).map_or(Ok(()), |problem| Err(named(problem)))
}
