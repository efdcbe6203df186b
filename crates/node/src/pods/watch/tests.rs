//! Listings that differ, and a runtime that tells the CRI's own events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use v1::ContainerEventType::{self, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent};

use super::*;

type Event = Result<v1::ContainerEventResponse, Status>;
type Events = BoxStream<'static, Event>;

/// A runtime that has prepared a stream of events for each of the next subscribers.
#[derive(Clone)]
struct Runtime(Arc<Mutex<VecDeque<Events>>>);

impl tonic::server::ServerStreamingService<v1::GetEventsRequest> for Runtime {
    type Response = v1::ContainerEventResponse;
    type ResponseStream = Events;
    type Future = BoxFuture<Response<Events>, Status>;

    fn call(&mut self, _: Request<v1::GetEventsRequest>) -> Self::Future {
        let next = self.0.lock().pop_front();
        let answer = next.map(Response::new);
        Box::pin(async move { answer.ok_or_else(|| Status::unavailable("no more subscribers")) })
    }
}

impl tonic::server::NamedService for Runtime {
    const NAME: &'static str = "runtime.v1.RuntimeService";
}

impl<B> Service<http::Request<B>> for Runtime
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let own = self.clone();
        Box::pin(async move {
            if request.uri().path() != "/runtime.v1.RuntimeService/GetContainerEvents" {
                return Ok(Status::unimplemented("it only tells events").into_http());
            }
            let codec: ProstCodec<v1::ContainerEventResponse, v1::GetEventsRequest> = ProstCodec::default();
            Ok(tonic::server::Grpc::new(codec)
                .server_streaming(own, request)
                .await)
        })
    }
}

/// What happened to a container.
fn event(id: &str, kind: ContainerEventType) -> Event {
    Ok(v1::ContainerEventResponse {
        container_id: id.to_owned(),
        container_event_type: kind as i32,
        ..Default::default()
    })
}

/// A stream of events and the end that feeds it; dropped, it breaks the stream.
fn events() -> (mpsc::UnboundedSender<Event>, Events) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let next = async |mut receiver: mpsc::UnboundedReceiver<Event>| Some((receiver.recv().await?, receiver));
    (sender, futures::stream::unfold(receiver, next).boxed())
}

/// Waits for news until there are those that are looked for.
async fn until(told: &Told, holds: impl Fn(&HashSet<String>, bool) -> bool) {
    const LIMIT: Duration = Duration::from_secs(30);
    while !holds(&told.ids.lock(), told.listens.load(Ordering::Relaxed)) {
        let news = tokio::time::timeout(LIMIT, told.news.notified()).await;
        news.expect("there is news");
    }
}

#[tokio::test]
async fn ends_are_told_by_the_cri_and_asked_for_again_when_the_stream_breaks() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("runtime.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let ((first, first_events), (second, second_events)) = (events(), events());
    let runtime = Runtime(Arc::new(Mutex::new([first_events, second_events].into())));
    let accept = async |listener: UnixListener| {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    };
    let server = tonic::transport::Server::builder().add_service(runtime);
    tokio::spawn(server.serve_with_incoming(futures::stream::unfold(listener, accept)));

    let told = Arc::new(Told::default());
    let (cri, listening) = (
        Cri::new(&socket.display().to_string()).expect("a client"),
        told.clone(),
    );
    let listens = tokio::spawn(async move { listening.listen(&cri).await });
    until(&told, |_, listens| listens).await;
    let happened = [
        event("a", ContainerStartedEvent),
        event("b", ContainerStoppedEvent),
        event("c", ContainerDeletedEvent),
    ];
    for event in happened {
        first.send(event).expect("somebody listens");
    }
    let names = |all: &[&str]| -> HashSet<String> { all.iter().map(|id| (*id).to_owned()).collect() };
    until(&told, |ids, _| *ids == names(&["b", "c"])).await;
    drop(first);
    until(&told, |_, listens| !listens).await;
    second.send(event("d", ContainerStoppedEvent)).expect("kept");
    until(&told, |ids, listens| listens && *ids == names(&["b", "c", "d"])).await;
    listens.abort();
}

#[test]
fn pods_that_changed_came_or_went_are_looked_at() {
    let listing = |all: &[(&str, &str, i32)]| {
        let labels = |uid: &str| HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())]);
        let items = all
            .iter()
            .map(|(uid, id, state)| (labels(uid), (*id).to_owned(), *state, *state == 1));
        Listing::of(items)
    };
    let before = listing(&[("same", "a", 1), ("ended", "b", 1), ("gone", "c", 1)]);
    let now = listing(&[("same", "a", 1), ("ended", "b", 2), ("new", "d", 1)]);
    let mut changed: Vec<&String> = before.differences(&now).collect();
    changed.sort();
    assert_eq!(changed, ["ended", "gone", "new"]);
    assert!(now.live.contains("a") && !now.live.contains("b"));
}
