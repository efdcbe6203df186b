//! Runs a reconcile function for keys that cache changes wake, with back-off by error class.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use mainstay_base::error::{Class, Classify, chain};
use mainstay_base::retry::Backoff;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::queue::Queue;
use crate::{Cache, Change, ObjectKey, Projection};

/// How many keys of one controller are worked on at the same time unless it says otherwise.
const DEFAULT_CONCURRENCY: usize = 4;
/// How long an object that was found invalid rests before it is looked at again without a change.
const INVALID_RETRY: Duration = Duration::from_secs(300);

/// When to look at a key again without any change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requeue {
    /// Only when something changes.
    Never,
    /// After this time at the latest.
    After(Duration),
}

/// A controller being put together; [`Controller::run`] starts it.
pub struct Controller {
    name: &'static str,
    concurrency: usize,
    queue: Arc<Queue<ObjectKey>>,
    ready: Vec<BoxFuture<'static, ()>>,
}

impl Controller {
    /// Starts to describe a controller; the name is used in spans and metrics.
    pub fn new(name: &'static str) -> Self {
        Controller {
            name,
            concurrency: DEFAULT_CONCURRENCY,
            queue: Arc::default(),
            ready: Vec::new(),
        }
    }

    /// Sets how many keys are worked on at the same time.
    pub fn concurrency(mut self, workers: usize) -> Self {
        self.concurrency = workers.max(1);
        self
    }

    /// Wakes the keys that `keys` names for each change of `cache`; work starts when the cache is complete.
    pub fn wake_on<P: Projection>(
        self,
        cache: &Cache<P>,
        keys: impl Fn(&Change<P>) -> Vec<ObjectKey> + Send + Sync + 'static,
    ) -> Self {
        let queue = self.queue.clone();
        cache.listen(move |change| keys(change).into_iter().for_each(|key| queue.add(key)));
        self.wait_for(cache)
    }

    /// Does not start to work before `cache` is complete.
    pub fn wait_for<P: Projection>(mut self, cache: &Cache<P>) -> Self {
        let cache = cache.clone();
        self.ready.push(async move { cache.ready().await }.boxed());
        self
    }

    /// Gives the queue, to wake keys by other means (timers, streams of another system).
    pub fn queue(&self) -> Arc<Queue<ObjectKey>> {
        self.queue.clone()
    }

    /// Starts the workers. Each failure is retried: conflicts at once, transient errors and panics with
    /// exponential back-off, invalid objects after five minutes or their next change.
    pub fn run<R, F, E>(self, stop: CancellationToken, reconcile: R) -> JoinHandle<()>
    where
        R: Fn(ObjectKey) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Requeue, E>> + Send + 'static,
        E: Classify + std::error::Error + Send + 'static,
    {
        let Controller {
            name,
            concurrency,
            queue,
            ready,
        } = self;
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = futures::future::join_all(ready) => {}
            }
            let runner = Arc::new(Runner {
                name,
                queue: queue.clone(),
                failures: Mutex::default(),
            });
            let reconcile = Arc::new(reconcile);
            let workers: Vec<_> = (0..concurrency)
                .map(|_| tokio::spawn(runner.clone().work(reconcile.clone())))
                .collect();
            stop.cancelled().await;
            queue.close();
            futures::future::join_all(workers).await;
        })
    }
}

struct Runner {
    name: &'static str,
    queue: Arc<Queue<ObjectKey>>,
    failures: Mutex<HashMap<ObjectKey, u32>>,
}

impl Runner {
    async fn work<R, F, E>(self: Arc<Self>, reconcile: Arc<R>)
    where
        R: Fn(ObjectKey) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Requeue, E>> + Send + 'static,
        E: Classify + std::error::Error + Send + 'static,
    {
        while let Some(key) = self.queue.next().await {
            let attempt = self.failures.lock().get(&key).copied().unwrap_or(0) + 1;
            let span = tracing::info_span!(
                "reconcile",
                controller = self.name,
                namespace = key.namespace,
                name = key.name,
                attempt
            );
            let work = AssertUnwindSafe(async { reconcile(key.clone()).await }.instrument(span.clone()));
            let delay = match work.catch_unwind().await {
                Ok(Ok(requeue)) => self.succeeded(&key, requeue),
                Ok(Err(error)) => span.in_scope(|| self.failed(&key, error.class(), &chain(&error))),
                Err(_) => span.in_scope(|| self.failed(&key, Class::Bug, "the reconcile function panicked")),
            };
            self.queue.done(&key);
            if let Some(delay) = delay {
                self.queue.add_after(key, delay);
            }
        }
    }

    fn succeeded(&self, key: &ObjectKey, requeue: Requeue) -> Option<Duration> {
        self.failures.lock().remove(key);
        match requeue {
            Requeue::Never => None,
            Requeue::After(delay) => Some(delay),
        }
    }

    fn failed(&self, key: &ObjectKey, class: Class, problem: &str) -> Option<Duration> {
        let mut failures = self.failures.lock();
        let count = failures.entry(key.clone()).or_default();
        *count += 1;
        let delay = Backoff::CONTROLLER.delay(*count, &mut fastrand::Rng::new());
        drop(failures);
        match class {
            Class::Bug => tracing::error!(problem, "reconcile failed by a defect"),
            Class::Invalid => tracing::warn!(problem, "reconcile refused"),
            Class::Transient | Class::Conflict => tracing::debug!(problem, "reconcile will be tried again"),
        }
        Some(if class == Class::Invalid {
            INVALID_RETRY
        } else {
            delay
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use k8s_openapi::api::core::v1::ConfigMap;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn cache_with(name: &str) -> Cache<ConfigMap> {
        let cache = Cache::detached();
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        cache.put(object);
        cache
    }

    #[tokio::test(start_paused = true)]
    async fn work_starts_when_the_cache_is_complete_and_failures_are_tried_again() {
        let cache = cache_with("a");
        let (stop, tries) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
        let counted = tries.clone();
        let running = Controller::new("test")
            .wake_on(&cache, |change| vec![change.key.clone()])
            .run(stop.clone(), move |_key| {
                let counted = counted.clone();
                async move {
                    match counted.fetch_add(1, Ordering::SeqCst) {
                        0 => Err(Error::Waiting {
                            what: "the first try to pass".into(),
                        }),
                        1 => panic!("a defect"),
                        _ => Ok(Requeue::Never),
                    }
                }
            });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(tries.load(Ordering::SeqCst), 0);
        cache.mark_ready();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(tries.load(Ordering::SeqCst), 3);
        stop.cancel();
        running.await.expect("the runner ends without panic");
    }
}
