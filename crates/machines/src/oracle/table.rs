//! Reading tables and counting rows.

use std::path::Path;

use serde_json::Value;

/// Outcome of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileResult {
    /// File name.
    pub file: String,
    /// Rows that agree.
    pub passed: usize,
    /// One line per row that does not.
    pub failed: Vec<String>,
}

/// Checks one row of a tab-separated table: what was got and what was wanted, as text.
pub type TsvCheck = fn(&[&str]) -> Result<(String, String), String>;
/// Checks one row of a JSON table: Ok, or what differs.
pub type JsonCheck = fn(&Value) -> Result<(), String>;

fn result(file: &str, rows: impl Iterator<Item = Result<(), String>>) -> FileResult {
    let mut result = FileResult {
        file: file.to_string(),
        passed: 0,
        failed: Vec::new(),
    };
    for row in rows {
        match row {
            Ok(()) => result.passed += 1,
            Err(problem) => result.failed.push(problem),
        }
    }
    result
}

/// Runs a tab-separated table with a heading.
pub fn run_tsv(dir: &Path, name: &str, check: TsvCheck) -> FileResult {
    let text = match std::fs::read_to_string(dir.join(name)) {
        Ok(text) => text,
        Err(error) => return result(name, std::iter::once(Err(error.to_string()))),
    };
    let rows = text.lines().skip(1).filter(|line| !line.is_empty()).map(|line| {
        let cells: Vec<&str> = line.split('\t').collect();
        match check(&cells) {
            Ok((got, want)) if got == want => Ok(()),
            Ok((got, want)) => Err(format!("{line}: got {got}, want {want}")),
            Err(problem) => Err(format!("{line}: {problem}")),
        }
    });
    result(name, rows)
}

/// Runs a table that is a JSON array.
pub fn run_json(dir: &Path, name: &str, check: JsonCheck) -> FileResult {
    let read = std::fs::read(dir.join(name)).map_err(|error| error.to_string());
    let rows = read.and_then(|bytes| serde_json::from_slice::<Vec<Value>>(&bytes).map_err(|e| e.to_string()));
    match rows {
        Err(problem) => result(name, std::iter::once(Err(problem))),
        Ok(rows) => result(
            name,
            rows.iter()
                .map(|row| check(row).map_err(|problem| format!("{}: {problem}", row["id"]))),
        ),
    }
}
