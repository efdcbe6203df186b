//! One stored object: its canonical bytes, its revision, and offsets of what selectors and lists need.
//! The bytes carry no resourceVersion; it is spliced in before `"uid"` when the object leaves the server.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use mainstay_semantics::selector::Labels;
use serde_json::Value;

use crate::pieces::append;
use crate::scan;

/// A range inside an object's bytes; empty (0..0) when the object has no such value.
type Span = (u32, u32);

/// An object as it is stored: immutable and shared.
#[derive(Debug, Clone)]
pub struct Object {
    bytes: Bytes,
    revision: u64,
    splice: u32,
    name: Span,
    namespace: Span,
    uid: Span,
    labels: Span,
    fields: Box<[Span]>,
}

impl Object {
    /// Reads the head of canonical JSON. `fields` are the resource's selectable fields as dotted paths, in the order
    /// in which [`Object::field`] numbers them.
    pub fn new<F: AsRef<str>>(bytes: Bytes, revision: u64, fields: &[F]) -> Self {
        let mut head = Head::default();
        let mut rest = 0;
        scan::members(&bytes, 0, |key, at| {
            if key == b"metadata" {
                head.read(&bytes, at.start);
                rest = at.end;
            }
            rest > 0
        });
        let fields = fields
            .iter()
            .map(|path| span(find_field(&bytes, rest, path.as_ref()).unwrap_or(0..0)))
            .collect();
        Object {
            splice: head.splice,
            name: head.name,
            namespace: head.namespace,
            uid: head.uid,
            labels: head.labels,
            fields,
            revision,
            bytes,
        }
    }

    /// The canonical bytes, without resourceVersion.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The revision of the object's last change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The same object at another revision: a deletion carries the revision at which it happened.
    pub fn at_revision(&self, revision: u64) -> Self {
        Object {
            revision,
            ..self.clone()
        }
    }

    /// `metadata.name`.
    pub fn name(&self) -> Cow<'_, str> {
        self.text(self.name)
    }

    /// `metadata.namespace`, empty for cluster scope.
    pub fn namespace(&self) -> Cow<'_, str> {
        self.text(self.namespace)
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> Cow<'_, str> {
        self.text(self.uid)
    }

    /// The value of one label.
    pub fn label(&self, key: &str) -> Option<Cow<'_, str>> {
        let labels = self.slice(self.labels);
        if labels.is_empty() {
            return None;
        }
        scan::find(labels, 0, [key]).map(|at| scan::text(&labels[at]))
    }

    /// Calls `each` for every label.
    pub fn each_label<'a>(&'a self, mut each: impl FnMut(&'a str, Cow<'a, str>)) {
        let labels = self.slice(self.labels);
        scan::members(labels, 0, |key, value| {
            each(
                std::str::from_utf8(key).unwrap_or_default(),
                scan::text(&labels[value]),
            );
            false
        });
    }

    /// The selectable field with this number, empty when unset.
    pub fn field(&self, number: usize) -> Cow<'_, str> {
        self.fields
            .get(number)
            .map_or(Cow::Borrowed(""), |span| self.text(*span))
    }

    /// Reads any scalar by its dotted path, empty when unset. Walks the bytes: for rare reads.
    pub fn scalar(&self, path: &str) -> Cow<'_, str> {
        match scan::find(&self.bytes, 0, path.split('.')) {
            Some(at) => scan::text(&self.bytes[at]),
            None => Cow::Borrowed(""),
        }
    }

    /// Whether the object's bytes hold this text. Texts that JSON escapes are not found.
    pub fn has_text(&self, text: &str) -> bool {
        memchr::memmem::find(&self.bytes, text.as_bytes()).is_some()
    }

    /// Parses the object, resourceVersion included.
    pub fn value(&self) -> Value {
        let mut value: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        if let Some(Value::Object(metadata)) = value.get_mut("metadata").filter(|_| self.revision > 0) {
            metadata.insert("resourceVersion".into(), self.revision.to_string().into());
        }
        value
    }

    /// Appends the object with its resourceVersion.
    pub fn write(&self, out: &mut Vec<u8>) {
        let at = self.splice as usize;
        append(out, &self.bytes[..at]);
        self.write_rest(out);
    }

    /// Appends the object as another version of its group: same fields, `api_version` in place of the stored one.
    pub fn write_as(&self, api_version: &str, out: &mut Vec<u8>) {
        let Some(stored) = scan::find(&self.bytes, 0, ["apiVersion"]) else {
            return self.write(out);
        };
        out.extend_from_slice(&self.bytes[..stored.start + 1]);
        out.extend_from_slice(api_version.as_bytes());
        append(out, &self.bytes[stored.end - 1..self.splice as usize]);
        self.write_rest(out);
    }

    fn write_rest(&self, out: &mut Vec<u8>) {
        let at = self.splice as usize;
        if at == 0 || self.revision == 0 {
            return append(out, &self.bytes[at..]);
        }
        out.extend_from_slice(b"\"resourceVersion\":\"");
        let mut digits = [0u8; 20];
        out.extend_from_slice(decimal(self.revision, &mut digits));
        out.extend_from_slice(b"\",");
        append(out, &self.bytes[at..]);
    }

    /// The object with its resourceVersion, as one buffer.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.bytes.len() + 48);
        self.write(&mut out);
        out.into()
    }

    fn slice(&self, span: Span) -> &[u8] {
        &self.bytes[span.0 as usize..span.1 as usize]
    }

    fn text(&self, span: Span) -> Cow<'_, str> {
        match self.slice(span) {
            [] => Cow::Borrowed(""),
            json => scan::text(json),
        }
    }
}

