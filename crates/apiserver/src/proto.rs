//! Reads the few kinds that kubectl's commands always send as protobuf. Everything else, and every field that the table
//! does not know and that is not empty, is answered with 415: nothing is dropped silently. A table of field numbers,
//! no generated code.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// What stands before every protobuf body.
const MAGIC: &[u8] = b"k8s\0";
/// Messages nest no deeper than this.
const DEPTH: usize = 16;

/// The type of a field.
#[derive(Debug, Clone, Copy)]
enum Type {
    Text,
    Texts,
    Bytes,
    Int,
    Bool,
    Time,
    /// A map of texts.
    Map,
    /// A map of bytes.
    MapOfBytes,
    /// A map of quantities.
    Quantities,
    /// What servers fill in; not read.
    Dropped,
    /// A map of messages that hold one list of texts.
    MapOfTexts,
    Message(&'static [Field]),
    Messages(&'static [Field]),
}

type Field = (u64, &'static str, Type);

const OWNER: &[Field] = &[
    (1, "kind", Type::Text),
    (3, "name", Type::Text),
    (4, "uid", Type::Text),
    (5, "apiVersion", Type::Text),
    (6, "controller", Type::Bool),
    (7, "blockOwnerDeletion", Type::Bool),
];

const META: &[Field] = &[
    (1, "name", Type::Text),
    (2, "generateName", Type::Text),
    (3, "namespace", Type::Text),
    (5, "uid", Type::Text),
    (6, "resourceVersion", Type::Text),
    (7, "generation", Type::Int),
    (8, "creationTimestamp", Type::Time),
    (9, "deletionTimestamp", Type::Time),
    (10, "deletionGracePeriodSeconds", Type::Int),
    (11, "labels", Type::Map),
    (12, "annotations", Type::Map),
    (13, "ownerReferences", Type::Messages(OWNER)),
    (14, "finalizers", Type::Texts),
    (17, "managedFields", Type::Dropped),
];
const SELECTOR_TERM: &[Field] = &[
    (1, "key", Type::Text),
    (2, "operator", Type::Text),
    (3, "values", Type::Texts),
];
const SELECTOR: &[Field] = &[
    (1, "matchLabels", Type::Map),
    (2, "matchExpressions", Type::Messages(SELECTOR_TERM)),
];
const AGGREGATION: &[Field] = &[(1, "clusterRoleSelectors", Type::Messages(SELECTOR))];
const PORT: &[Field] = &[
    (1, "name", Type::Text),
    (2, "hostPort", Type::Int),
    (3, "containerPort", Type::Int),
    (4, "protocol", Type::Text),
    (5, "hostIP", Type::Text),
];
const CONTAINER: &[Field] = &[
    (1, "name", Type::Text),
    (2, "image", Type::Text),
    (3, "command", Type::Texts),
    (4, "args", Type::Texts),
    (5, "workingDir", Type::Text),
    (6, "ports", Type::Messages(PORT)),
    (13, "terminationMessagePath", Type::Text),
    (14, "imagePullPolicy", Type::Text),
    (20, "terminationMessagePolicy", Type::Text),
];
const POD: &[Field] = &[
    (2, "containers", Type::Messages(CONTAINER)),
    (3, "restartPolicy", Type::Text),
];
const TEMPLATE: &[Field] = &[
    (1, "metadata", Type::Message(META)),
    (2, "spec", Type::Message(POD)),
];
const STRATEGY: &[Field] = &[(1, "type", Type::Text)];
const DEPLOYMENT: &[Field] = &[
    (1, "replicas", Type::Int),
    (2, "selector", Type::Message(SELECTOR)),
    (3, "template", Type::Message(TEMPLATE)),
    (4, "strategy", Type::Message(STRATEGY)),
];
const JOB: &[Field] = &[
    (1, "parallelism", Type::Int),
    (2, "completions", Type::Int),
    (3, "activeDeadlineSeconds", Type::Int),
    (4, "selector", Type::Message(SELECTOR)),
    (6, "template", Type::Message(TEMPLATE)),
    (7, "backoffLimit", Type::Int),
];
const QUOTA: &[Field] = &[(1, "hard", Type::Quantities), (2, "scopes", Type::Texts)];

const RESOURCE_ATTRIBUTES: &[Field] = &[
    (1, "namespace", Type::Text),
    (2, "verb", Type::Text),
    (3, "group", Type::Text),
    (4, "version", Type::Text),
    (5, "resource", Type::Text),
    (6, "subresource", Type::Text),
    (7, "name", Type::Text),
];
const PATH_ATTRIBUTES: &[Field] = &[(1, "path", Type::Text), (2, "verb", Type::Text)];
const SELF_ACCESS: &[Field] = &[
    (1, "resourceAttributes", Type::Message(RESOURCE_ATTRIBUTES)),
    (2, "nonResourceAttributes", Type::Message(PATH_ATTRIBUTES)),
];
const ACCESS: &[Field] = &[
    (1, "resourceAttributes", Type::Message(RESOURCE_ATTRIBUTES)),
    (2, "nonResourceAttributes", Type::Message(PATH_ATTRIBUTES)),
    (3, "user", Type::Text),
    (4, "groups", Type::Texts),
    (5, "extra", Type::MapOfTexts),
    (6, "uid", Type::Text),
];
const RULES: &[Field] = &[(1, "namespace", Type::Text)];
const BOUND: &[Field] = &[
    (1, "kind", Type::Text),
    (2, "apiVersion", Type::Text),
    (3, "name", Type::Text),
    (4, "uid", Type::Text),
];
const TOKEN: &[Field] = &[
    (1, "audiences", Type::Texts),
    (3, "boundObjectRef", Type::Message(BOUND)),
    (4, "expirationSeconds", Type::Int),
];
const REVIEWED: &[Field] = &[(1, "token", Type::Text), (2, "audiences", Type::Texts)];
const PRECONDITIONS: &[Field] = &[(1, "uid", Type::Text), (2, "resourceVersion", Type::Text)];
const DELETE: &[Field] = &[
    (1, "gracePeriodSeconds", Type::Int),
    (2, "preconditions", Type::Message(PRECONDITIONS)),
    (3, "orphanDependents", Type::Bool),
    (4, "propagationPolicy", Type::Text),
    (5, "dryRun", Type::Texts),
];
const REQUEST: &[Field] = &[
    (1, "request", Type::Bytes),
    (2, "username", Type::Text),
    (3, "uid", Type::Text),
    (4, "groups", Type::Texts),
    (5, "usages", Type::Texts),
    (6, "extra", Type::MapOfTexts),
    (7, "signerName", Type::Text),
    (8, "expirationSeconds", Type::Int),
];
const REQUEST_CONDITION: &[Field] = &[
    (1, "type", Type::Text),
    (2, "reason", Type::Text),
    (3, "message", Type::Text),
    (4, "lastUpdateTime", Type::Time),
    (5, "lastTransitionTime", Type::Time),
    (6, "status", Type::Text),
];
const REQUEST_STATUS: &[Field] = &[
    (1, "conditions", Type::Messages(REQUEST_CONDITION)),
    (2, "certificate", Type::Bytes),
];

const NAMED: &[Field] = &[
    (1, "kind", Type::Text),
    (2, "namespace", Type::Text),
    (3, "name", Type::Text),
    (4, "uid", Type::Text),
    (5, "apiVersion", Type::Text),
];
const PULL_SECRET: &[Field] = &[(1, "name", Type::Text)];
const NAMESPACE: &[Field] = &[(1, "finalizers", Type::Texts)];
const RULE: &[Field] = &[
    (1, "verbs", Type::Texts),
    (2, "apiGroups", Type::Texts),
    (3, "resources", Type::Texts),
    (4, "resourceNames", Type::Texts),
    (5, "nonResourceURLs", Type::Texts),
];
const SUBJECT: &[Field] = &[
    (1, "kind", Type::Text),
    (2, "apiGroup", Type::Text),
    (3, "name", Type::Text),
    (4, "namespace", Type::Text),
];
const ROLE_REF: &[Field] = &[
    (1, "apiGroup", Type::Text),
    (2, "kind", Type::Text),
    (3, "name", Type::Text),
];
const ROLE: &[Field] = &[
    (1, "metadata", Type::Message(META)),
    (2, "rules", Type::Messages(RULE)),
    (3, "aggregationRule", Type::Message(AGGREGATION)),
];
const BINDING: &[Field] = &[
    (1, "metadata", Type::Message(META)),
    (2, "subjects", Type::Messages(SUBJECT)),
    (3, "roleRef", Type::Message(ROLE_REF)),
];

/// Kinds with the fields of their objects.
const KINDS: &[(&str, &[Field])] = &[
    (
        "Namespace",
        &[
            (1, "metadata", Type::Message(META)),
            (2, "spec", Type::Message(NAMESPACE)),
            (3, "status", Type::Dropped),
        ],
    ),
    (
        "Deployment",
        &[
            (1, "metadata", Type::Message(META)),
            (2, "spec", Type::Message(DEPLOYMENT)),
            (3, "status", Type::Dropped),
        ],
    ),
    (
        "Job",
        &[
            (1, "metadata", Type::Message(META)),
            (2, "spec", Type::Message(JOB)),
            (3, "status", Type::Dropped),
        ],
    ),
    (
        "ResourceQuota",
        &[
            (1, "metadata", Type::Message(META)),
            (2, "spec", Type::Message(QUOTA)),
            (3, "status", Type::Dropped),
        ],
    ),
    (
        "ConfigMap",
        &[
            (1, "metadata", Type::Message(META)),
            (2, "data", Type::Map),
            (3, "binaryData", Type::MapOfBytes),
            (4, "immutable", Type::Bool),
        ],
    ),
    (
        "Secret",
        &[
            (1, "metadata", Type::Message(META)),
            (2, "data", Type::MapOfBytes),
            (3, "type", Type::Text),
            (4, "stringData", Type::Map),
            (5, "immutable", Type::Bool),
        ],
    ),
    (
        "ServiceAccount",
        &[
            (1, "metadata", Type::Message(META)),
            (2, "secrets", Type::Messages(NAMED)),
            (3, "imagePullSecrets", Type::Messages(PULL_SECRET)),
            (4, "automountServiceAccountToken", Type::Bool),
        ],
    ),
    ("Role", ROLE),
    ("ClusterRole", ROLE),
    ("RoleBinding", BINDING),
    ("ClusterRoleBinding", BINDING),
    (
        "SelfSubjectAccessReview",
        &[
            (1, "metadata", Type::Message(META)),
            (2, "spec", Type::Message(SELF_ACCESS)),
            (3, "status", Type::Dropped),
        ],
    ),
    (
        "SubjectAccessReview",
        &[
            (1, "metadata", Type::Message(META)),
            (2, "spec", Type::Message(ACCESS)),
            (3, "status", Type::Dropped),
        ],
    ),
    (
        "LocalSubjectAccessReview",
        &[
            (1, "metadata", Type::Message(META)),
            (2, "spec", Type::Message(ACCESS)),
            (3, "status", Type::Dropped),
        ],
    ),
    (
        "SelfSubjectRulesReview",
        &[
            (1, "metadata", Type::Message(META)),
            (2, "spec", Type::Message(RULES)),
            (3, "status", Type::Dropped),
        ],
    ),
    (
        "SelfSubjectReview",
        &[(1, "metadata", Type::Message(META)), (2, "status", Type::Dropped)],
    ),
    (
        "TokenReview",
        &[
            (1, "metadata", Type::Message(META)),
            (2, "spec", Type::Message(REVIEWED)),
            (3, "status", Type::Dropped),
        ],
    ),
    (
        "TokenRequest",
        &[
            (1, "metadata", Type::Message(META)),
            (2, "spec", Type::Message(TOKEN)),
            (3, "status", Type::Dropped),
        ],
    ),
    (
        "Eviction",
        &[
            (1, "metadata", Type::Message(META)),
            (2, "deleteOptions", Type::Message(DELETE)),
        ],
    ),
    ("DeleteOptions", DELETE),
    (
        "CertificateSigningRequest",
        &[
            (1, "metadata", Type::Message(META)),
            (2, "spec", Type::Message(REQUEST)),
            (3, "status", Type::Message(REQUEST_STATUS)),
        ],
    ),
];

/// Why a body is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProtoError {
    /// It is not protobuf, or damaged.
    Malformed,
    /// The kind is not among those that are read.
    Unknown(String),
}

/// Turns a body into the object that it stands for.
///
/// # Errors
/// `Malformed` for damaged bytes, `Unknown` for other kinds.
pub fn to_json(body: &[u8]) -> Result<Value, ProtoError> {
    let envelope = body.strip_prefix(MAGIC).ok_or(ProtoError::Malformed)?;
    let (mut types, mut raw) = (&b""[..], &b""[..]);
    each(envelope, |number, wire| match (number, wire) {
        (1, Wire::Bytes(bytes)) => types = bytes,
        (2, Wire::Bytes(bytes)) => raw = bytes,
        _ => {}
    })?;
    const TYPES: &[Field] = &[(1, "apiVersion", Type::Text), (2, "kind", Type::Text)];
    let mut object = message(types, TYPES, 0)?;
    let kind = object
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_string();
    let fields = KINDS
        .iter()
        .find(|(known, _)| *known == kind)
        .ok_or(ProtoError::Unknown(kind))?
        .1;
    object.extend(message(raw, fields, 0)?);
    Ok(Value::Object(object))
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> Result<u64, ProtoError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or(ProtoError::Malformed)?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(ProtoError::Malformed)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], ProtoError> {
    if bytes.len() < length {
        return Err(ProtoError::Malformed);
    }
    let (taken, rest) = bytes.split_at(length);
    *bytes = rest;
    Ok(taken)
}

fn each<'a>(mut bytes: &'a [u8], mut field: impl FnMut(u64, Wire<'a>)) -> Result<(), ProtoError> {
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        match tag & 7 {
            0 => field(tag >> 3, Wire::Number(varint(&mut bytes)?)),
            1 => drop(take(&mut bytes, 8)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).map_err(|_| ProtoError::Malformed)?;
                field(tag >> 3, Wire::Bytes(take(&mut bytes, length)?));
            }
            5 => drop(take(&mut bytes, 4)?),
            _ => return Err(ProtoError::Malformed),
        }
    }
    Ok(())
}

