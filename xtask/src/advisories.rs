//! Known vulnerabilities of the packages in Cargo.lock, by the RustSec database: a folder of it, or a copy fetched with git.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use semver::{Version, VersionReq};
use toml_edit::{DocumentMut, Item};

/// Where the database is kept.
const DATABASE: &str = "https://github.com/RustSec/advisory-db";

/// What one advisory says.
#[derive(Debug)]
struct Advisory {
    id: String,
    title: String,
    /// `unmaintained`, `unsound` or `notice`; nothing for a vulnerability.
    informational: Option<String>,
    /// Versions without the problem.
    safe: Vec<VersionReq>,
}

impl Advisory {
    /// A vulnerability or unsound code fails the check; that nobody maintains a package is only told.
    fn fails(&self) -> bool {
        !matches!(self.informational.as_deref(), Some("unmaintained" | "notice"))
    }

    fn affects(&self, version: &Version) -> bool {
        !self.safe.iter().any(|safe| safe.matches(version))
    }
}

/// Compares every locked package with the database and prints what is known; true when nothing fails.
///
/// # Errors
/// When the database cannot be fetched or read, or Cargo.lock cannot be read.
pub fn run(root: &Path, database: Option<&str>) -> Result<bool> {
    let folder = match database {
        Some(folder) => PathBuf::from(folder),
        None => fetched(root)?,
    };
    let crates = folder.join("crates");
    if !crates.is_dir() {
        bail!(
            "{}: not the RustSec database (no folder `crates`)",
            folder.display()
        );
    }
    let (mut failing, mut told) = (0, 0);
    let packages = packages(&root.join("Cargo.lock"))?;
    for (name, version) in &packages {
        for advisory in advisories(&crates.join(name))? {
            if advisory.affects(version) {
                let kind = advisory.informational.as_deref().unwrap_or("vulnerability");
                println!("{name} {version}: {} {kind}: {}", advisory.id, advisory.title);
                match advisory.fails() {
                    true => failing += 1,
                    false => told += 1,
                }
            }
        }
    }
    println!(
        "advisories: {} packages, {failing} problems, {told} remarks",
        packages.len()
    );
    Ok(failing == 0)
}

/// A copy of the database below target/, made or brought up to date.
fn fetched(root: &Path) -> Result<PathBuf> {
    let folder = root.join("target/advisory-db");
    let mut git = Command::new("git");
    match folder.is_dir() {
        true => git.arg("-C").arg(&folder).args(["pull", "--quiet", "--ff-only"]),
        false => git
            .args(["clone", "--quiet", "--depth", "1", DATABASE])
            .arg(&folder),
    };
    let status = git.status().context("failed to start git")?;
    if !status.success() {
        bail!("{DATABASE} cannot be reached: give the folder of a copy, `cargo xtask advisories DIR`");
    }
    Ok(folder)
}

/// Name and version of every package from a registry.
fn packages(lock: &Path) -> Result<Vec<(String, Version)>> {
    let text = std::fs::read_to_string(lock).with_context(|| lock.display().to_string())?;
    let lock: DocumentMut = text.parse().context("Cargo.lock")?;
    let packages = lock["package"]
        .as_array_of_tables()
        .context("Cargo.lock has no packages")?;
    let foreign = packages.iter().filter(|p| p.contains_key("source"));
    foreign
        .map(|package| {
            let name = text_of(package.get("name")).context("a package without a name")?;
            let version = text_of(package.get("version")).context("a package without a version")?;
            Ok((name, Version::parse(&version)?))
        })
        .collect()
}

fn advisories(folder: &Path) -> Result<Vec<Advisory>> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        found.extend(advisory(&text).with_context(|| path.display().to_string())?);
    }
    Ok(found)
}

/// Reads an advisory: a block of TOML, then prose under a title. Nothing for one that was withdrawn.
fn advisory(text: &str) -> Result<Option<Advisory>> {
    let (head, prose) = text
        .trim_start()
        .strip_prefix("```toml")
        .and_then(|rest| rest.split_once("\n```"))
        .context("no block of TOML at the top")?;
    let head: DocumentMut = head.parse()?;
    let about = |key: &str| head.get("advisory").and_then(|a| a.get(key));
    if about("withdrawn").is_some() {
        return Ok(None);
    }
    let versions = |key: &str| -> Result<Vec<VersionReq>> {
        let listed = head
            .get("versions")
            .and_then(|v| v.get(key))
            .and_then(Item::as_array);
        let listed = listed.into_iter().flatten().filter_map(|v| v.as_str());
        listed.map(|v| Ok(VersionReq::parse(v)?)).collect()
    };
    let mut safe = versions("patched")?;
    safe.extend(versions("unaffected")?);
    let title = prose.lines().find_map(|line| line.strip_prefix("# "));
    Ok(Some(Advisory {
        id: text_of(about("id")).context("no id")?,
        title: title.unwrap_or_default().trim().to_owned(),
        informational: text_of(about("informational")),
        safe,
    }))
}

fn text_of(item: Option<&Item>) -> Option<String> {
    item?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(head: &str) -> String {
        format!(
            "```toml\n[advisory]\nid = \"RUSTSEC-2099-0001\"\npackage = \"p\"\n{head}\n```\n\n# It breaks\n\nBadly.\n"
        )
    }

    #[test]
    fn versions_tell_who_is_affected() {
        let text =
            text("[versions]\npatched = [\">= 1.5.1, < 1.6.0\", \">= 1.8.1\"]\nunaffected = [\"< 0.3.0\"]");
        let found = advisory(&text).unwrap().unwrap();
        assert_eq!((found.title.as_str(), found.fails()), ("It breaks", true));
        let affected = |v: &str| found.affects(&Version::parse(v).unwrap());
        let rows = ["0.2.9", "0.3.0", "1.5.0", "1.5.3", "1.6.0", "1.8.1", "2.0.0"].map(affected);
        assert_eq!(rows, [false, true, true, false, true, false, false]);
    }

    #[test]
    fn remarks_do_not_fail_and_what_was_withdrawn_is_not_told() {
        let remark = advisory(&text(
            "informational = \"unmaintained\"\n[versions]\npatched = []",
        ))
        .unwrap();
        let remark = remark.unwrap();
        assert!(!remark.fails() && remark.affects(&Version::new(1, 0, 0)));
        assert!(advisory(&text("withdrawn = \"2099-02-01\"")).unwrap().is_none());
        assert!(advisory("no front matter").is_err());
    }
}
