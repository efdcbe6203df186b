//! Counts and times what the agent asks the API server.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use kube::client::Body;
use mainstay_base::metrics::Label;
use tower::Service;

use crate::tally::Tally;

/// A client's way to the API server, counted.
#[derive(Clone)]
pub struct Counted<S> {
    /// What asks.
    pub inner: S,
    /// What counts.
    pub tally: Arc<Tally>,
    /// The server, as series name it.
    pub host: String,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (tally, host) = (self.tally.clone(), Label::from(self.host.clone()));
        let method = Label::from(request.method().to_string());
        let begun = tally.now();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = match &answer {
                Ok(answer) => answer.status().as_u16().to_string().into(),
                Err(_) => "<error>".into(),
            };
            tally.api_requests.count([code, host.clone(), method.clone()]);
            tally.api_took.observe([host, method], tally.since(begun));
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mainstay_base::clock::FakeClock;
    use mainstay_base::metrics::text;

    #[tokio::test]
    async fn an_answer_and_a_failure_are_told_apart() {
        let tally = Arc::new(Tally::new(FakeClock::new()));
        let mut way = Counted {
            inner: tower::service_fn(async |request: Request<Body>| match request.uri().path() {
                "/there" => Ok(Response::new(())),
                _ => Err("nobody answers"),
            }),
            tally: tally.clone(),
            host: "h:1".into(),
        };
        for path in ["/there", "/nowhere"] {
            let request = Request::get(path).body(Body::empty()).expect("a request");
            let _ = way.call(request).await;
        }
        let text = text([tally.api_requests.family()]);
        for code in ["200", "<error>"] {
            let series =
                format!("rest_client_requests_total{{code=\"{code}\",host=\"h:1\",method=\"GET\"}} 1\n");
            assert!(text.contains(&series), "{text}");
        }
    }
}
