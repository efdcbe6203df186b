//! What users cannot do in their own namespaces, whatever their roles say: change its record and isolation labels,
//! its quota and limits, the platform's own objects, or reach past it. Old and new object are both looked at, on
//! every path: create, update, every patch, status, finalize, delete.

use async_trait::async_trait;
use mainstay_access::ApiResult;
use mainstay_access::hooks::{Admit, Operation, Review, World};
use serde_json::{Map, Value};

use crate::namespaces::Owned;
use crate::rights::{Rights, forbidden};
use crate::{OWNER_ANNOTATION, PLATFORM_LABEL, TENANT_LABEL};

/// The plugin.
pub(crate) struct Guard {
    rights: Rights,
}

/// Kinds that bound a namespace: users read them.
const LIMITS: &[&str] = &["resourcequotas", "limitranges"];
/// Kinds that point traffic anywhere: the platform writes them from Services and pods.
const ADDRESSES: &[(&str, &str)] = &[("", "endpoints"), ("discovery.k8s.io", "endpointslices")];
/// Annotations of namespaces that old admission plugins read node rules from.
const NODE_RULES: &str = "scheduler.alpha.kubernetes.io/";

impl Guard {
    pub(crate) fn new(rights: Rights) -> Self {
        Guard { rights }
    }
}

#[async_trait]
impl Admit for Guard {
    async fn mutate(&self, _: &mut Review, _: &dyn World) -> ApiResult<()> {
        Ok(())
    }

    async fn validate(&self, review: &mut Review, world: &dyn World) -> ApiResult<()> {
        let refusal = match review.is("", "namespaces", &review.subresource.clone()) {
            true => namespace(review),
            false => content(review, world),
        };
        // The user's rights are asked for only when something is refused: most writes pay nothing.
        match refusal {
            Some(why) if !self.rights.is_platform(&review.user) => Err(forbidden(review, why)),
            _ => Ok(()),
        }
    }
}

fn namespace(review: &Review) -> Option<String> {
    if review.subresource == "finalize" {
        return Some("only the platform finalizes namespaces".into());
    }
    match review.operation {
        Operation::Create => created(review),
        Operation::Update => changed(review),
        _ => None,
    }
}

/// The record of a new namespace was just written by the ownership rule; what remains must not be invented.
fn created(review: &Review) -> Option<String> {
    let meta = &review.object["metadata"];
    let labels = fields(&meta["labels"]).into_iter().filter(|(key, _)| {
        is_isolation_label(key)
            && *key != TENANT_LABEL
            && !key.ends_with("/enforce")
            && *key != "kubernetes.io/metadata.name"
    });
    let annotations = fields(&meta["annotations"])
        .into_iter()
        .filter(|(key, _)| key.starts_with(NODE_RULES));
    let first = labels.chain(annotations).map(|(key, _)| key.clone()).next();
    if let Some(key) = first {
        return Some(format!("only the platform sets {key}"));
    }
    (!meta["ownerReferences"].is_null())
        .then(|| "only the platform sets owner references of namespaces".into())
}

fn changed(review: &Review) -> Option<String> {
    let (old, new) = (&review.old["metadata"], &review.object["metadata"]);
    let annotation = |key: &str| key == OWNER_ANNOTATION || key.starts_with(NODE_RULES);
    let first = first_change(&old["labels"], &new["labels"], is_isolation_label)
        .or_else(|| first_change(&old["annotations"], &new["annotations"], annotation));
    if let Some(key) = first {
        return Some(format!("only the platform changes {key}"));
    }
    if old["ownerReferences"] != new["ownerReferences"] {
        return Some("only the platform changes owner references of namespaces".into());
    }
    (review.old["spec"]["finalizers"] != review.object["spec"]["finalizers"])
        .then(|| "only the platform changes finalizers of namespaces".into())
}

fn is_isolation_label(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    domain == "pod-security.kubernetes.io"
        || domain == "mainstay.dev"
        || domain.ends_with(".mainstay.dev")
        || key == "kubernetes.io/metadata.name"
}

fn fields(map: &Value) -> Vec<(&String, &Value)> {
    map.as_object().into_iter().flatten().collect()
}

/// The first protected key whose value differs.
fn first_change(old: &Value, new: &Value, protected: impl Fn(&str) -> bool) -> Option<String> {
    let empty = Map::new();
    let (old, new) = (
        old.as_object().unwrap_or(&empty),
        new.as_object().unwrap_or(&empty),
    );
    let keys = old.keys().chain(new.keys());
    keys.filter(|key| protected(key) && old.get(*key) != new.get(*key))
        .map(String::clone)
        .next()
}

/// Refusals inside users' namespaces; the namespace is looked up only for what could be refused.
fn content(review: &Review, world: &dyn World) -> Option<String> {
    if review.namespace.is_empty() || review.operation == Operation::Connect {
        return None;
    }
    let why = protected(review)?;
    Owned::lookup(&review.namespace, world).map(|_| why)
}

fn protected(review: &Review) -> Option<String> {
    if review.group.is_empty() && LIMITS.contains(&review.resource.as_str()) {
        return Some("only the platform changes the limits of a namespace".into());
    }
    if ADDRESSES.contains(&(review.group.as_str(), review.resource.as_str())) {
        return Some("only the platform writes endpoints".into());
    }
    if review.is("", "pods", "binding") || review.is("", "bindings", "") {
        return Some("only the scheduler binds pods".into());
    }
    is_platforms(&review.object).or_else(|| is_platforms(&review.old))
}

/// Whether an object is the platform's own: by its label, or because a tenant owns it.
fn is_platforms(object: &Value) -> Option<String> {
    let meta = &object["metadata"];
    let owners = meta["ownerReferences"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let tenant = |owner: &Value| {
        owner["kind"] == "Tenant"
            && owner["apiVersion"]
                .as_str()
                .is_some_and(|version| version.starts_with("mainstay.dev/"))
    };
    let marked = !meta["labels"][PLATFORM_LABEL].is_null() || owners.iter().any(tenant);
    marked.then(|| "it is the platform's own".into())
}
