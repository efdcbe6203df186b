//! What is kept for a client only as long as it may take to read it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::AbortHandle;

/// How long a client may take to read an answer that is no stream: upstream's limit for whole requests.
pub const SENDING_LIMIT: Duration = Duration::from_secs(60);

/// A value that is dropped after a time, whether or not anybody asks for it again.
pub struct Perishable<T> {
    slot: Arc<Mutex<Option<T>>>,
    timer: AbortHandle,
}

impl<T: Send + 'static> Perishable<T> {
    /// Keeps `value` for so long.
    pub fn new(value: T, limit: Duration) -> Self {
        let slot = Arc::new(Mutex::new(Some(value)));
        let kept = slot.clone();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(limit).await;
            let expired = kept.lock().take();
            drop(expired);
        });
        Perishable {
            slot,
            timer: timer.abort_handle(),
        }
    }

    /// Works with the value; `None` when its time is over.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.slot.lock().as_mut().map(work)
    }
}

impl<T> Drop for Perishable<T> {
    fn drop(&mut self) {
        self.timer.abort();
    }
}
