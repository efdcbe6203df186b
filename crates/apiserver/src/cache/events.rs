//! One change of one object as watchers see it. Each wire form is encoded at most once and shared by all watchers.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use mainstay_access::object::Object;

/// What a watcher is told about a change. Which one depends on its selectors: an object that starts to match is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The object is new to the watcher.
    Added,
    /// The object changed.
    Modified,
    /// The object is gone for the watcher; its last state is shown.
    Deleted,
}

impl Change {
    /// As on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Change::Added => "ADDED",
            Change::Modified => "MODIFIED",
            Change::Deleted => "DELETED",
        }
    }
}

/// One change.
#[derive(Debug)]
pub struct Event {
    /// When it happened.
    pub revision: u64,
    /// The object after it; `None` = deleted.
    pub new: Option<Arc<Object>>,
    /// The object before it; `None` = created.
    pub old: Option<Arc<Object>>,
    encoded: [OnceLock<Bytes>; 3],
}

impl Event {
    /// Makes an event.
    pub fn new(revision: u64, new: Option<Arc<Object>>, old: Option<Arc<Object>>) -> Self {
        Event {
            revision,
            new,
            old,
            encoded: Default::default(),
        }
    }

    /// The object that a watcher is shown for `change`; a deleted one carries the revision of its deletion.
    pub fn shown(&self, change: Change) -> Option<Arc<Object>> {
        match change {
            Change::Added | Change::Modified => self.new.clone(),
            Change::Deleted => {
                let last = self.old.as_ref().or(self.new.as_ref())?;
                Some(Arc::new(last.at_revision(self.revision)))
            }
        }
    }

    /// The event on the wire, in the stored version, with its line break.
    pub fn encoded(&self, change: Change) -> Bytes {
        let slot = &self.encoded[change as usize];
        slot.get_or_init(|| {
            self.shown(change)
                .map(|object| encode(change, &object))
                .unwrap_or_default()
        })
        .clone()
    }

    /// Bytes that the event keeps alive where the cache has gone on.
    pub fn bytes(&self) -> usize {
        self.kept_bytes() + self.new.as_ref().map_or(0, |new| new.bytes().len())
    }

    /// Bytes that are kept alive only by this event.
    pub fn kept_bytes(&self) -> usize {
        self.old.as_ref().map_or(0, |old| old.bytes().len()) + 256
    }
}

/// Encodes one watch event, in the stored version.
pub fn encode(change: Change, object: &Object) -> Bytes {
    let mut out = Vec::with_capacity(object.bytes().len() + 96);
    open(change.name(), &mut out);
    object.write(&mut out);
    close(&mut out);
    out.into()
}

/// Writes what stands before an event's object.
pub fn open(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
}

/// Writes what stands behind an event's object.
pub fn close(out: &mut Vec<u8>) {
    out.extend_from_slice(b"}\n");
}
