//! The request chain: identity, impersonation, authorization, body, dispatch, errors, audit. A write whose caller goes away
//! runs on in a task of its own: it never cancels a commit. A panic becomes a 500.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};

use crate::body::Body;
use crate::flow::Seats;
use crate::respond;
use crate::sending;
use crate::serve::{self, Call};
use crate::server::Server;
use mainstay_access::authn::impersonation;
use mainstay_access::hooks::{Attributes, AuditStage, Audited, Authorize, Decision, Peer, Visible};
use mainstay_access::info::RequestInfo;
use mainstay_access::pieces::append;
use mainstay_access::query::Query;
use mainstay_access::status::{ApiError, ApiResult, qualified};
use mainstay_access::user::UserInfo;

/// The largest body: upstream's limit.
const BODY_LIMIT: usize = 3 << 20;
/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// Bodies and lists from here on are worked on beside the threads that serve everybody: parsing a large body takes tens of
/// milliseconds, for which no heartbeat shall wait.
const HEAVY_BODY: usize = 128 << 10;
const HEAVY_SEATS: usize = 8;
/// How long anything but a watch or a proxied connection may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Errors of bodies.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Answers one request. The identity is in the extensions ([`UserInfo`]) for in-process calls, found from credentials
/// for others ([`Peer`] in the extensions).
pub async fn handle<B>(server: Arc<Server>, request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let info = RequestInfo::parse(&parts.method, parts.uri.path(), &query);
    let started = server.clock.monotonic();
    let _inflight = server.metrics.begin();
    let mut record = Record::new(&server, &parts, info);
    let answer = Box::pin(answer(&server, parts, body, query, &mut record)).await;
    let (mut response, seats) = answer.unwrap_or_else(|error| (respond::error(&error), Seats::default()));
    let took = server.clock.monotonic().saturating_sub(started);
    server
        .metrics
        .answered(&record.info, response.status().as_u16(), took);
    if let Ok(value) = HeaderValue::from_str(&record.id) {
        response
            .headers_mut()
            .insert(HeaderName::from_static("audit-id"), value);
    }
    let response = match server.hooks.audit.is_empty() {
        true => response,
        false => record.conclude(server.clone(), response),
    };
    sending::hold(response, seats)
}

async fn answer<B>(
    server: &Arc<Server>,
    parts: Parts,
    body: B,
    query: Query,
    record: &mut Record,
) -> ApiResult<(Response<Body>, Seats)>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let user = identify(server, &parts, record).await?;
    record.log(server, AuditStage::RequestReceived, 0, &[]);
    let takes_body = takes_body(&parts, &record.info);
    let sends = if takes_body { declared(&body) } else { 0 };
    let lanes = &server.lanes;
    let seats = lanes.enter(server, &record.info, &user, &query, sends).await?;
    let visible = authorize(server, &record.info, &user, &query).await;
    record.allowed = Some(visible.is_ok());
    let visible = visible?;
    let body = match takes_body {
        true => read(body).await?,
        false => Bytes::new(),
    };
    record.body = body.clone();
    let packs = respond::accepts_gzip(&parts.headers);
    let call = Call {
        received: record.received,
        parts,
        body,
        query,
        info: record.info.clone(),
        user,
        visible,
    };
    let (response, seats) = run(server.clone(), call, seats).await?;
    let response = match packs {
        true => respond::gzip(response),
        false => response,
    };
    Ok((response, seats))
}

/// How long a body says that it is: as long as allowed when it does not say.
fn declared(body: &impl http_body::Body) -> usize {
    let most = body
        .size_hint()
        .upper()
        .and_then(|bytes| usize::try_from(bytes).ok());
    most.unwrap_or(BODY_LIMIT).min(BODY_LIMIT)
}

