//! Watches: the present objects if asked for, what happened since, what happens, and bookmarks in between.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};

use super::Call;
use super::options::ListOptions;
use super::read;
use crate::body::Body;
use crate::cache::{Change, Event, PageRequest, Receiver, Scope, Selection, Shown, Subscription};
use crate::convert;
use crate::negotiate::{Format, Shape, Syntax};
use crate::perishable::{Perishable, SENDING_LIMIT};
use crate::proto;
use crate::resources::Resource;
use crate::respond::Wanted;
use crate::server::Server;
use crate::shape::{partial, tables};
use mainstay_access::object::Object;
use mainstay_access::status::{ApiError, ApiResult};

/// How often a quiet watch says how far it has come.
const BOOKMARK_EVERY: Duration = Duration::from_secs(50);
/// Watches without a wish last this long, plus up to as much again.
const DEFAULT_SECONDS: u64 = 1_800;
/// Events that are ready are sent together, up to about this many bytes.
const CHUNK: usize = 64 << 10;
/// Annotation of the bookmark that ends the initial objects.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// Answers a watch.
///
/// # Errors
/// 400, 406, 422 as upstream. A revision that is too old is told inside the stream.
pub async fn watch(server: &Arc<Server>, resource: &Arc<Resource>, call: &Call) -> ApiResult<Response<Body>> {
    let wanted = read::wanted(call, resource)?;
    let options = ListOptions::parse(&call.query, true)?;
    let selection = read::selection(resource, call)?;
    let seconds = options.timeout_seconds.filter(|seconds| *seconds > 0);
    let seconds = seconds.unwrap_or_else(|| DEFAULT_SECONDS + server.random_below(DEFAULT_SECONDS));
    let shown = selection.is_restricted().then(Shown::default);
    let mut stream = Stream {
        server: server.clone(),
        resource: resource.clone(),
        pending: VecDeque::new(),
        initial: None,
        live: None,
        after: 0,
        selection,
        shown,
        bookmarks: options.bookmarks.then(bookmark_timer),
        initial_end: None,
        deadline: Box::pin(tokio::time::sleep_until(Instant::now_plus(Duration::from_secs(
            seconds,
        )))),
        columns_sent: false,
        wanted,
        ended: false,
    };
    stream.begin(call, &options).await?;
    // A drain ends the watches there are; this one may have come just behind it.
    stream.ended |= server.is_draining();
    let media_type = match stream.is_protobuf() {
        true => "application/vnd.kubernetes.protobuf;stream=watch",
        false => "application/json",
    };
    Ok(respond(media_type, Body::stream(stream)))
}

/// Deadlines in tokio's time, which tests can pause.
trait NowPlus {
    fn now_plus(by: Duration) -> Self;
}

impl NowPlus for Instant {
    #[allow(clippy::disallowed_methods)]
    fn now_plus(by: Duration) -> Self {
        Instant::now() + by
    }
}

