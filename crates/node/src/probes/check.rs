//! One look at a container: by command, HTTP, TCP or gRPC.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

use crate::cri::Cri;

/// Most of an answer or of a command's output that is kept.
const OUTPUT_LIMIT: usize = 10 * 1024;

/// What a look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Success,
    /// The container says no, or nothing.
    Failure(String),
    /// The look itself failed: counts neither way.
    Error(String),
}

/// Where to look.
#[derive(Debug)]
pub struct Target<'a> {
    /// For commands.
    pub cri: &'a Cri,
    /// For commands.
    pub container_id: &'a str,
    /// For named ports.
    pub container: &'a Container,
    /// For HTTP, TCP and gRPC.
    pub pod_ip: &'a str,
}

/// Resolves a port given as number or as the name of one of the container's ports.
pub fn port(container: &Container, port: &IntOrString) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            let ports = container.ports.iter().flatten();
            let named = ports
                .into_iter()
                .find(|p| p.name.as_deref() == Some(name.as_str()));
            named
                .and_then(|p| u16::try_from(p.container_port).ok())
                .or_else(|| name.parse().ok())
        }
    }
}

/// Looks once, for at most the probe's timeout.
pub async fn probe(target: &Target<'_>, probe: &Probe) -> Outcome {
    let timeout = Duration::from_secs(probe.timeout_seconds.filter(|t| *t > 0).unwrap_or(1) as u64);
    if let Some(exec) = &probe.exec {
        return command(target, exec.command.as_deref().unwrap_or_default(), timeout).await;
    }
    let look = async {
        if let Some(get) = &probe.http_get {
            return http_get(target, get).await;
        }
        if let Some(socket) = &probe.tcp_socket {
            let host = socket.host.as_deref().unwrap_or(target.pod_ip);
            return match port(target.container, &socket.port) {
                Some(port) => tcp(host, port).await,
                None => Outcome::Error("no such port".to_owned()),
            };
        }
        if let Some(check) = &probe.grpc {
            return super::check::grpc(target.pod_ip, check.port, check.service.as_deref().unwrap_or(""))
                .await;
        }
        Outcome::Error("missing probe handler".to_owned())
    };
    match tokio::time::timeout(timeout, look).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Failure("context deadline exceeded".to_owned()),
    }
}

async fn command(target: &Target<'_>, command: &[String], timeout: Duration) -> Outcome {
    match target.cri.exec_sync(target.container_id, command, timeout).await {
        Ok(answer) if answer.exit_code == 0 => Outcome::Success,
        Ok(answer) => {
            let mut output = answer.stdout;
            output.extend_from_slice(&answer.stderr);
            output.truncate(OUTPUT_LIMIT);
            Outcome::Failure(String::from_utf8_lossy(&output).into_owned())
        }
        Err(error) => {
            let text = error.message();
            let timed_out =
                text.contains("timed out") || text.contains("deadline") || text.contains("timeout");
            if timed_out {
                Outcome::Failure(text)
            } else {
                Outcome::Error(text)
            }
        }
    }
}

async fn tcp(host: &str, port: u16) -> Outcome {
    match TcpStream::connect((host, port)).await {
        Ok(_) => Outcome::Success,
        Err(error) => Outcome::Failure(format!("dial tcp {host}:{port}: {error}")),
    }
}

/// Performs an HTTP GET as probes and hooks do.
pub async fn http_get(target: &Target<'_>, get: &HTTPGetAction) -> Outcome {
    let Some(port) = port(target.container, &get.port) else {
        return Outcome::Error("no such port".to_owned());
    };
    let host = get
        .host
        .as_deref()
        .filter(|h| !h.is_empty())
        .unwrap_or(target.pod_ip);
    let path = get.path.as_deref().unwrap_or("/");
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let https = get.scheme.as_deref() == Some("HTTPS");
    let mut request = http::Request::get(&path)
        .header("user-agent", "kube-probe/1.36")
        .header("accept", "*/*")
        .header("connection", "close");
    let mut host_given = false;
    for header in get.http_headers.iter().flatten() {
        host_given |= header.name.eq_ignore_ascii_case("host");
        request = request.header(header.name.as_str(), header.value.as_str());
    }
    if !host_given {
        request = request.header("host", format!("{host}:{port}"));
    }
    let request = match request.body(Empty::<Bytes>::new()) {
        Ok(request) => request,
        Err(error) => return Outcome::Error(error.to_string()),
    };
    let url = format!("{}://{host}:{port}{path}", if https { "https" } else { "http" });
    match exchange(host, port, https, request).await {
        Ok((status, _)) if (200..400).contains(&status) => Outcome::Success,
        Ok((status, _)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        Err(error) => Outcome::Failure(format!("Get {url:?}: {error}")),
    }
}

async fn exchange(
    host: &str,
    port: u16,
    https: bool,
    request: http::Request<Empty<Bytes>>,
) -> Result<(u16, usize), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|e| format!("dial tcp {host}:{port}: {e}"))?;
    if !https {
        return send(TokioIo::new(stream), request).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|e| text(&e))?;
    let connector = tokio_rustls::TlsConnector::from(unverified()?);
    let stream = connector.connect(name, stream).await.map_err(|e| text(&e))?;
    send(TokioIo::new(stream), request).await
}

async fn send<T>(io: T, request: http::Request<Empty<Bytes>>) -> Result<(u16, usize), String>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .map_err(|e| e.to_string())?;
    let driver = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|e| e.to_string());
    let result = match answer {
        Ok(response) => {
            let status = response.status().as_u16();
            let mut body = response.into_body();
            let mut length = 0;
            while let Some(Ok(frame)) = body.frame().await {
                length += frame.data_ref().map_or(0, Bytes::len);
                if length >= OUTPUT_LIMIT {
                    break;
                }
            }
            Ok((status, length))
        }
        Err(error) => Err(error),
    };
    driver.abort();
    result
}

fn unverified() -> Result<Arc<rustls::ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(mainstay_pki::any_server())
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Calls the standard gRPC health service.
pub async fn grpc(host: &str, port: i32, service: &str) -> Outcome {
    const SERVING: i32 = 1;
    let call = async {
        let channel = tonic::transport::Endpoint::try_from(format!("http://{host}:{port}"))
            .map_err(|e| e.to_string())?
            .connect()
            .await
            .map_err(|e| e.to_string())?;
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|e| e.to_string())?;
        let request = tonic::Request::new(HealthCheckRequest {
            service: service.to_owned(),
        });
        let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
        client
            .unary(request, path, codec)
            .await
            .map(tonic::Response::into_inner)
            .map_err(|s| s.message().to_owned())
    };
    match call.await {
        Ok(answer) if answer.status == SERVING => Outcome::Success,
        Ok(answer) => Outcome::Failure(format!(
            "service unhealthy (responded with status {})",
            answer.status
        )),
        Err(error) => Outcome::Failure(error),
    }
}
