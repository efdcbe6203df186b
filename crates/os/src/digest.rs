//! SHA-256 of bytes and of files, in hexadecimal.

use std::path::Path;

use mainstay_host::command::program;
use ring::digest::{SHA256, digest};

use crate::error::{Error, Result, host};

/// The digest of bytes.
pub(crate) fn of_bytes(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

/// The digests of files, in order. Left to a program: ours is many times slower when built without optimization.
pub(crate) fn of_files(files: &[&Path]) -> Result<Vec<String>> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let text = program("sha256sum")
        .arg("--")
        .args(files)
        .run()
        .map_err(host("compute digests"))?;
    let digests: Vec<String> = text
        .lines()
        .filter_map(|line| Some(line.trim_start_matches('\\').split_once(' ')?.0.to_owned()))
        .collect();
    match digests.len() == files.len() {
        true => Ok(digests),
        false => Err(Error::Answer {
            program: "sha256sum",
            message: format!("{} lines", digests.len()),
        }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_bytes_agree() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        std::fs::write(&file, "abc").unwrap();
        assert_eq!(of_files(&[&file]).unwrap(), [of_bytes(b"abc")]);
        assert!(of_bytes(b"abc").starts_with("ba7816bf8f01cfea"));
    }
}