/// Finds a field, first behind the metadata, where almost all stand: metadata is long to skip.
fn find_field(bytes: &[u8], behind_metadata: usize, path: &str) -> Option<Range<usize>> {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let mut found = None;
    scan::members_behind(bytes, behind_metadata, |key, at| {
        if key == first.as_bytes() {
            found = Some(at);
        }
        found.is_some()
    });
    match found {
        Some(at) if rest.is_empty() => Some(at),
        Some(at) => scan::find(bytes, at.start, rest.split('.')),
        None => scan::find(bytes, 0, path.split('.')),
    }
}

#[derive(Default)]
struct Head {
    splice: u32,
    name: Span,
    namespace: Span,
    uid: Span,
    labels: Span,
}

impl Head {
    fn read(&mut self, bytes: &[u8], metadata: usize) {
        scan::members(bytes, metadata, |key, at| {
            match key {
                b"name" => self.name = span(at),
                b"namespace" => self.namespace = span(at),
                b"labels" if bytes[at.start] == b'{' => self.labels = span(at),
                b"uid" => {
                    self.splice = (at.start - "\"uid\":".len()) as u32;
                    self.uid = span(at);
                }
                _ => {}
            }
            false
        });
    }
}

fn span(range: Range<usize>) -> Span {
    (range.start as u32, range.end as u32)
}

/// Writes a number without the formatting machinery.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

impl Labels for Object {
    fn label(&self, key: &str) -> Option<&str> {
        match Object::label(self, key)? {
            Cow::Borrowed(value) => Some(value),
            Cow::Owned(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Object {
        let json = br#"{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"app":"x"},"name":"p","namespace":"n","uid":"u"},"spec":{"nodeName":"n1"},"status":{}}"#;
        Object::new(Bytes::from_static(json), 42, &["spec.nodeName", "status.phase"])
    }

    #[test]
    fn resource_version_is_spliced_in() {
        let text = String::from_utf8(pod().to_bytes().to_vec()).unwrap();
        assert_eq!(
            text,
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"app":"x"},"name":"p","namespace":"n","resourceVersion":"42","uid":"u"},"spec":{"nodeName":"n1"},"status":{}}"#
        );
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), pod().value());
    }

    #[test]
    fn another_version_changes_only_the_first_field() {
        let mut out = Vec::new();
        pod().write_as("x.io/v2", &mut out);
        assert!(out.starts_with(br#"{"apiVersion":"x.io/v2","kind":"Pod","#));
        assert_eq!(out.len(), pod().to_bytes().len() + 5);
    }

    #[test]
    fn heads_answer_selectors() {
        let pod = pod();
        assert_eq!((&*pod.name(), &*pod.namespace(), &*pod.uid()), ("p", "n", "u"));
        assert_eq!(pod.label("app").as_deref(), Some("x"));
        assert_eq!(pod.label("none"), None);
        assert_eq!((&*pod.field(0), &*pod.field(1), &*pod.field(2)), ("n1", "", ""));
    }
}
