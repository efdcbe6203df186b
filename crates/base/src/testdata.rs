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
