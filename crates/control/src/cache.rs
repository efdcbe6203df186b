//! One shared cache per kind: a watch that keeps small projections and tells listeners what changed.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use kube::core::ApiResource;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::seen::Seen;
use crate::{ObjectKey, Projection};

/// Which objects of the kind a cache holds; the default is all of them.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Only objects with these labels, as a selector text.
    pub labels: Option<String>,
    /// Only objects with these fields, for example `spec.nodeName=n1`.
    pub fields: Option<String>,
}

/// One change of a cached object; at least one side is there.
#[derive(Debug, Clone)]
pub struct Change<P> {
    /// The object's name.
    pub key: ObjectKey,
    /// The object before; none when it is new.
    pub old: Option<Arc<P>>,
    /// The object now; none when it is gone.
    pub new: Option<Arc<P>>,
}

impl<P> Change<P> {
    /// The side that is there: the new one, else the old one.
    pub fn any(&self) -> &Arc<P> {
        self.new
            .as_ref()
            .or(self.old.as_ref())
            .expect("a change has at least one side")
    }
}

type Listener<P> = Box<dyn Fn(&Change<P>) + Send + Sync>;

struct Inner<P> {
    objects: RwLock<HashMap<ObjectKey, Arc<P>>>,
    listeners: Mutex<Vec<Listener<P>>>,
    ready: watch::Sender<bool>,
}

/// A handle on a cache; cheap to clone. The watch ends with the token it was started with.
pub struct Cache<P> {
    inner: Arc<Inner<P>>,
}

impl<P> Clone for Cache<P> {
    fn clone(&self) -> Self {
        Cache {
            inner: self.inner.clone(),
        }
    }
}

impl<P> std::fmt::Debug for Cache<P> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Cache")
            .field("ready", &*self.inner.ready.borrow())
            .finish_non_exhaustive()
    }
}

impl<P: Projection> Cache<P> {
    /// Starts a watch of the kind in all namespaces. Errors of the watch are retried with back-off for ever:
    /// a cache is stale while the API is away, never wrong.
    pub fn start(client: &Client, scope: Scope, stop: CancellationToken) -> Self {
        let kind = ApiResource::erase::<P>(&());
        Self::start_api(Api::all_with(client.clone(), &kind), scope, stop)
    }

    /// Starts a watch of the kind in one namespace.
    pub fn start_in(client: &Client, namespace: &str, scope: Scope, stop: CancellationToken) -> Self
    where
        P: kube::Resource<Scope = NamespaceResourceScope>,
    {
        let kind = ApiResource::erase::<P>(&());
        Self::start_api(
            Api::namespaced_with(client.clone(), namespace, &kind),
            scope,
            stop,
        )
    }

    fn start_api(api: Api<Seen>, scope: Scope, stop: CancellationToken) -> Self {
        let cache = Self::detached();
        let config = watcher::Config {
            label_selector: scope.labels,
            field_selector: scope.fields,
            ..Default::default()
        };
        tokio::spawn(follow(api, config, stop, Box::new(cache.filler())));
        cache
    }

    /// Makes an empty cache without a watch, for tests: fill it with [`Cache::put`].
    pub fn detached() -> Self {
        let inner = Inner {
            objects: RwLock::default(),
            listeners: Mutex::default(),
            ready: watch::Sender::new(false),
        };
        Cache {
            inner: Arc::new(inner),
        }
    }

    /// What brings this cache up to date with a watch.
    fn filler(&self) -> impl FnMut(watcher::Event<Seen>) + Send + use<P> {
        let cache = self.clone();
        let mut relisted: Option<HashMap<ObjectKey, P>> = None;
        move |event| match event {
            watcher::Event::Init => relisted = Some(HashMap::new()),
            watcher::Event::InitApply(seen) => {
                if let Some((key, object)) = read(seen) {
                    relisted.get_or_insert_default().insert(key, object);
                }
            }
            watcher::Event::InitDone => {
                cache.replace(relisted.take().unwrap_or_default());
                cache.inner.ready.send_replace(true);
            }
            watcher::Event::Apply(seen) => {
                let key = ObjectKey::of(&seen);
                match read(seen) {
                    Some((_, object)) => cache.put(object),
                    None => cache.remove(&key),
                }
            }
            watcher::Event::Delete(seen) => cache.remove(&ObjectKey::of(&seen)),
        }
    }

    fn replace(&self, fresh: HashMap<ObjectKey, P>) {
        let gone: Vec<ObjectKey> = {
            let objects = self.inner.objects.read();
            objects
                .keys()
                .filter(|key| !fresh.contains_key(*key))
                .cloned()
                .collect()
        };
        gone.iter().for_each(|key| self.remove(key));
        fresh.into_values().for_each(|object| self.put(object));
    }