fn message(bytes: &[u8], fields: &[Field], depth: usize) -> Result<Map<String, Value>, ProtoError> {
    if depth > DEPTH {
        return Err(ProtoError::Malformed);
    }
    let mut object = Map::new();
    let mut failed = None;
    each(bytes, |number, wire| {
        let Some((_, name, kind)) = fields.iter().find(|(own, ..)| *own == number) else {
            if !is_empty(&wire) {
                failed = Some(ProtoError::Unknown(format!("field {number}")));
            }
            return;
        };
        if let Err(error) = add(&mut object, name, *kind, wire, depth) {
            failed = Some(error);
        }
    })?;
    failed.map_or(Ok(object), Err)
}

/// Whether a field holds nothing but a zero.
fn is_empty(wire: &Wire<'_>) -> bool {
    matches!(wire, Wire::Number(0) | Wire::Bytes(b""))
}

fn add(
    object: &mut Map<String, Value>,
    name: &str,
    kind: Type,
    wire: Wire<'_>,
    depth: usize,
) -> Result<(), ProtoError> {
    let value = match (kind, wire) {
        // Clients always send the counter, objects only have it when a server counts.
        (Type::Int, Wire::Number(0)) if name == "generation" => return Ok(()),
        (Type::Int, Wire::Number(number)) => Value::from(number as i64),
        (Type::Bool, Wire::Number(number)) => Value::from(number != 0),
        (Type::Dropped, _) | (Type::Text, Wire::Bytes(b"")) => return Ok(()),
        (Type::Text | Type::Texts, Wire::Bytes(bytes)) => text(bytes)?,
        (Type::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Type::Time, Wire::Bytes(bytes)) => match time(bytes)? {
            Some(text) => text.into(),
            None => return Ok(()),
        },
        (Type::Message(fields) | Type::Messages(fields), Wire::Bytes(bytes)) => {
            Value::Object(message(bytes, fields, depth + 1)?)
        }
        (Type::Map | Type::MapOfBytes | Type::Quantities | Type::MapOfTexts, Wire::Bytes(bytes)) => {
            return entry(object, name, kind, bytes, depth);
        }
        _ => return Err(ProtoError::Malformed),
    };
    match kind {
        Type::Texts | Type::Messages(_) => {
            let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            list.as_array_mut().ok_or(ProtoError::Malformed)?.push(value);
        }
        _ => drop(object.insert(name.into(), value)),
    }
    Ok(())
}

