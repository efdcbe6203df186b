//! The house rules that no other tool checks: crate layers, banned calls, module docs, licences, stale
//! generated files.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use crate::source::{self, Source};

/// The layers from the bottom up: a crate may depend on crates of lower layers and of its own layer's left.
const LAYERS: &[&[&str]] = &[
    &["base"],
    &["semantics"],
    &["objects", "policy", "placement", "pki", "host", "store"],
    &["api", "capi"],
    &["control"],
    &["provider", "os", "cri", "nodepolicy"],
    &["access"],
    &["services", "node", "detect", "apiserver"],
    &["workloads", "scheduler", "tenancy", "autoscaler", "dashboard"],
    &["controlplane"],
    &["machines", "repair"],
    &["fleet"],
    &["testkit"],
    &["mainstay"],
    &["checks"],
    &["xtask"],
];

/// Text that only the named crates may hold, with the reason.
const BANNED: &[(&str, &[&str], &str)] = &[
    (
        "SystemTime::now",
        &["base", "xtask", "checks"],
        "time enters through base::clock::Clock",
    ),
    (
        "Timestamp::now",
        &["base", "xtask", "checks"],
        "time enters through base::clock::Clock",
    ),
    (
        "std::time::Instant",
        &["base", "xtask", "checks"],
        "time enters through base::clock::Clock",
    ),
    (
        "env::set_var",
        &[],
        "the environment is read-only; pass arguments",
    ),
    (
        "process::Command",
        &["host", "xtask", "checks"],
        "child processes start in crate host",
    ),
    ("unsafe {", &["host"], "unsafe code lives in crate host"),
    (
        "//! ```",
        &["control"],
        "only crate control runs the examples of its documentation (doctest = false elsewhere)",
    ),
    (
        "/// ```",
        &["control"],
        "only crate control runs the examples of its documentation (doctest = false elsewhere)",
    ),
    ("#[ignore", &[], "a test runs or does not exist"),
    ("todo!(", &[], "nothing unfinished lands"),
    ("unimplemented!(", &[], "nothing unfinished lands"),
];

/// Packages that must not enter the lock file.
const BANNED_PACKAGES: &[&str] = &["aws-lc-rs", "aws-lc-sys", "openssl-sys", "native-tls"];

/// Runs every rule and prints what breaks one; true when nothing does.
pub fn run(root: &Path) -> Result<bool> {
    let sources = source::load(root)?;
    let mut problems = layer_problems(root)?;
    problems.extend(sources.iter().flat_map(banned_calls));
    problems.extend(sources.iter().filter_map(missing_module_doc));
    problems.extend(banned_packages(root)?);
    problems.extend(crate::licences::problems(root)?);
    problems.extend(crate::generate::stale(root)?);
    problems.sort();
    problems.iter().for_each(|problem| println!("{problem}"));
    println!("tidy: {} files, {} problems", sources.len(), problems.len());
    Ok(problems.is_empty())
}

fn layer_problems(root: &Path) -> Result<Vec<String>> {
    let rank: BTreeMap<&str, usize> = LAYERS
        .iter()
        .enumerate()
        .flat_map(|(rank, names)| names.iter().map(move |name| (*name, rank)))
        .collect();
    let mut problems = Vec::new();
    for entry in std::fs::read_dir(root.join("crates"))? {
        let folder = entry?.path();
        let name = folder
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_string();
        let manifest = folder.join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest)
            .with_context(|| format!("cannot read {}", manifest.display()))?;
        let Some(own) = rank.get(name.as_str()) else {
            problems.push(format!("crates/{name}: not in the layers of xtask/src/tidy.rs"));
            continue;
        };
        // Tests may use the in-memory control plane, which lies above.
        let normal = text.split("[dev-dependencies]").next().unwrap_or_default();
        for dependency in normal.lines().filter_map(|line| line.strip_prefix("mainstay-")) {
            let dependency = dependency.split(['.', ' ', '=']).next().unwrap_or_default();
            if rank
                .get(dependency)
                .is_none_or(|below| below >= own && !same_layer(own, &name, dependency))
            {
                problems.push(format!(
                    "crates/{name}: must not depend on {dependency}: dependencies point down"
                ));
            }
        }
    }
    Ok(problems)
}

/// Within a layer a crate may use those to its left.
fn same_layer(rank: &usize, name: &str, dependency: &str) -> bool {
    let place = |wanted: &str| LAYERS[*rank].iter().position(|known| *known == wanted);
    matches!((place(dependency), place(name)), (Some(left), Some(right)) if left < right)
}

fn banned_calls(source: &Source) -> Vec<String> {
    if source.path.ends_with("xtask/src/tidy.rs") {
        return Vec::new();
    }
    let test_from = source
        .text
        .find("#[cfg(test)]\nmod ")
        .unwrap_or(source.text.len());
    let checked = if source.is_test() {
        ""
    } else {
        &source.text[..test_from]
    };
    let mut problems = Vec::new();
    for (number, line) in checked.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for (text, allowed, reason) in BANNED {
            if code.contains(text) && !allowed.contains(&source.krate()) {
                problems.push(format!(
                    "{}:{}: `{text}`: {reason}",
                    source.path.display(),
                    number + 1
                ));
            }
        }
    }
    problems
}

fn missing_module_doc(source: &Source) -> Option<String> {
    let documented = source.text.lines().take(3).any(|line| line.starts_with("//!"));
    (!documented).then(|| format!("{}: no `//!` line at its top", source.path.display()))
}

fn banned_packages(root: &Path) -> Result<Vec<String>> {
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let found = BANNED_PACKAGES.iter().filter(|name| in_build(root, &lock, name));
    Ok(found
        .map(|name| format!("Cargo.lock: package {name} must not be used"))
        .collect())
}

/// The lock also lists optional packages that nothing builds; only the built ones count.
fn in_build(root: &Path, lock: &str, name: &str) -> bool {
    lock.contains(&format!("name = \"{name}\""))
        && std::process::Command::new(env!("CARGO"))
            .current_dir(root)
            .args(["tree", "--workspace", "--locked", "--invert", name])
            .output()
            .is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
}
