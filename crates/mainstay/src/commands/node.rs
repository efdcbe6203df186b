//! `mainstay node`: reads the join file and the kubelet's configuration and runs the agent until it is told to end.

use std::path::Path;

use mainstay_base::clock::SystemClock;
use mainstay_base::error::chain;
use mainstay_node::{KubeletConfiguration, NodeConfig, Overrides, Settings};
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

fn settings(args: &NodeArgs) -> Result<Settings, Failure> {
    let join = NodeConfig::load(&args.join).map_err(failed)?;
    let (mut kubelet, warnings) = match &args.config {
        Some(file) => KubeletConfiguration::load(file).map_err(failed)?,
        None => join.kubelet().map_err(failed)?,
    };
    for warning in warnings {
        tracing::warn!(warning, "configuration");
    }
    if let Some(endpoint) = &args.container_runtime_endpoint {
        kubelet.container_runtime_endpoint.clone_from(endpoint);
    }
    let mut settings = Settings::new(join, kubelet, super::version::TEXT);
    settings.overrides = overrides(&args.machine_facts)?;
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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(failed)?;
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