fn entry(
    object: &mut Map<String, Value>,
    name: &str,
    kind: Type,
    bytes: &[u8],
    depth: usize,
) -> Result<(), ProtoError> {
    const ITEMS: &[Field] = &[(1, "items", Type::Texts)];
    const TEXTS: &[Field] = &[(1, "key", Type::Text), (2, "value", Type::Text)];
    const LISTS: &[Field] = &[(1, "key", Type::Text), (2, "value", Type::Message(ITEMS))];
    const QUANTITY: &[Field] = &[(1, "string", Type::Text)];
    const QUANTITIES: &[Field] = &[(1, "key", Type::Text), (2, "value", Type::Message(QUANTITY))];
    const BYTES: &[Field] = &[(1, "key", Type::Text), (2, "value", Type::Bytes)];
    let fields = match kind {
        Type::Map => TEXTS,
        Type::MapOfBytes => BYTES,
        Type::Quantities => QUANTITIES,
        _ => LISTS,
    };
    let pair = message(bytes, fields, depth + 1)?;
    let key = pair.get("key").and_then(Value::as_str).unwrap_or_default();
    let value = match (kind, pair.get("value")) {
        (Type::Map | Type::MapOfBytes, value) => value.cloned().unwrap_or_else(|| "".into()),
        (Type::Quantities, value) => value.map(|one| one["string"].clone()).unwrap_or_default(),
        (_, value) => value.map(|list| list["items"].clone()).unwrap_or_default(),
    };
    let map = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
    map.as_object_mut()
        .ok_or(ProtoError::Malformed)?
        .insert(key.into(), value);
    Ok(())
}

