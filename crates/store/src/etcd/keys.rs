//! Keys and values on etcd: `/mainstay/v1/<plane-uid>/<group|core>/<resource>/<namespace|->/<name>`, and an envelope
//! with format and checksum. What does not look like that is foreign, and refused.

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::model::{Key, Prefix};

pub(super) const ROOT: &str = "/mainstay/v1/";
/// The marker's name: sorts before every group and can be none.
const MARKER: &str = "!revision";
/// First byte of a value.
const ENVELOPE: u8 = 0xa7;
const FORMAT: u8 = 1;
const ENVELOPE_BYTES: usize = 6;

pub(super) fn check_uid(uid: &str) -> Result<()> {
    let fits = |letter: u8| letter.is_ascii_alphanumeric() || b"-_.".contains(&letter);
    if !uid.is_empty() && uid.len() <= 128 && uid.bytes().all(fits) {
        return Ok(());
    }
    Err(Error::Invalid(format!("{uid:?} cannot name a keyspace")))
}

/// The prefix of a keyspace.
pub(super) fn plane(uid: &str) -> String {
    format!("{ROOT}{uid}/")
}

pub(super) fn marker(uid: &str) -> String {
    format!("{ROOT}{uid}/{MARKER}")
}

/// The keyspace that a key belongs to.
pub(super) fn uid_of(key: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(key).ok();
    let uid = text
        .and_then(|text| text.strip_prefix(ROOT))
        .and_then(|rest| rest.split_once('/'));
    uid.map(|(uid, _)| uid.to_string())
        .ok_or_else(|| foreign(key, "the key names no keyspace"))
}

pub(super) fn text(uid: &str, key: &Key) -> String {
    format!("{ROOT}{uid}/{key}")
}

pub(super) fn prefix_text(uid: &str, prefix: &Prefix) -> String {
    match prefix {
        Prefix::All => plane(uid),
        Prefix::Resource(resource) => format!("{ROOT}{uid}/{resource}/"),
        Prefix::Namespace(resource, namespace) if namespace.is_empty() => {
            format!("{ROOT}{uid}/{resource}/-/")
        }
        Prefix::Namespace(resource, namespace) => format!("{ROOT}{uid}/{resource}/{namespace}/"),
    }
}

/// The first key after all that begin with `prefix`; our prefixes end in a slash, so the last byte can grow.
pub(super) fn after_prefix(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// Reads a key of this keyspace; `None` = the marker.
pub(super) fn parse(uid: &str, key: &[u8]) -> Result<Option<Key>> {
    let own = plane(uid);
    let text = std::str::from_utf8(key)
        .ok()
        .and_then(|text| text.strip_prefix(&own));
    let text = text.ok_or_else(|| foreign(key, "the key is not below the keyspace"))?;
    if text == MARKER {
        return Ok(None);
    }
    let parts: Vec<&str> = text.split('/').collect();
    let [group, plural, namespace, name] = parts[..] else {
        return Err(foreign(
            key,
            "the key has not the form group/resource/namespace/name",
        ));
    };
    let namespace = if namespace == "-" { "" } else { namespace };
    Ok(Some(Key::new(&format!("{group}/{plural}"), namespace, name)))
}

pub(super) fn foreign(key: &[u8], what: &str) -> Error {
    Error::Foreign {
        key: String::from_utf8_lossy(key).into_owned(),
        what: what.to_string(),
    }
}

pub(super) fn wrap(value: &[u8]) -> Vec<u8> {
    let mut wrapped = Vec::with_capacity(ENVELOPE_BYTES + value.len());
    wrapped.extend_from_slice(&[ENVELOPE, FORMAT]);
    wrapped.extend_from_slice(&crc32fast::hash(value).to_le_bytes());
    wrapped.extend_from_slice(value);
    wrapped
}

pub(super) fn unwrap(key: &[u8], wrapped: &[u8]) -> Result<Bytes> {
    let (head, value) = wrapped
        .split_at_checked(ENVELOPE_BYTES)
        .ok_or_else(|| foreign(key, "the value is too short"))?;
    if head[0] != ENVELOPE {
        return Err(foreign(key, "the value was not written by this program"));
    }
    if head[1] != FORMAT {
        return Err(foreign(
            key,
            &format!("the value has format {}, expected {FORMAT}", head[1]),
        ));
    }
    if head[2..] != crc32fast::hash(value).to_le_bytes() {
        return Err(Error::Corrupt {
            file: String::from_utf8_lossy(key).into_owned().into(),
            offset: 0,
            what: "the value fails its checksum".to_string(),
        });
    }
    Ok(Bytes::copy_from_slice(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_the_round_trip_and_foreign_ones_are_refused() {
        for key in [
            Key::new("core/pods", "default", "a"),
            Key::new("apps/deployments", "", "x:y"),
        ] {
            assert_eq!(parse("u", text("u", &key).as_bytes()).expect("ours"), Some(key));
        }
        assert_eq!(parse("u", marker("u").as_bytes()).expect("ours"), None);
        assert!(parse("u", b"/registry/pods/default/a").is_err());
        assert!(unwrap(b"k", b"{\"kind\":\"Pod\"}").is_err());
        let mut damaged = wrap(b"value");
        damaged[8] ^= 1;
        assert!(matches!(unwrap(b"k", &damaged), Err(Error::Corrupt { .. })));
    }
}
