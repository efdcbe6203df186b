//! Lists on the wire: objects are written into buffers of one size as the client takes them, compressed on the way if it
//! wants that. Small lists are written at once.

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::body::Body;
use crate::convert;
use crate::resources::Resource;
use mainstay_access::object::Object;

/// The size of one buffer: above 64 KiB nothing is gained on the wire, and a buffer of this size is still in the
/// processor's cache when it is encrypted.
const CHUNK: usize = 64 << 10;
/// Bodies from here on are compressed for clients that accept it, and lists from here on are made as they are sent.
pub const LARGE: usize = 128 << 10;
/// What an object takes besides its stored bytes: its resourceVersion and a comma.
const BESIDES: usize = 64;

/// A list that is being written.
pub struct Listing {
    resource: Arc<Resource>,
    objects: std::vec::IntoIter<Arc<Object>>,
    /// What is written but not taken yet; `None` = everything was taken.
    open: Option<Vec<u8>>,
    first: bool,
}

impl Listing {
    /// A list of `objects`, as `resource` serves them, behind `head`.
    pub fn new(resource: Arc<Resource>, objects: Vec<Arc<Object>>, head: String) -> Self {
        Listing {
            resource,
            objects: objects.into_iter(),
            open: Some(head.into_bytes()),
            first: true,
        }
    }

    /// The body: made at once when it is small.
    pub fn into_body(mut self) -> Body {
        let mut bytes = 0;
        let large = self.objects.as_slice().iter().any(|object| {
            bytes += size(object);
            bytes >= LARGE
        });
        if large {
            return Body::made(self);
        }
        if let Some(open) = &mut self.open {
            open.reserve(bytes.min(CHUNK));
        }
        Body::Whole(self.collect())
    }

    fn write(&mut self, object: &Object, out: &mut Vec<u8>) {
        if !std::mem::take(&mut self.first) {
            out.push(b',');
        }
        convert::write_served(&self.resource, object, out);
    }
}

/// About what an object takes in a list.
fn size(object: &Object) -> usize {
    object.bytes().len() + BESIDES
}

impl Iterator for Listing {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut out = self.open.take()?;
        while let Some(next) = self.objects.as_slice().first() {
            let next = size(next);
            if !out.is_empty() && out.len() + next > CHUNK {
                self.open = Some(Vec::with_capacity(CHUNK.max(next)));
                return Some(out.into());
            }
            let object = self.objects.next().expect("one was seen just above");
            self.write(&object, &mut out);
        }
        out.extend_from_slice(b"]}");
        Some(out.into())
    }
}

/// A body, compressed while it is sent.
pub fn packed(body: Body) -> Body {
    match body {
        Body::Whole(buffers) => Body::made(Packed::new(buffers.into_iter())),
        Body::Made(buffers) => Body::made(Packed::new(buffers)),
        other @ (Body::Sent(_) | Body::Stream(_)) => other,
    }
}

struct Packed<I> {
    buffers: I,
    /// `None` = the end was taken.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<I> Packed<I> {
    fn new(buffers: I) -> Self {
        Packed {
            buffers,
            encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())),
        }
    }
}

impl<I: Iterator<Item = Bytes>> Iterator for Packed<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let encoder = self.encoder.as_mut()?;
            let Some(buffer) = self.buffers.next() else {
                let rest = self.encoder.take()?.finish();
                return Some(rest.expect("writing to memory does not fail").into());
            };
            encoder
                .write_all(&buffer)
                .expect("writing to memory does not fail");
            if encoder.get_ref().len() >= CHUNK / 2 {
                return Some(std::mem::take(encoder.get_mut()).into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn body(count: usize, bytes: usize) -> Body {
        let catalog = crate::resources::Catalog::new([]);
        let resource = catalog.find("", "v1", "configmaps").expect("a built-in resource");
        let object = |number: usize| {
            let json = format!(
                r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"c{number}","uid":"u"}},"data":{{"x":"{}"}}}}"#,
                "y".repeat(bytes)
            );
            Arc::new(Object::new::<&str>(Bytes::from(json), 7, &[]))
        };
        let head = r#"{"kind":"ConfigMapList","items":["#.to_string();
        Listing::new(resource.clone(), (0..count).map(object).collect(), head).into_body()
    }

    fn names(text: &[u8]) -> Vec<String> {
        let list: serde_json::Value = serde_json::from_slice(text).expect("a JSON document");
        let items = list["items"].as_array().cloned().unwrap_or_default();
        assert!(
            items
                .iter()
                .all(|item| item["metadata"]["resourceVersion"] == "7")
        );
        let name = |item: &serde_json::Value| item["metadata"]["name"].as_str().map(str::to_string);
        items.iter().filter_map(name).collect()
    }

    fn text(body: Body) -> (usize, Vec<u8>) {
        match body.at_once() {
            Body::Whole(buffers) => (buffers.len(), buffers.iter().flatten().copied().collect()),
            _ => panic!("a list is no stream"),
        }
    }

    #[test]
    fn lists_of_any_size_are_documents() {
        for (count, bytes) in [(0, 0), (1, 10), (3, 50_000), (1_000, 200), (2, 3_000_000)] {
            let wanted: Vec<String> = (0..count).map(|number| format!("c{number}")).collect();
            assert_eq!(names(&text(body(count, bytes)).1), wanted, "{count} of {bytes}");
        }
    }

    #[test]
    fn large_lists_are_made_as_they_are_sent() {
        assert!(matches!(body(10, 100), Body::Whole(_)));
        assert!(matches!(body(1_000, 1_000), Body::Made(_)));
        let (buffers, text) = text(body(1_000, 1_000));
        assert!(buffers >= text.len() / CHUNK && buffers <= 2 + text.len() / (CHUNK / 2));
    }

    #[test]
    fn packed_lists_unpack_to_the_same() {
        let (_, packed) = text(packed(body(1_000, 1_000)));
        let mut plain = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(&packed[..]);
        decoder.read_to_end(&mut plain).expect("gzip");
        assert_eq!(plain, text(body(1_000, 1_000)).1);
    }
}
