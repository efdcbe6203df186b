//! Tables of folder `fleet`: run by crate `machines`, whose rules they describe.

use std::path::Path;

use super::FileResult;

/// The area's folder.
const AREA: &str = "fleet";

/// Runs the tables of this area unless another one is asked for.
pub fn run(dir: &Path, only: Option<&str>) -> Vec<FileResult> {
    if only.is_some_and(|area| area != AREA) {
        return Vec::new();
    }
    let results = mainstay_machines::oracle::run(&dir.join(AREA), None);
    results
        .into_iter()
        .map(|result| FileResult {
            file: format!("{AREA}/{}", result.file),
            passed: result.passed,
            failed: result.failed,
        })
        .collect()
}
