//! The mainstay binary: arguments, configuration and wiring. Decisions live in the library crates.

mod args;
mod commands;
mod explain;
mod manager;
mod outcome;
mod output;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let output = output::Output::new(&args.global);
    match commands::dispatch(args, &output) {
        Ok(code) => code.into(),
        Err(failure) => {
            output.failure(&failure);
            failure.code().into()
        }
    }
}
