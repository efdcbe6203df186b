//! Fields that field selectors may name, per built-in resource. Every resource has metadata.name and
//! metadata.namespace besides.

use std::sync::Arc;

/// One selectable field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectableField {
    /// Dotted path in the stored form.
    pub path: String,
    /// What the field counts as when it is not set.
    pub unset: String,
}

impl AsRef<str> for SelectableField {
    fn as_ref(&self) -> &str {
        &self.path
    }
}

/// `path` or `path=value when unset`, by store resource.
const TABLE: &[(&str, &[&str])] = &[
    (
        "core/pods",
        &[
            "spec.nodeName",
            "status.phase",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork=false",
            "status.podIP",
            "status.nominatedNodeName",
        ],
    ),
    ("core/nodes", &["spec.unschedulable=false"]),
    ("core/namespaces", &["status.phase"]),
    ("core/secrets", &["type"]),
    ("core/services", &["spec.clusterIP", "spec.type"]),
    ("core/replicationcontrollers", &["status.replicas=0"]),
    ("apps/replicasets", &["status.replicas=0"]),
    ("batch/jobs", &["status.successful=0"]),
    (
        "certificates.k8s.io/certificatesigningrequests",
        &["spec.signerName"],
    ),
    ("certificates.k8s.io/clustertrustbundles", &["spec.signerName"]),
    (
        "certificates.k8s.io/podcertificaterequests",
        &["spec.signerName", "spec.nodeName"],
    ),
    (
        "resource.k8s.io/resourceslices",
        &["spec.nodeName", "spec.driver"],
    ),
    (
        "core/events",
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source.component",
            "type",
        ],
    ),
];

/// Names under which a field is selected that differ from its stored path.
const ALIASES: &[(&str, &str, &str)] = &[("core/events", "source", "source.component")];

/// The stored path of a field that a selector names.
pub fn stored_path<'a>(store: &str, field: &'a str) -> std::borrow::Cow<'a, str> {
    if let Some((_, _, path)) = ALIASES
        .iter()
        .find(|(of, alias, _)| *of == store && *alias == field)
    {
        return (*path).into();
    }
    match field.strip_prefix("regarding.") {
        Some(rest) if store == "core/events" => format!("involvedObject.{rest}").into(),
        _ => field.into(),
    }
}

/// The selectable fields of a built-in resource.
pub fn builtin(store: &str) -> Arc<[SelectableField]> {
    let paths = TABLE
        .iter()
        .find(|(of, _)| *of == store)
        .map_or(&[][..], |(_, paths)| paths);
    paths.iter().map(|entry| field(entry)).collect()
}

fn field(entry: &str) -> SelectableField {
    let (path, unset) = entry.split_once('=').unwrap_or((entry, ""));
    SelectableField {
        path: path.into(),
        unset: unset.into(),
    }
}
