//! Few large writes instead of many small ones. HTTP/2 writes and flushes frame by frame; each would be a TLS record and a
//! system call of its own. What one turn of a connection's task writes is kept here and goes out when the turn ends.
//! Invariants: bytes leave in the order in which they were written, and none stay behind once the connection's future is done;
//! until then writing wakes only the connection's task, which wakes whoever waits for room (after an upgrade that is another).

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use mainstay_access::pieces::{PIECE, append};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is kept at most; more is written at once. Four TLS records.
const MOST: usize = 64 << 10;
/// What a connection reads and writes in one turn, about: then others have theirs, however much this one asked for.
const SHARE: usize = 256 << 10;
/// Room for what answers one small request.
const FIRST: usize = 4 << 10;

/// A stream whose small writes are kept until the turn ends; a clone is another handle of the same stream.
pub struct Together<S>(Arc<Mutex<Kept<S>>>);

struct Kept<S> {
    stream: S,
    buffer: Vec<u8>,
    written: usize,
    /// Between the beginning and the end of a turn, flushing waits.
    turn: bool,
    /// Bytes that this turn may still read or write.
    share: usize,
    /// The connection's task, while it lasts: writing wakes that one.
    driver: Option<Waker>,
    /// Who waits for the end of that task's turn.
    waits: Vec<Waker>,
    /// Why writing failed at a turn's end; told to whoever reads or writes next.
    failed: Option<io::Error>,
}

