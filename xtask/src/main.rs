//! Project chores: `cargo xtask tidy | advisories | metrics | generate | oracle | bench`.

// A chore starts cargo and git itself.
#![allow(clippy::disallowed_methods)]

mod advisories;
mod generate;
mod licences;
mod metrics;
mod source;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: cargo xtask COMMAND

  tidy                       check the house rules (crate layers, banned calls, module docs, generated files)
  advisories [DIR]           compare Cargo.lock with the RustSec database in DIR (fetched with git when not given)
  metrics [--json]           print the size and shape of the code beside the aims
  generate [NAME]            write the generated files again (needs the shared data)
  oracle DIR [--only AREA]   run every table under DIR through the production functions
  bench NAME [--json]        run one benchmark (`all` runs every one)";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &[String]) -> Result<bool> {
    let root = root();
    match args.split_first().map(|(command, rest)| (command.as_str(), rest)) {
        Some(("tidy", [])) => tidy::run(&root),
        Some(("advisories", rest)) => advisories::run(&root, rest.first().map(String::as_str)),
        Some(("metrics", rest)) => metrics::run(&root, rest.iter().any(|arg| arg == "--json")),
        Some(("generate", rest)) => generate::run(&root, rest.first().map(String::as_str)),
        Some(("oracle", rest)) => checks(&root, "oracle", rest, &[]),
        Some(("bench", rest)) => checks(&root, "bench", rest, &["--release"]),
        _ => bail!("{USAGE}"),
    }
}

/// Starts the `checks` binary; the profile is release for benchmarks only.
fn checks(root: &Path, command: &str, rest: &[String], profile: &[&str]) -> Result<bool> {
    for name in ["mainstay", "checks"] {
        let mut build = Command::new(env!("CARGO"));
        build
            .current_dir(root)
            .args(["build", "--quiet", "--package", name])
            .args(profile);
        if !build
            .status()
            .with_context(|| format!("failed to build {name}"))?
            .success()
        {
            return Ok(false);
        }
    }
    let folder = if profile.is_empty() { "debug" } else { "release" };
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let mut start = Command::new(target.join(folder).join("checks"));
    Ok(start
        .arg(command)
        .args(rest)
        .status()
        .context("failed to start checks")?
        .success())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the repository")
        .to_path_buf()
}
