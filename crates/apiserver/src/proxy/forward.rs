//! One request to the other side, and, when both sides upgrade, bytes in both directions until one ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::target::Target;
use crate::body::Body;
use crate::net::TlsError;
use crate::serve::Call;
use crate::server::Server;
use mainstay_access::status::{ApiError, ApiResult};

/// How long the other side may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to begin its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Headers that are between two neighbours, or show credentials.
const DROPPED: [HeaderName; 6] = [
    header::HOST,
    header::AUTHORIZATION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::TE,
    header::PROXY_AUTHORIZATION,
];

/// How the server shows itself to node agents: a client certificate. Their own certificates are self-made, as
/// upstream's are by default, and not checked; the agent checks ours.
#[derive(Debug)]
pub struct NodeClient {
    tls: Arc<ClientConfig>,
}

impl NodeClient {
    /// Makes a client from its certificate and key.
    ///
    /// # Errors
    /// When either is damaged.
    pub fn new(certificate_pem: &str, key_pem: &str) -> Result<Self, TlsError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate_pem.as_bytes()).collect();
        let chain = chain.map_err(|_| TlsError::Pem {
            what: "the client certificate",
        })?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes());
        let key = key.map_err(|_| TlsError::Pem {
            what: "the client key",
        })?;
        let provider = Arc::new(ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(mainstay_pki::any_server())
            .with_client_auth_cert(chain, key)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(NodeClient { tls: Arc::new(tls) })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Passes a request on to its target.
///
/// # Errors
/// 502 when the other side does not answer, 503 when this server cannot reach agents.
pub async fn forward(server: &Server, target: Target, mut call: Call) -> ApiResult<Response<Body>> {
    let stream = connect(server, &target).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a proxied connection ended");
        }
    });
    let upgrades = call.parts.headers.contains_key(header::UPGRADE);
    let client = call.parts.extensions.remove::<OnUpgrade>();
    let request = request(&target, &call, upgrades)?;
    let answer = tokio::time::timeout(ANSWER_LIMIT, sender.send_request(request)).await;
    let answer = answer.map_err(|_| broken("no answer in time"))?.map_err(broken)?;
    match (answer.status(), client) {
        (StatusCode::SWITCHING_PROTOCOLS, Some(client)) => Ok(switch(answer, client)),
        (StatusCode::SWITCHING_PROTOCOLS, None) => Err(broken("the other side upgraded unasked")),
        _ => Ok(streamed(answer)),
    }
}

fn broken(why: impl std::fmt::Display) -> ApiError {
    let message = format!("error trying to reach service: {why}");
    ApiError::new(StatusCode::BAD_GATEWAY, "ServiceUnavailable", message)
}

async fn connect(server: &Server, target: &Target) -> ApiResult<Box<dyn Stream>> {
    let connecting = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(&target.address)).await;
    let stream = connecting
        .map_err(|_| broken("no connection in time"))?
        .map_err(broken)?;
    let _ = stream.set_nodelay(true);
    if !target.tls {
        return Ok(Box::new(stream));
    }
    let client = server.node_client.as_ref();
    let client =
        client.ok_or_else(|| ApiError::unavailable("this server has no certificate for node agents"))?;
    let host = target.address.rsplit_once(':').map_or("", |(host, _)| host);
    let host = host
        .trim_matches(|bracket| bracket == '[' || bracket == ']')
        .to_string();
    let name = ServerName::try_from(host).map_err(broken)?;
    let handshake = TlsConnector::from(client.tls.clone()).connect(name, stream);
    let stream = tokio::time::timeout(CONNECT_LIMIT, handshake).await;
    Ok(Box::new(
        stream
            .map_err(|_| broken("no TLS handshake in time"))?
            .map_err(broken)?,
    ))
}

fn request(target: &Target, call: &Call, upgrades: bool) -> ApiResult<Request<Full<Bytes>>> {
    let method = match call.info.subresource.as_str() {
        "exec" | "attach" | "portforward" if !is_websocket(call) => Method::POST,
        _ => call.parts.method.clone(),
    };
    let mut request = Request::builder()
        .method(method)
        .uri(&target.path)
        .body(Full::new(call.body.clone()));
    if let Ok(request) = &mut request {
        copy_headers(&call.parts.headers, request.headers_mut(), upgrades);
        if let Ok(host) = http::HeaderValue::from_str(&target.address) {
            request.headers_mut().insert(header::HOST, host);
        }
    }
    request.map_err(|error| ApiError::bad_request(error.to_string()))
}

fn is_websocket(call: &Call) -> bool {
    call.header(header::UPGRADE).eq_ignore_ascii_case("websocket")
}

fn copy_headers(from: &HeaderMap, to: &mut HeaderMap, upgrades: bool) {
    for (name, value) in from {
        let between = matches!(*name, header::CONNECTION | header::UPGRADE) && !upgrades;
        if !between && !DROPPED.contains(name) && !name.as_str().starts_with("impersonate-") {
            to.append(name.clone(), value.clone());
        }
    }
}

/// Answers 101 with the other side's headers and joins the two connections.
fn switch(mut answer: Response<Incoming>, client: OnUpgrade) -> Response<Body> {
    let other = hyper::upgrade::on(&mut answer);
    tokio::spawn(async move {
        let (Ok(client), Ok(other)) = tokio::join!(client, other) else {
            return;
        };
        let (mut client, mut other) = (TokioIo::new(client), TokioIo::new(other));
        let _ = tokio::io::copy_bidirectional(&mut client, &mut other).await;
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers().clone();
    response
}

fn streamed(answer: Response<Incoming>) -> Response<Body> {
    let (parts, body) = answer.into_parts();
    let frames = futures::stream::unfold(body, |mut body| async move {
        loop {
            let frame = body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                return Some((data, body));
            }
        }
    });
    let mut response = Response::new(Body::stream(frames));
    *response.status_mut() = parts.status;
    *response.headers_mut() = parts.headers;
    for name in [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::CONTENT_LENGTH,
    ] {
        response.headers_mut().remove(name);
    }
    response
}
