//! The events that wait for one watcher. Bounded in number, in bytes and in time; a watcher that is too slow loses all of
//! them at once and is closed (it resumes from the window), so that a client that reads nothing pins no memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use parking_lot::Mutex;

use super::events::Event;

/// How many events may wait.
const EVENTS: usize = 4_096;
/// How many bytes they may keep alive. Queues with the same scope share their events: all together keep about as much.
const BYTES: usize = 16 << 20;

#[derive(Default)]
struct Waiting {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Nothing was taken since it was looked at last.
    stalled: bool,
    /// One of the two ends is gone, or the reader was too slow.
    closed: bool,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    reader: AtomicWaker,
}

/// The cache's end. Dropping it ends the watch after the events that wait.
pub struct Sender(Arc<Queue>);

/// The watcher's end.
pub struct Receiver(Arc<Queue>);

impl std::fmt::Debug for Receiver {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Receiver({} events)", self.0.waiting.lock().events.len())
    }
}

/// Makes both ends.
pub fn channel() -> (Sender, Receiver) {
    let queue = Arc::<Queue>::default();
    (Sender(queue.clone()), Receiver(queue))
}

impl Sender {
    /// Adds an event; `false` when the watcher is gone or was too slow.
    pub fn send(&self, event: &Arc<Event>) -> bool {
        let mut waiting = self.0.waiting.lock();
        if waiting.closed {
            return false;
        }
        waiting.bytes += event.bytes();
        let fits = waiting.events.len() < EVENTS && (waiting.bytes <= BYTES || waiting.events.is_empty());
        match fits {
            true => waiting.events.push_back(event.clone()),
            false => waiting.close(),
        }
        drop(waiting);
        self.0.reader.wake();
        fits
    }

    /// Whether the reader has taken something since the last call, or nothing waits; else the watch ends here.
    pub fn moves(&self) -> bool {
        let mut waiting = self.0.waiting.lock();
        if waiting.stalled {
            waiting.close();
            drop(waiting);
            self.0.reader.wake();
            return false;
        }
        waiting.stalled = !waiting.events.is_empty();
        true
    }

    /// Whether nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.0.waiting.lock().closed
    }
}

impl Waiting {
    fn close(&mut self) {
        *self = Waiting {
            closed: true,
            ..Waiting::default()
        };
    }

    fn take(&mut self) -> Option<Arc<Event>> {
        let event = self.events.pop_front()?;
        self.bytes -= event.bytes();
        self.stalled = false;
        Some(event)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.waiting.lock().closed = true;
        self.0.reader.wake();
    }
}

impl Receiver {
    /// The next event; `None` when there will be none.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Arc<Event>>> {
        if let Some(event) = self.try_next() {
            return Poll::Ready(Some(event));
        }
        self.0.reader.register(context.waker());
        let mut waiting = self.0.waiting.lock();
        match waiting.take() {
            Some(event) => Poll::Ready(Some(event)),
            None if waiting.closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    /// Waits for the next event; `None` when there will be none.
    pub async fn recv(&mut self) -> Option<Arc<Event>> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// Whether there will be no further event than those that wait.
    pub fn is_closed(&self) -> bool {
        self.0.waiting.lock().closed
    }

    /// The next event, if one waits.
    pub fn try_next(&mut self) -> Option<Arc<Event>> {
        self.0.waiting.lock().take()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.0.waiting.lock().close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use mainstay_access::object::Object;

    fn event(revision: u64, bytes: usize) -> Arc<Event> {
        let json = format!(
            r#"{{"metadata":{{"name":"a"}},"data":{{"x":"{}"}}}}"#,
            "y".repeat(bytes)
        );
        let object = Arc::new(Object::new::<&str>(Bytes::from(json), revision, &[]));
        Arc::new(Event::new(revision, Some(object), None))
    }

    fn poll(receiver: &mut Receiver) -> Poll<Option<u64>> {
        let mut context = Context::from_waker(futures::task::noop_waker_ref());
        receiver
            .poll(&mut context)
            .map(|event| event.map(|event| event.revision))
    }

    #[test]
    fn events_come_in_order_and_the_end_after_them() {
        let (sender, mut receiver) = channel();
        assert_eq!(poll(&mut receiver), Poll::Pending);
        assert!(sender.send(&event(1, 10)) && sender.send(&event(2, 10)));
        assert_eq!(poll(&mut receiver), Poll::Ready(Some(1)));
        drop(sender);
        assert_eq!(poll(&mut receiver), Poll::Ready(Some(2)));
        assert_eq!(poll(&mut receiver), Poll::Ready(None));
    }

    #[test]
    fn a_reader_that_is_too_slow_pins_nothing() {
        for (count, bytes) in [(EVENTS + 1, 10), (200, 100_000)] {
            let (sender, mut receiver) = channel();
            let first = event(1, bytes);
            let took = (0..count).take_while(|_| sender.send(&first)).count();
            assert!(took < count, "{took} of {bytes} bytes");
            assert_eq!(Arc::strong_count(&first), 1, "the queue let go of everything");
            assert!(sender.is_closed());
            assert_eq!(poll(&mut receiver), Poll::Ready(None));
        }
    }

    #[test]
    fn a_reader_that_stands_still_is_ended_and_a_slow_one_is_not() {
        let (sender, mut receiver) = channel();
        assert!(sender.moves() && sender.moves(), "nothing waits");
        let first = event(1, 10);
        assert!(sender.send(&first) && sender.send(&first));
        assert!(sender.moves(), "it has its time");
        assert_eq!(poll(&mut receiver), Poll::Ready(Some(1)));
        assert!(sender.moves(), "it took one");
        assert!(!sender.moves());
        assert_eq!(Arc::strong_count(&first), 1, "the queue let go of everything");
        assert_eq!(poll(&mut receiver), Poll::Ready(None));
    }

    #[test]
    fn one_event_fits_whatever_its_size_and_a_gone_reader_is_noticed() {
        let (sender, mut receiver) = channel();
        assert!(sender.send(&event(1, BYTES + 1)));
        assert_eq!(poll(&mut receiver), Poll::Ready(Some(1)));
        drop(receiver);
        assert!(sender.is_closed() && !sender.send(&event(2, 1)));
    }
}