impl<S> Clone for Together<S> {
    fn clone(&self) -> Self {
        Together(self.0.clone())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Together<S> {
    /// Wraps a stream. Outside of [`Together::drive`] it writes through.
    pub fn new(stream: S) -> Self {
        Together(Arc::new(Mutex::new(Kept {
            stream,
            buffer: Vec::new(),
            written: 0,
            turn: false,
            share: 0,
            driver: None,
            waits: Vec::new(),
            failed: None,
        })))
    }

    /// Runs a future that owns another handle of this stream, and writes after each of its turns. What a failed one has
    /// written may stay behind.
    pub async fn drive<T, E>(&self, mut work: Pin<&mut impl Future<Output = Result<T, E>>>) -> Result<T, E> {
        let mut done = None;
        let _ended = Ended(self);
        poll_fn(|context| {
            if done.is_none() {
                self.0.lock().begin_turn(context);
                if let Poll::Ready(output) = work.as_mut().poll(context) {
                    done = Some(output);
                }
            }
            let written = self.end_turn(context);
            match done.take() {
                Some(output) if written.is_ready() || output.is_err() => Poll::Ready(output),
                waits => {
                    done = waits;
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn end_turn(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut kept = self.0.lock();
        kept.turn = false;
        if let Err(error) = ready!(kept.flush(context)) {
            kept.failed = Some(error);
            kept.written = 0;
            // The work is to hear of it, and may be waiting for something else.
            context.waker().wake_by_ref();
        }
        kept.buffer = Vec::new();
        kept.wake_waiting();
        Poll::Ready(())
    }
}

/// From its drop on, the stream writes through.
struct Ended<'a, S>(&'a Together<S>);

impl<S> Drop for Ended<'_, S> {
    fn drop(&mut self) {
        let mut kept = self.0.0.lock();
        kept.turn = false;
        kept.driver = None;
        kept.wake_waiting();
    }
}

impl<S> Kept<S> {
    fn wait(&mut self, context: &Context<'_>) {
        if !self.waits.iter().any(|other| other.will_wake(context.waker())) {
            self.waits.push(context.waker().clone());
        }
    }

    fn wake_waiting(&mut self) {
        self.waits.drain(..).for_each(Waker::wake);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Kept<S> {
    fn check(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    fn begin_turn(&mut self, context: &Context<'_>) {
        self.turn = true;
        self.share = SHARE;
        match &mut self.driver {
            Some(driver) => driver.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
    }

    /// Ends the turn of a connection that had its share: it goes on when others had theirs.
    fn spend(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.turn && self.share == 0 {
            self.wait(context);
            self.driver.as_ref().unwrap_or(context.waker()).wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Does what writes: it wakes the connection's task where there is one, and that one the caller.
    fn writing<T>(
        &mut self,
        context: &mut Context<'_>,
        step: impl FnOnce(&mut Self, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(driver) = self.driver.clone() else {
            return step(self, context);
        };
        let polled = step(self, &mut Context::from_waker(&driver));
        if polled.is_pending() {
            self.wait(context);
        }
        polled
    }

    /// Writes what is kept.
    fn drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.buffer.len() {
            let rest = self.buffer[self.written..].chunks(PIECE);
            let (mut parts, count) = ([IoSlice::new(&[]); MOST.div_ceil(PIECE)], rest.len());
            for (part, piece) in parts.iter_mut().zip(rest) {
                *part = IoSlice::new(piece);
            }
            let stream = Pin::new(&mut self.stream);
            let count = ready!(stream.poll_write_vectored(context, &parts[..count]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.share = self.share.saturating_sub(count);
        }
        self.buffer.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn write(&mut self, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.check()?;
        if self.turn && self.buffer.len() < MOST {
            return Poll::Ready(Ok(self.keep(parts)));
        }
        ready!(self.spend(context));
        self.writing(context, |kept, context| {
            ready!(kept.drain(context))?;
            match kept.turn {
                true => Poll::Ready(Ok(kept.keep(parts))),
                false => Pin::new(&mut kept.stream).poll_write_vectored(context, parts),
            }
        })
    }

    /// Takes as much as there is room for; there is some.
    fn keep(&mut self, parts: &[IoSlice<'_>]) -> usize {
        let before = self.buffer.len();
        let wanted: usize = parts.iter().map(|part| part.len()).sum();
        if self.buffer.capacity() == 0 {
            self.buffer
                .reserve_exact(if wanted > FIRST { MOST } else { FIRST });
        }
        for part in parts {
            let room = MOST - self.buffer.len();
            append(&mut self.buffer, &part[..part.len().min(room)]);
        }
        self.buffer.len() - before
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Together<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut kept = self.0.lock();
        kept.check()?;
        ready!(kept.spend(context));
        let before = buffer.filled().len();
        let polled = Pin::new(&mut kept.stream).poll_read(context, buffer);
        kept.share = kept.share.saturating_sub(buffer.filled().len() - before);
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Together<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().write(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().write(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut kept = self.0.lock();
        kept.check()?;
        match kept.turn {
            true => Poll::Ready(Ok(())),
            false => kept.writing(context, Kept::flush),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().writing(context, |kept, context| {
            ready!(kept.drain(context))?;
            Pin::new(&mut kept.stream).poll_shutdown(context)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Counts the writes that reach it.
    struct Counted(tokio::io::DuplexStream, Arc<Mutex<usize>>);

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let written = ready!(Pin::new(&mut self.0).poll_write(context, bytes))?;
            *self.1.lock() += 1;
            Poll::Ready(Ok(written))
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    fn pair(room: usize) -> (Together<Counted>, tokio::io::DuplexStream, Arc<Mutex<usize>>) {
        let (ours, theirs) = tokio::io::duplex(room);
        let writes = Arc::new(Mutex::new(0));
        (Together::new(Counted(ours, writes.clone())), theirs, writes)
    }

    #[tokio::test]
    async fn what_one_turn_writes_and_flushes_goes_out_as_one() {
        let (stream, mut peer, writes) = pair(1 << 20);
        let mut handle = stream.clone();
        let work = async move {
            for part in [&b"one "[..], b"two ", b"three"] {
                handle.write_all(part).await?;
                handle.flush().await?;
            }
            io::Result::Ok(())
        };
        stream.drive(std::pin::pin!(work)).await.unwrap();
        let mut got = [0; 13];
        peer.read_exact(&mut got).await.unwrap();
        assert_eq!((&got[..], *writes.lock()), (&b"one two three"[..], 1));
    }

    #[tokio::test]
    async fn more_than_fits_waits_for_the_reader_and_keeps_its_order() {
        let (stream, mut peer, _) = pair(1_000);
        let sent: Vec<u8> = (0..300_000u32).map(|number| (number % 251) as u8).collect();
        let (expected, mut handle) = (sent.clone(), stream.clone());
        let work = async move {
            handle.write_all(&sent).await?;
            handle.flush().await
        };
        let work = std::pin::pin!(work);
        let mut got = vec![0; expected.len()];
        let (wrote, read) = tokio::join!(stream.drive(work), peer.read_exact(&mut got));
        assert_eq!((wrote.unwrap(), read.unwrap()), ((), expected.len()));
        assert!(got == expected);
    }

    #[tokio::test]
    async fn a_turn_ends_with_the_connections_share() {
        let (stream, mut peer, _) = pair(4 * SHARE);
        let mut handle = stream.clone();
        let work = async move { handle.write_all(&vec![b'x'; 3 * SHARE]).await };
        let work = std::pin::pin!(work);
        let mut driven = std::pin::pin!(stream.drive(work));
        let mut turns = 0;
        while futures::poll!(driven.as_mut()).is_pending() {
            turns += 1;
            tokio::task::yield_now().await;
        }
        assert!((2..=4).contains(&turns), "{turns}");
        let mut got = vec![0; 3 * SHARE];
        peer.read_exact(&mut got).await.unwrap();
        assert!(got.iter().all(|letter| *letter == b'x'));
        // What it reads counts too.
        peer.write_all(&got[..2 * SHARE]).await.unwrap();
        let mut handle = stream.clone();
        let work = async move {
            let (mut first, mut second) = (vec![0; SHARE], vec![0; SHARE]);
            handle.read_exact(&mut first).await?;
            handle.read_exact(&mut second).await.map(drop)
        };
        let work = std::pin::pin!(work);
        let mut driven = std::pin::pin!(stream.drive(work));
        assert!(futures::poll!(driven.as_mut()).is_pending());
        driven.await.unwrap();
    }

    #[tokio::test]
    async fn outside_of_a_turn_it_writes_through() {
        let (stream, mut peer, writes) = pair(100);
        let mut upgraded = stream.clone();
        let work = async { io::Result::Ok(()) };
        stream.drive(std::pin::pin!(work)).await.unwrap();
        upgraded.write_all(b"x").await.unwrap();
        assert_eq!((peer.read_u8().await.unwrap(), *writes.lock()), (b'x', 1));
    }

    #[tokio::test]
    async fn who_took_the_stream_over_waits_beside_the_connection_and_both_are_woken() {
        let (stream, mut peer, _) = pair(1);
        let mut handle = stream.clone();
        let (upgrade, upgraded) = tokio::sync::oneshot::channel();
        let work = async move {
            handle.write_all(b"switching ").await.unwrap();
            handle.flush().await.unwrap();
            upgrade.send(handle).map_err(|_| "gone")
        };
        let taker = tokio::spawn(async move {
            let mut handle = upgraded.await.unwrap();
            handle.write_all(b"protocols").await.unwrap();
            handle.flush().await.unwrap();
            handle.shutdown().await
        });
        let driver = tokio::spawn(async move { stream.drive(std::pin::pin!(work)).await });
        let mut got = String::new();
        peer.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "switching protocols");
        assert_eq!(driver.await.unwrap(), Ok(()));
        taker.await.unwrap().unwrap();
    }

    /// Whether it was woken.
    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn who_reads_beside_a_connection_that_had_its_share_is_woken_after_its_turn() {
        let (stream, mut peer, _) = pair(2 * SHARE);
        peer.write_all(&vec![b'x'; SHARE + 1]).await.unwrap();
        let (mut handle, mut other) = (stream.clone(), stream.clone());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let work = async move {
            handle.read_exact(&mut vec![0; SHARE]).await?;
            let mut byte = [0];
            let polled = Pin::new(&mut other)
                .poll_read(&mut Context::from_waker(&waker), &mut ReadBuf::new(&mut byte));
            assert!(polled.is_pending());
            io::Result::Ok(())
        };
        stream.drive(std::pin::pin!(work)).await.unwrap();
        assert!(woken.0.load(std::sync::atomic::Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_failed_write_wakes_the_work() {
        let (stream, peer, _) = pair(100);
        drop(peer);
        let mut handle = stream.clone();
        let work = async move {
            handle.write_all(b"x").await.unwrap();
            // Waits for something else until then.
            let mut turns = 0;
            poll_fn(|_| {
                turns += 1;
                if turns > 1 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            handle.flush().await
        };
        assert!(stream.drive(std::pin::pin!(work)).await.is_err());
    }

    #[tokio::test]
    async fn a_failed_end_does_not_wait_for_a_reader() {
        let (stream, _peer, writes) = pair(1);
        let mut handle = stream.clone();
        let work = async move {
            handle.write_all(b"nobody reads").await.unwrap();
            Err::<(), _>("timed out")
        };
        let ended = stream.drive(std::pin::pin!(work)).await;
        assert_eq!((ended, *writes.lock()), (Err("timed out"), 1));
    }
}
