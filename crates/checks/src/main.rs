//! End-to-end checks that anyone can point at the product: `checks oracle DIR`, `checks bench NAME`, `checks fuzz`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use mainstay_checks::{bench, fuzz, oracle, trial};

/// The binary's own: what is measured in this process (the store, the bare server) allocates as it does there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs oracle tables and benchmarks against the production code.
#[derive(Debug, Parser)]
#[command(name = "checks")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every table under DIR through the production functions.
    Oracle {
        /// A folder laid out as `AREA/FILE`.
        dir: PathBuf,
        /// Only this area (a folder below DIR), for example `kubelet`.
        #[arg(long)]
        only: Option<String>,
    },
    /// Put the node agent through one trial on real parts (root): `kill`, `away`, `upstream` (on upstream's API server); in
    /// an emulated machine `cgroups` (plain folders) and `slices` (systemd's).
    Trial {
        /// The trial's name.
        name: String,
    },
    /// Run one benchmark, or `all`.
    Bench {
        /// The benchmark's name.
        name: String,
        /// Only this part of it, where it has parts.
        #[arg(long)]
        only: Option<String>,
        /// Print JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// The server without content that `bench apiserver` measures beside the product; runs until it is killed.
    #[command(hide = true)]
    BareServer {
        /// Where its log and its kubeconfig go.
        folder: PathBuf,
        /// Its port on the loopback.
        port: u16,
    },
    /// Feed parsers with damaged input; the input that breaks one is kept.
    Fuzz {
        /// Only this parser.
        name: Option<String>,
        /// How long each.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// So many inputs each instead.
        #[arg(long)]
        inputs: Option<u64>,
        /// Another seed gives other inputs.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Where inputs under test are kept.
        #[arg(long, default_value = "target/fuzz")]
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    // What parts under test log is seen with RUST_LOG.
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing_subscriber::filter::LevelFilter::OFF.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let outcome = match Args::parse().command {
        Command::Oracle { dir, only } => oracle::run(&dir, only.as_deref()),
        Command::Trial { name } => trial::run(&name).map(|()| true),
        Command::Bench { name, only, json } => bench::run(&name, only.as_deref(), json),
        Command::BareServer { folder, port } => bench::bare_server(&folder, port).map(|()| true),
        Command::Fuzz {
            name,
            seconds,
            inputs,
            seed,
            folder,
        } => {
            let time = fuzz::Amount::Time(Duration::from_secs(seconds));
            let amount = inputs.map_or(time, fuzz::Amount::Inputs);
            fuzz::run(name.as_deref(), &amount, seed, &folder)
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("checks: {error:#}");
            ExitCode::from(2)
        }
    }
}
