//! Response bodies: one buffer, several buffers in a row, buffers that are made as they are sent, or a stream. No copy is
//! made of what is shared.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http_body::{Frame, SizeHint};

/// A body of a response.
pub enum Body {
    /// Buffers that are sent one after the other; the length is known.
    Whole(VecDeque<Bytes>),
    /// Buffers that are made when the client takes them: a large list never stands in memory a second time.
    Made(Box<dyn Iterator<Item = Bytes> + Send>),
    /// Buffers as they come.
    Stream(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Body::Whole(VecDeque::new())
    }

    /// A body whose buffers are made as they are sent.
    pub fn made(buffers: impl Iterator<Item = Bytes> + Send + 'static) -> Self {
        Body::Made(Box::new(buffers))
    }

    /// Makes at once what would be made while it is sent.
    pub fn at_once(self) -> Self {
        match self {
            Body::Made(buffers) => Body::Whole(buffers.collect()),
            other => other,
        }
    }

    /// A body from a stream.
    pub fn stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Body::Stream(Box::pin(stream))
    }

    /// Calls `end` when a stream has ended or its reader is gone; at once for anything else.
    pub fn when_done(self, end: impl FnOnce() + Send + 'static) -> Self {
        let end = AtEnd(Some(end));
        match self {
            Body::Whole(_) | Body::Made(_) => self,
            Body::Stream(stream) => Body::stream(stream.map(move |bytes| {
                let _kept_as_long_as_the_stream = &end;
                bytes
            })),
        }
    }

    /// The body's bytes when they are there.
    pub fn buffers(&self) -> Option<&VecDeque<Bytes>> {
        match self {
            Body::Whole(buffers) => Some(buffers),
            Body::Made(_) | Body::Stream(_) => None,
        }
    }
}

/// Runs when it is dropped.
struct AtEnd<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Body::empty()
    }
}

impl<B: Into<Bytes>> From<B> for Body {
    fn from(bytes: B) -> Self {
        let bytes = bytes.into();
        Body::Whole(if bytes.is_empty() {
            VecDeque::new()
        } else {
            VecDeque::from([bytes])
        })
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Body::Whole(buffers) => Poll::Ready(buffers.pop_front().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Made(buffers) => Poll::Ready(buffers.next().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Stream(stream) => stream
                .as_mut()
                .poll_next(context)
                .map(|next| next.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole(buffers) if buffers.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(buffers) => {
                SizeHint::with_exact(buffers.iter().map(|bytes| bytes.len() as u64).sum())
            }
            Body::Made(_) | Body::Stream(_) => SizeHint::default(),
        }
    }
}
