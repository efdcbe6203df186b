//! A yardstick: HTTP/2 over TLS with the libraries of the product, answers that were made
//! beforehand, and a log that is synced as the store's is. The same client puts the same requests to it, so that a figure can
//! be read as a multiple of this server's, however fast the machine happens to be. It is no bound: a server that works otherwise
//! may need less.

use std::convert::Infallible;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mainstay_apiserver::net::{Serving, server_config};
use mainstay_base::clock::{Clock as _, SystemClock};
use mainstay_pki::{Authority, Credentials, kubeconfig};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, oneshot};
use tokio_rustls::TlsAcceptor;

use super::load;

/// Where a server puts what its administrator connects with.
pub const KUBECONFIG: &str = "admin.kubeconfig";
/// As long as the store lets a heartbeat wait for company.
const LINGER: Duration = Duration::from_millis(5);
/// The log's size, reserved and written once, so that syncing it changes no metadata.
pub const LOG_BYTES: usize = 64 << 20;
const PAGE: [u8; 4096] = [0; 4096];
/// Certificates live for a day: longer than any benchmark.
const LIFE: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);
/// Events a slow watcher may be behind.
const BEHIND: usize = 64;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What is answered, and where writes go.
struct Answers {
    nodes: Bytes,
    selected: Bytes,
    map: Bytes,
    events: broadcast::Sender<Bytes>,
    log: Sender<Write>,
}

/// A body for the log.
struct Write {
    bytes: Bytes,
    patient: bool,
    done: oneshot::Sender<()>,
}

/// Serves on this port of the loopback until it is killed.
pub fn serve(folder: &Path, port: u16) -> Result<()> {
    let log = empty_log(&folder.join("log"))?;
    let (sender, writes) = channel();
    std::thread::spawn(move || commit(&log, &writes));
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(accept(folder, port, Answers::new(sender)))
}

/// Makes a log that is to be written over.
pub fn empty_log(path: &Path) -> Result<File> {
    let log = File::create(path).context("failed to make the log")?;
    // By single pages: the kernel counts what it caches in larger pieces as written whole at each change.
    for at in (0..LOG_BYTES).step_by(PAGE.len()) {
        log.write_all_at(&PAGE, at as u64)?;
    }
    log.sync_all()?;
    Ok(log)
}

async fn accept(folder: &Path, port: u16, answers: Answers) -> Result<()> {
    let tls = TlsAcceptor::from(identity(folder, port)?);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let answers = Arc::new(answers);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(connection(tls.clone(), stream, answers.clone()));
    }
}

/// Makes a certificate, and the kubeconfig that trusts it.
fn identity(folder: &Path, port: u16) -> Result<Arc<rustls::ServerConfig>> {
    let now = SystemClock::new().now();
    let authority = Authority::create("bare", now)?;
    let pem = authority.serving("bare", &["127.0.0.1".to_owned()], now, LIFE)?;
    let user = Credentials::Certificate(authority.client("bench", &[], &[], now, LIFE)?);
    let address = format!("https://127.0.0.1:{port}");
    let text = kubeconfig("bare", &address, &authority.pem().certificate, "bench", &user);
    std::fs::write(folder.join(KUBECONFIG), text)?;
    let serving = Serving::new(&pem.certificate, &pem.key)?;
    Ok(server_config(serving, &authority.pem().certificate)?)
}

/// Serves one connection; what goes wrong on it is the client's to tell.
async fn connection(tls: TlsAcceptor, stream: TcpStream, answers: Arc<Answers>) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = tls.accept(stream).await else {
        return;
    };
    let service = service_fn(move |request| {
        let answers = answers.clone();
        async move { Ok::<_, Infallible>(answers.answer(request).await) }
    });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(1_000)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn whole(bytes: &Bytes) -> Answer {
    Response::new(Full::new(bytes.clone()).boxed_unsync())
}

