//! Response bodies: one buffer, several buffers in a row, buffers that are made as they are sent, or a stream. No copy is
//! made of what is shared.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http_body::{Frame, SizeHint};

use crate::perishable::{Perishable, SENDING_LIMIT};

/// A body of a response.
pub enum Body {
    /// Buffers that are sent one after the other; the length is known.
    Whole(VecDeque<Bytes>),
    /// Buffers that are made when the client takes them: a large list never stands in memory a second time.
    Made(Box<dyn Iterator<Item = Bytes> + Send>),
    /// Buffers that hold seats until they are taken, which must be soon.
    Sent(Sent),
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
            Body::Sent(sent) => Body::Whole(sent.at_once()),
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
            Body::Whole(_) | Body::Made(_) | Body::Sent(_) => self,
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
            Body::Made(_) | Body::Sent(_) | Body::Stream(_) => None,
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
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Body::Whole(buffers) => Poll::Ready(buffers.pop_front().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Made(buffers) => Poll::Ready(buffers.next().map(|bytes| Ok(Frame::data(bytes)))),
            Body::Sent(sent) => Poll::Ready(sent.take_next().map(|next| next.map(Frame::data))),
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
            Body::Sent(sent) => sent.left().map(SizeHint::with_exact).unwrap_or_default(),
            Body::Made(_) | Body::Stream(_) => SizeHint::default(),
        }
    }
}

/// An answer that is being sent: what is left of it, and what is held until it is taken.
pub struct Sent {
    /// `None` = all was taken.
    rest: Option<Perishable<Rest>>,
    left: Option<u64>,
}

type Rest = (Box<dyn Iterator<Item = Bytes> + Send>, Box<dyn Send>);

impl Sent {
    /// An answer of these buffers, of `left` bytes where that is known, that keeps `held` until it is taken or given up.
    pub fn new(
        buffers: impl Iterator<Item = Bytes> + Send + 'static,
        left: Option<u64>,
        held: impl Send + 'static,
    ) -> Self {
        let rest: Rest = (Box::new(buffers), Box::new(held));
        Sent {
            rest: Some(Perishable::new(rest, SENDING_LIMIT)),
            left,
        }
    }

    /// The next buffer.
    ///
    /// # Errors
    /// When the client took too long: the answer ends here, and not well.
    pub fn take_next(&mut self) -> Option<std::io::Result<Bytes>> {
        let rest = self.rest.as_ref()?;
        match rest.with(|(buffers, _)| buffers.next()) {
            Some(Some(bytes)) => {
                self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
                Some(Ok(bytes))
            }
            Some(None) => {
                self.rest = None;
                None
            }
            None => {
                self.rest = None;
                Some(Err(std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    "the answer was not read in time",
                )))
            }
        }
    }

    /// How many bytes are to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// All buffers at once.
    pub fn at_once(self) -> VecDeque<Bytes> {
        let rest = self.rest.as_ref();
        rest.and_then(|rest| rest.with(|(buffers, _)| buffers.collect()))
            .unwrap_or_default()
    }
}
