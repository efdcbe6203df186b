//! Feeds every parser that meets the network with damaged input: no panic, no endless work, no overflowing stack.
//!
//! Inputs are made from examples by damaging them again and again; what a parser takes is an example from then on. Runs
//! are repeatable: the same seed gives the same inputs. An input under test lies in a file, so that it is there when the
//! process dies.

mod targets;

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fastrand::Rng;
use mainstay_base::clock::{Clock as _, SystemClock};

/// One parser.
pub struct Target {
    name: &'static str,
    /// Texts that it takes.
    examples: fn() -> Vec<Vec<u8>>,
    /// Feeds it; tells whether the input made sense to it.
    feed: fn(&[u8]) -> bool,
}

/// Inputs grow no longer than this: beyond it the limits of bodies and URLs are tested, not parsers.
const LONGEST: usize = 16 << 10;
/// Examples kept at once.
const POOL: usize = 400;
/// One input may take this long in a debug build on a busy machine.
const SLOW: Duration = Duration::from_secs(5);
/// As small as the stacks of the server's own threads.
const STACK: usize = 2 << 20;

/// Pieces that parsers treat in special ways.
const WORDS: &[&str] = &[
    "null",
    "-1",
    "1e999",
    "9223372036854775808",
    "-9223372036854775809",
    "\"\"",
    "{}",
    "[]",
    "[[[[",
    "{\"a\":",
    "((((",
    "\u{0}",
    "\u{feff}",
    "\u{202e}",
    "~1",
    "~2",
    "/-",
    "%00",
    "%2f",
    "$patch",
    "$retainKeys",
    "$setElementOrder/data",
    "kind",
    "metadata",
    "managedFields",
    "1Ki",
    "1e3Ei",
    "0.0000000001n",
    "!a,b in (c)",
    " notin ()",
    ".all(x, x > 0)",
    "has(self.a)",
    "size(self) / 0",
    "matches('(a+)+$')",
    "duration('1h')",
    "\\ud800",
    "*anchor",
    "&a [*a]",
    "<<: *a",
    "!!binary x",
    "../..",
    ".well-known",
    "eyJhbGciOiJub25lIn0",
    "0x7fffffff",
    "\n",
    "\r\n",
    "\t",
    "--- ",
    "? : - ",
];

/// How much to run.
pub enum Amount {
    /// This long for each parser.
    Time(Duration),
    /// So many inputs for each parser.
    Inputs(u64),
}

/// Runs the parser of that name, or all.
///
/// # Errors
/// For unknown names and folders that cannot be written.
pub fn run(only: Option<&str>, amount: &Amount, seed: u64, folder: &Path) -> Result<bool> {
    let chosen: Vec<&Target> = targets::ALL
        .iter()
        .filter(|target| only.is_none_or(|name| name == target.name))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = targets::ALL.iter().map(|target| target.name).collect();
        bail!("no such parser; there are: {}", names.join(" "));
    }
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut well = true;
    for target in chosen {
        let file = folder.join(format!("{}.input", target.name));
        match one(target, amount, seed, &file)? {
            Outcome::Well { inputs, taken } => {
                println!(
                    "{:<16} {inputs:>10} inputs, {taken} taken, nothing found",
                    target.name
                );
                std::fs::remove_file(&file).ok();
            }
            Outcome::Found(what) => {
                well = false;
                println!("{:<16} {what}; the input is in {}", target.name, file.display());
            }
        }
    }
    Ok(well)
}

enum Outcome {
    Well { inputs: u64, taken: u64 },
    Found(String),
}

fn one(target: &Target, amount: &Amount, seed: u64, file: &Path) -> Result<Outcome> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        let work = thread.spawn_scoped(scope, || work(target, amount, seed, file.to_path_buf()));
        work?
            .join()
            .unwrap_or_else(|_| bail!("{}: the runner itself panicked", target.name))
    })
}

