//! `mainstay server`: one bare control plane.

use std::time::Duration;

use mainstay_access::audit::Rotation;
use mainstay_base::clock::SystemClock;
use mainstay_base::error::chain;
use mainstay_control::CancellationToken;
use mainstay_controlplane::server::{self, AuditArgs, Storage};

use super::preflight;
use crate::args::{ServerArgs, StorageArgs};
use crate::outcome::{Code, Failure, Outcome};

/// The store that the flags name.
pub fn storage(args: &StorageArgs) -> Storage {
    Storage {
        data_dir: args.data.data_dir.clone(),
        etcd_servers: args.etcd_servers.clone(),
        etcd_ca: args.etcd_cafile.clone(),
        etcd_client: args.etcd_certfile.clone().zip(args.etcd_keyfile.clone()),
    }
}

fn audit(args: &ServerArgs) -> Option<AuditArgs> {
    Some(AuditArgs {
        log: args.audit_log_path.clone()?,
        policy: args.audit_policy_file.clone(),
        rotation: Rotation {
            max_bytes: args.audit_log_maxsize.saturating_mul(1_000_000),
            max_backups: args.audit_log_maxbackup,
        },
    })
}

/// Runs until SIGTERM or SIGINT.
pub fn run(args: &ServerArgs) -> Outcome {
    let found = preflight::server(&args.storage.data.data_dir, args.listen);
    if let Some(failure) = Failure::of("MS-PRE-0001", "findings", found.findings) {
        return Err(failure);
    }
    let server = server::ServerArgs {
        storage: storage(&args.storage),
        listen: args.listen,
        token_auth_file: args.token_auth_file.clone(),
        token_webhook: args.authentication_token_webhook_config_file.clone(),
        token_webhook_ttl: Duration::from_secs(args.authentication_token_webhook_cache_ttl),
        disable_admission_plugins: args.disable_admission_plugins.clone(),
        audit: audit(args),
        max_requests_inflight: args.max_requests_inflight,
    };
    super::block_on(async {
        let stop = CancellationToken::new();
        super::stop_on_signals(&stop)?;
        crate::small::keep_small();
        server::run(server, SystemClock::shared(), stop.cancelled())
            .await
            .map_err(|error| Failure::new("MS-SRV-0001", chain(&error)))?;
        Ok(Code::Ok)
    })
}
