//! `mainstay node`: reads how to join and the kubelet's configuration and runs the agent until it is told to end.

mod access;
pub mod flags;

use std::path::Path;

use mainstay_base::clock::SystemClock;
use mainstay_base::error::chain;
use mainstay_node::{KubeletConfiguration, NodeConfig, Overrides, Settings, config};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::args::NodeArgs;
use crate::outcome::{Code, Failure, Outcome};

/// SIGPWR: the machine goes down.
const POWER_LOSS: SignalKind = SignalKind::from_raw(30);

/// Whether the agent is stopped because its machine is.
async fn machine_goes_down() -> bool {
    let asked = tokio::task::spawn_blocking(mainstay_host::power::is_going_down);
    asked.await.unwrap_or(false)
}

fn failed(error: impl std::error::Error) -> Failure {
    Failure::new("MS-NODE-0001", chain(&error))
}

fn overrides(path: &Path) -> Result<Overrides, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Overrides::of_local_machine(&text)
            .map_err(|error| Failure::new("MS-NODE-0001", format!("{}: {error}", path.display()))),
        // No local machine: the kernel's answers are the machine's own.
        Err(_) => Ok(Overrides::default()),
    }
}

/// The configuration: file, folder of files over it, flags over both.
fn kubelet(args: &NodeArgs, join: &NodeConfig) -> Result<KubeletConfiguration, Failure> {
    let mut document = match &args.config {
        Some(file) => config::document(file).map_err(failed)?,
        None => join.kubelet_configuration.clone(),
    };
    if let Some(folder) = &args.config_dir {
        config::put_folder(folder, &mut document).map_err(failed)?;
    }
    args.kubelet.put(&mut document).map_err(failed)?;
    let (kubelet, warnings) = KubeletConfiguration::from_value(document).map_err(failed)?;
    for warning in warnings.into_iter().chain(args.kubelet.warnings()) {
        tracing::warn!(warning, "configuration");
    }
    Ok(kubelet)
}

fn settings(args: &NodeArgs) -> Result<Settings, Failure> {
    let (join, access) = access::access(args)?;
    let kubelet = kubelet(args, &join)?;
    let mut settings = Settings::new(join, kubelet, super::version::TEXT);
    settings.access = access;
    settings.dirs.root.clone_from(&args.root_dir);
    settings.dirs.certificates.clone_from(&args.cert_dir);
    settings.overrides = overrides(&args.machine_facts)?;
    settings.overrides.address = args.node_ip.or(settings.overrides.address);
    Ok(settings)
}

/// The runtime may start later than the agent, which then waits for it; but it must be there to start at all.
fn runtime_present(endpoint: &str) -> Result<(), Failure> {
    let socket = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
    if Path::new(socket).exists() || mainstay_host::preflight::installed("containerd") {
        return Ok(());
    }
    let problem = format!("{socket} is not there, and containerd is not installed");
    Err(Failure::new("MS-NODE-0002", problem))
}

/// Runs the command.
pub fn run(args: &NodeArgs) -> Outcome {
    let settings = settings(args)?;
    runtime_present(&settings.kubelet.container_runtime_endpoint)?;
    if let Err(error) = mainstay_host::process::set_oom_score_adj(settings.kubelet.oom_score_adj) {
        tracing::info!(
            error = chain(&error),
            "the agent stays as likely to be ended as other processes"
        );
    }
    let runtime = crate::small::runtime().map_err(failed)?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        crate::small::keep_small();
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut power = signal(POWER_LOSS).map_err(failed)?;
        let (token, going_down) = (stop.clone(), settings.going_down.clone());
        tokio::spawn(async move {
            let told = tokio::select! {
                _ = terminate.recv() => false,
                _ = interrupt.recv() => false,
                _ = power.recv() => true,
            };
            match told || machine_goes_down().await {
                true => going_down.cancel(),
                false => token.cancel(),
            }
        });
        mainstay_node::run(settings, SystemClock::shared(), stop)
            .await
            .map_err(failed)?;
        Ok(Code::Ok)
    })
}
