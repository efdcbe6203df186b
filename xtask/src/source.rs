//! Reads the hand-written Rust files of the repository, parsed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// One parsed file.
pub struct Source {
    /// Relative to the repository.
    pub path: PathBuf,
    /// The text.
    pub text: String,
    /// The syntax tree.
    pub tree: syn::File,
}

impl Source {
    /// The crate's folder name (`xtask` for the chores).
    pub fn krate(&self) -> &str {
        let mut parts = self.path.iter().filter_map(|part| part.to_str());
        match parts.next() {
            Some("crates") => parts.next().unwrap_or_default(),
            Some(first) => first,
            None => "",
        }
    }

    /// Tells whether the whole file is test code.
    pub fn is_test(&self) -> bool {
        let text = self.path.to_string_lossy();
        text.contains("/tests/")
            || text.ends_with("tests.rs")
            || ["checks", "testkit"].contains(&self.krate())
    }
}

/// Reads every tracked Rust file that is not generated (a first line with `@generated` marks those).
pub fn load(root: &Path) -> Result<Vec<Source>> {
    let listed = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])
        .output()
        .context("failed to ask git for the files")?;
    let mut sources = Vec::new();
    for path in String::from_utf8(listed.stdout)?.lines().map(PathBuf::from) {
        let Ok(text) = std::fs::read_to_string(root.join(&path)) else {
            continue;
        };
        if text
            .lines()
            .next()
            .is_some_and(|line| line.contains("@generated"))
        {
            continue;
        }
        let tree = syn::parse_file(&text).with_context(|| format!("cannot parse {}", path.display()))?;
        sources.push(Source { path, text, tree });
    }
    Ok(sources)
}

/// Tells whether an item is only compiled for tests.
pub fn is_test_only(attrs: &[syn::Attribute]) -> bool {
    attrs.iter().any(|attr| {
        let is_cfg =
            attr.path().is_ident("cfg") && attr.parse_args::<syn::Ident>().is_ok_and(|arg| arg == "test");
        is_cfg
            || attr
                .path()
                .segments
                .last()
                .is_some_and(|last| last.ident == "test")
    })
}
