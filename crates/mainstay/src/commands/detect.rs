//! `mainstay detect`: problem detection with the node's own identity.

use std::time::Duration;

use kube::Client;
use mainstay_base::clock::{SharedClock, SystemClock};
use mainstay_base::error::chain;
use mainstay_control::CancellationToken;
use mainstay_detect::{Monitor, Options, config};
use mainstay_node::NodeConfig;
use mainstay_node::api::{Credentials, connect};
use mainstay_node::identity::Store;

use super::api;
use crate::args::DetectArgs;
use crate::outcome::{Code, Failure, Outcome};

/// How often the node's certificate is looked for while the agent has not joined yet.
const LOOK: Duration = Duration::from_millis(500);

/// Runs the command.
pub fn run(args: &DetectArgs) -> Outcome {
    let monitors = monitors(args)?;
    super::block_on(async {
        let clock = SystemClock::shared();
        let stop = CancellationToken::new();
        super::stop_on_signals(&stop)?;
        crate::small::keep_small();
        let (client, node) = tokio::select! {
            () = stop.cancelled() => return Ok(Code::Ok),
            reached = reach(args, &clock) => reached?,
        };
        let services = mainstay_detect::services::follow(client.clone(), &node, stop.clone());
        let detection = mainstay_detect::run(
            Options {
                monitors,
                node: node.clone(),
                client,
                clock,
            },
            stop.clone(),
        );
        // Elsewhere (a DaemonSet) the services are not ours to restart.
        if args.kubeconfig.is_none() {
            tokio::join!(services, detection);
        } else {
            detection.await;
        }
        Ok(Code::Ok)
    })
}

fn failed(error: impl std::error::Error) -> Failure {
    Failure::new("MS-NODE-0001", chain(&error))
}

fn monitors(args: &DetectArgs) -> Result<Vec<Monitor>, Failure> {
    let files: Vec<_> = args
        .system_log_monitor
        .iter()
        .chain(&args.custom_plugin_monitor)
        .collect();
    if files.is_empty() {
        return config::built_in().map_err(failed);
    }
    files
        .into_iter()
        .map(|file| config::load(file).map_err(failed))
        .collect()
}

async fn reach(args: &DetectArgs, clock: &SharedClock) -> Result<(Client, String), Failure> {
    if let (Some(file), Some(node)) = (&args.kubeconfig, &args.hostname_override) {
        return Ok((api::client_of(file).await?, node.clone()));
    }
    let join = NodeConfig::load(&args.node_config).map_err(failed)?;
    let store = Store::new(mainstay_node::Dirs::default().root.join("pki"));
    loop {
        if let Some(held) = store.load(&join, clock.now()) {
            let credentials = Credentials::Certificate {
                certificate: held.certificate,
                key: held.key,
            };
            match connect(&join, &credentials).await {
                Ok(client) => return Ok((client, join.node_name.clone())),
                Err(error) => tracing::info!(problem = chain(&error), "API not reached, trying again"),
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
