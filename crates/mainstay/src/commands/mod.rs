//! One module per command; this one only routes and sets up logging and the runtime.

mod api;
mod detect;
mod doctor;
mod down;
mod explain;
mod findings;
mod host;
mod kubeconfig;
mod manifests;
pub mod node;
mod os;
mod preflight;
mod server;
mod simulate;
mod snapshot;
mod up;
pub mod version;
mod why;

use std::future::Future;

use clap::CommandFactory;
use mainstay_control::CancellationToken;
use tokio::signal::unix::{SignalKind, signal};
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
        Command::Up(args) => up::run(&args, output),
        Command::Down(args) => down::run(&args, output),
        Command::Status(args) => doctor::status(&args, output),
        Command::Doctor(args) => doctor::run(&args, output),
        Command::Why(args) => why::run(&args, output),
        Command::Host(args) => host::run(&args.command, output),
        Command::Kubeconfig(args) => kubeconfig::run(&args, output),
        Command::Server(args) => server::run(&args),
        Command::Backup(args) => snapshot::backup(&args, output),
        Command::Restore(args) => snapshot::restore(&args, output),
        Command::Node(args) => node::run(&args),
        Command::Detect(args) => detect::run(&args),
        Command::Os(args) => os::run(&args.command, output),
        Command::Simulate(args) => simulate::run(&args.command, output),
        Command::Explain(args) => explain::run(args.id.as_deref(), output),
        Command::Version => version::run(output),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Args::command(), "mainstay", &mut std::io::stdout());
            Ok(Code::Ok)
        }
        Command::Init(args) => {
            // The provider's own protocol: the exit status goes through as it is.
            std::process::exit(mainstay_provider::local::init::run(&args.rest))
        }
        Command::Manage(args) => crate::manager::run(&args),
    }
}

/// Runs a command's asynchronous part to its end.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = crate::small::runtime();
    let runtime = runtime.map_err(|error| Failure::new("MS-INT-0001", format!("no runtime: {error}")))?;
    runtime.block_on(work)
}

/// Cancels `stop` at SIGTERM or SIGINT.
fn stop_on_signals(stop: &CancellationToken) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new("MS-INT-0001", format!("no signal handler: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

/// Says at ERROR, at each request to a server that is away, what its caller learns too and says once in a while.
const SAID_TWICE: &str = "kube_client::client::builder";

fn start_logging(filter: &str) -> Result<(), Failure> {
    // What is asked for by name stays.
    let filter = match filter.contains("kube_client") {
        true => filter.to_owned(),
        false => format!("{filter},{SAID_TWICE}=off"),
    };
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::new("MS-CFG-0003", format!("--log: {error}"))
            .fix("for example --log info or --log mainstay_node=debug")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}
