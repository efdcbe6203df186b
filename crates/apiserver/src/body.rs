//! Response bodies: one buffer, several buffers in a row, or a stream. No copy is made of what is shared.

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
    /// Buffers as they come.
    Stream(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Body::Whole(VecDeque::new())
    }

    /// A body from a stream.
    pub fn stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Body::Stream(Box::pin(stream))
    }

    /// Calls `end` when a stream has ended or its reader is gone; at once for anything else.
    pub fn when_done(self, end: impl FnOnce() + Send + 'static) -> Self {
        let end = AtEnd(Some(end));
        match self {
            Body::Whole(_) => self,
            Body::Stream(stream) => Body::stream(stream.map(move |bytes| {
                let _kept_as_long_as_the_stream = &end;
                bytes
            })),
        }
    }

    /// The body's bytes when it is not a stream.
    pub fn buffers(&self) -> Option<&VecDeque<Bytes>> {
        match self {
            Body::Whole(buffers) => Some(buffers),
            Body::Stream(_) => None,
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
            Body::Stream(_) => SizeHint::default(),
        }
    }
}

/// Collects bytes into buffers of one size, so that large lists never need one huge allocation.
pub struct Chunks {
    done: VecDeque<Bytes>,
    open: Vec<u8>,
}

/// The size of one buffer: above 64 KiB nothing is gained on the wire.
const CHUNK: usize = 64 << 10;

impl Chunks {
    /// Starts without bytes.
    pub fn new() -> Self {
        Chunks {
            done: VecDeque::new(),
            open: Vec::new(),
        }
    }

    /// The buffer to write to. Call [`Chunks::cut`] between objects.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.open
    }

    /// Closes the open buffer when it is full, or about to be with `next` more bytes.
    pub fn cut(&mut self, next: usize) {
        if !self.open.is_empty() && self.open.len() + next > CHUNK {
            let full = std::mem::replace(&mut self.open, Vec::with_capacity(CHUNK.max(next)));
            self.done.push_back(full.into());
        }
    }

    /// Ends the body.
    pub fn finish(mut self) -> Body {
        if !self.open.is_empty() {
            self.done.push_back(self.open.into());
        }
        Body::Whole(self.done)
    }
}

impl Default for Chunks {
    fn default() -> Self {
        Chunks::new()
    }
}