/// Runs a request, with a time limit and without passing panics on; a write to its end, whoever still waits for it; a
/// heavy one on a thread of its own.
async fn run(server: Arc<Server>, call: Call, seats: Seats) -> ApiResult<(Response<Body>, Seats)> {
    let verb = call.info.verb.as_str();
    let writes = !matches!(verb, "get" | "list" | "watch");
    let heavy = call.body.len() >= HEAVY_BODY || verb == "list" && seats.count() >= HEAVY_SEATS;
    let work = async move {
        // What handlers need is kilobytes: in a place of its own it does not move with every step around it.
        let handled = Box::pin(serve::dispatch(&server, call));
        let limited = tokio::time::timeout(REQUEST_TIMEOUT, handled);
        let response = match AssertUnwindSafe(limited).catch_unwind().await {
            Ok(Ok(answer)) => answer?,
            Ok(Err(_)) => return Err(timed_out()),
            Err(_) => return Err(ApiError::internal("the request handler panicked")),
        };
        Ok((response, seats))
    };
    if heavy {
        let runtime = tokio::runtime::Handle::current();
        let done = tokio::task::spawn_blocking(move || runtime.block_on(work)).await;
        return done.unwrap_or_else(|error| Err(ApiError::internal(error)));
    }
    match writes {
        true => ToItsEnd(Some(Box::pin(work))).await,
        false => work.await,
    }
}

/// Work that goes on in a task of its own when nobody waits for it any more.
struct ToItsEnd<T: Send + 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T: Send + 'static> Future for ToItsEnd<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let work = self.0.as_mut().expect("nobody polls what is done");
        let polled = work.as_mut().poll(context);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for ToItsEnd<T> {
    fn drop(&mut self) {
        if let (Some(work), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

fn timed_out() -> ApiError {
    let message = "request did not complete within the allotted timeout";
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
}

/// Streams carry no body that the server reads.
fn takes_body(parts: &Parts, info: &RequestInfo) -> bool {
    let streams = matches!(info.subresource.as_str(), "exec" | "attach" | "portforward");
    let upgrades = parts.headers.contains_key(http::header::UPGRADE);
    parts.method != http::Method::GET && !(info.is_resource && streams) && !upgrades
}

async fn read<B>(body: B) -> ApiResult<Bytes>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    match tokio::time::timeout(BODY_TIMEOUT, gather(body)).await {
        Err(_) => Err(timed_out()),
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let message = format!("Request entity too large: limit is {BODY_LIMIT}");
            Err(ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestEntityTooLarge",
                message,
            ))
        }
        Ok(Err(error)) => Err(ApiError::bad_request(format!("failed to read the body: {error}"))),
    }
}

/// Puts a body together while it comes: a large one costs no long copy at its end, and a small one none at all.
async fn gather<B>(body: B) -> Result<Bytes, BoxError>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let length = body.size_hint().exact().unwrap_or(0).min(BODY_LIMIT as u64) as usize;
    let mut body = std::pin::pin!(Limited::new(body, BODY_LIMIT));
    let (mut first, mut whole) = (Bytes::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if first.is_empty() && whole.is_empty() {
            first = data;
            continue;
        }
        if whole.is_empty() {
            // Room, not yet memory: who says more than it sends takes none.
            whole.reserve_exact(length.max(first.len() + data.len()));
            append(&mut whole, &std::mem::take(&mut first));
        }
        append(&mut whole, &data);
    }
    Ok(if whole.is_empty() { first } else { whole.into() })
}

async fn identify(server: &Server, parts: &Parts, record: &mut Record) -> ApiResult<Arc<UserInfo>> {
    let user = match parts.extensions.get::<Arc<UserInfo>>() {
        Some(user) => user.clone(),
        None => authenticate(server, parts).await?,
    };
    record.user = user.clone();
    let acting = impersonation::impersonate(&parts.headers, &user, &server.hooks).await?;
    Ok(match acting {
        None => user,
        Some(other) => {
            let other = Arc::new(other);
            record.impersonator = Some(user);
            record.user = other.clone();
            other
        }
    })
}

