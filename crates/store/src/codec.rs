//! How a change is written in the log and in snapshots: fixed little-endian head, key, value.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::model::{Class, Key};
use crate::space::Change;

/// Bytes of a change before its key: tag, three key lengths, value length, expiry, two revisions.
pub(crate) const CHANGE_HEAD: usize = 1 + 2 * 3 + 4 + 8 * 3;

const DELETE: u8 = 0;
const PUT_DURABLE: u8 = 1;
const PUT_VOLATILE: u8 = 2;

/// Bytes a change takes when written.
pub(crate) fn change_bytes(key: &Key, value: &[u8]) -> usize {
    CHANGE_HEAD + key.text_bytes() + value.len()
}

/// Appends a change and the revision it belongs to.
pub(crate) fn put_change(out: &mut Vec<u8>, revision: u64, change: &Change) {
    let value = change.value.as_deref();
    out.push(match (value, change.class) {
        (None, _) => DELETE,
        (Some(_), Class::Durable) => PUT_DURABLE,
        (Some(_), Class::Volatile) => PUT_VOLATILE,
    });
    let parts = [&change.key.resource, &change.key.namespace, &change.key.name];
    for part in parts {
        let length = u16::try_from(part.len()).expect("transactions bound each part to 1,025 bytes");
        out.extend_from_slice(&length.to_le_bytes());
    }
    let value = value.unwrap_or_default();
    let length = u32::try_from(value.len()).expect("transactions bound their size to megabytes");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&change.expires.to_le_bytes());
    out.extend_from_slice(&revision.to_le_bytes());
    out.extend_from_slice(&change.prev_revision.to_le_bytes());
    parts
        .iter()
        .for_each(|part| out.extend_from_slice(part.as_bytes()));
    out.extend_from_slice(value);
}

/// Reads written data front to back; `None` = the bytes make no sense.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn text(&mut self, count: usize) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(count)?).ok()
    }

    /// Reads what [`put_change`] wrote.
    pub(crate) fn change(&mut self, names: &mut Names) -> Option<(u64, Change)> {
        let record = self.record()?;
        let change = Change {
            key: record.key(names),
            value: record.value.map(Bytes::copy_from_slice),
            class: record.class,
            expires: record.expires,
            prev_revision: record.prev_revision,
            segment: 0,
            log_bytes: u32::try_from(record.bytes.len()).ok()?,
        };
        Some((record.revision, change))
    }

    /// The same without copying anything.
    pub(crate) fn record(&mut self) -> Option<Record<'a>> {
        let before = self.rest;
        let tag = self.u8()?;
        let lengths = [self.u16()?, self.u16()?, self.u16()?].map(usize::from);
        let value_length = self.u32()? as usize;
        let expires = self.u64()?.cast_signed();
        let (revision, prev_revision) = (self.u64()?, self.u64()?);
        let key = [
            self.text(lengths[0])?,
            self.text(lengths[1])?,
            self.text(lengths[2])?,
        ];
        let value = self.bytes(value_length)?;
        let (live, class) = match tag {
            DELETE => (false, Class::Durable),
            PUT_DURABLE => (true, Class::Durable),
            PUT_VOLATILE => (true, Class::Volatile),
            _ => return None,
        };
        Some(Record {
            key,
            value: live.then_some(value),
            class,
            expires,
            revision,
            prev_revision,
            bytes: &before[..before.len() - self.left()],
        })
    }
}

/// A change as it stands in the log.
pub(crate) struct Record<'a> {
    key: [&'a str; 3],
    /// `None` = delete.
    pub value: Option<&'a [u8]>,
    class: Class,
    expires: i64,
    /// The revision it belongs to.
    pub revision: u64,
    prev_revision: u64,
    /// All of it.
    pub bytes: &'a [u8],
}

impl Record<'_> {
    /// The entry that changes.
    pub(crate) fn key(&self, names: &mut Names) -> Key {
        Key {
            resource: names.intern(self.key[0]),
            namespace: names.intern(self.key[1]),
            name: self.key[2].into(),
        }
    }
}

/// More texts than this are forgotten and learned anew: those of namespaces that are gone go with them.
const NAMES: usize = 50_000;

/// Shares the texts that many keys have in common.
#[derive(Debug, Default)]
pub(crate) struct Names(HashSet<Arc<str>>);

impl Names {
    /// Makes a key's common texts the shared ones.
    pub(crate) fn share(&mut self, key: &mut Key) {
        for text in [&mut key.resource, &mut key.namespace] {
            match self.0.get(&**text) {
                Some(known) => *text = known.clone(),
                None => self.learn(text),
            }
        }
    }

    /// Shares this text from now on.
    pub(crate) fn learn(&mut self, text: &Arc<str>) {
        if self.0.len() >= NAMES {
            self.0.clear();
        }
        self.0.insert(text.clone());
    }

    fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.learn(&new);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_texts_are_shared_and_old_ones_forgotten() {
        let mut names = Names::default();
        let mut share = |namespace: &str| {
            let mut key = Key::new("core/pods", namespace, "a");
            names.share(&mut key);
            key
        };
        let (first, second) = (share("space"), share("space"));
        assert!(Arc::ptr_eq(&first.namespace, &second.namespace));
        assert!(Arc::ptr_eq(&first.resource, &second.resource));
        for number in 0..NAMES {
            share(&number.to_string());
        }
        let later = share("space");
        assert_eq!(later, first);
        assert!(
            !Arc::ptr_eq(&later.namespace, &first.namespace),
            "it was never forgotten"
        );
        assert!(Arc::ptr_eq(&share("space").namespace, &later.namespace));
        assert!(names.0.len() <= NAMES);
    }
}
