//! Tables of folder `kubelet` that crate `node` answers.

use std::path::Path;

use mainstay_node::oracle;

use super::FileResult;

const AREA: &str = "kubelet";

/// Runs the tables that are there.
pub fn run(dir: &Path, filter: Option<&str>) -> Vec<FileResult> {
    if filter.is_some_and(|area| area != AREA) {
        return Vec::new();
    }
    let tables = oracle::TABLES.iter();
    tables
        .filter_map(|table| {
            let file = format!("{AREA}/{}.json", table.0);
            let text = std::fs::read_to_string(dir.join(&file)).ok()?;
            let (passed, failed) = oracle::run(table, &text);
            Some(FileResult { file, passed, failed })
        })
        .collect()
}
