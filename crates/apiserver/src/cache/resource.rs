//! The cache of one resource: its objects in key order, a window of recent events, and its watchers.
//! Invariant: every event of the resource above `floor` is in the window, in order.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mainstay_store::Entry;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::events::Event;
use super::labels::{FIRST_FIELD, LabelIndex, Term, WORTHWHILE};
use super::queue::{self, Receiver, Sender};
use super::selection::Selection;
use crate::resources::SelectableField;
use mainstay_access::object::Object;

/// How many bytes of superseded objects the window keeps alive.
const WINDOW_BYTES: usize = 4 << 20;
/// How many events the window keeps at most.
const WINDOW_EVENTS: usize = 20_000;

/// Above this many scopes with watchers, closed ones are looked for at each subscription.
const WATCHER_SCOPES: usize = 8_192;

type Names = BTreeMap<Arc<str>, Arc<Object>>;

/// Which changes a watcher is woken for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All of the resource.
    All,
    /// Those in one namespace.
    Namespace(String),
    /// Those of one object.
    Name(String, String),
    /// Those of objects whose first selectable field has or had this value (pods: `spec.nodeName`).
    FirstField(String),
}

/// A watcher's end of the line. The channel closes when the watcher was too slow or the cache was reloaded.
#[derive(Debug)]
pub struct Subscription {
    /// Events that happened between the wanted revision and the registration.
    pub backlog: Vec<Arc<Event>>,
    /// Events from then on.
    pub live: Receiver,
}

/// Which part of a list is wanted.
#[derive(Debug, Clone, Default)]
pub struct PageRequest<'a> {
    /// Only this namespace.
    pub namespace: Option<&'a str>,
    /// As of this revision; `None` = now.
    pub at: Option<u64>,
    /// Only objects behind this (namespace, name).
    pub after: Option<(&'a str, &'a str)>,
    /// At most this many; 0 = all.
    pub limit: usize,
}

/// A part of a list.
#[derive(Debug)]
pub struct Page {
    /// The selected objects in key order.
    pub objects: Vec<Arc<Object>>,
    /// The revision at which the page is true.
    pub revision: u64,
    /// Whether more objects follow, and how many (whether or not they are selected).
    pub remaining: usize,
}

struct Inner {
    namespaces: BTreeMap<Arc<str>, Names>,
    count: usize,
    /// Stored bytes by namespace, and of all together.
    bytes: HashMap<Arc<str>, usize>,
    all_bytes: usize,
    labels: LabelIndex,
    window: VecDeque<Arc<Event>>,
    window_bytes: usize,
    floor: u64,
    newest: u64,
    watchers: HashMap<Scope, Vec<Sender>>,
}

/// See the module's text.
pub struct ResourceCache {
    name: Arc<str>,
    fields: RwLock<Arc<[SelectableField]>>,
    inner: RwLock<Inner>,
    generation: AtomicU64,
}

impl ResourceCache {
    pub(super) fn new(name: Arc<str>, fields: Arc<[SelectableField]>, floor: u64) -> Self {
        let inner = Inner {
            namespaces: BTreeMap::new(),
            count: 0,
            bytes: HashMap::new(),
            all_bytes: 0,
            labels: LabelIndex::default(),
            window: VecDeque::new(),
            window_bytes: 0,
            floor,
            newest: floor,
            watchers: HashMap::new(),
        };
        ResourceCache {
            name,
            fields: RwLock::new(fields),
            inner: RwLock::new(inner),
            generation: AtomicU64::new(1),
        }
    }

    /// The resource's name in the store.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Changes with every change of the resource.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// How many objects there are.
    pub fn count(&self) -> usize {
        self.read().count
    }

    /// How many objects a namespace has, or all have together, and their bytes.
    pub fn size_of(&self, namespace: Option<&str>) -> (usize, usize) {
        let inner = self.read();
        let bytes = match namespace {
            Some(one) => inner.bytes.get(one).copied().unwrap_or_default(),
            None => inner.all_bytes,
        };
        (inner.count_in(namespace), bytes)
    }

