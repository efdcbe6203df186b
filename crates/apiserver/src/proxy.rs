//! Requests that are passed on to node agents: logs, exec, attach, port-forward, node proxy.
//!
//! After an upgrade bytes flow both ways untouched: whatever stream protocol a client speaks reaches the node's runtime.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyStream, Full};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::body::Body;
use crate::query::Query;
use crate::resources::Resource;
use crate::serve::Call;
use crate::server::Server;
use crate::status::{ApiError, ApiResult};

/// The port of a node that does not tell its own.
const NODE_PORT: u16 = 10_250;
/// Names the container that is meant when a request names none.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// How the server reaches node agents: with a client certificate of its own.
#[derive(Debug)]
pub struct NodeClient {
    tls: Arc<ClientConfig>,
}

/// Why a client of node agents cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum NodeClientError {
    /// PEM text is damaged or empty.
    #[error("failed to read the node client's {what}")]
    Pem {
        /// What was read.
        what: &'static str,
    },
    /// The library refuses.
    #[error("failed to set up TLS towards nodes")]
    Rustls(#[from] rustls::Error),
}

/// Believes any serving certificate, as upstream does by default: nodes sign their own. What guards a node is the
/// client certificate that it asks of us.
#[derive(Debug)]
struct AnyNode(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyNode {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl NodeClient {
    /// Makes a client that shows this certificate.
    ///
    /// # Errors
    /// When either text is damaged or they do not belong together.
    pub fn new(certificate_pem: &str, key_pem: &str) -> Result<Self, NodeClientError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate_pem.as_bytes()).collect();
        let chain = chain.map_err(|_| NodeClientError::Pem { what: "certificate" })?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| NodeClientError::Pem { what: "key" })?;
        let provider = Arc::new(ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyNode(provider)))
            .with_client_auth_cert(chain, key)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(NodeClient { tls: Arc::new(tls) })
    }

    async fn connect(
        &self,
        target: &Target,
    ) -> Result<hyper::client::conn::http1::SendRequest<Full<Bytes>>, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let stream = TcpStream::connect((target.host.as_str(), target.port))
            .await
            .map_err(|e| text(&e))?;
        let _ = stream.set_nodelay(true);
        let name = ServerName::try_from(target.host.clone()).map_err(|e| text(&e))?;
        let connector = TlsConnector::from(self.tls.clone());
        let stream = connector.connect(name, stream).await.map_err(|e| text(&e))?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| text(&e))?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }
}

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    host: String,
    port: u16,
    path: String,
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The container a request is about: named, marked as the default one, or the only one.
fn container(pod: &Value, query: &Query) -> ApiResult<String> {
    if let Some(named) = query.get("container").filter(|name| !name.is_empty()) {
        return Ok(named.to_owned());
    }
    let marked = pod
        .pointer("/metadata/annotations")
        .and_then(|all| all.get(DEFAULT_CONTAINER))
        .and_then(Value::as_str);
    if let Some(marked) = marked {
        return Ok(marked.to_owned());
    }
    let all = pod.pointer("/spec/containers").and_then(Value::as_array);
    let names: Vec<&str> = all
        .into_iter()
        .flatten()
        .map(|container| text(container, "/name"))
        .collect();
    match names.as_slice() {
        [one] => Ok((*one).to_owned()),
        several => Err(ApiError::bad_request(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            text(pod, "/metadata/name"),
            several.join(" ")
        ))),
    }
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => (byte as char).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// The query for the node: its own names for streams, and without what it need not know.
fn node_query(query: &Query) -> String {
    let pairs = query.pairs().iter().filter(|(key, _)| key != "container");
    let pairs = pairs.map(|(key, value)| {
        let (key, value) = match (key.as_str(), value.as_str()) {
            ("stdin", on) => ("input", switch(on)),
            ("stdout", on) => ("output", switch(on)),
            ("stderr", on) => ("error", switch(on)),
            ("tty", on) => ("tty", switch(on)),
            ("ports", value) => ("port", value),
            (key, value) => (key, value),
        };
        format!("{}={}", encode(key), encode(value))
    });
    pairs.collect::<Vec<_>>().join("&")
}

fn switch(value: &str) -> &str {
    if matches!(value, "true" | "True" | "1") {
        "1"
    } else {
        "0"
    }
}

/// The path on the node for a request about a pod.
fn pod_path(pod: &Value, call: &Call) -> ApiResult<String> {
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    let verb = match call.info.subresource.as_str() {
        "log" => "containerLogs",
        "portforward" => return Ok(format!("/portForward/{namespace}/{name}")),
        other => other,
    };
    Ok(format!(
        "/{verb}/{namespace}/{name}/{}",
        container(pod, &call.query)?
    ))
}

fn node_address(server: &Server, name: &str) -> ApiResult<(String, u16)> {
    let node = server.caches().resource("core/nodes").get("", name);
    let node = node
        .ok_or_else(|| ApiError::not_found("", "nodes", name))?
        .value();
    let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
    let by_type = |kind: &str| {
        let found = addresses.into_iter().flatten().find(|a| text(a, "/type") == kind);
        found.map(|a| text(a, "/address").to_owned())
    };
    let host = by_type("InternalIP")
        .or_else(|| by_type("ExternalIP"))
        .or_else(|| by_type("Hostname"));
    let host = host.ok_or_else(|| ApiError::unavailable(format!("node {name} has told no address yet")))?;
    let port = node
        .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
        .and_then(Value::as_u64)
        .and_then(|port| u16::try_from(port).ok());
    Ok((host, port.filter(|p| *p > 0).unwrap_or(NODE_PORT)))
}