async fn authenticate(server: &Server, parts: &Parts) -> ApiResult<Arc<UserInfo>> {
    let nobody = Peer::default();
    let peer = parts.extensions.get::<Peer>().unwrap_or(&nobody);
    for method in &server.hooks.authenticate {
        if let Some(user) = method.authenticate(parts, peer).await? {
            return Ok(user);
        }
    }
    match server.hooks.anonymous {
        true => Ok(Arc::new(UserInfo::anonymous())),
        false => Err(ApiError::unauthorized()),
    }
}

/// Allows, or allows with a filter, or refuses.
async fn authorize(
    server: &Server,
    info: &RequestInfo,
    user: &UserInfo,
    query: &Query,
) -> ApiResult<Option<Visible>> {
    let attributes = info.attributes(user, query);
    let why = match server.hooks.authorize(&attributes).await {
        Decision::Allow => return Ok(None),
        Decision::Deny(why) | Decision::NoOpinion(why) => why,
    };
    if matches!(info.verb.as_str(), "list" | "watch") {
        let world: Arc<dyn mainstay_access::hooks::World> = server.caches().clone();
        let filter = server
            .hooks
            .list_filter
            .iter()
            .find_map(|filter| filter.filter(&attributes, &world));
        if filter.is_some() {
            return Ok(filter);
        }
    }
    Err(forbidden(&attributes, &why))
}

/// 403 in upstream's words.
pub(crate) fn forbidden(attributes: &Attributes<'_>, why: &str) -> ApiError {
    let user = &attributes.user.name;
    let tail = if why.is_empty() {
        String::new()
    } else {
        format!(": {why}")
    };
    if !attributes.is_resource {
        let what = format!(
            "User \"{user}\" cannot {} path \"{}\"{tail}",
            attributes.verb, attributes.path
        );
        let mut error = ApiError::new(StatusCode::FORBIDDEN, "Forbidden", format!("forbidden: {what}"));
        error.details = Some(Box::default());
        return error;
    }
    let scope = match (attributes.namespace, attributes.resource) {
        ("", _) | (_, "namespaces") => "at the cluster scope".to_string(),
        (namespace, _) => format!("in the namespace \"{namespace}\""),
    };
    let mut resource = attributes.resource.to_string();
    if !attributes.subresource.is_empty() {
        resource = format!("{resource}/{}", attributes.subresource);
    }
    let what = format!(
        "User \"{user}\" cannot {} resource \"{resource}\" in API group \"{}\" {scope}{tail}",
        attributes.verb, attributes.group
    );
    let named = match attributes.verb {
        "list" | "watch" | "create" | "deletecollection" => "",
        _ => attributes.name,
    };
    let subject = match named {
        "" => qualified(attributes.group, attributes.resource),
        name => format!("{} \"{name}\"", qualified(attributes.group, attributes.resource)),
    };
    ApiError::new(
        StatusCode::FORBIDDEN,
        "Forbidden",
        format!("{subject} is forbidden: {what}"),
    )
    .about(attributes.group, attributes.resource, named)
}

/// What the audit log and the counters need of a request that is consumed meanwhile. Its texts are empty where nothing is
/// logged.
struct Record {
    id: String,
    uri: String,
    user_agent: String,
    source: Option<std::net::SocketAddr>,
    info: Arc<RequestInfo>,
    received: jiff::Timestamp,
    user: Arc<UserInfo>,
    impersonator: Option<Arc<UserInfo>>,
    allowed: Option<bool>,
    body: Bytes,
}

