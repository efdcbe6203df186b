//! The agent's way to its API server: one current client that changes when the certificate does.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use kube::client::{Client, ClientBuilder};
use kube::config::{AuthInfo, Config};
use tokio::sync::watch;

use crate::api_calls::Counted;
use crate::config::NodeConfig;
use crate::tally::Tally;

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The address is no URL.
    #[error("apiServers: {url:?} is no URL")]
    Url {
        /// What was given.
        url: String,
    },
    /// No address at all.
    #[error("apiServers: at least one URL must be given")]
    NoServer,
    /// The bundle holds no certificate.
    #[error("caBundle: no PEM certificate in it")]
    Bundle,
    /// The client library refused the parts.
    #[error("failed to make a client of {server}")]
    Client {
        /// The API server.
        server: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

/// With what the node shows who it is.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// The bootstrap token.
    Token(String),
    /// Certificate and key, both PEM.
    Certificate {
        /// The certificate chain.
        certificate: String,
        /// The private key.
        key: String,
    },
}

/// The current client; `None` until the node has joined.
#[derive(Clone)]
pub struct ApiHandle {
    current: watch::Receiver<Option<Client>>,
}

/// The side that sets the client.
pub struct ApiSlot(watch::Sender<Option<Client>>);

/// Makes an empty handle and the side that fills it.
pub fn handle() -> (ApiSlot, ApiHandle) {
    let (sender, current) = watch::channel(None);
    (ApiSlot(sender), ApiHandle { current })
}

impl ApiSlot {
    /// Sets the client that everyone uses from now on.
    pub fn set(&self, client: Client) {
        self.0.send_replace(Some(client));
    }
}

impl ApiHandle {
    /// The client, if the node has joined.
    pub fn client(&self) -> Option<Client> {
        self.current.borrow().clone()
    }

    /// The current client as a thing to watch: it changes with the node's certificate.
    pub fn watch(&self) -> watch::Receiver<Option<Client>> {
        self.current.clone()
    }

    /// Waits until the node has joined.
    pub async fn joined(&self) -> Client {
        let mut current = self.current.clone();
        let got = current.wait_for(Option::is_some).await.map(|c| c.clone());
        match got {
            Ok(Some(client)) => client,
            // The slot is gone: the agent is stopping and nobody waits for long.
            _ => std::future::pending().await,
        }
    }
}

/// Picks the first server that accepts a connection, else the first.
async fn reachable(servers: &[String]) -> Option<&String> {
    for server in servers {
        let uri: Uri = server.parse().ok()?;
        let target = (uri.host()?.to_owned(), uri.port_u16().unwrap_or(443));
        let attempt = tokio::net::TcpStream::connect(target);
        if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(2), attempt).await {
            return Some(server);
        }
    }
    servers.first()
}

/// Splits a PEM bundle into DER certificates.
pub fn bundle(pem: &str) -> Vec<Vec<u8>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .flatten()
        .map(|c| c.to_vec())
        .collect()
}

/// Makes a client from the join file and credentials.
///
/// # Errors
/// When the join file's addresses or certificates cannot be used; an unreachable server is no error here.
pub async fn connect(join: &NodeConfig, credentials: &Credentials) -> Result<Client, ApiError> {
    let config = configure(join, credentials).await?;
    let server = config.cluster_url.to_string();
    Client::try_from(config).map_err(refused(server))
}

/// The same, with every request counted.
///
/// # Errors
/// As [`connect`].
pub async fn connect_counted(
    join: &NodeConfig,
    credentials: &Credentials,
    tally: &Arc<Tally>,
) -> Result<Client, ApiError> {
    let config = configure(join, credentials).await?;
    let server = config.cluster_url.to_string();
    let host = config.cluster_url.authority();
    let host = host.map_or_else(String::new, ToString::to_string);
    let counted = tower::layer::layer_fn(|inner| Counted {
        inner,
        tally: tally.clone(),
        host: host.clone(),
    });
    let builder = ClientBuilder::try_from(config).map_err(refused(server))?;
    Ok(builder.with_layer(&counted).build())
}

fn refused(server: String) -> impl FnOnce(kube::Error) -> ApiError {
    move |source| ApiError::Client {
        server,
        source: Box::new(source),
    }
}

async fn configure(join: &NodeConfig, credentials: &Credentials) -> Result<Config, ApiError> {
    use base64::Engine;
    let server = reachable(&join.api_servers).await.ok_or(ApiError::NoServer)?;
    let url: Uri = server
        .parse()
        .map_err(|_| ApiError::Url { url: server.clone() })?;
    let mut config = Config::new(url);
    config.connect_timeout = Some(Duration::from_secs(10));
    if !join.ca_bundle.is_empty() {
        config.root_cert = Some(bundle(&join.ca_bundle)).filter(|b| !b.is_empty());
        config.root_cert.as_ref().ok_or(ApiError::Bundle)?;
    }
    let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    config.auth_info = match credentials {
        Credentials::Token(token) => AuthInfo {
            token: Some(token.clone().into()),
            ..Default::default()
        },
        Credentials::Certificate { certificate, key } => AuthInfo {
            client_certificate_data: Some(encode(certificate)),
            client_key_data: Some(encode(key).into()),
            ..Default::default()
        },
    };
    Ok(config)
}
