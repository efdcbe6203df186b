//! The client side: HTTP/2 over TLS with a client certificate and flow-control windows as Go clients have them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::ConfigExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Flow-control windows of Go's HTTP/2 client.
pub const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;

/// Connections to one server, used in turn.
pub struct Client {
    senders: Vec<SendRequest<Full<Bytes>>>,
    next: AtomicUsize,
    base: String,
    /// Who speaks, where no certificate says it.
    token: Option<String>,
}

impl Client {
    /// Opens the connections with a kubeconfig's credentials.
    pub async fn connect(kubeconfig: &Path, connections: usize) -> Result<Client> {
        let config = config(kubeconfig).await?;
        Client::open_all(config, connections, STREAM_WINDOW).await
    }

    /// Opens connections that show no certificate: the user of a token speaks. Of an answer that is not read the server
    /// gets rid of `window` bytes.
    pub async fn connect_as(
        kubeconfig: &Path,
        connections: usize,
        window: u32,
        token: &str,
    ) -> Result<Client> {
        let mut config = config(kubeconfig).await?;
        config.auth_info = kube::config::AuthInfo::default();
        let client = Client::open_all(config, connections, window).await?;
        Ok(client.speaking_for(token))
    }

    /// The same connections for another user.
    pub fn speaking_for(&self, token: &str) -> Client {
        Client {
            senders: self.senders.clone(),
            next: AtomicUsize::new(self.next.fetch_add(1, Ordering::Relaxed)),
            base: self.base.clone(),
            token: Some(token.to_owned()),
        }
    }

    async fn open_all(config: kube::Config, connections: usize, window: u32) -> Result<Client> {
        // A second installation in the same process changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut tls = config.rustls_client_config()?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let tls = TlsConnector::from(Arc::new(tls));
        let host = config.cluster_url.host().context("no host")?.to_owned();
        let port = config.cluster_url.port_u16().context("no port")?;
        let mut senders = Vec::new();
        for _ in 0..connections {
            senders.push(open(&tls, &host, port, window).await?);
        }
        Ok(Client {
            senders,
            next: AtomicUsize::new(0),
            base: format!("https://{host}:{port}"),
            token: None,
        })
    }

    /// Sends a request and gives back the answer with its body still to be read.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Result<Response<Incoming>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % self.senders.len();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("accept", "application/json")
            .header("content-type", content_type)
            .header("user-agent", "bench/1");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body.into()))?;
        let mut sender = self.senders[number].clone();
        Ok(sender.send_request(request).await?)
    }

    /// Sends a request and reads the whole answer; anything but success is an error.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Result<Bytes> {
        let response = self.open(method, path, content_type, body).await?;
        let code = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !code.is_success() {
            bail!("{path}: {code} {}", String::from_utf8_lossy(&body));
        }
        Ok(body)
    }

    /// Reads a path and gives back how many bytes came: large lists are not kept.
    pub async fn measure(&self, path: &str) -> Result<usize> {
        let response = self
            .open(Method::GET, path, "application/json", Bytes::new())
            .await?;
        if !response.status().is_success() {
            bail!("{path}: {}", response.status());
        }
        let (mut body, mut bytes) = (response.into_body(), 0);
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(bytes)
    }

    /// Reads a path.
    pub async fn get(&self, path: &str) -> Result<Bytes> {
        self.send(Method::GET, path, "application/json", Bytes::new())
            .await
    }

    /// Creates an object.
    pub async fn create(&self, path: &str, object: String) -> Result<Bytes> {
        self.send(Method::POST, path, "application/json", object).await
    }
}

async fn config(kubeconfig: &Path) -> Result<kube::Config> {
    let parsed = Kubeconfig::read_from(kubeconfig)?;
    Ok(kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await?)
}

async fn open(tls: &TlsConnector, host: &str, port: u16, window: u32) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let stream = tls
        .connect(ServerName::try_from(host.to_owned())?, stream)
        .await?;
    let (sender, connection) = Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(connection);
    Ok(sender)
}
