//! The node's own API on port 10250: logs, exec, attach, port-forward, pods, statistics, metrics.

pub mod auth;
pub mod checkpoint;
pub mod logs;
pub mod metrics;
mod rates;
pub mod serving;
pub mod stats;
pub mod stream;
pub mod tls;
mod traffic;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use mainstay_base::metrics::{Counters, Label};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::pods::manager::Manager;
use auth::{Auth, User};
use rates::Rates;

/// What every handler answers with.
pub type Body = BoxBody<Bytes, std::io::Error>;
/// An answer.
pub type Answer = Response<Body>;

/// A body of text.
pub fn text(status: StatusCode, content: impl Into<String>) -> Answer {
    answer(status, "text/plain; charset=utf-8", content.into().into_bytes())
}

/// A body of JSON.
pub fn json(value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(data) => answer(StatusCode::OK, "application/json", data),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn answer(status: StatusCode, kind: &'static str, data: Vec<u8>) -> Answer {
    let body = Full::new(Bytes::from(data))
        .map_err(|never| match never {})
        .boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

/// The query of a request, decoded, in order; a key may occur more than once.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses the part after the question mark.
    pub fn parse(text: Option<&str>) -> Self {
        let pairs = text.unwrap_or("").split('&').filter(|p| !p.is_empty());
        Query(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key), decode(value))
                })
                .collect(),
        )
    }

    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.all(key).next()
    }

    /// All values of a key.
    pub fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// A switch: `1` and `true` are on.
    pub fn is_on(&self, key: &str) -> bool {
        matches!(self.get(key), Some("1" | "true" | "True"))
    }
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes
            .get(at + 1..at + 3)
            .and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (b'+', _) => {
                out.push(b' ');
                at += 1;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Everything a handler needs.
pub struct Server {
    /// The node's pods.
    pub manager: Arc<Manager>,
    auth: Auth,
    rates: Arc<Rates>,
    healthchecks: Counters<3>,
}

/// Serves for as long as the agent runs. A port that is taken is tried again: the agent lives without it.
pub async fn run(manager: Arc<Manager>, listener: TcpListener) {
    let settings = &manager.shared().settings;
    let (acceptor, serving) = match tls::acceptor(settings) {
        Ok(made) => made,
        Err(error) => {
            tracing::error!(
                error = mainstay_base::error::chain(&error),
                "no serving certificate: logs and exec will not work"
            );
            return;
        }
    };
    let mut tasks = JoinSet::new();
    if tls::is_asked_for(settings) {
        tasks.spawn(serving::keep(manager.shared().clone(), serving));
    }
    let server = Arc::new(Server {
        auth: Auth::new(manager.shared()),
        rates: Arc::default(),
        healthchecks: Counters::new(
            "kubernetes_healthchecks_total",
            "This metric records the results of all healthcheck.",
            ["name", "status", "type"],
        ),
        manager,
    });
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let (server, acceptor) = (server.clone(), acceptor.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let user = auth::user_of_certificate(stream.get_ref().1.peer_certificates());
            let service = hyper::service::service_fn(move |request| {
                let (server, user) = (server.clone(), user.clone());
                // Boxed: an idle connection keeps no room for a request.
                async move { Ok::<_, std::convert::Infallible>(Box::pin(server.handle(request, user)).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the node ended early");
            }
        });
    }
}

/// Opens the serving port.
///
/// # Errors
/// When the address is no address or the port is taken.
pub async fn listen(address: &str, port: u16) -> std::io::Result<TcpListener> {
    let ip: std::net::IpAddr = address.parse().map_err(std::io::Error::other)?;
    TcpListener::bind(SocketAddr::new(ip, port)).await
}

/// What a request is counted by: whether it lasts long, method, first part of the path, server; from what is known only, since
/// clients choose the rest.
fn labels_of(method: &Method, path: &str) -> [Label; 4] {
    const METHODS: [&str; 8] = [
        "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT", "TRACE",
    ];
    const PATHS: [&str; 17] = [
        "attach",
        "checkpoint",
        "configz",
        "containerLogs",
        "exec",
        "healthz",
        "metrics",
        "metrics/cadvisor",
        "metrics/probes",
        "metrics/resource",
        "metrics/slis",
        "pods",
        "portForward",
        "run",
        "runningpods",
        "stats",
        "",
    ];
    let known = |names: &[&'static str], name: &str| {
        let found = names.iter().find(|known| **known == name);
        found.copied().unwrap_or("other")
    };
    let path = path.trim_start_matches('/');
    let parts = if path.starts_with("metrics/") { 2 } else { 1 };
    let end = path
        .match_indices('/')
        .nth(parts - 1)
        .map_or(path.len(), |(at, _)| at);
    let path = known(&PATHS, &path[..end]);
    let lasts = matches!(path, "attach" | "exec" | "portForward");
    let method = known(&METHODS, method.as_str());
    [if lasts { "true" } else { "false" }, method, path, "readwrite"].map(Label::Borrowed)
}

impl Server {
    /// Answers, and counts and times that. A stream counts until it begins.
    async fn handle(&self, request: Request<Incoming>, certificate: Option<User>) -> Answer {
        let tally = &self.manager.shared().tally;
        let (labels, begun) = (labels_of(request.method(), request.uri().path()), tally.now());
        let answer = self.answer(request, certificate).await;
        tally.requests.count(labels.clone());
        tally.requests_took.observe(labels, tally.since(begun));
        answer
    }

    async fn answer(&self, request: Request<Incoming>, certificate: Option<User>) -> Answer {
        let path = request.uri().path().to_owned();
        if path == "/healthz" && request.method() == Method::GET {
            return self.healthz();
        }
        let user = match self.auth.authenticate(&request, certificate).await {
            Some(user) => user,
            None => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
        };
        if let Err(why) = self.auth.authorize(&user, request.method(), &path).await {
            return text(StatusCode::FORBIDDEN, why);
        }
        self.route(request, &path).await
    }

    fn healthz(&self) -> Answer {
        let known = self.manager.shared().health.known();
        let status = if known.errors.is_empty() {
            "success"
        } else {
            "error"
        };
        self.healthchecks
            .count([metrics::HEALTH_CHECK.into(), status.into(), "healthz".into()]);
        match known.errors.as_slice() {
            [] => text(StatusCode::OK, "ok"),
            errors => text(StatusCode::INTERNAL_SERVER_ERROR, errors.join("\n")),
        }
    }

    async fn route(&self, request: Request<Incoming>, path: &str) -> Answer {
        let query = Query::parse(request.uri().query());
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            ["containerLogs", namespace, pod, container] => {
                logs::serve(&self.manager, namespace, pod, container, &query).await
            }
            ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
                stream::exec(&self.manager, (namespace, pod, container), &query, request).await
            }
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
                stream::attach(&self.manager, (namespace, pod, container), &query, request).await
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
                stream::port_forward(&self.manager, (namespace, pod), &query, request).await
            }
            ["run", namespace, pod, container] => {
                stream::run(&self.manager, (namespace, pod, container), &query).await
            }
            ["checkpoint", namespace, pod, container]
                if request.method() == Method::POST
                    && self.manager.shared().settings.kubelet.gate("ContainerCheckpoint") =>
            {
                checkpoint::serve(&self.manager, (namespace, pod, container), &query).await
            }
            ["pods"] | ["runningpods"] => self.pods(),
            ["stats", "summary"] => stats::serve(&self.manager, &self.rates).await,
            ["metrics"] => metrics::own(&self.manager).await,
            ["metrics", "resource"] => metrics::resource(&self.manager).await,
            ["metrics", "probes"] => metrics::probes(&self.manager),
            ["metrics", "slis"] => {
                let good = self.manager.shared().health.known().errors.is_empty();
                metrics::health(good, &self.healthchecks)
            }
            ["metrics", "cadvisor"] => metrics::cadvisor(&self.manager).await,
            ["configz"] => {
                json(&serde_json::json!({"kubeletconfig": self.manager.shared().settings.kubelet}))
            }
            _ => text(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }

    fn pods(&self) -> Answer {
        let pods = self.manager.pods_as_given();
        let items: Vec<&k8s_openapi::api::core::v1::Pod> = pods.iter().map(Arc::as_ref).collect();
        json(&serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_known_words_only() {
        let shown = |method: Method, path: &str| labels_of(&method, path).join(" ");
        assert_eq!(
            shown(Method::GET, "/metrics/cadvisor"),
            "false GET metrics/cadvisor readwrite"
        );
        assert_eq!(shown(Method::POST, "/exec/ns/pod/c"), "true POST exec readwrite");
        assert_eq!(
            shown(Method::PATCH, "/metrics/x/y"),
            "false other other readwrite"
        );
        assert_eq!(shown(Method::GET, "/stats/summary"), "false GET stats readwrite");
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse(Some("command=sh&command=-c&command=echo%20a+b&tty=1"));
        assert_eq!(Vec::from_iter(query.all("command")), ["sh", "-c", "echo a b"]);
        assert!(query.is_on("tty") && !query.is_on("input"));
    }
}
