//! Compares the rules with tables of upstream's answers, row by row (folder `oracle/fleet`).

mod json;
mod table;
mod tsv;

use std::path::Path;

pub use table::FileResult;

/// Compares every table of the folder whose name contains `filter`. A table that cannot be read counts as one
/// failed row.
pub fn run(dir: &Path, filter: Option<&str>) -> Vec<FileResult> {
    let wanted = |name: &str| filter.is_none_or(|part| name.contains(part));
    let mut results = Vec::new();
    for (name, check) in tsv::TABLES {
        if wanted(name) {
            results.push(table::run_tsv(dir, name, *check));
        }
    }
    for (name, check) in json::TABLES {
        if wanted(name) {
            results.push(table::run_json(dir, name, *check));
        }
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_every_table_agrees() {
        let dir = mainstay_base::testdata::shared_dir().join("oracle/fleet");
        let results = run(&dir, None);
        let failed: Vec<String> = results
            .iter()
            .flat_map(|r| r.failed.iter().map(move |row| format!("{}: {row}", r.file)))
            .collect();
        assert!(
            failed.is_empty(),
            "{} rows differ:\n{}",
            failed.len(),
            failed.join("\n")
        );
        let passed: usize = results.iter().map(|r| r.passed).sum();
        assert!(
            passed > 2000,
            "only {passed} rows were found in {}",
            dir.display()
        );
    }
}