    /// Looks up an object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.read().namespaces.get(namespace)?.get(name).cloned()
    }

    /// All objects of a namespace or of all.
    pub fn all(&self, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let inner = self.read();
        match namespace {
            Some(one) => inner
                .namespaces
                .get(one)
                .into_iter()
                .flat_map(BTreeMap::values)
                .cloned()
                .collect(),
            None => inner
                .namespaces
                .values()
                .flat_map(BTreeMap::values)
                .cloned()
                .collect(),
        }
    }

    /// The objects of a namespace whose first selectable field has this value, in key order.
    pub fn with_place(&self, place: &str, namespace: &str) -> Vec<Arc<Object>> {
        let term = Term {
            key: FIRST_FIELD,
            values: vec![place],
        };
        let request = PageRequest {
            namespace: Some(namespace),
            ..PageRequest::default()
        };
        let inner = self.indexed_by(&term);
        let found = inner.labels.find(&term, &request);
        found.into_iter().flatten().cloned().collect()
    }

    /// Lists. `applied` is the revision that all caches contained before this call.
    ///
    /// # Errors
    /// The oldest revision that can be listed, when the wanted one is older.
    pub fn page(&self, request: &PageRequest<'_>, selection: &Selection, applied: u64) -> Result<Page, u64> {
        let inner = self.indexed(request, selection);
        let revision = inner.newest.max(applied);
        match request.at {
            Some(at) if at < revision => inner.page_of_past(request, selection, at),
            _ => Ok(inner.page_of_now(request, selection, revision)),
        }
    }

    /// Registers a watcher for what happens after `revision`.
    ///
    /// # Errors
    /// The oldest revision that can be resumed from, when `revision` is older.
    pub fn subscribe(&self, scope: Scope, revision: u64) -> Result<Subscription, u64> {
        let (sender, live) = queue::channel();
        let mut inner = self.write();
        if revision < inner.floor {
            return Err(inner.floor);
        }
        inner.forget_closed(&scope);
        let from = inner.window.partition_point(|event| event.revision <= revision);
        let backlog = inner.window.range(from..).cloned().collect();
        inner.watchers.entry(scope).or_default().push(sender);
        Ok(Subscription { backlog, live })
    }

    /// Lists and registers in one step: the subscription starts exactly behind the page.
    pub fn page_and_subscribe(
        &self,
        request: &PageRequest<'_>,
        selection: &Selection,
        scope: Scope,
        applied: u64,
    ) -> (Page, Subscription) {
        let (sender, live) = queue::channel();
        let mut inner = self.write();
        inner.forget_closed(&scope);
        inner.watchers.entry(scope).or_default().push(sender);
        if let Some(term) = inner.unindexed(request, selection) {
            inner.index(&term);
        }
        let revision = inner.newest.max(applied);
        let page = inner.page_of_now(request, selection, revision);
        (
            page,
            Subscription {
                backlog: Vec::new(),
                live,
            },
        )
    }

    pub(super) fn apply(&self, revision: u64, changes: &[mainstay_store::Event]) {
        let fields = self.fields();
        let made = |value: &bytes::Bytes| Arc::new(Object::new(value.clone(), revision, &fields));
        let news: Vec<Option<Arc<Object>>> = changes
            .iter()
            .map(|change| change.value.as_ref().map(made))
            .collect();
        let mut inner = self.write();
        for (change, new) in changes.iter().zip(news) {
            let old = inner.set(&change.key.namespace, &change.key.name, new.clone());
            if new.is_none() && old.is_none() {
                continue;
            }
            let event = Arc::new(Event::new(revision, new, old));
            inner.notify(&change.key.namespace, &change.key.name, &event);
            inner.remember(event);
        }
        inner.newest = revision;
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(super) fn replace(&self, entries: Vec<Entry>, revision: u64) {
        let fields = self.fields();
        let mut namespaces: BTreeMap<Arc<str>, Names> = BTreeMap::new();
        let count = entries.len();
        let mut bytes: HashMap<Arc<str>, usize> = HashMap::new();
        for entry in entries {
            *bytes.entry(entry.key.namespace.clone()).or_default() += entry.value.len();
            let object = Arc::new(Object::new(entry.value, entry.revision, &fields));
            namespaces
                .entry(entry.key.namespace)
                .or_default()
                .insert(entry.key.name, object);
        }
        let mut inner = self.write();
        inner.namespaces = namespaces;
        inner.count = count;
        inner.all_bytes = bytes.values().sum();
        inner.bytes = bytes;
        inner.labels.clear();
        inner.window.clear();
        inner.window_bytes = 0;
        inner.floor = revision;
        inner.newest = revision;
        inner.watchers.clear();
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Says that everything after `floor` will be recalled; nobody watches yet.
    pub(super) fn knows_from(&self, floor: u64) {
        self.write().floor = floor;
    }

    /// Remembers changes of the past; the objects are as new as they are already.
    pub(super) fn recall(&self, revision: u64, changes: &[mainstay_store::Event]) {
        let fields = self.fields();
        let made = |bytes: &bytes::Bytes, at| Arc::new(Object::new(bytes.clone(), at, &fields));
        let mut inner = self.write();
        for change in changes {
            let new = change.value.as_ref().map(|bytes| made(bytes, revision));
            let old = change
                .prev
                .as_ref()
                .map(|bytes| made(bytes, change.prev_revision));
            if new.is_some() || old.is_some() {
                inner.remember(Arc::new(Event::new(revision, new, old)));
            }
        }
    }

    pub(super) fn end_watches(&self) {
        self.write().watchers.clear();
    }

    /// Ends watches whose client has read nothing since the last call though events wait for it, and forgets those that
    /// went away.
    pub(super) fn end_stalled(&self) {
        if self.read().watchers.is_empty() {
            return;
        }
        self.write().watchers.retain(|_, watchers| {
            watchers.retain(|watcher| !watcher.is_closed() && watcher.moves());
            !watchers.is_empty()
        });
    }

    pub(super) fn set_fields(&self, fields: Arc<[SelectableField]>) {
        if *self.fields() == *fields {
            return;
        }
        let mut inner = self.write();
        let objects = inner.namespaces.values_mut().flat_map(BTreeMap::values_mut);
        for object in objects {
            *object = Arc::new(Object::new(object.bytes().clone(), object.revision(), &fields));
        }
        inner.labels.clear();
        inner.watchers.clear();
        *self.fields.write() = fields;
    }

    fn fields(&self) -> Arc<[SelectableField]> {
        self.fields.read().clone()
    }

    /// Reads, with the index in place that a selection is answered from.
    fn indexed(&self, request: &PageRequest<'_>, selection: &Selection) -> RwLockReadGuard<'_, Inner> {
        let inner = self.read();
        let Some(term) = inner.unindexed(request, selection) else {
            return inner;
        };
        drop(inner);
        self.indexed_by(&term)
    }

    fn indexed_by(&self, term: &Term<'_>) -> RwLockReadGuard<'_, Inner> {
        let inner = self.read();
        if inner.labels.has(term.key) {
            return inner;
        }
        drop(inner);
        let mut inner = self.write();
        if !inner.labels.has(term.key) {
            inner.index(term);
        }
        RwLockWriteGuard::downgrade(inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write()
    }
}

impl Inner {
    fn count_in(&self, namespace: Option<&str>) -> usize {
        match namespace {
            Some(one) => self.namespaces.get(one).map_or(0, BTreeMap::len),
            None => self.count,
        }
    }

    fn set(
        &mut self,
        namespace: &Arc<str>,
        name: &Arc<str>,
        new: Option<Arc<Object>>,
    ) -> Option<Arc<Object>> {
        let old = match &new {
            Some(object) => {
                let names = self.namespaces.entry(namespace.clone()).or_default();
                names.insert(name.clone(), object.clone())
            }
            None => self
                .namespaces
                .get_mut(namespace)
                .and_then(|names| names.remove(name)),
        };
        self.weigh(namespace, old.as_deref(), new.as_deref());
        match (&old, &new) {
            (None, Some(_)) => self.count += 1,
            (Some(_), None) => self.count -= 1,
            _ => {}
        }
        self.labels.change(namespace, name, old.as_deref(), new.as_ref());
        if new.is_none() && self.namespaces.get(namespace).is_some_and(BTreeMap::is_empty) {
            self.namespaces.remove(namespace);
            self.bytes.remove(namespace);
        }
        old
    }

    fn weigh(&mut self, namespace: &Arc<str>, old: Option<&Object>, new: Option<&Object>) {
        let size = |object: Option<&Object>| object.map_or(0, |object| object.bytes().len());
        let (more, less) = (size(new), size(old));
        self.all_bytes = (self.all_bytes + more).saturating_sub(less);
        if let Some(bytes) = self.bytes.get_mut(namespace) {
            *bytes = (*bytes + more).saturating_sub(less);
        } else if new.is_some() {
            self.bytes.insert(namespace.clone(), more);
        }
    }

    /// What an answer to this request should be found by, when it is not indexed yet.
    fn unindexed<'s>(&self, request: &PageRequest<'_>, selection: &'s Selection) -> Option<Term<'s>> {
        let term = selection.term().filter(|term| !self.labels.has(term.key))?;
        (self.count_in(request.namespace) >= WORTHWHILE).then_some(term)
    }

    fn index(&mut self, term: &Term<'_>) {
        let objects = self.namespaces.iter().flat_map(|(namespace, names)| {
            let place = |name: &Arc<str>| (namespace.clone(), name.clone());
            names.iter().map(move |(name, object)| (place(name), object))
        });
        self.labels.add(term.key, objects);
    }

    fn remember(&mut self, event: Arc<Event>) {
        self.window_bytes += event.kept_bytes();
        self.window.push_back(event);
        while self.window_bytes > WINDOW_BYTES || self.window.len() > WINDOW_EVENTS {
            let Some(oldest) = self.window.pop_front() else {
                break;
            };
            self.window_bytes -= oldest.kept_bytes();
            self.floor = oldest.revision;
        }
    }

    fn notify(&mut self, namespace: &str, name: &str, event: &Arc<Event>) {
        if self.watchers.is_empty() {
            return;
        }
        self.wake(&Scope::All, event);
        self.wake(&Scope::Name(namespace.into(), name.into()), event);
        if !namespace.is_empty() {
            self.wake(&Scope::Namespace(namespace.into()), event);
        }
        let first = |object: &Option<Arc<Object>>| object.as_ref().map(|object| object.field(0).into_owned());
        let (old, new) = (first(&event.old), first(&event.new));
        if old != new {
            old.into_iter()
                .for_each(|value| self.wake(&Scope::FirstField(value), event));
        }
        new.into_iter()
            .for_each(|value| self.wake(&Scope::FirstField(value), event));
    }

    /// Drops the queues of watchers that went away, of which quiet resources never hear.
    fn forget_closed(&mut self, scope: &Scope) {
        if let Some(watchers) = self.watchers.get_mut(scope) {
            watchers.retain(|watcher| !watcher.is_closed());
        }
        if self.watchers.len() > WATCHER_SCOPES {
            self.watchers
                .retain(|_, watchers| watchers.iter().any(|watcher| !watcher.is_closed()));
        }
    }

    fn wake(&mut self, scope: &Scope, event: &Arc<Event>) {
        let Some(watchers) = self.watchers.get_mut(scope) else {
            return;
        };
        watchers.retain(|watcher| watcher.send(event));
        if watchers.is_empty() {
            self.watchers.remove(scope);
        }
    }

    fn page_of_now(&self, request: &PageRequest<'_>, selection: &Selection, revision: u64) -> Page {
        let mut page = Page {
            objects: Vec::new(),
            revision,
            remaining: 0,
        };
        if let Some(name) = selection
            .exact_name()
            .filter(|_| request.namespace.is_some() && request.after.is_none())
        {
            let found = self
                .namespaces
                .get(request.namespace.unwrap_or_default())
                .and_then(|names| names.get(name));
            page.objects
                .extend(found.filter(|object| selection.matches(object)).cloned());
            return page;
        }
        let term = selection.term();
        match term.and_then(|term| self.labels.find(&term, request)) {
            Some(found) => collect(found.into_iter(), request.limit, selection, &mut page),
            None => {
                let objects = self.behind(request).map(|(_, _, object)| object);
                collect(objects, request.limit, selection, &mut page);
            }
        }
        page
    }

    /// Lists as of a past revision: what is there now, with the window's events undone.
    fn page_of_past(&self, request: &PageRequest<'_>, selection: &Selection, at: u64) -> Result<Page, u64> {
        if at < self.floor {
            return Err(self.floor);
        }
        let mut then: BTreeMap<(String, String), Option<Arc<Object>>> = BTreeMap::new();
        let from = self.window.partition_point(|event| event.revision <= at);
        for event in self.window.range(from..) {
            let Some(object) = event.old.as_ref().or(event.new.as_ref()) else {
                continue;
            };
            let key = (object.namespace().into_owned(), object.name().into_owned());
            then.entry(key).or_insert_with(|| event.old.clone());
        }
        let unchanged = self
            .behind(request)
            .map(|(namespace, name, object)| ((namespace.to_string(), name.to_string()), object.clone()))
            .filter(|(key, _)| !then.contains_key(key));
        let mut objects: BTreeMap<(String, String), Arc<Object>> = unchanged.collect();
        let wanted = |key: &(String, String)| {
            request.namespace.is_none_or(|namespace| key.0 == namespace)
                && request
                    .after
                    .is_none_or(|after| (key.0.as_str(), key.1.as_str()) > after)
        };
        objects.extend(
            then.iter()
                .filter(|(key, _)| wanted(key))
                .filter_map(|(key, old)| Some((key.clone(), old.clone()?))),
        );
        let mut page = Page {
            objects: Vec::new(),
            revision: at,
            remaining: 0,
        };
        collect(objects.values(), request.limit, selection, &mut page);
        Ok(page)
    }

    /// The objects of a request's namespaces behind its starting point, in key order.
    fn behind<'a>(
        &'a self,
        request: &'a PageRequest<'_>,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<str>, &'a Arc<Object>)> {
        let first = match (request.namespace, request.after) {
            (Some(namespace), _) => Bound::Included(namespace),
            (None, Some((namespace, _))) => Bound::Included(namespace),
            (None, None) => Bound::Unbounded,
        };
        self.namespaces
            .range::<str, _>((first, Bound::Unbounded))
            .take_while(move |(namespace, _)| request.namespace.is_none_or(|one| one == &***namespace))
            .flat_map(move |(namespace, names)| {
                let start = match request.after {
                    Some((after, name)) if after == &**namespace => Bound::Excluded(name),
                    _ => Bound::Unbounded,
                };
                names
                    .range::<str, _>((start, Bound::Unbounded))
                    .map(move |(name, object)| (namespace, name, object))
            })
    }
}

fn collect<'a>(
    objects: impl Iterator<Item = &'a Arc<Object>>,
    limit: usize,
    selection: &Selection,
    page: &mut Page,
) {
    for object in objects {
        if limit > 0 && page.objects.len() == limit {
            page.remaining += 1;
        } else if selection.matches(object) {
            page.objects.push(object.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use mainstay_store::{Event as Change, Key};

    fn change(namespace: &str, name: &str, bytes: Option<usize>) -> Change {
        let value =
            |bytes| format!(r#"{{"metadata":{{"name":"a"}},"x":"{}"}}"#, "y".repeat(bytes)).into_bytes();
        Change {
            key: Key::new("core/configmaps", namespace, name),
            value: bytes.map(|bytes| Bytes::from(value(bytes))),
            prev: None,
            prev_revision: 0,
        }
    }

    fn cache() -> ResourceCache {
        ResourceCache::new("core/configmaps".into(), Arc::default(), 0)
    }

    #[test]
    fn sizes_follow_writes_and_deletes() {
        let cache = cache();
        let empty = change("a", "1", Some(0)).value.map_or(0, |value| value.len());
        cache.apply(1, &[change("a", "1", Some(1_000)), change("b", "1", Some(10))]);
        cache.apply(2, &[change("a", "1", Some(500)), change("a", "2", Some(0))]);
        assert_eq!(cache.size_of(Some("a")), (2, 500 + 2 * empty));
        assert_eq!(cache.size_of(None), (3, 510 + 3 * empty));
        cache.apply(3, &[change("a", "1", None), change("a", "2", None)]);
        cache.apply(4, &[change("c", "1", None)]);
        assert_eq!(cache.size_of(Some("a")), (0, 0));
        assert_eq!(cache.size_of(None), (1, 10 + empty));
        assert_eq!(
            cache.read().bytes.len(),
            1,
            "namespaces without objects are forgotten"
        );
    }

    #[test]
    fn pods_of_a_node_are_found_in_their_namespace() {
        let field = SelectableField {
            path: "spec.nodeName".into(),
            unset: String::new(),
        };
        let cache = ResourceCache::new("core/pods".into(), [field].into(), 0);
        let pod = |namespace: &str, name: &str, node: &str| {
            let meta = format!(r#""metadata":{{"name":"{name}","namespace":"{namespace}"}}"#);
            Change {
                key: Key::new("core/pods", namespace, name),
                value: Some(format!(r#"{{{meta},"spec":{{"nodeName":"{node}"}}}}"#).into()),
                prev: None,
                prev_revision: 0,
            }
        };
        cache.apply(1, &[pod("a", "1", "n"), pod("a", "2", "m"), pod("b", "1", "n")]);
        let names = |node, namespace| {
            let found = cache.with_place(node, namespace);
            let names: Vec<String> = found.iter().map(|pod| pod.name().into_owned()).collect();
            names.join(" ")
        };
        assert_eq!((names("n", "a"), names("m", "b")), ("1".into(), String::new()));
        cache.apply(2, &[pod("a", "2", "n"), pod("b", "1", "m")]);
        assert_eq!((names("n", "a"), names("m", "b")), ("1 2".into(), "1".into()));
    }

    #[test]
    fn a_watch_that_nobody_reads_ends_and_can_be_resumed() {
        let cache = cache();
        let mut idle = cache
            .subscribe(Scope::All, 0)
            .expect("the window goes back so far");
        cache.end_stalled();
        cache.apply(1, &[change("a", "1", Some(0))]);
        cache.end_stalled();
        cache.apply(2, &[change("a", "2", Some(0))]);
        cache.end_stalled();
        assert!(idle.live.is_closed() && idle.live.try_next().is_none());
        assert!(cache.read().watchers.is_empty());
        let resumed = cache
            .subscribe(Scope::All, 0)
            .expect("the window goes back so far");
        let missed: Vec<u64> = resumed.backlog.iter().map(|event| event.revision).collect();
        assert_eq!(missed, [1, 2]);
    }
}