    /// Sets one object and tells the listeners, unless it is the version that is held already.
    pub fn put(&self, object: P) {
        let key = ObjectKey::of(&object);
        let version = object.meta().resource_version.clone();
        let new = Arc::new(object);
        let old = self.inner.objects.write().insert(key.clone(), new.clone());
        let same = version.is_some()
            && old
                .as_ref()
                .is_some_and(|old| old.meta().resource_version == version);
        if !same {
            self.tell(&Change {
                key,
                old,
                new: Some(new),
            });
        }
    }

    /// Removes one object and tells the listeners.
    pub fn remove(&self, key: &ObjectKey) {
        let old = self.inner.objects.write().remove(key);
        if old.is_some() {
            self.tell(&Change {
                key: key.clone(),
                old,
                new: None,
            });
        }
    }

    fn tell(&self, change: &Change<P>) {
        for listener in self.inner.listeners.lock().iter() {
            listener(change);
        }
    }

    /// Calls `listener` for every object that is there now and then for every change, on the watch's task:
    /// it must not block.
    pub fn listen(&self, listener: impl Fn(&Change<P>) + Send + Sync + 'static) {
        let mut listeners = self.inner.listeners.lock();
        for object in self.list() {
            listener(&Change {
                key: ObjectKey::of(&*object),
                old: None,
                new: Some(object),
            });
        }
        listeners.push(Box::new(listener));
    }

    /// Waits until the first list has arrived.
    pub async fn ready(&self) {
        let mut ready = self.inner.ready.subscribe();
        ready
            .wait_for(|ready| *ready)
            .await
            .expect("the sender lives in self");
    }

    /// Tells whether the first list has arrived.
    pub fn is_ready(&self) -> bool {
        *self.inner.ready.borrow()
    }

    /// Marks a [`Cache::detached`] cache as complete.
    pub fn mark_ready(&self) {
        self.inner.ready.send_replace(true);
    }

    /// Reads one object.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<P>> {
        self.inner.objects.read().get(key).cloned()
    }

    /// Reads all objects, in no order.
    pub fn list(&self) -> Vec<Arc<P>> {
        self.inner.objects.read().values().cloned().collect()
    }

    /// Reads the objects that `keep` selects, in no order.
    pub fn select(&self, keep: impl Fn(&P) -> bool) -> Vec<Arc<P>> {
        let objects = self.inner.objects.read();
        objects.values().filter(|object| keep(object)).cloned().collect()
    }
}

/// Reads one object; one that is not of its kind's shape counts as absent, and the log says so.
fn read<P: Projection>(seen: Seen) -> Option<(ObjectKey, P)> {
    let key = ObjectKey::of(&seen);
    match seen.read() {
        Ok(object) => Some((key, object)),
        Err(error) => {
            tracing::warn!(kind = %P::kind(&()), object = %key, %error, "this object cannot be read and is ignored");
            None
        }
    }
}

/// Watches until told to stop. Not generic: its code is there once for all kinds.
async fn follow(
    api: Api<Seen>,
    config: watcher::Config,
    stop: CancellationToken,
    mut fill: Box<dyn FnMut(watcher::Event<Seen>) + Send>,
) {
    let url = api.resource_url().to_string();
    let mut stream = pin!(
        watcher(api, config)
            .default_backoff()
            .take_until(stop.cancelled_owned())
    );
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => fill(event),
            Err(error) => {
                let problem = mainstay_base::error::chain(&error);
                tracing::debug!(url, problem, "watch failed, trying again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn config_map(name: &str, version: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object.metadata.namespace = Some("default".into());
        object.metadata.resource_version = Some(version.into());
        object
    }

    #[test]
    fn listeners_hear_each_version_once_and_what_is_there_already() {
        let cache: Cache<ConfigMap> = Cache::detached();
        cache.put(config_map("a", "1"));
        let heard: Arc<Mutex<Vec<String>>> = Default::default();
        let log = heard.clone();
        cache.listen(move |change| {
            let side = |side: &Option<Arc<ConfigMap>>| {
                side.as_ref()
                    .and_then(|o| o.metadata.resource_version.clone())
                    .unwrap_or("-".into())
            };
            log.lock().push(format!(
                "{} {}>{}",
                change.key,
                side(&change.old),
                side(&change.new)
            ));
        });
        cache.put(config_map("a", "1"));
        cache.put(config_map("a", "2"));
        cache.replace(HashMap::new());
        assert_eq!(*heard.lock(), ["default/a ->1", "default/a 1>2", "default/a 2>-"]);
    }
}
