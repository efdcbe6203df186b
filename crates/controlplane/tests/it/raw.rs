//! Requests as bytes through the whole chain, without a client that would repair them.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use mainstay_controlplane::ControlPlane;
use mainstay_testkit::UserInfo;
use serde_json::Value;
use tower::ServiceExt as _;

/// What came back.
pub struct Answer {
    pub code: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The code and the Status' reason.
    pub fn told(&self) -> String {
        match self.json()["reason"].as_str() {
            Some(reason) => format!("{} {reason}", self.code.as_u16()),
            None => self.code.as_u16().to_string(),
        }
    }
}

/// Sends a request as an administrator; `head` is `METHOD PATH [CONTENT-TYPE]`.
pub async fn send(plane: &ControlPlane, head: &str, body: impl Into<Bytes>) -> Answer {
    send_as(plane, UserInfo::admin(), head, body).await
}

/// The same as another user.
pub async fn send_as(plane: &ControlPlane, user: UserInfo, head: &str, body: impl Into<Bytes>) -> Answer {
    let mut words = head.split(' ');
    let method = words
        .next()
        .and_then(|word| Method::from_bytes(word.as_bytes()).ok());
    let mut request = Request::builder()
        .method(method.expect("a method"))
        .uri(words.next().expect("a path"));
    if let Some(content_type) = words.next() {
        request = request.header("content-type", content_type);
    }
    let request = request.body(Full::new(body.into())).expect("a request");
    exchange(plane, user, request).await
}

/// Reads a path in a media type.
pub async fn get_accepting(plane: &ControlPlane, path: &str, accept: &str) -> Answer {
    let request = Request::get(path)
        .header("accept", accept)
        .body(Full::new(Bytes::new()))
        .expect("a request");
    exchange(plane, UserInfo::admin(), request).await
}

async fn exchange(plane: &ControlPlane, user: UserInfo, request: Request<Full<Bytes>>) -> Answer {
    let Ok(response) = plane.service(user).oneshot(request).await;
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("the body comes whole");
    Answer {
        code: head.status,
        headers: head.headers,
        body: body.to_bytes(),
    }
}
