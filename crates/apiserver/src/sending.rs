//! Answers on their way: a large one holds seats until the client has taken it, and is given up when that takes longer than
//! any request may take. So what a client asks for and does not read pins memory for a minute, and never much of it.

use bytes::Bytes;
use http::Response;

use crate::body::{Body, Sent};
use crate::flow::Seats;
use crate::listing::LARGE;

/// Lets an answer hold what its request had, as far as it costs while it is sent.
pub fn hold(response: Response<Body>, seats: Seats) -> Response<Body> {
    response.map(|body| match body {
        Body::Whole(buffers) => {
            let bytes = buffers.iter().map(Bytes::len).sum();
            match bytes < LARGE {
                true => Body::Whole(buffers),
                false => sent(buffers.into_iter(), Some(bytes as u64), seats.for_bytes(bytes)),
            }
        }
        Body::Made(buffers) => sent(buffers, None, seats.for_made()),
        Body::Stream(stream) => match seats.for_stream() {
            None => Body::Stream(stream),
            Some(place) => Body::Stream(stream).when_done(move || drop(place)),
        },
        sent @ Body::Sent(_) => sent,
    })
}

fn sent(buffers: impl Iterator<Item = Bytes> + Send + 'static, left: Option<u64>, seats: Seats) -> Body {
    Body::Sent(Sent::new(buffers, left, seats))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::perishable::SENDING_LIMIT;
    use std::time::Duration;

    fn large() -> Body {
        Body::made((0..3).map(|_| Bytes::from(vec![b'x'; 10])))
    }

    fn next(body: &mut Body) -> Option<std::io::Result<usize>> {
        match body {
            Body::Sent(sent) => sent.take_next().map(|bytes| bytes.map(|bytes| bytes.len())),
            _ => panic!("it is on its way"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_read_in_time_is_given_up() {
        let mut body = hold(Response::new(large()), Seats::default()).into_body();
        assert!(matches!(next(&mut body), Some(Ok(10))));
        tokio::time::sleep(SENDING_LIMIT + Duration::from_secs(1)).await;
        assert!(matches!(next(&mut body), Some(Err(_))));
        assert!(next(&mut body).is_none());
    }

    #[tokio::test]
    async fn what_is_read_comes_whole_and_small_answers_hold_nothing() {
        let mut body = hold(Response::new(large()), Seats::default()).into_body();
        let mut bytes = 0;
        while let Some(Ok(more)) = next(&mut body) {
            bytes += more;
        }
        assert_eq!(bytes, 30);
        let small = hold(Response::new(Body::from("x")), Seats::default());
        assert!(matches!(small.into_body(), Body::Whole(_)));
        let large = hold(Response::new(Body::from(vec![0; LARGE])), Seats::default());
        assert!(matches!(large.into_body(), Body::Sent(sent) if sent.left() == Some(LARGE as u64)));
    }
}
