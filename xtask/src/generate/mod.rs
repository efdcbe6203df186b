//! Writes generated files; each generator returns its files, so that `tidy` can compare without writing.

mod numbers;
mod resources;
mod types;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// One generated file: where it belongs and what it holds.
pub struct Generated {
    /// Relative to the repository.
    pub path: PathBuf,
    /// The whole content.
    pub content: String,
}

/// A generator reads the shared data (second argument) and may read the repository (first).
type Generator = fn(&Path, &Path) -> Result<Vec<Generated>>;

/// Every generator by name.
const GENERATORS: &[(&str, Generator)] = &[
    ("resources", resources::generate),
    ("types", types::generate),
    ("numbers", numbers::generate),
];

/// Writes the files of one generator or all of them.
pub fn run(root: &Path, only: Option<&str>) -> Result<bool> {
    let shared = shared_dir(root)?;
    if let Some(name) = only
        && !GENERATORS.iter().any(|(known, _)| *known == name)
    {
        let names: Vec<&str> = GENERATORS.iter().map(|(name, _)| *name).collect();
        bail!("no generator {name}; there are: {}", names.join(", "));
    }
    for (name, generator) in GENERATORS
        .iter()
        .filter(|(name, _)| only.is_none_or(|only| only == *name))
    {
        for file in generator(root, &shared).with_context(|| format!("generator {name} failed"))? {
            let path = root.join(&file.path);
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            std::fs::write(&path, &file.content)
                .with_context(|| format!("cannot write {}", path.display()))?;
            println!("{name}: {}", file.path.display());
        }
    }
    Ok(true)
}

/// Tells which generated files differ from what their generator gives; none when the shared data is absent.
pub fn stale(root: &Path) -> Result<Vec<String>> {
    let Ok(shared) = shared_dir(root) else {
        return Ok(Vec::new());
    };
    let mut stale = Vec::new();
    for (name, generator) in GENERATORS {
        for file in generator(root, &shared).with_context(|| format!("generator {name} failed"))? {
            if std::fs::read_to_string(root.join(&file.path)).ok().as_deref() != Some(&file.content) {
                stale.push(format!(
                    "{}: stale, run cargo xtask generate {name}",
                    file.path.display()
                ));
            }
        }
    }
    Ok(stale)
}

fn shared_dir(root: &Path) -> Result<PathBuf> {
    let dir = std::env::var_os("MAINSTAY_SHARED").map_or_else(|| root.join("../shared"), PathBuf::from);
    if !dir.is_dir() {
        bail!(
            "no folder {}: set MAINSTAY_SHARED to the folder with the shared data",
            dir.display()
        );
    }
    Ok(dir)
}
