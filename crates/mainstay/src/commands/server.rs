//! `mainstay server`: one bare control plane.

use mainstay_base::clock::SystemClock;
use mainstay_base::error::chain;
use mainstay_control::CancellationToken;
use mainstay_controlplane::server;

use super::preflight;
use crate::args::ServerArgs;
use crate::outcome::{Code, Failure, Outcome};

/// Runs until SIGTERM or SIGINT.
pub fn run(args: &ServerArgs) -> Outcome {
    let found = preflight::server(&args.data.data_dir, args.listen);
    if let Some(failure) = Failure::of("MS-PRE-0001", "findings", found.findings) {
        return Err(failure);
    }
    let server = server::ServerArgs {
        data_dir: args.data.data_dir.clone(),
        listen: args.listen,
        etcd_servers: args.etcd_servers.clone(),
        token_auth_file: args.token_auth_file.clone(),
        disable_admission_plugins: args.disable_admission_plugins.clone(),
    };
    super::block_on(async {
        let stop = CancellationToken::new();
        super::stop_on_signals(&stop)?;
        server::run(server, SystemClock::shared(), stop.cancelled())
            .await
            .map_err(|error| Failure::new("MS-SRV-0001", chain(&error)))?;
        Ok(Code::Ok)
    })
}
