//! One module per command; this one only routes and sets up logging.

mod explain;
mod node;
mod server;
pub mod version;

use clap::CommandFactory;
use tracing_subscriber::EnvFilter;

use crate::args::{Args, Command};
use crate::outcome::{Code, Failure, Outcome};
use crate::output::Output;

/// What is logged when nothing is asked for.
const QUIET: &str = "warn";
/// What long-running processes log unless told otherwise.
const SERVICE: &str = "info";

/// Runs the chosen command.
pub fn dispatch(args: Args, output: &Output) -> Outcome {
    let service = matches!(
        args.command,
        Command::Server(_) | Command::Node(_) | Command::Detect(_) | Command::Manage(_) | Command::Init(_)
    );
    start_logging(
        args.global
            .log
            .as_deref()
            .unwrap_or(if service { SERVICE } else { QUIET }),
    )?;
    match args.command {
        Command::Node(args) => node::run(&args),
        Command::Server(args) => server::run(args),
        Command::Version => version::run(output),
        Command::Explain(args) => explain::run(args.id.as_deref(), output),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "mainstay", &mut std::io::stdout());
            Ok(Code::Ok)
        }
        other => Err(Failure::new("MS-INT-0001", format!("{other:?} is not built yet"))),
    }
}

fn start_logging(filter: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::new("MS-CFG-0003", format!("--log: {error}"))
            .fix("for example --log info or --log mainstay_node=debug")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}
