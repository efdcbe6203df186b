//! Where tests and the oracle runner find the shared tables. Product code never calls this.

use std::path::PathBuf;

/// Tells the folder with the shared tables and schemas: `$MAINSTAY_SHARED`, else `shared` beside the repository.
///
/// # Panics
/// When neither exists: a table test that finds no table must fail, never pass.
pub fn shared_dir() -> PathBuf {
    let dir = match std::env::var_os("MAINSTAY_SHARED") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")),
    };
    assert!(
        dir.is_dir(),
        "no folder {}: set MAINSTAY_SHARED to the folder with the shared tables",
        dir.display()
    );
    dir
}

/// Reads one file below [`shared_dir`] as text.
///
/// # Panics
/// When the file cannot be read.
pub fn read(path: &str) -> String {
    let file = shared_dir().join(path);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()))
}

/// Reads the rows of one table below [`shared_dir`]: a JSON array, or the array `cases` of an object.
///
/// # Panics
/// When the file cannot be read or is no table.
pub fn rows(path: &str) -> Vec<serde_json::Value> {
    let table =
        serde_json::from_str(&read(path)).unwrap_or_else(|error| panic!("cannot parse {path}: {error}"));
    match table {
        serde_json::Value::Array(rows) => rows,
        serde_json::Value::Object(mut object) => match object.remove("cases") {
            Some(serde_json::Value::Array(rows)) => rows,
            _ => panic!("{path} has no cases"),
        },
        _ => panic!("{path} is no table"),
    }
}
