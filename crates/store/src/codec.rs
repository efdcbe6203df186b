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
        let before = self.left();
        let tag = self.u8()?;
        let lengths = [self.u16()?, self.u16()?, self.u16()?].map(usize::from);
        let value_length = self.u32()? as usize;
        let expires = self.u64()?.cast_signed();
        let (revision, prev_revision) = (self.u64()?, self.u64()?);
        let key = Key {
            resource: names.intern(self.text(lengths[0])?),
            namespace: names.intern(self.text(lengths[1])?),
            name: self.text(lengths[2])?.into(),
        };
        let value = self.bytes(value_length)?;
        let (live, class) = match tag {
            DELETE => (false, Class::Durable),
            PUT_DURABLE => (true, Class::Durable),
            PUT_VOLATILE => (true, Class::Volatile),
            _ => return None,
        };
        let change = Change {
            key,
            value: live.then(|| Bytes::copy_from_slice(value)),
            class,
            expires,
            prev_revision,
            segment: 0,
            log_bytes: u32::try_from(before - self.left()).ok()?,
        };
        Some((revision, change))
    }
}

/// Shares the texts that many keys have in common.
#[derive(Default)]
pub(crate) struct Names(HashSet<Arc<str>>);

impl Names {
    fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.0.insert(new.clone());
        new
    }
}