impl Record {
    fn new(server: &Server, parts: &Parts, info: RequestInfo) -> Self {
        let audited = !server.hooks.audit.is_empty();
        let header = |name: HeaderName| parts.headers.get(name)?.to_str().ok();
        let given = header(HeaderName::from_static("audit-id")).filter(|id| !id.is_empty());
        let agent = header(http::header::USER_AGENT).filter(|_| audited);
        Record {
            id: given.map_or_else(mainstay_base::ids::new_uid, str::to_string),
            uri: match audited {
                true => parts.uri.to_string(),
                false => String::new(),
            },
            user_agent: agent.unwrap_or_default().to_string(),
            source: parts.extensions.get::<Peer>().and_then(|peer| peer.address),
            info: Arc::new(info),
            received: server.clock.now(),
            user: Arc::default(),
            impersonator: None,
            allowed: None,
            body: Bytes::new(),
        }
    }

    /// Notes the answer: now, and a stream's end when it comes.
    fn conclude(self, server: Arc<Server>, response: Response<Body>) -> Response<Body> {
        let code = response.status().as_u16();
        let (head, body) = response.into_parts();
        let packed = head.headers.contains_key(http::header::CONTENT_ENCODING);
        let body = match packed {
            true => body,
            // The log wants to read what the client gets.
            false => body.at_once(),
        };
        if !matches!(body, Body::Stream(_)) {
            let buffers = body.buffers().into_iter().flatten().filter(|_| !packed);
            let readable: Vec<Bytes> = buffers.cloned().collect();
            self.log(&server, AuditStage::ResponseComplete, code, &readable);
            return Response::from_parts(head, body);
        }
        self.log(&server, AuditStage::ResponseStarted, code, &[]);
        let end = move || self.log(&server, AuditStage::ResponseComplete, code, &[]);
        Response::from_parts(head, body.when_done(end))
    }

    fn log(&self, server: &Server, stage: AuditStage, code: u16, response_body: &[Bytes]) {
        if server.hooks.audit.is_empty() {
            return;
        }
        let event = Audited {
            id: &self.id,
            stage,
            info: &self.info,
            uri: &self.uri,
            user: &self.user,
            impersonator: self.impersonator.as_deref(),
            source: self.source,
            user_agent: &self.user_agent,
            allowed: self.allowed,
            code,
            received: self.received,
            reached: server.clock.now(),
            request_body: &self.body,
            response_body,
        };
        server.hooks.audit.iter().for_each(|audit| audit.log(&event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn a_write_nobody_waits_for_runs_to_its_end() {
        let (commit, committing) = oneshot::channel::<()>();
        let (done, ended) = oneshot::channel();
        let mut work = Box::pin(ToItsEnd(Some(Box::pin(async move {
            committing.await.unwrap();
            done.send(()).unwrap();
        }))));
        assert!(futures::poll!(work.as_mut()).is_pending());
        drop(work);
        commit.send(()).unwrap();
        assert_eq!(ended.await, Ok(()));
    }

    fn frames(parts: &[&'static str]) -> impl http_body::Body<Data = Bytes, Error = BoxError> {
        let parts: Vec<_> = parts
            .iter()
            .map(|part| Ok(http_body::Frame::data(Bytes::from(*part))))
            .collect();
        http_body_util::StreamBody::new(futures::stream::iter(parts))
    }

    #[tokio::test]
    async fn a_body_is_put_together_from_its_frames() {
        for (parts, expected) in [
            (&[][..], ""),
            (&["one"][..], "one"),
            (&["", "one", "", "two", "three"][..], "onetwothree"),
        ] {
            assert_eq!(gather(frames(parts)).await.unwrap(), expected);
        }
        let small = Bytes::from_static(b"one frame");
        let kept = gather(http_body_util::Full::new(small.clone()).map_err(BoxError::from))
            .await
            .unwrap();
        assert_eq!(kept.as_ptr(), small.as_ptr());
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_refused_wherever_it_gets_there() {
        let half: &'static str = "x".repeat(BODY_LIMIT / 2 + 1).leak();
        let refused = read(frames(&[half, half])).await.unwrap_err();
        assert_eq!(refused.code, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_write_that_is_done_is_not_begun_again() {
        assert_eq!(ToItsEnd(Some(Box::pin(async { 7 }))).await, 7);
    }
}
