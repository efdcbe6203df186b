//! `mainstay server`: one bare control plane until it is told to end.

use mainstay_base::clock::SystemClock;
use mainstay_base::error::chain;
use mainstay_controlplane::server;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::ServerArgs;
use crate::outcome::{Code, Failure, Outcome};

fn failed(error: impl std::error::Error) -> Failure {
    Failure::new("MS-SRV-0001", chain(&error))
}

/// Runs the command.
pub fn run(args: ServerArgs) -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let args = server::ServerArgs {
        data_dir: args.data.data_dir,
        listen: args.listen,
        etcd_servers: args.etcd_servers,
        token_auth_file: args.token_auth_file,
        // No controllers run here, so nobody would make the accounts that this plugin asks for.
        disable_admission_plugins: vec!["ServiceAccount".into()],
    };
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        server::run(args, SystemClock::shared(), stop)
            .await
            .map_err(failed)?;
        Ok(Code::Ok)
    })
}