fn bookmark_timer() -> Interval {
    let mut timer = tokio::time::interval_at(Instant::now_plus(BOOKMARK_EVERY), BOOKMARK_EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

fn respond(media_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    response
}

struct Stream {
    server: Arc<Server>,
    resource: Arc<Resource>,
    /// Encoded events that go out next.
    pending: VecDeque<Bytes>,
    /// What the watch begins with and has not been sent yet.
    initial: Option<Perishable<VecDeque<First>>>,
    live: Option<Receiver>,
    /// Events up to here are known to the client.
    after: u64,
    selection: Selection,
    /// Only where rights select.
    shown: Option<Shown>,
    bookmarks: Option<Interval>,
    /// The revision of the end mark that is due after the initial objects.
    initial_end: Option<u64>,
    deadline: Pin<Box<Sleep>>,
    columns_sent: bool,
    wanted: Wanted,
    ended: bool,
}

/// What goes out before anything that happens from now on.
enum First {
    /// An object that there is.
    Present(Arc<Object>),
    /// What happened since the revision that the client knows.
    Missed(Arc<Event>),
}

impl futures::Stream for Stream {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let stream = self.get_mut();
        loop {
            if let Some(bytes) = stream.next_ready() {
                return Poll::Ready(Some(bytes));
            }
            if stream.ended {
                return Poll::Ready(None);
            }
            if !stream.take_in(context) {
                return Poll::Pending;
            }
        }
    }
}

impl Stream {
    async fn begin(&mut self, call: &Call, options: &ListOptions) -> ApiResult<()> {
        let with_state = options.send_initial.unwrap_or(options.revision.unwrap_or(0) == 0);
        if with_state {
            read::reach(&self.server, options.revision).await?;
        }
        let namespace = Some(call.namespace(&self.resource)).filter(|namespace| !namespace.is_empty());
        let namespace = if self.resource.namespaced {
            namespace
        } else {
            Some("")
        };
        let scope = self.scope(namespace);
        let caches = self.server.caches().clone();
        let cache = caches.resource(&self.resource.store);
        let applied = caches.revision();
        if with_state {
            let request = PageRequest {
                namespace,
                ..PageRequest::default()
            };
            let (page, subscription) = cache.page_and_subscribe(&request, &self.selection, scope, applied);
            self.knows(&page.objects);
            self.after = page.revision;
            self.first(page.objects.into_iter().map(First::Present).collect());
            self.initial_end = options.send_initial.map(|_| page.revision);
            self.live = Some(subscription.live);
            return Ok(());
        }
        self.after = options.revision.unwrap_or(applied);
        if self.shown.is_some() {
            // The client has listed a moment ago what it may see.
            let request = PageRequest {
                namespace,
                ..PageRequest::default()
            };
            if let Ok(page) = cache.page(&request, &self.selection, applied) {
                self.knows(&page.objects);
            }
        }
        match cache.subscribe(scope, self.after) {
            Ok(Subscription { backlog, live }) => {
                self.first(backlog.into_iter().map(First::Missed).collect());
                self.live = Some(live);
            }
            Err(floor) => self.fail(&expired(self.after, floor)),
        }
        Ok(())
    }

    fn first(&mut self, first: VecDeque<First>) {
        self.initial = (!first.is_empty()).then(|| Perishable::new(first, SENDING_LIMIT));
    }

    fn knows(&mut self, objects: &[Arc<Object>]) {
        if let Some(shown) = self.shown.as_mut() {
            objects.iter().for_each(|object| shown.note(object));
        }
    }

    fn scope(&self, namespace: Option<&str>) -> Scope {
        match (self.selection.exact_name(), namespace) {
            (Some(name), Some(namespace)) => return Scope::Name(namespace.into(), name.into()),
            _ if &*self.resource.store != "core/pods" => {}
            _ => {
                if let Some(node) = self.selection.exact_first_field() {
                    return Scope::FirstField(node.into());
                }
            }
        }
        match namespace {
            Some(namespace) if !namespace.is_empty() => Scope::Namespace(namespace.into()),
            _ => Scope::All,
        }
    }

    /// What is ready to go out, as one buffer of bounded size.
    fn next_ready(&mut self) -> Option<Bytes> {
        let first = self.next_encoded()?;
        let mut together: Option<Vec<u8>> = None;
        let mut bytes = first.len();
        while bytes < CHUNK {
            let Some(next) = self.next_encoded() else {
                break;
            };
            bytes += next.len();
            let buffer = together.get_or_insert_with(|| first.to_vec());
            buffer.extend_from_slice(&next);
        }
        Some(together.map_or(first, Bytes::from))
    }

    fn next_encoded(&mut self) -> Option<Bytes> {
        self.pending.pop_front().or_else(|| self.next_initial())
    }

    fn next_initial(&mut self) -> Option<Bytes> {
        while let Some(initial) = &self.initial {
            match initial.with(VecDeque::pop_front) {
                Some(Some(First::Present(object))) => {
                    if let Some(bytes) = self.encode(Change::Added, &object) {
                        return Some(bytes);
                    }
                }
                Some(Some(First::Missed(event))) => {
                    self.push(&event);
                    if let Some(bytes) = self.pending.pop_front() {
                        return Some(bytes);
                    }
                }
                Some(None) => self.initial = None,
                // The client took too long to read them: it begins again.
                None => return self.give_up(),
            }
        }
        let revision = self.initial_end.take()?;
        Some(self.bookmark(revision, true))
    }

    /// Ends the watch before what it should have begun with was sent: no mark may say that it was.
    fn give_up(&mut self) -> Option<Bytes> {
        self.ended = true;
        self.initial = None;
        self.initial_end = None;
        self.live = None;
        None
    }

    /// Takes in what has happened, and registers to be woken by what will. `true`: there may be something to send, or
    /// the watch has ended.
    fn take_in(&mut self, context: &mut Context<'_>) -> bool {
        let event = match self.live.as_mut() {
            Some(live) => live.poll(context),
            None => Poll::Ready(None),
        };
        match event {
            Poll::Ready(Some(event)) => {
                self.push(&event);
                return true;
            }
            Poll::Ready(None) => {
                self.ended = true;
                return true;
            }
            Poll::Pending => {}
        }
        if self.deadline.as_mut().poll(context).is_ready() {
            self.ended = true;
            self.progress();
            return true;
        }
        let tick = self.bookmarks.as_mut().map(|timer| timer.poll_tick(context));
        let due = tick.is_some_and(|tick| tick.is_ready());
        if due {
            self.progress();
        }
        due
    }

    /// Sends a bookmark for everything that has been delivered.
    fn progress(&mut self) {
        let applied = self.server.caches().revision();
        let mut waiting = Vec::new();
        if let Some(live) = self.live.as_mut() {
            while let Some(event) = live.try_next() {
                waiting.push(event);
            }
        }
        waiting.iter().for_each(|event| self.push(event));
        // A queue that closed meanwhile may have let go of events that a bookmark would cover.
        if self.live.as_ref().is_none_or(Receiver::is_closed) {
            self.ended = true;
            return;
        }
        if self.bookmarks.is_some() && applied >= self.after {
            let bookmark = self.bookmark(applied, false);
            self.pending.push_back(bookmark);
        }
    }

    fn push(&mut self, event: &Arc<Event>) {
        if event.revision <= self.after {
            return;
        }
        let change = match self.shown.as_mut() {
            None => self.selection.change(event),
            Some(shown) => shown.change(&self.selection, event),
        };
        let Some(change) = change else {
            return;
        };
        let as_stored = self.wanted.format == Format::JSON && self.resource.is_stored_as_served();
        if as_stored {
            return self.pending.push_back(event.encoded(change));
        }
        let shown = event.shown(change);
        let encoded = shown.and_then(|object| self.encode(change, &object));
        self.pending.extend(encoded);
    }

    fn is_protobuf(&self) -> bool {
        self.wanted.format.syntax == Syntax::Protobuf
    }

    fn encode(&mut self, change: Change, object: &Arc<Object>) -> Option<Bytes> {
        if self.is_protobuf() {
            return Some(self.frame(change.name(), &convert::served(&self.resource, object)));
        }
        let mut out = Vec::with_capacity(object.bytes().len() + 96);
        crate::cache::open(change.name(), &mut out);
        if self.wanted.format.shape == Shape::Object {
            convert::write_served(&self.resource, object, &mut out);
        } else {
            let shaped = self.shaped(object);
            serde_json::to_writer(&mut out, &shaped).ok()?;
        }
        crate::cache::close(&mut out);
        Some(out.into())
    }

    fn shaped(&mut self, object: &Object) -> Value {
        let value = convert::served(&self.resource, object);
        let version = self.wanted.format.meta_version;
        if self.wanted.format.shape != Shape::Table {
            return partial::object(&value, version);
        }
        let meta = json!({"resourceVersion": object.revision().to_string()});
        let mut table = tables::table(&self.resource, &[value], meta, self.wanted.look());
        if std::mem::replace(&mut self.columns_sent, true) {
            table["columnDefinitions"] = Value::Null;
        }
        table
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool) -> Bytes {
        let annotations = match initial_end {
            true => json!({INITIAL_END: "true"}),
            false => Value::Null,
        };
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = annotations;
        }
        let (kind, api_version) = match self.wanted.format.shape {
            Shape::Object => (self.resource.gvk.kind.as_str(), self.resource.api_version()),
            Shape::Table => ("Table", "meta.k8s.io/v1".to_string()),
            _ => ("PartialObjectMetadata", "meta.k8s.io/v1".to_string()),
        };
        let mut object = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        if kind == "Table" {
            object["columnDefinitions"] = Value::Null;
            object["rows"] = json!([{"cells": [], "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}}]);
        }
        self.frame("BOOKMARK", &object)
    }

    fn fail(&mut self, error: &ApiError) {
        let frame = self.frame("ERROR", &error.to_status());
        self.pending.push_back(frame);
        self.ended = true;
    }

    /// One event as the client reads it.
    fn frame(&self, kind: &str, object: &Value) -> Bytes {
        if self.is_protobuf() {
            return proto::event(kind, &proto::from_json(object).unwrap_or_default()).into();
        }
        let mut text = json!({"type": kind, "object": object}).to_string();
        text.push('\n');
        text.into()
    }
}

fn expired(wanted: u64, floor: u64) -> ApiError {
    ApiError::expired(format!("too old resource version: {wanted} ({floor})"))
}