impl Answers {
    fn new(log: Sender<Write>) -> Answers {
        let map = load::config_map("cm-0", 0);
        let maps = vec![map.as_str(); 100].join(",");
        let nodes: Vec<String> = (0..super::NODES).map(load::node).collect();
        Answers {
            nodes: format!("{{\"items\":[{}]}}", nodes.join(",")).into(),
            selected: format!("{{\"items\":[{maps}]}}").into(),
            map: map.into(),
            events: broadcast::channel(BEHIND).0,
            log,
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        if request.method() != Method::GET {
            return self.write(request, &path).await;
        }
        match path.as_str() {
            "/readyz" => whole(&Bytes::from_static(b"ok")),
            _ if query.contains("watch=1") => self.watch(),
            _ if query.contains("limit=1") => {
                let list = json!({"metadata": {"resourceVersion": "1"}});
                whole(&list.to_string().into())
            }
            _ if query.contains("labelSelector") => whole(&self.selected),
            "/api/v1/nodes" => whole(&self.nodes),
            _ => whole(&self.map),
        }
    }

    fn watch(&self) -> Answer {
        let events = futures::stream::unfold(self.events.subscribe(), |mut events| async {
            let event = events.recv().await.ok()?;
            Some((Ok(Frame::data(event)), events))
        });
        Response::new(StreamBody::new(events).boxed_unsync())
    }

    async fn write(&self, request: Request<Incoming>, path: &str) -> Answer {
        let body = request.into_body().collect().await;
        let bytes = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let (done, synced) = oneshot::channel();
        let patient = path.contains("/leases");
        let write = Write { bytes, patient, done };
        // Both end together with the process.
        let _ = self.log.send(write);
        let _ = synced.await;
        if path.ends_with("/watched") {
            let line = format!(
                "{{\"type\":\"MODIFIED\",\"object\":{}}}\n",
                load::config_map("watched", 0)
            );
            // Before the first watch nobody listens.
            let _ = self.events.send(line.into());
        }
        whole(&self.map)
    }
}

/// Writes what comes together, syncs, tells.
fn commit(log: &File, writes: &Receiver<Write>) {
    let (clock, mut at) = (SystemClock::new(), 0);
    while let Ok(first) = writes.recv() {
        let until = clock.monotonic() + LINGER;
        let mut batch = vec![first];
        while batch.iter().all(|write| write.patient) {
            match writes.recv_timeout(until.saturating_sub(clock.monotonic())) {
                Ok(next) => batch.push(next),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        batch.extend(writes.try_iter());
        let bytes: Vec<u8> = batch
            .iter()
            .flat_map(|write| write.bytes.iter().copied())
            .collect();
        if at + bytes.len() > LOG_BYTES {
            at = 0;
        }
        let synced = log.write_all_at(&bytes, at as u64).and_then(|()| log.sync_data());
        at += bytes.len();
        if let Err(error) = synced {
            eprintln!("bench: the bare server's log: {error}");
            return;
        }
        for write in batch {
            // Whoever does not wait any more needs no answer.
            let _ = write.done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::apiserver::client::Client;

    #[tokio::test]
    async fn lists_writes_and_events_come_as_the_benchmark_reads_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().to_owned();
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let port = port.expect("a free port").port();
        let log = empty_log(&path.join("log")).expect("a log");
        let (sender, writes) = channel();
        std::thread::spawn(move || commit(&log, &writes));
        let kubeconfig = path.join(KUBECONFIG);
        let served = tokio::spawn(async move { accept(&path, port, Answers::new(sender)).await });
        let connected = async {
            loop {
                assert!(!served.is_finished(), "it serves until the test ends");
                if let Ok(client) = Client::connect(&kubeconfig, 1).await {
                    break client;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let client = tokio::time::timeout(Duration::from_secs(60), connected)
            .await
            .expect("it serves within a minute");
        let list = client.get("/api/v1/nodes").await.expect("a list");
        let list: serde_json::Value = serde_json::from_slice(&list).expect("a document");
        assert_eq!(list["items"].as_array().map(Vec::len), Some(super::super::NODES));
        let watch = client.open(Method::GET, "/api/v1/configmaps?watch=1", "", Bytes::new());
        let mut watch = watch.await.expect("a watch").into_body();
        for (path, body) in [("/leases/a", "patient"), ("/configmaps/watched", "quick")] {
            let wrote = client.send(Method::PUT, path, "application/json", body).await;
            wrote.expect("written");
        }
        let event = watch.frame().await.expect("an event").expect("no error");
        let event: serde_json::Value =
            serde_json::from_slice(event.data_ref().expect("data")).expect("a document");
        assert_eq!(event["type"], "MODIFIED");
        let log = std::fs::read(folder.path().join("log")).expect("the log");
        assert!(log.starts_with(b"patientquick\0"));
    }
}
