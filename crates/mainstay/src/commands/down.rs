//! `mainstay down`: ends the background process and undoes everything in the ledger.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use mainstay_base::error::chain;
use mainstay_host::ledger::Ledger;
use serde_json::json;

use crate::args::DownArgs;
use crate::manager::state::{Layout, Running};
use crate::outcome::{Code, Failure, Outcome};
use crate::output::Output;

/// How long the background process may take to end by itself.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// What stays without `--purge`, so that the next `up` need not compose again.
const CACHE: &str = "os";

/// Runs the command.
pub fn run(args: &DownArgs, output: &Output) -> Outcome {
    let layout = Layout::new(&args.data.data_dir);
    let items = match layout.ledger().is_file() {
        // Opening a ledger makes the file: looking must not.
        true => open(&layout)?.items(),
        false => Vec::new(),
    };
    let nothing = !layout.root.is_dir();
    if args.plan {
        let lines = || match items.is_empty() {
            true => format!("nothing to undo at {}\n", layout.root.display()),
            false => items.iter().map(|item| format!("{item:?}\n")).collect(),
        };
        output.answer("DownPlan", json!({"items": items}), lines);
        return Ok(Code::Ok);
    }
    if !args.yes && !nothing && !confirmed(&layout)? {
        return Ok(Code::No);
    }
    if !nothing {
        undo(&layout, args.purge, output)?;
    }
    let document = json!({"dataDir": layout.root, "undone": items.len(), "purged": args.purge});
    output.answer("Down", document, || match nothing {
        true => format!("nothing at {}\n", layout.root.display()),
        false => "Everything is undone. Start again: mainstay up\n".to_string(),
    });
    Ok(Code::Ok)
}

fn failed(problem: String) -> Failure {
    Failure::new("MS-RUN-0005", problem)
}

fn open(layout: &Layout) -> Result<Ledger, Failure> {
    Ledger::open(&layout.ledger()).map_err(|error| failed(chain(&error)))
}

fn undo(layout: &Layout, purge: bool, output: &Output) -> Result<(), Failure> {
    let step = output.step(1, 3, "management plane", None);
    stop(layout).map_err(failed)?;
    step.done("stopped");
    let step = output.step(2, 3, "computer", None);
    // Read only now: the process may have written until it ended.
    let ledger = open(layout)?;
    let count = ledger.items().len();
    let left = ledger.undo().map_err(|error| failed(chain(&error)))?;
    if let Some((item, error)) = left.first() {
        return Err(failed(format!(
            "{} of {count} left, first {item:?}: {}",
            left.len(),
            chain(error)
        )));
    }
    step.done(&format!("{count} mounts, links, groups and folders undone"));
    drop(ledger);
    let step = output.step(3, 3, "data", None);
    remove_data(layout, purge).map_err(|error| failed(error.to_string()))?;
    step.done(if purge {
        "removed"
    } else {
        "removed; composed images are kept (--purge removes them too)"
    });
    Ok(())
}

fn confirmed(layout: &Layout) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            "MS-CFG-0003",
            "down needs --yes where nobody can be asked",
        ));
    }
    eprint!(
        "Remove everything of {}, its clusters and their data? [y/N] ",
        layout.root.display()
    );
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::new("MS-CFG-0003", error.to_string()))?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

fn stop(layout: &Layout) -> Result<(), String> {
    let Some(handle) = Running::read(layout).and_then(|running| running.process.open()) else {
        return Ok(());
    };
    handle.terminate().map_err(|error| chain(&error))?;
    if !handle.wait(STOP_LIMIT) {
        handle.kill_and_wait().map_err(|error| chain(&error))?;
    }
    layout.forget_running();
    Ok(())
}

fn remove_data(layout: &Layout, purge: bool) -> std::io::Result<()> {
    for entry in std::fs::read_dir(&layout.root)?.flatten() {
        if entry.file_name() == CACHE && !purge {
            continue;
        }
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    if purge {
        std::fs::remove_dir(&layout.root)
    } else {
        Ok(())
    }
}
