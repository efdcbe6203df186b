//! Runs tables of inputs and expected answers through the production functions.
//!
//! Every file under the given folder is counted: one that no module here knows has failed, never been skipped.

mod autoscaler;
mod behaviours;
mod fleet;
mod kubelet;
mod npd;
mod objects;
mod semantics;
mod tenancy;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// How many failing rows are printed per file.
const SHOWN: usize = 5;

/// The outcome of one table.
#[derive(Debug, Clone)]
pub struct FileResult {
    /// The table's path relative to the folder given.
    pub file: String,
    /// Rows that gave the expected answer.
    pub passed: usize,
    /// One text per row that did not: its id, what was expected and what came.
    pub failed: Vec<String>,
}

/// Runs the tables of one module: the folder given, and a filter on the area.
type Module = fn(&Path, Option<&str>) -> Vec<FileResult>;

/// Every module that knows tables.
const MODULES: &[Module] = &[
    autoscaler::run,
    behaviours::run,
    fleet::run,
    kubelet::run,
    npd::run,
    objects::run,
    semantics::run,
    tenancy::run,
];

/// Tables that hold context for other tables instead of rows.
const CONTEXT: &[&str] = &[
    "kubelet/label_selector_sets.json",
    "kubelet/patch_objects.json",
    "kubelet/eviction_pod_sets.json",
];

/// Runs every table under `dir`; true when there is at least one and no row failed.
pub fn run(dir: &Path, only: Option<&str>) -> Result<bool> {
    if !dir.is_dir() {
        bail!("{} is not a folder", dir.display());
    }
    let mut results: Vec<FileResult> = MODULES.iter().flat_map(|module| module(dir, only)).collect();
    results.extend(unknown(dir, only, &results)?);
    results.sort_by(|a, b| a.file.cmp(&b.file));
    if results.is_empty() {
        bail!("no tables under {}", dir.display());
    }
    for result in &results {
        println!(
            "{}: {} passed, {} failed",
            result.file,
            result.passed,
            result.failed.len()
        );
        for row in result.failed.iter().take(SHOWN) {
            println!("    {row}");
        }
    }
    let passed: usize = results.iter().map(|result| result.passed).sum();
    let failed: usize = results.iter().map(|result| result.failed.len()).sum();
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

fn unknown(dir: &Path, only: Option<&str>, results: &[FileResult]) -> Result<Vec<FileResult>> {
    let known: BTreeSet<&str> = results.iter().map(|result| result.file.as_str()).collect();
    let mut files = Vec::new();
    collect(dir, &mut files)?;
    let relative = files
        .iter()
        .filter_map(|file| file.strip_prefix(dir).ok()?.to_str().map(String::from));
    let in_area = relative.filter(|file| only.is_none_or(|area| file.starts_with(&format!("{area}/"))));
    let left = in_area.filter(|file| !known.contains(file.as_str()) && !CONTEXT.contains(&file.as_str()));
    Ok(left
        .map(|file| FileResult {
            file,
            passed: 0,
            failed: vec!["no runner for this table is built yet".into()],
        })
        .collect())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_table = path
            .extension()
            .is_some_and(|ext| ["json", "jsonl", "tsv"].iter().any(|known| ext == *known));
        if path.is_dir() {
            collect(&path, files)?;
        } else if is_table {
            files.push(path);
        }
    }
    Ok(())
}
