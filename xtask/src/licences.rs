//! Which licences the packages we build may have, and where they may come from. Works on `cargo metadata --offline`:
//! no network. For advisories see advisories.rs.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Licences that Apache-2.0 software may build on, each with the reason.
const ALLOWED: &[(&str, &str)] = &[
    ("Apache-2.0", "our own"),
    ("Apache-2.0 WITH LLVM-exception", "our own with fewer conditions"),
    ("MIT", "permissive: keep the notice"),
    ("ISC", "permissive: keep the notice"),
    ("BSD-2-Clause", "permissive: keep the notice"),
    ("BSD-3-Clause", "permissive: keep the notice, no endorsement"),
    ("Zlib", "permissive: mark changed sources"),
    ("0BSD", "permissive without conditions"),
    ("Unlicense", "public domain"),
    ("Unicode-3.0", "for Unicode's tables: keep the notice"),
    (
        "CDLA-Permissive-2.0",
        "for data: the list of certificate authorities",
    ),
];

/// The only place packages come from, besides the workspace.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Tells which packages have a licence or a source that is not allowed.
///
/// # Errors
/// When cargo cannot describe the workspace from what was downloaded.
pub fn problems(root: &Path) -> Result<Vec<String>> {
    let metadata = metadata(root)?;
    let built: BTreeSet<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|node| node["id"].as_str())
        .collect();
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let packages = packages.filter(|package| package["id"].as_str().is_some_and(|id| built.contains(id)));
    Ok(packages.filter_map(problem).collect())
}

fn metadata(root: &Path) -> Result<Value> {
    let version = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("failed to start rustc")?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc does not name its host")?;
    let output = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .args(["--filter-platform", host])
        .output()
        .context("failed to start cargo")?;
    if !output.status.success() {
        bail!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata is no JSON")
}

fn problem(package: &Value) -> Option<String> {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    let (name, version) = (text("name"), text("version"));
    let licence = text("license");
    if !accepted(licence) {
        let shown = if licence.is_empty() { "none" } else { licence };
        return Some(format!(
            "package {name} {version}: licence {shown} is not in the list of xtask/src/licences.rs"
        ));
    }
    let source = text("source");
    let known = source.is_empty() || source == REGISTRY;
    (!known).then(|| format!("package {name} {version}: comes from {source}, not from crates.io"))
}

/// Whether a licence expression can be met by what is allowed. The old notation `A/B` means `A OR B`.
fn accepted(expression: &str) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    !words.is_empty() && any(&words, &mut at) && at == words.len()
}

/// `A OR B ...`
fn any(words: &[&str], at: &mut usize) -> bool {
    let mut met = all(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all(words, at);
    }
    met
}

/// `A AND B ...`, which binds tighter.
fn all(words: &[&str], at: &mut usize) -> bool {
    let mut met = one(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at);
    }
    met
}

/// A licence, one with an exception, or an expression in brackets.
fn one(words: &[&str], at: &mut usize) -> bool {
    let Some(first) = words.get(*at) else {
        return false;
    };
    *at += 1;
    if *first == "(" {
        let met = any(words, at);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return met && closed;
    }
    let mut name = (*first).to_string();
    if let (Some(&"WITH"), Some(exception)) = (words.get(*at), words.get(*at + 1)) {
        name = format!("{name} WITH {exception}");
        *at += 2;
    }
    ALLOWED.iter().any(|(allowed, _)| *allowed == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_spdx_means_them() {
        for (expression, met) in [
            ("MIT", true),
            ("MIT OR Apache-2.0", true),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("(MIT OR GPL-3.0) AND Unicode-3.0", true),
            ("(MIT AND GPL-3.0) OR Zlib", true),
            ("MIT AND GPL-3.0 OR AGPL-3.0", false),
            ("Apache-2.0 WITH LLVM-exception OR MIT", true),
            ("GPL-2.0 WITH Classpath-exception-2.0", false),
            ("(MIT", false),
            ("MIT)", false),
            ("", false),
        ] {
            assert_eq!(accepted(expression), met, "{expression}");
        }
    }

    #[test]
    fn every_package_we_build_may_be_built_on() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        assert_eq!(
            problems(&root).expect("cargo describes the workspace"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_foreign_source_or_licence_is_named() {
        let package = |license: &str, source: &str| {
            problem(&serde_json::json!({"name": "x", "version": "1", "license": license, "source": source}))
        };
        assert_eq!(package("MIT", REGISTRY), None);
        assert!(package("AGPL-3.0", REGISTRY).is_some_and(|problem| problem.contains("AGPL-3.0")));
        assert!(
            package("MIT", "git+https://example.com/x")
                .is_some_and(|problem| problem.contains("example.com"))
        );
    }
}
