//! Tables of folder `kubelet` that crate `nodepolicy` answers.

use std::path::Path;

use mainstay_nodepolicy::oracle;

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
            let read = |name: &str| std::fs::read_to_string(dir.join(format!("{AREA}/{name}.json")));
            if !dir.join(&file).is_file() {
                return None;
            }
            let (passed, failed) = oracle::run(table, read);
            Some(FileResult { file, passed, failed })
        })
        .collect()
}
