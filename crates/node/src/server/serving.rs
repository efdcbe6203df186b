//! The serving certificate that the cluster issues (`serverTLSBootstrap`): asked for by request, renewed before its end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::SanType;

use super::tls::Serving;
use crate::context::Shared;
use crate::identity::{Held, IdentityError, Store, ask, wait_until};

/// Wait after a failure; it grows with each.
const RETRY: Duration = Duration::from_secs(5);
/// From so many failures on it no longer grows.
const MOST_FAILURES: u32 = 60;

/// Names and addresses by which the node is reached.
fn names(shared: &Shared) -> Result<Vec<SanType>, IdentityError> {
    let mut names = vec![SanType::DnsName(
        shared.settings.node_name().to_owned().try_into()?,
    )];
    let ips = shared.host_ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok());
    names.extend(ips.map(SanType::IpAddress));
    Ok(names)
}

async fn renewed(shared: &Shared, store: &Store, serving: &Serving) -> Result<Held, IdentityError> {
    let (join, names) = (&shared.settings.join, names(shared)?);
    if let Some(held) = store.load_named(join, &names, shared.clock.now()) {
        show(serving, &held);
        let rotates = shared.settings.kubelet.gate("RotateKubeletServerCertificate");
        if !rotates || shared.clock.now() < held.renew_at() {
            return Ok(held);
        }
    }
    let client = shared.api.joined().await;
    let held = ask(&client, join, store, &names).await?;
    show(serving, &held);
    Ok(held)
}

fn show(serving: &Serving, held: &Held) {
    if let Err(error) = serving.show(&held.certificate, &held.key) {
        let error = mainstay_base::error::chain(&error);
        tracing::error!(error, "the issued serving certificate cannot be used");
    }
}

/// Keeps the certificate for as long as the agent runs.
pub async fn keep(shared: Arc<Shared>, serving: Arc<Serving>) {
    let store = Store::serving(shared.settings.dirs.certificates());
    let mut failures = 0;
    loop {
        match renewed(&shared, &store, &serving).await {
            Ok(held) => {
                failures = 0;
                let rotates = shared.settings.kubelet.gate("RotateKubeletServerCertificate");
                let until = if rotates { held.renew_at() } else { held.not_after };
                wait_until(until, &shared.clock).await;
            }
            Err(error) => {
                shared.tally.server_renewals_failed.count([]);
                let error = mainstay_base::error::chain(&error);
                tracing::warn!(error, "no serving certificate from the cluster yet");
                failures = (failures + 1).min(MOST_FAILURES);
                tokio::time::sleep(RETRY * failures).await;
            }
        }
    }
}
