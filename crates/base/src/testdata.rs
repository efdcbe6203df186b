//! Where tests and the oracle runner find tables of expected answers. Product code never calls this.

use std::path::{Path, PathBuf};

/// Tells the folder that holds `oracle/`: `$MAINSTAY_SHARED`, else `shared` beside the repository, else the
/// repository's own `testdata`.
///
/// # Panics
/// When none exists: a table test that finds no table must fail, never pass.
pub fn shared_dir() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let dir = match std::env::var_os("MAINSTAY_SHARED") {
        Some(dir) => PathBuf::from(dir),
        None => [root.join("../shared"), root.join("testdata")]
            .into_iter()
            .find(|dir| dir.join("oracle").is_dir())
            .unwrap_or_default(),
    };
    assert!(
        dir.is_dir(),
        "no folder {}: set MAINSTAY_SHARED to the folder with the tables",
        dir.display()
    );
    dir
}

/// Tells a file or folder of other projects (schemas, stock configurations) below `data/` of [`shared_dir`].
///
/// They are not part of the repository, so a checkout without them gives None and says so on stderr: what such a
/// test proves is proven where the folder is (`$MAINSTAY_SHARED` or `../shared`).
pub fn upstream(path: &str) -> Option<PathBuf> {
    let found = Some(shared_dir().join("data").join(path)).filter(|file| file.exists());
    if found.is_none() {
        eprintln!(
            "no {path}: set MAINSTAY_SHARED to a folder with data/{path}; not compared with upstream's here"
        );
    }
    found
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
