//! The network front: TLS with client certificates, HTTP/1.1 (with upgrades) and HTTP/2 on one port, limits on
//! connections and handshakes, graceful drain.

mod streams;
mod tls;
mod together;

use streams::{Begun, Streams};
pub use tls::{Serving, TlsError, server_config};
use together::Together;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::chain;
use crate::server::Server;
use mainstay_access::hooks::Peer;

/// Connections beyond this wait: each costs memory before its user is known.
const CONNECTIONS: usize = 20_000;
/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long a client may take to send a request's headers.
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// How often an idle HTTP/2 connection is probed, and how long the answer may take.
const PROBE_EVERY: Duration = Duration::from_secs(30);
const PROBE_LIMIT: Duration = Duration::from_secs(15);
/// Streams per HTTP/2 connection: an informer-heavy client has hundreds of watches.
const STREAMS: u32 = 1_000;
/// What the server keeps of an answer that a client does not take, per stream: one buffer of a list.
const UNTAKEN: usize = 64 << 10;
/// What a client may send before the server has asked for it, per stream and per connection.
const UNASKED_STREAM: u32 = 256 << 10;
const UNASKED_CONNECTION: u32 = 1 << 20;
/// How long open requests may take after a drain began.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait after accepting failed, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves on `listener` until the server drains; returns when every connection has ended or had its time to.
pub async fn serve(server: Arc<Server>, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place.expect("nobody closes the places"),
            () = server.draining() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = server.draining() => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let (server, acceptor) = (server.clone(), acceptor.clone());
                tokio::spawn(async move {
                    connection(server, acceptor, stream, address).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    // Each connection gives its place back when it ends; it ends itself within its limit.
    let _all_gone = places.acquire_many(CONNECTIONS as u32).await;
}

async fn connection(server: Arc<Server>, acceptor: TlsAcceptor, stream: TcpStream, address: SocketAddr) {
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await;
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, %address, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%address, "TLS handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let certificates = certificates.iter().map(|one| one.clone().into_owned()).collect();
    let peer = Peer {
        certificates,
        address: Some(address),
        ..Peer::default()
    };
    let ours = server.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let server = server.clone();
        async move { Ok::<_, std::convert::Infallible>(chain::handle(server, request).await) }
    });
    let streams = Streams::default();
    let builder = builder(streams.begun());
    let stream = Together::new(stream);
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream.clone()), service);
    let mut served = std::pin::pin!(served);
    let work = async {
        tokio::select! {
            outcome = served.as_mut() => outcome,
            () = ours.draining() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        }
    };
    let work = std::pin::pin!(work);
    let work = std::pin::pin!(streams.beside(work));
    let outcome = tokio::select! {
        outcome = stream.drive(work) => outcome,
        () = drained(&ours) => Ok(()),
    };
    if let Err(error) = outcome {
        tracing::debug!(error, %address, "connection ended");
    }
}

/// Resolves when open requests had their time after a drain began.
async fn drained(server: &Server) {
    server.draining().await;
    tokio::time::sleep(DRAIN_LIMIT).await;
}

fn builder(begun: Begun) -> auto::Builder<Begun> {
    let mut builder = auto::Builder::new(begun);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(UNTAKEN)
        .initial_stream_window_size(UNASKED_STREAM)
        .initial_connection_window_size(UNASKED_CONNECTION)
        .keep_alive_interval(PROBE_EVERY)
        .keep_alive_timeout(PROBE_LIMIT);
    builder
}
