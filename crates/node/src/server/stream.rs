//! Exec, attach and port-forward: the runtime gives a URL, the node passes bytes between it and the client.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Answer, Query, text};
use crate::cri::runtime_v1 as v1;
use crate::plan::State;
use crate::pods::manager::Manager;
use crate::pods::observe::{EndedCache, observe};
use crate::podspec;

/// How long a command of `/run` may take.
const RUN_LIMIT: Duration = Duration::from_secs(600);

/// An answer that refuses.
pub type Refusal = Box<Answer>;

fn refuse(status: StatusCode, why: impl Into<String>) -> Refusal {
    Box::new(text(status, why))
}

async fn pod_view(manager: &Manager, namespace: &str, pod: &str) -> Result<crate::plan::PodView, Refusal> {
    let found = manager.find(namespace, pod).ok_or_else(|| {
        refuse(
            StatusCode::NOT_FOUND,
            format!("pod \"{namespace}/{pod}\" not found"),
        )
    })?;
    let cri = &manager.shared().cri;
    observe(cri, podspec::uid(&found), &mut EndedCache::default())
        .await
        .map_err(|e| refuse(StatusCode::INTERNAL_SERVER_ERROR, e.message()))
}

/// The runtime's id of a container that runs.
pub async fn running_id(
    manager: &Manager,
    (namespace, pod, container): (&str, &str, &str),
) -> Result<String, Refusal> {
    let view = pod_view(manager, namespace, pod).await?;
    let found = view
        .latest(container)
        .filter(|c| c.state == State::Running)
        .map(|c| c.id.clone());
    found.ok_or_else(|| {
        refuse(
            StatusCode::NOT_FOUND,
            format!("container not found (\"{container}\")"),
        )
    })
}

/// A stream switch under either of its names: the API's and the kubelet's.
fn wants(query: &Query, names: [&str; 2]) -> bool {
    names.iter().any(|name| query.is_on(name))
}

/// Answers `/exec`.
pub async fn exec(
    manager: &Arc<Manager>,
    target: (&str, &str, &str),
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let made = async {
        let container_id = running_id(manager, target).await?;
        let tty = query.is_on("tty");
        let ask = v1::ExecRequest {
            container_id,
            cmd: query.all("command").map(str::to_owned).collect(),
            tty,
            stdin: wants(query, ["input", "stdin"]),
            stdout: wants(query, ["output", "stdout"]),
            stderr: wants(query, ["error", "stderr"]) && !tty,
        };
        let answer = manager.shared().cri.exec_url(ask).await;
        answer
            .map(|a| a.url)
            .map_err(|e| refuse(StatusCode::INTERNAL_SERVER_ERROR, e.message()))
    };
    match made.await {
        Ok(url) => pass(&url, request).await,
        Err(refusal) => *refusal,
    }
}

/// Answers `/attach`.
pub async fn attach(
    manager: &Arc<Manager>,
    target: (&str, &str, &str),
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let made = async {
        let container_id = running_id(manager, target).await?;
        let tty = query.is_on("tty");
        let ask = v1::AttachRequest {
            container_id,
            tty,
            stdin: wants(query, ["input", "stdin"]),
            stdout: wants(query, ["output", "stdout"]),
            stderr: wants(query, ["error", "stderr"]) && !tty,
        };
        let answer = manager.shared().cri.attach_url(ask).await;
        answer
            .map(|a| a.url)
            .map_err(|e| refuse(StatusCode::INTERNAL_SERVER_ERROR, e.message()))
    };
    match made.await {
        Ok(url) => pass(&url, request).await,
        Err(refusal) => *refusal,
    }
}

/// Answers `/portForward`.
pub async fn port_forward(
    manager: &Arc<Manager>,
    (namespace, pod): (&str, &str),
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let made = async {
        let view = pod_view(manager, namespace, pod).await?;
        let sandbox = view
            .ready_sandbox()
            .ok_or_else(|| refuse(StatusCode::NOT_FOUND, format!("pod {pod:?} has no sandbox")))?;
        let ports = query.all("port").flat_map(|p| p.split(','));
        let ask = v1::PortForwardRequest {
            pod_sandbox_id: sandbox.id.clone(),
            port: ports.filter_map(|p| p.parse().ok()).collect(),
        };
        let answer = manager.shared().cri.port_forward_url(ask).await;
        answer
            .map(|a| a.url)
            .map_err(|e| refuse(StatusCode::INTERNAL_SERVER_ERROR, e.message()))
    };
    match made.await {
        Ok(url) => pass(&url, request).await,
        Err(refusal) => *refusal,
    }
}

/// Answers `/run`: a command without streams, its output as the answer.
pub async fn run(manager: &Arc<Manager>, target: (&str, &str, &str), query: &Query) -> Answer {
    let id = match running_id(manager, target).await {
        Ok(id) => id,
        Err(refusal) => return *refusal,
    };
    let words = query.get("cmd").unwrap_or("").split_whitespace();
    let command: Vec<String> = words.map(str::to_owned).collect();
    match manager.shared().cri.exec_sync(&id, &command, RUN_LIMIT).await {
        Ok(answer) => {
            let mut output = answer.stdout;
            output.extend_from_slice(&answer.stderr);
            text(StatusCode::OK, String::from_utf8_lossy(&output).into_owned())
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.message()),
    }
}

/// Passes a request on to the runtime's streaming server; after an upgrade, bytes flow both ways until one side ends.
async fn pass(url: &str, request: Request<Incoming>) -> Answer {
    match try_pass(url, request).await {
        Ok(answer) => answer,
        Err(why) => text(
            StatusCode::BAD_GATEWAY,
            format!("failed to reach the runtime's streaming server: {why}"),
        ),
    }
}

async fn try_pass(url: &str, mut request: Request<Incoming>) -> Result<Answer, String> {
    let uri: Uri = url.parse().map_err(|_| format!("bad URL {url:?}"))?;
    let host = uri.host().unwrap_or("127.0.0.1").to_owned();
    let port = uri.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host.as_str(), port))
        .await
        .map_err(|e| e.to_string())?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    tokio::spawn(connection.with_upgrades());
    let mut onward = Request::builder()
        .method(request.method().clone())
        .uri(uri.path_and_query().map_or("/", |p| p.as_str()))
        .body(Full::<Bytes>::default())
        .map_err(|e| e.to_string())?;
    *onward.headers_mut() = request.headers().clone();
    let headers = onward.headers_mut();
    headers.remove(http::header::AUTHORIZATION);
    headers.remove(http::header::CONTENT_LENGTH);
    headers.remove(http::header::TRANSFER_ENCODING);
    let host_value = http::HeaderValue::from_str(&format!("{host}:{port}")).map_err(|e| e.to_string())?;
    headers.insert(http::header::HOST, host_value);
    let mut response = sender.send_request(onward).await.map_err(|e| e.to_string())?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response.map(|body| body.map_err(std::io::Error::other).boxed()));
    }
    let (client, runtime) = (
        hyper::upgrade::on(&mut request),
        hyper::upgrade::on(&mut response),
    );
    tokio::spawn(async move {
        let (Ok(client), Ok(runtime)) = (client.await, runtime.await) else {
            return;
        };
        let (mut client, mut runtime) = (TokioIo::new(client), TokioIo::new(runtime));
        if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut runtime).await {
            tracing::debug!(%error, "a stream to a container ended early");
        }
    });
    let mut answer = Response::new(super::text(StatusCode::OK, "").into_body());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *answer.headers_mut() = response.headers().clone();
    Ok(answer)
}
