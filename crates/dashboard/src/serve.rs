//! Serves the page on loopback: a token in the first URL becomes a cookie; the live part follows the API's watches.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use futures::Stream;
use kube::Client;
use mainstay_api::{
    BreakFixTicket, ClusterDeployment, ComputeNode, DataCenter, Host, NodePool, OSImage, Rack, Repair, Zone,
};
use mainstay_control::{Cache, CancellationToken, Projection, Scope};
use tokio::sync::watch;

use crate::page;
use crate::view::{Objects, View, view};

/// Changes are gathered for this long, so that a storm of them is at most four pages a second.
const GATHER: Duration = Duration::from_millis(250);
/// The cookie that holds the session token.
const COOKIE: &str = "mainstay-session";
/// Nothing but this server's own script and style; no inline code, no frames, no forms.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";
/// On every answer.
const HEADERS: [(header::HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
];
/// The version of the JSON twin of the page.
const API_VERSION: &str = "dashboard.mainstay.dev/v1";

/// Why the dashboard does not serve.
#[derive(Debug, thiserror::Error)]
#[error("failed to serve the dashboard on {address}")]
pub struct Error {
    /// Where it should listen.
    pub address: SocketAddr,
    /// Why not.
    #[source]
    pub source: std::io::Error,
}

struct App {
    token: String,
    view: watch::Receiver<View>,
    stop: CancellationToken,
}

struct Caches {
    centers: Cache<DataCenter>,
    zones: Cache<Zone>,
    racks: Cache<Rack>,
    hosts: Cache<Host>,
    machines: Cache<ComputeNode>,
    pools: Cache<NodePool>,
    clusters: Cache<ClusterDeployment>,
    images: Cache<OSImage>,
    repairs: Cache<Repair>,
    tickets: Cache<BreakFixTicket>,
}

impl Caches {
    fn start(client: &Client, stop: &CancellationToken, changed: &Arc<tokio::sync::Notify>) -> Self {
        fn one<P: Projection>(
            client: &Client,
            stop: &CancellationToken,
            changed: &Arc<tokio::sync::Notify>,
        ) -> Cache<P> {
            let cache = Cache::start(client, Scope::default(), stop.clone());
            let changed = changed.clone();
            cache.listen(move |_| changed.notify_one());
            cache
        }
        Caches {
            centers: one(client, stop, changed),
            zones: one(client, stop, changed),
            racks: one(client, stop, changed),
            hosts: one(client, stop, changed),
            machines: one(client, stop, changed),
            pools: one(client, stop, changed),
            clusters: one(client, stop, changed),
            images: one(client, stop, changed),
            repairs: one(client, stop, changed),
            tickets: one(client, stop, changed),
        }
    }

    fn objects(&self) -> Objects {
        fn all<P: Projection>(cache: &Cache<P>) -> Vec<P> {
            cache.list().iter().map(|object| (**object).clone()).collect()
        }
        Objects {
            centers: all(&self.centers),
            zones: all(&self.zones),
            racks: all(&self.racks),
            hosts: all(&self.hosts),
            machines: all(&self.machines),
            pools: all(&self.pools),
            clusters: all(&self.clusters),
            images: all(&self.images),
            repairs: all(&self.repairs),
            tickets: all(&self.tickets),
        }
    }
}

/// Serves until told to stop. Every request needs the token: once as `?token=`, then as a cookie.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    token: &str,
    client: Client,
    stop: CancellationToken,
) -> Result<(), Error> {
    let failed = |source| Error { address, source };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
    serve_on(listener, token, client, stop).await.map_err(failed)
}

/// The same on a listener that is there already.
///
/// # Errors
/// When the listener fails.
pub async fn serve_on(
    listener: tokio::net::TcpListener,
    token: &str,
    client: Client,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let changed = Arc::new(tokio::sync::Notify::new());
    let caches = Caches::start(&client, &stop, &changed);
    let (send, receive) = watch::channel(View::default());
    tokio::spawn(keep_fresh(caches, changed, send, stop.clone()));
    let app = Arc::new(App {
        token: token.into(),
        view: receive,
        stop: stop.clone(),
    });
    let router = Router::new()
        .route("/", get(index))
        .route("/view.json", get(document))
        .route("/style.css", get(asset(page::STYLE, "text/css; charset=utf-8")))
        .route(
            "/app.js",
            get(asset(page::SCRIPT, "text/javascript; charset=utf-8")),
        )
        .route("/events", get(events))
        .layer(from_fn_with_state(app.clone(), guard))
        .with_state(app);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

/// Answers with a text that never changes.
fn asset(
    text: &'static str,
    kind: &'static str,
) -> impl Fn() -> std::future::Ready<([(header::HeaderName, &'static str); 1], &'static str)> + Clone {
    move || std::future::ready(([(header::CONTENT_TYPE, kind)], text))
}

async fn keep_fresh(
    caches: Caches,
    changed: Arc<tokio::sync::Notify>,
    send: watch::Sender<View>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed.notified() => {}
        }
        let fresh = view(&caches.objects());
        send.send_if_modified(|shown| {
            let differs = *shown != fresh;
            *shown = fresh;
            differs
        });
        tokio::time::sleep(GATHER).await;
    }
}

async fn index(State(app): State<Arc<App>>) -> Html<String> {
    Html(page::page(&app.view.borrow()))
}

/// What the page shows, for programs.
async fn document(State(app): State<Arc<App>>) -> Response {
    let view = serde_json::to_value(&*app.view.borrow()).unwrap_or_default();
    let document = serde_json::json!({"apiVersion": API_VERSION, "kind": "View", "view": view});
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, document.to_string()).into_response()
}

/// The present state at once, then each new one, until the server stops.
async fn events(State(app): State<Arc<App>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let (mut view, stop) = (app.view.clone(), app.stop.clone());
    view.mark_changed();
    let stream = futures::stream::unfold((view, stop), |(mut view, stop)| async move {
        tokio::select! {
            changed = view.changed() => changed.ok()?,
            () = stop.cancelled() => return None,
        }
        let text = page::live(&view.borrow_and_update()).into_string();
        Some((Ok(Event::default().data(text)), (view, stop)))
    });
    Sse::new(stream).keep_alive(KeepAlive::default())
}

/// Lets through who shows the token, and hands a cookie to who shows it in the URL.
async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let shown = query.split('&').find_map(|pair| pair.strip_prefix("token="));
    let mut response = if shown.is_some_and(|shown| same(shown, &app.token)) {
        enter(&app.token)
    } else if cookie(request.headers()).is_some_and(|shown| same(shown, &app.token)) {
        next.run(request).await
    } else {
        let text = "This page needs the token that `mainstay up` and `mainstay status` print.\n";
        (StatusCode::UNAUTHORIZED, text).into_response()
    };
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

fn enter(token: &str) -> Response {
    let cookie = format!("{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/");
    let headers = [(header::SET_COOKIE, cookie), (header::LOCATION, "/".into())];
    (StatusCode::SEE_OTHER, headers, Body::empty()).into_response()
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get(header::COOKIE)?.to_str().ok()?;
    all.split("; ")
        .find_map(|pair| pair.strip_prefix(COOKIE)?.strip_prefix('='))
}

/// Compares in a time that does not depend on where the texts differ.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len()
        && a.bytes()
            .zip(b.bytes())
            .fold(0, |differs, (x, y)| differs | (x ^ y))
            == 0
}