fn work(target: &Target, amount: &Amount, seed: u64, file: PathBuf) -> Result<Outcome> {
    let clock = SystemClock::new();
    let mut rng = Rng::with_seed(seed);
    let mut pool = (target.examples)();
    let (mut inputs, mut taken) = (0, 0);
    let unfinished = |inputs: u64| match amount {
        Amount::Time(limit) => clock.monotonic() < *limit,
        Amount::Inputs(limit) => inputs < *limit,
    };
    while unfinished(inputs) {
        let mut input = pool[rng.usize(..pool.len())].clone();
        damage(&mut rng, &mut input, &pool);
        std::fs::write(&file, &input).with_context(|| format!("cannot write {}", file.display()))?;
        let start = clock.monotonic();
        let fed = std::panic::catch_unwind(AssertUnwindSafe(|| (target.feed)(&input)));
        let Ok(took) = fed else {
            return Ok(Outcome::Found(format!(
                "a panic at input {inputs} of seed {seed}"
            )));
        };
        if clock.monotonic() - start > SLOW {
            return Ok(Outcome::Found(format!(
                "more than {SLOW:?} at input {inputs} of seed {seed}"
            )));
        }
        inputs += 1;
        if took {
            taken += 1;
            match pool.len() < POOL {
                true => pool.push(input),
                false => pool[rng.usize(..POOL)] = input,
            }
        }
    }
    Ok(Outcome::Well { inputs, taken })
}

/// Damages an input in one to four places.
fn damage(rng: &mut Rng, bytes: &mut Vec<u8>, pool: &[Vec<u8>]) {
    for _ in 0..rng.usize(1..5) {
        let at = rng.usize(..=bytes.len());
        let end = rng.usize(at..=bytes.len().min(at + 40));
        match rng.u8(..8) {
            0 if at < bytes.len() => bytes[at] = rng.u8(..),
            1 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
            2 => drop(bytes.drain(at..end)),
            3 => drop(bytes.splice(at..end, WORDS[rng.usize(..WORDS.len())].bytes())),
            4 => {
                let part = bytes[at..end].repeat(rng.usize(1..50));
                drop(bytes.splice(at..at, part));
            }
            5 => {
                let other = &pool[rng.usize(..pool.len())];
                let start = rng.usize(..=other.len());
                let part = other[start..rng.usize(start..=other.len())].to_vec();
                drop(bytes.splice(at..end, part));
            }
            6 => drop(
                bytes.splice(
                    at..at,
                    WORDS[rng.usize(..WORDS.len())]
                        .repeat(rng.usize(1..300))
                        .into_bytes(),
                ),
            ),
            _ => bytes.truncate(at.max(bytes.len() / 2)),
        }
    }
    bytes.truncate(LONGEST);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parser_takes_its_examples_and_survives_damage() {
        let mut refused = Vec::new();
        for target in targets::ALL {
            let examples = (target.examples)().into_iter();
            let wrong = examples.filter(|example| !(target.feed)(example));
            refused
                .extend(wrong.map(|example| (target.name, String::from_utf8_lossy(&example).into_owned())));
        }
        assert!(refused.is_empty(), "{refused:#?}");
        let folder = tempfile::tempdir().expect("a folder for the test");
        assert!(run(None, &Amount::Inputs(300), 1, folder.path()).expect("it runs"));
    }

    #[test]
    fn a_panic_is_found_and_its_input_kept() {
        let target = Target {
            name: "bad",
            examples: || vec![b"abc".to_vec()],
            feed: |input| {
                assert!(input.starts_with(b"abc"));
                true
            },
        };
        let folder = tempfile::tempdir().expect("a folder for the test");
        let file = folder.path().join("bad.input");
        let outcome = one(&target, &Amount::Inputs(10_000), 1, &file).expect("it runs");
        assert!(matches!(outcome, Outcome::Found(what) if what.contains("panic")));
        assert!(!std::fs::read(&file).expect("the input").starts_with(b"abc"));
    }
}
