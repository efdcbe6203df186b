//! The mainstay binary: arguments, configuration and wiring. Decisions live in the library crates.

mod args;
mod commands;
mod exit;
mod explain;
mod manager;
mod outcome;
mod output;
#[cfg(test)]
mod reference;
mod small;

use std::process::ExitCode;

use clap::Parser;

/// A request makes and drops hundreds of small values; this allocator serves them from the thread's own pages. Huge pages
/// are left off: an idle process shall stay small.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The failure of flags and arguments that cannot be used.
const USAGE: &str = "MS-CFG-0003";

fn main() -> ExitCode {
    let args = match args::Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let global = &args.global;
    let output = output::Output::new(global.output, global.progress, global.color);
    match commands::dispatch(args, &output) {
        Ok(code) => code.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.code().into()
        }
    }
}

/// Help and version are answers; everything else is wrong usage, with an id like every failure.
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done about a terminal that went away.
    let _ = error.print();
    if !error.use_stderr() {
        return outcome::Code::Ok.into();
    }
    eprintln!("Details: mainstay explain {USAGE}");
    outcome::Code::Usage.into()
}
