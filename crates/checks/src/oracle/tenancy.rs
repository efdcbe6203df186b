//! The tables of `tenancy/`: RBAC, Pod Security, limit ranges, quota, tolerations.

use std::path::Path;

use mainstay_policy::oracle::{self, Outcome};
use serde_json::Value;

use super::FileResult;

/// Each table with what runs it.
const TABLES: &[(&str, fn(&Value) -> Outcome)] = &[
    ("limit-range", oracle::run_limit_range),
    ("pod-security", oracle::run_pod_security),
    ("quota-scopes", oracle::run_quota_scopes),
    ("quota-services-claims", oracle::run_quota_services_claims),
    ("rbac-covers", oracle::run_covers),
    ("rbac-decisions", oracle::run_decisions),
    ("rbac-default-roles", oracle::run_default_roles),
    ("tolerations", oracle::run_tolerations),
];

/// Runs every table of the area that is there.
pub fn run(dir: &Path, only: Option<&str>) -> Vec<FileResult> {
    if only.is_some_and(|area| area != "tenancy") {
        return Vec::new();
    }
    let there = TABLES
        .iter()
        .map(|(name, run)| (format!("tenancy/{name}.json"), run));
    there
        .filter(|(file, _)| dir.join(file).is_file())
        .map(|(file, run)| table(dir, file, *run))
        .collect()
}

fn table(dir: &Path, file: String, run: fn(&Value) -> Outcome) -> FileResult {
    let read = std::fs::read_to_string(dir.join(&file)).map_err(|error| error.to_string());
    match read.and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string())) {
        Ok(table) => {
            let outcome = run(&table);
            FileResult {
                file,
                passed: outcome.passed,
                failed: outcome.failed,
            }
        }
        Err(error) => FileResult {
            file,
            passed: 0,
            failed: vec![error],
        },
    }
}