fn text(bytes: &[u8]) -> Result<Value, ProtoError> {
    std::str::from_utf8(bytes)
        .map(Value::from)
        .map_err(|_| ProtoError::Malformed)
}

fn time(bytes: &[u8]) -> Result<Option<String>, ProtoError> {
    let fields = message(
        bytes,
        &[(1, "seconds", Type::Int), (2, "nanos", Type::Dropped)],
        0,
    )?;
    let seconds = fields.get("seconds").and_then(Value::as_i64);
    let at = seconds
        .map(jiff::Timestamp::from_second)
        .transpose()
        .map_err(|_| ProtoError::Malformed)?;
    Ok(at.map(mainstay_base::clock::rfc3339_seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }

    fn enveloped(kind: &str, raw: &[u8]) -> Vec<u8> {
        let types = [bytes(1, b"authorization.k8s.io/v1"), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &types), bytes(2, raw)].concat()
    }

    #[test]
    fn reviews_are_read() {
        let attributes = [bytes(1, b"default"), bytes(2, b"create"), bytes(5, b"pods")].concat();
        let body = enveloped("SelfSubjectAccessReview", &bytes(2, &bytes(1, &attributes)));
        assert_eq!(
            to_json(&body).unwrap().to_string(),
            r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":{"namespace":"default","resource":"pods","verb":"create"}}}"#
        );
    }

    #[test]
    fn other_kinds_are_unknown() {
        assert_eq!(
            to_json(&enveloped("Pod", b"")),
            Err(ProtoError::Unknown("Pod".into()))
        );
        assert_eq!(to_json(b"{}"), Err(ProtoError::Malformed));
    }

    proptest! {
        #[test]
        fn damaged_bytes_are_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = to_json(&enveloped("CertificateSigningRequest", &noise[..noise.len().min(100)]));
            let _ = to_json(&[MAGIC, &noise].concat());
        }
    }
}
