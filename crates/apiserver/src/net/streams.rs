//! What answers the requests of one connection, worked on in the connection's own task: a request costs no task that is
//! woken and moved between threads, and what many watches have to tell goes out in one write. Whoever wakes the task while
//! it is at work is heard in the same turn. A request's work begins when it comes; most reads are answered by that.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use futures::task::AtomicWaker;
use hyper::rt::Executor;
use parking_lot::Mutex;

/// Rounds of one turn: a large list sends a megabyte in them, then others have their turn.
const ROUNDS: usize = 16;

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes what has to wait.
#[derive(Clone, Default)]
pub struct Begun(Arc<Mutex<Vec<Work>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Begun {
    fn execute(&self, work: F) {
        let mut work = Box::pin(work);
        // It is polled again before the turn ends, and so registers itself wherever this poll registered nobody.
        let mut nobody = Context::from_waker(Waker::noop());
        if work.as_mut().poll(&mut nobody).is_pending() {
            self.0.lock().push(work);
        }
    }
}

/// The work of one connection that waits for something.
#[derive(Default)]
pub struct Streams {
    begun: Begun,
    waiting: FuturesUnordered<Work>,
    alarm: Arc<Alarm>,
}

impl Streams {
    /// What a connection gives its requests' work to; only while [`Streams::beside`] polls it.
    pub fn begun(&self) -> Begun {
        self.begun.clone()
    }

    /// Runs a connection together with what it begins, until the connection is done.
    pub async fn beside<T>(mut self, mut connection: Pin<&mut impl Future<Output = T>>) -> T {
        let waker = Waker::from(self.alarm.clone());
        poll_fn(|context| {
            self.alarm.task.register(context.waker());
            let mut own = Context::from_waker(&waker);
            for _ in 0..ROUNDS {
                self.alarm.begin_round();
                while let Poll::Ready(Some(())) = self.waiting.poll_next_unpin(&mut own) {}
                if let Poll::Ready(output) = connection.as_mut().poll(&mut own) {
                    return Poll::Ready(output);
                }
                if !self.adopt() && self.alarm.end_turn() {
                    return Poll::Pending;
                }
                if !tokio::task::coop::has_budget_remaining() {
                    break;
                }
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    /// Whether there is new work, which is to be polled.
    fn adopt(&mut self) -> bool {
        let begun = std::mem::take(&mut *self.begun.0.lock());
        let any = !begun.is_empty();
        self.waiting.extend(begun);
        any
    }
}

/// Wakes a task, unless the task is at work and will look again.
#[derive(Default)]
struct Alarm {
    state: AtomicU8,
    task: AtomicWaker,
}

/// Nothing happened since the task's last look.
const QUIET: u8 = 0;
/// The task is at work.
const AT_WORK: u8 = 1;
/// There is something to look at, and the task will.
const WOKEN: u8 = 2;

impl Alarm {
    fn begin_round(&self) {
        self.state.store(AT_WORK, Ordering::SeqCst);
    }

    /// Whether nobody called in this round: from now on they wake the task.
    fn end_turn(&self) -> bool {
        let ended = self
            .state
            .compare_exchange(AT_WORK, QUIET, Ordering::SeqCst, Ordering::SeqCst);
        ended.is_ok()
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::SeqCst) == QUIET {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn what_happens_within_a_turn_is_heard_in_it() {
        let streams = Streams::default();
        let begun = streams.begun();
        let connection = async {
            let (ask, asked) = oneshot::channel();
            let (answer, answered) = oneshot::channel();
            begun.execute(async move { answer.send(asked.await.unwrap_or(0) + 1).unwrap() });
            ask.send(6).unwrap();
            answered.await.unwrap()
        };
        let connection = pin!(connection);
        let all = pin!(streams.beside(connection));
        assert_eq!(futures::poll!(all), Poll::Ready(7));
    }

    #[tokio::test]
    async fn what_happens_later_wakes_the_connection() {
        let (ask, asked) = oneshot::channel();
        let all = tokio::spawn(async {
            let streams = Streams::default();
            let begun = streams.begun();
            let (answer, answered) = oneshot::channel();
            let connection = async move {
                begun.execute(async move { answer.send(asked.await.unwrap_or(0) + 1).unwrap() });
                answered.await.unwrap()
            };
            streams.beside(pin!(connection)).await
        });
        tokio::task::yield_now().await;
        ask.send(6).unwrap();
        assert_eq!(all.await.unwrap(), 7);
    }

    #[tokio::test]
    async fn work_ends_with_its_connection() {
        let streams = Streams::default();
        let begun = streams.begun();
        let (held, gone) = oneshot::channel::<()>();
        let connection = async move {
            begun.execute(async move {
                std::future::pending::<()>().await;
                drop(held);
            });
        };
        streams.beside(pin!(connection)).await;
        assert!(gone.await.is_err());
    }

    #[tokio::test]
    async fn a_turn_ends_whatever_happens() {
        let connection = poll_fn(|context| {
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        let connection = pin!(connection);
        let all = pin!(Streams::default().beside(connection));
        assert!(futures::poll!(all).is_pending());
    }
}