fn with_query(path: String, query: String) -> String {
    if query.is_empty() {
        path
    } else {
        format!("{path}?{query}")
    }
}

fn target(server: &Server, call: &Call) -> ApiResult<Target> {
    let info = &call.info;
    if info.resource == "nodes" {
        let name = info.name.split(':').next().unwrap_or_default();
        let (host, port) = node_address(server, name)?;
        let query = call.parts.uri.query().unwrap_or_default().to_owned();
        let path = with_query(format!("/{}", info.rest), query);
        return Ok(Target { host, port, path });
    }
    if info.resource != "pods" || info.subresource == "proxy" {
        let message = "the proxy subresource of pods and services is not built: use port-forward";
        return Err(ApiError::unavailable(message));
    }
    let pod = server
        .caches()
        .resource("core/pods")
        .get(&info.namespace, &info.name);
    let pod = pod
        .ok_or_else(|| ApiError::not_found("", "pods", &info.name))?
        .value();
    let node = text(&pod, "/spec/nodeName");
    if node.is_empty() {
        let message = format!("pod {} does not have a host assigned", info.name);
        return Err(ApiError::bad_request(message));
    }
    let path = with_query(pod_path(&pod, call)?, node_query(&call.query));
    let (host, port) = node_address(server, node)?;
    Ok(Target { host, port, path })
}

fn onward(call: &Call, target: &Target) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::builder()
        .method(call.parts.method.clone())
        .uri(&target.path)
        .body(Full::new(call.body.clone()))
        .map_err(|e| e.to_string())?;
    *request.headers_mut() = call.parts.headers.clone();
    let headers = request.headers_mut();
    // The node believes our certificate, not our client's credentials.
    for name in [AUTHORIZATION, CONTENT_LENGTH, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    let host = format!("{}:{}", target.host, target.port);
    headers.insert(HOST, HeaderValue::from_str(&host).map_err(|e| e.to_string())?);
    Ok(request)
}

fn bad_gateway(why: impl std::fmt::Display) -> ApiError {
    ApiError::new(
        StatusCode::BAD_GATEWAY,
        "InternalError",
        format!("error dialing backend: {why}"),
    )
}

/// Passes a request on.
///
/// # Errors
/// 404 for a pod or node that does not exist, 502 when the node does not answer.
pub async fn serve(server: &Arc<Server>, _: &Arc<Resource>, mut call: Call) -> ApiResult<Response<Body>> {
    let Some(client) = server.node_client.clone() else {
        return Err(ApiError::unavailable("this server has no client for node agents"));
    };
    let target = target(server, &call)?;
    let request = onward(&call, &target).map_err(bad_gateway)?;
    let mut sender = client.connect(&target).await.map_err(bad_gateway)?;
    let mut response = sender.send_request(request).await.map_err(bad_gateway)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(stream));
    }
    let Some(theirs) = call.parts.extensions.remove::<OnUpgrade>() else {
        return Err(ApiError::bad_request("this connection cannot be upgraded"));
    };
    let ours = hyper::upgrade::on(&mut response);
    tokio::spawn(join(theirs, ours));
    Ok(response.map(|_| Body::empty()))
}

/// The node's answer as it comes. A node that ends early ends the answer: its status line is long gone.
fn stream(body: Incoming) -> Body {
    let data = BodyStream::new(body)
        .take_while(|frame| std::future::ready(frame.is_ok()))
        .filter_map(|frame| std::future::ready(frame.ok().and_then(|f| f.into_data().ok())));
    Body::stream(data)
}

async fn join(client: OnUpgrade, node: OnUpgrade) {
    let (Ok(client), Ok(node)) = (client.await, node.await) else {
        return;
    };
    let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut node).await {
        tracing::debug!(%error, "a stream to a node ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_is_named_marked_or_the_only_one() {
        let pod = |names: &[&str], marked: Option<&str>| {
            let containers: Vec<Value> = names.iter().map(|n| json!({"name": n})).collect();
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": containers}});
            if let Some(marked) = marked {
                pod["metadata"]["annotations"] = json!({DEFAULT_CONTAINER: marked});
            }
            pod
        };
        let ask = |pod: &Value, query: &str| container(pod, &Query::parse(query)).ok();
        assert_eq!(ask(&pod(&["a"], None), "").as_deref(), Some("a"));
        assert_eq!(ask(&pod(&["a", "b"], Some("b")), "").as_deref(), Some("b"));
        assert_eq!(ask(&pod(&["a", "b"], None), "container=a").as_deref(), Some("a"));
        assert_eq!(ask(&pod(&["a", "b"], None), ""), None);
    }

    #[test]
    fn stream_switches_get_the_names_that_nodes_know() {
        let query = Query::parse("container=a&command=sh&command=-c+x&stdin=true&stdout=true&tty=false");
        assert_eq!(
            node_query(&query),
            "command=sh&command=-c%20x&input=1&output=1&tty=0"
        );
    }
}
