//! Calls the server makes to webhooks: one JSON POST over TLS, with a deadline and a limit on the answer.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The largest answer that is read: an object is at most 3 MiB, and a patch of it not larger.
const ANSWER_BYTES: usize = 3 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The URL cannot be used.
    #[error("the webhook's URL {0} cannot be used")]
    Url(String),
    /// The CA bundle holds no usable certificate.
    #[error("the webhook's CA bundle holds no usable certificate")]
    CaBundle,
    /// The client certificate or its key cannot be used.
    #[error("the client certificate for the webhook cannot be used")]
    Identity,
    /// No connection, or it broke.
    #[error("failed to call {url}: {why}")]
    Broken {
        /// Where.
        url: String,
        /// Why.
        why: String,
    },
    /// It took too long.
    #[error("failed to call {url}: no answer within {seconds} s")]
    Late {
        /// Where.
        url: String,
        /// The deadline.
        seconds: u64,
    },
    /// The answer is not a success.
    #[error("failed to call {url}: status {status}")]
    Status {
        /// Where.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The answer is not JSON.
    #[error("the answer of {url} is not JSON")]
    Answer {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// A webhook's address and whom it must prove to be.
#[derive(Debug, Clone)]
pub struct Endpoint {
    uri: Uri,
    /// `host:port` to connect to when it differs from the URL's, for Services.
    address: Option<String>,
    tls: Option<Arc<ClientConfig>>,
    token: Option<Arc<str>>,
}

/// How the server proves itself to a webhook.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// A client certificate and its key, PEM.
    pub certificate: Option<(Vec<u8>, Vec<u8>)>,
    /// A bearer token.
    pub token: Option<String>,
}

impl Endpoint {
    /// Makes an endpoint of a URL; `ca_bundle` is PEM. Plain HTTP is accepted for loopback addresses alone.
    ///
    /// # Errors
    /// When the URL or the bundle cannot be used.
    pub fn new(url: &str, ca_bundle: &[u8]) -> Result<Self, OutboundError> {
        Self::with_identity(url, ca_bundle, &Identity::default())
    }

    /// The same, with something to show there.
    ///
    /// # Errors
    /// When the URL, the bundle or the certificate cannot be used.
    pub fn with_identity(url: &str, ca_bundle: &[u8], identity: &Identity) -> Result<Self, OutboundError> {
        let unusable = || OutboundError::Url(url.to_string());
        let uri: Uri = url.parse().map_err(|_| unusable())?;
        let host = uri.host().ok_or_else(unusable)?;
        let loopback = matches!(host, "127.0.0.1" | "[::1]" | "localhost");
        let tls = match uri.scheme_str() {
            Some("https") => Some(Arc::new(tls_config(ca_bundle, identity)?)),
            Some("http") if loopback => None,
            _ => return Err(unusable()),
        };
        Ok(Endpoint {
            uri,
            address: None,
            tls,
            token: identity.token.as_deref().map(Arc::from),
        })
    }

    /// Connects to this `host:port` instead; the certificate must still name the URL's host.
    #[must_use]
    pub fn at(mut self, address: String) -> Self {
        self.address = Some(address);
        self
    }

    /// Decodes a `caBundle` field.
    pub fn decode_bundle(encoded: &str) -> Vec<u8> {
        base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .unwrap_or_default()
    }

    /// Posts JSON and reads JSON.
    ///
    /// # Errors
    /// When there is no usable answer within the time.
    pub async fn post(&self, body: &Value, timeout: Duration) -> Result<Value, OutboundError> {
        let late = OutboundError::Late {
            url: self.uri.to_string(),
            seconds: timeout.as_secs(),
        };
        tokio::time::timeout(timeout, self.call(body))
            .await
            .unwrap_or(Err(late))
    }

    fn broken(&self, why: impl std::fmt::Display) -> OutboundError {
        OutboundError::Broken {
            url: self.uri.to_string(),
            why: why.to_string(),
        }
    }

    async fn call(&self, body: &Value) -> Result<Value, OutboundError> {
        let host = self
            .uri
            .host()
            .unwrap_or_default()
            .trim_matches(['[', ']'])
            .to_string();
        let standard = if self.tls.is_some() { 443 } else { 80 };
        let address = match &self.address {
            Some(address) => address.clone(),
            None => format!(
                "{}:{}",
                self.uri.host().unwrap_or_default(),
                self.uri.port_u16().unwrap_or(standard)
            ),
        };
        let tcp = TcpStream::connect(&address)
            .await
            .map_err(|error| self.broken(error))?;
        let Some(tls) = &self.tls else {
            return self.exchange(tcp, body).await;
        };
        let name = ServerName::try_from(host).map_err(|error| self.broken(error))?;
        let connector = tokio_rustls::TlsConnector::from(tls.clone());
        let stream = connector
            .connect(name, tcp)
            .await
            .map_err(|error| self.broken(error))?;
        self.exchange(stream, body).await
    }

    async fn exchange<S>(&self, stream: S, body: &Value) -> Result<Value, OutboundError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(error))?;
        let driver = tokio::spawn(connection);
        let answer = self.send(&mut sender, body).await;
        driver.abort();
        answer
    }

    async fn send(
        &self,
        sender: &mut hyper::client::conn::http1::SendRequest<Full<Bytes>>,
        body: &Value,
    ) -> Result<Value, OutboundError> {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder();
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request
            .method(Method::POST)
            .uri(path)
            .header(
                header::HOST,
                self.uri.authority().map_or("", |authority| authority.as_str()),
            )
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| self.broken(error))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| self.broken(error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(OutboundError::Status {
                url: self.uri.to_string(),
                status: status.as_u16(),
            });
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
        let bytes = body.map_err(|error| self.broken(error))?.to_bytes();
        serde_json::from_slice(&bytes).map_err(|source| OutboundError::Answer {
            url: self.uri.to_string(),
            source,
        })
    }
}

fn tls_config(ca_bundle: &[u8], identity: &Identity) -> Result<ClientConfig, OutboundError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_bundle) {
        let certificate = certificate.map_err(|_| OutboundError::CaBundle)?;
        roots.add(certificate).map_err(|_| OutboundError::CaBundle)?;
    }
    if roots.is_empty() {
        return Err(OutboundError::CaBundle);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| OutboundError::CaBundle)?;
    let config = config.with_root_certificates(roots);
    let Some((certificate, key)) = &identity.certificate else {
        return Ok(config.with_no_client_auth());
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
    let chain = chain.map_err(|_| OutboundError::Identity)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| OutboundError::Identity)?;
    config
        .with_client_auth_cert(chain, key)
        .map_err(|_| OutboundError::Identity)
}
