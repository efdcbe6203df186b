//! `/containerLogs`: a container's log as `kubectl logs` asks for it.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::{Answer, Query, text};
use crate::logs::read::{Options, send};
use crate::plan::{ContainerView, State};
use crate::pods::manager::Manager;
use crate::pods::observe::{EndedCache, observe};
use crate::podspec;

/// Parts of a log on their way to a slow reader.
const BUFFERED: usize = 8;

fn options(query: &Query, now: jiff::Timestamp) -> Result<Options, String> {
    let number = |key: &str| -> Result<Option<usize>, String> {
        let given = query.get(key).filter(|v| !v.is_empty());
        given
            .map(|v| v.parse().map_err(|_| format!("invalid {key}: {v:?}")))
            .transpose()
    };
    let since_seconds = number("sinceSeconds")?
        .and_then(|s| jiff::Timestamp::from_second(now.as_second().saturating_sub(s as i64)).ok());
    let since_time = query
        .get("sinceTime")
        .map(|t| t.parse().map_err(|_| format!("invalid sinceTime: {t:?}")))
        .transpose()?;
    Ok(Options {
        follow: query.is_on("follow"),
        tail: number("tailLines")?,
        since: since_time.or(since_seconds),
        timestamps: query.is_on("timestamps"),
        limit_bytes: number("limitBytes")?,
        stream: match query.get("stream") {
            Some("Stdout") => Some("stdout".to_owned()),
            Some("Stderr") => Some("stderr".to_owned()),
            _ => None,
        },
    })
}

/// The container whose log is meant: the newest that began, or the one before it.
fn choose(seen: &[ContainerView], name: &str, previous: bool) -> Option<ContainerView> {
    let mut own = seen
        .iter()
        .filter(|c| c.name == name && matches!(c.state, State::Running | State::Exited));
    let newest = own.next()?;
    // While a container waits for its restart, the one before it is the one that ended last.
    let waits = newest.state == State::Exited && newest.attempt > 0;
    match previous {
        false => Some(newest.clone()),
        true => own.next().or(Some(newest).filter(|_| waits)).cloned(),
    }
}

/// Answers a request for a log.
pub async fn serve(
    manager: &std::sync::Arc<Manager>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Answer {
    let shared = manager.shared().clone();
    let Some(found) = manager.find(namespace, pod) else {
        return text(
            StatusCode::NOT_FOUND,
            format!("pod \"{namespace}/{pod}\" not found\n"),
        );
    };
    let options = match options(query, shared.clock.now()) {
        Ok(options) => options,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    let view = match observe(&shared.cri, podspec::uid(&found), &mut EndedCache::default()).await {
        Ok(view) => view,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.message()),
    };
    let previous = query.is_on("previous");
    let Some(chosen) = choose(&view.containers, container, previous) else {
        let what = if previous {
            "previous terminated container"
        } else {
            "container"
        };
        let why = match previous {
            true => format!("{what} {container:?} in pod {pod:?} not found"),
            false => format!("{what} {container:?} in pod {pod:?} is waiting to start: ContainerCreating"),
        };
        return text(StatusCode::BAD_REQUEST, why);
    };
    let (to, from) = mpsc::channel::<Bytes>(BUFFERED);
    let path = std::path::PathBuf::from(&chosen.log_path);
    tokio::spawn(async move {
        let running = || {
            let (cri, id) = (shared.cri.clone(), chosen.id.clone());
            async move { is_running(&cri, &id).await }
        };
        if let Err(error) = send(path, options, to.clone(), running).await {
            let _ = to
                .send(Bytes::from(format!("failed to read the log: {error}\n")))
                .await;
        }
    });
    let parts = futures::stream::unfold(from, async |mut from| {
        let part = from.recv().await?;
        Some((Ok::<_, std::io::Error>(Frame::data(part)), from))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(Box::pin(parts) as Parts)));
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain"),
    );
    response
}

async fn is_running(cri: &crate::cri::Cri, id: &str) -> bool {
    let status = cri.container_status(id).await;
    status.is_ok_and(|s| s.state == crate::cri::runtime_v1::ContainerState::ContainerRunning as i32)
}

type Parts = std::pin::Pin<
    Box<dyn futures::Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + Sync + 'static>,
>;
