//! Liveness probes of machines. Watches ComputeNodes; alone writes condition ComputeNodeProbePassed.

use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use kube::Api;
use mainstay_api::{
    ComputeNode, Probe,
    conditions::{condition, reasons, set, types, with_status},
};
use mainstay_control::{Error, ObjectKey, Requeue, write};
use mainstay_provider::HostId;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::Context;

/// Longest first line of an HTTP answer that is read.
const STATUS_LINE_BYTES: usize = 64;

/// Asks a machine whether it lives.
#[async_trait]
pub trait Prober: Send + Sync + 'static {
    /// Probes once; the error says what was seen. The caller limits the time.
    async fn probe(&self, host: &HostId, address: &str, probe: &Probe) -> Result<(), String>;
}

/// Probes over the network.
#[derive(Debug, Clone, Copy, Default)]
pub struct SocketProber;

#[async_trait]
impl Prober for SocketProber {
    async fn probe(&self, _host: &HostId, address: &str, probe: &Probe) -> Result<(), String> {
        if let Some(target) = &probe.tcp_socket {
            return connect(address, target.port).await.map(|_| ());
        }
        if let Some(page) = &probe.http_get {
            return http_get(address, page.port, &page.path).await;
        }
        echo(address).await
    }
}

async fn connect(address: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((address, port))
        .await
        .map_err(|error| format!("tcp {address}:{port}: {error}"))
}

async fn http_get(address: &str, port: u16, path: &str) -> Result<(), String> {
    let mut stream = connect(address, port).await?;
    let path = if path.starts_with('/') { path } else { "/" };
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(|error| error.to_string())?;
    let mut answer = vec![0; STATUS_LINE_BYTES];
    let read = stream
        .read(&mut answer)
        .await
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&answer[..read]);
    let code: u16 = text
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    if (200..400).contains(&code) {
        Ok(())
    } else {
        Err(format!("http {address}:{port}{path}: status {code}"))
    }
}

/// Without raw sockets: a machine whose kernel answers a connection to the discard port, even by refusing it,
/// is reachable.
async fn echo(address: &str) -> Result<(), String> {
    match TcpStream::connect((address, 9)).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(format!("ping {address}: {error}")),
    }
}

/// Results of the same kind in a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Streak {
    /// Successes in a row.
    pub passed: u32,
    /// Failures in a row.
    pub failed: u32,
}

impl Streak {
    /// Counts one result and tells the verdict once a threshold is reached.
    pub fn count(&mut self, passed: bool, probe: &Probe) -> Option<bool> {
        *self = match passed {
            true => Streak {
                passed: self.passed.saturating_add(1),
                failed: 0,
            },
            false => Streak {
                passed: 0,
                failed: self.failed.saturating_add(1),
            },
        };
        match () {
            () if self.passed >= probe.success_threshold.max(1) => Some(true),
            () if self.failed >= probe.failure_threshold.max(1) => Some(false),
            () => None,
        }
    }
}

/// How long to wait before the first probe may run; None when it may run now.
fn still_starting(node: &ComputeNode, probe: &Probe, now: Timestamp) -> Option<Duration> {
    let since = node.status.as_ref()?.provisioned_at.as_ref()?.0;
    let left = SignedDuration::from_secs(i64::from(probe.initial_delay_seconds)) - now.duration_since(since);
    left.is_positive().then(|| left.unsigned_abs())
}

/// Probes one machine once and records the verdict when it changes.
pub async fn reconcile(key: ObjectKey, ctx: &Context) -> Result<Requeue, Error> {
    let nodes: Api<ComputeNode> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let node = write::get(&nodes, &key.name).await?;
    let probe = node.as_ref().and_then(|node| node.spec.liveness_probe.clone());
    let (Some(node), Some(probe)) = (node, probe) else {
        ctx.probes.lock().remove(&key);
        return Ok(Requeue::Never);
    };
    let status = node.status.clone().unwrap_or_default();
    // While the provider works on the machine its silence means nothing.
    if !status.initialization.provisioned
        || status.task.is_some()
        || node.metadata.deletion_timestamp.is_some()
    {
        ctx.probes.lock().remove(&key);
        return Ok(Requeue::Never);
    }
    if let Some(wait) = still_starting(&node, &probe, ctx.clock.now()) {
        return Ok(Requeue::After(wait));
    }
    let result = run_once(ctx, &key, &node, &probe).await;
    let verdict = {
        let mut probes = ctx.probes.lock();
        probes
            .entry(key.clone())
            .or_default()
            .count(result.is_ok(), &probe)
    };
    let now = ctx.clock.now();
    let new = match (verdict, result) {
        (Some(true), _) => condition(types::PROBE_PASSED, true, reasons::AS_EXPECTED, "", now),
        (Some(false), result) => {
            let message = result.err().unwrap_or_default();
            condition(types::PROBE_PASSED, false, reasons::PROBE_FAILED, message, now)
        }
        (None, _) if mainstay_api::conditions::find(&status.conditions, types::PROBE_PASSED).is_none() => {
            with_status(types::PROBE_PASSED, "Unknown", reasons::NOT_PROBED, "", now)
        }
        (None, _) => return Ok(Requeue::After(period(&probe))),
    };
    let mut changed = status;
    set(&mut changed.conditions, new);
    write::status(&nodes, &node, node.status.as_ref(), &changed).await?;
    Ok(Requeue::After(period(&probe)))
}

fn period(probe: &Probe) -> Duration {
    Duration::from_secs(u64::from(probe.period_seconds.max(1)))
}

async fn run_once(ctx: &Context, key: &ObjectKey, node: &ComputeNode, probe: &Probe) -> Result<(), String> {
    let host = node
        .spec
        .host_ref
        .as_ref()
        .map(|host| host.name.clone())
        .unwrap_or_default();
    let addresses = node.status.iter().flat_map(|status| &status.addresses);
    let address = addresses
        .map(|address| address.address.clone())
        .next()
        .unwrap_or_default();
    let limit = Duration::from_secs(u64::from(probe.timeout_seconds.max(1)));
    let host = HostId::new(&key.namespace, &host);
    match tokio::time::timeout(limit, ctx.prober.probe(&host, &address, probe)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_needs_as_many_results_in_a_row_as_the_threshold_says() {
        let probe = Probe {
            failure_threshold: 3,
            success_threshold: 1,
            ..Default::default()
        };
        let mut streak = Streak::default();
        let verdicts: Vec<Option<bool>> = [false, false, true, false, false, false]
            .map(|passed| streak.count(passed, &probe))
            .into();
        assert_eq!(verdicts, [None, None, Some(true), None, None, Some(false)]);
    }

    #[tokio::test]
    async fn sockets_tell_a_listener_from_none() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        assert!(connect("127.0.0.1", port).await.is_ok());
        drop(listener);
        assert!(connect("127.0.0.1", port).await.is_err());
        assert!(echo("127.0.0.1").await.is_ok());
    }
}
