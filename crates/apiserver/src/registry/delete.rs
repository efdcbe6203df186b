//! Deletes: preconditions, grace periods, finalizers by propagation, and the final removal.

use std::sync::Arc;

use mainstay_store::{Entry, Key};
use serde_json::{Value, json};

use super::commit::{Failure, Goal};
use super::{Write, finalizers, meta_text, metadata, set_finalizers};
use crate::serve::options::{DeleteOptions, Propagation};
use mainstay_access::hooks::Operation;
use mainstay_access::object::Object;
use mainstay_access::status::{ApiError, ApiResult};

const TRIES: usize = 20;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What a delete did.
#[derive(Debug)]
pub struct Deleted {
    /// The object as it was last, or as it is now while it waits.
    pub object: Arc<Object>,
    /// Whether it is gone; otherwise it waits for finalizers, its content or its node.
    pub gone: bool,
    /// Whether the kind answers deletes with the object even when it is gone.
    pub graceful: bool,
}

/// Deletes the object that `write` names.
///
/// # Errors
/// 404, 409 for preconditions, and whatever admission says.
pub async fn delete(write: &Write<'_>, options: &DeleteOptions) -> ApiResult<Deleted> {
    let key = Key::new(&write.resource.store, write.namespace, write.name);
    for _ in 0..TRIES {
        let entry = write.server.caches().store().get(&key).await;
        let entry = entry.map_err(|error| ApiError::unavailable(error.to_string()))?;
        let entry = entry.ok_or_else(|| write.not_found(write.name))?;
        match once(write, options, entry).await {
            Err(Failure::Raced | Failure::Taken) => {}
            Err(Failure::Refused(error)) => return Err(error),
            Ok(deleted) => return Ok(deleted),
        }
    }
    Err(ApiError::modified(
        &write.resource.gvk.group,
        &write.resource.plural,
        write.name,
    ))
}

async fn once(write: &Write<'_>, options: &DeleteOptions, entry: Entry) -> Result<Deleted, Failure> {
    let present = Arc::new(Object::new(entry.value, entry.revision, &write.resource.fields));
    let old = present.value();
    check(write, options, &old)?;
    let mut review = write.review(Operation::Delete, Value::Null, old);
    review.options = options.raw.clone();
    write.mutate(&mut review).await?;
    write.admit(&mut review).await?;
    let graceful = &*write.resource.store == "core/pods";
    let mut new = review.old.clone();
    let change = plan(write, options, &mut new);
    match change {
        Plan::Keep => Ok(Deleted {
            object: present,
            gone: false,
            graceful,
        }),
        Plan::Mark => {
            let object = write
                .commit(write.name, Goal::Replace(&new, present.revision()), &review)
                .await?;
            Ok(Deleted {
                object,
                gone: false,
                graceful,
            })
        }
        Plan::Remove => {
            let object = write
                .commit(write.name, Goal::Delete(&new, present.revision()), &review)
                .await?;
            Ok(Deleted {
                object,
                gone: true,
                graceful,
            })
        }
    }
}

fn check(write: &Write<'_>, options: &DeleteOptions, old: &Value) -> ApiResult<()> {
    let pairs = [
        ("UID", &options.uid, meta_text(old, "uid")),
        (
            "ResourceVersion",
            &options.resource_version,
            meta_text(old, "resourceVersion"),
        ),
    ];
    for (what, wanted, is) in pairs {
        if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != is) {
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({is}). The object might have been deleted and then recreated"
            );
            return Err(ApiError::conflict(
                &write.resource.gvk.group,
                &write.resource.gvk.kind,
                write.name,
                why,
            ));
        }
    }
    Ok(())
}

enum Plan {
    /// It is already on its way.
    Keep,
    /// It gets a deletionTimestamp and waits.
    Mark,
    /// It goes now.
    Remove,
}

fn plan(write: &Write<'_>, options: &DeleteOptions, object: &mut Value) -> Plan {
    let before = object.clone();
    let kept = propagate(options.propagation, finalizers(object));
    set_finalizers(object, kept);
    let grace = grace_seconds(write, options, object);
    let deleting = object["metadata"]["deletionTimestamp"].is_string();
    let holds_content = &*write.resource.store == "core/namespaces"
        && object["spec"]["finalizers"]
            .as_array()
            .is_some_and(|list| !list.is_empty());
    if grace == 0 && finalizers(object).is_empty() && !holds_content {
        if &*write.resource.store == "core/pods" {
            mark(write, object, 0);
        }
        return Plan::Remove;
    }
    let shorter = object["metadata"]["deletionGracePeriodSeconds"]
        .as_i64()
        .is_some_and(|now| grace < now);
    if !deleting || shorter {
        mark(write, object, grace);
    }
    if &*write.resource.store == "core/namespaces" {
        object["status"]["phase"] = "Terminating".into();
    }
    if *object == before { Plan::Keep } else { Plan::Mark }
}

fn mark(write: &Write<'_>, object: &mut Value, grace: i64) {
    let at = write.server.clock.now() + jiff::SignedDuration::from_secs(grace);
    let counted = object["metadata"]["generation"]
        .as_i64()
        .filter(|generation| *generation > 0);
    let first = !object["metadata"]["deletionTimestamp"].is_string();
    let meta = metadata(object);
    meta.insert(
        "deletionTimestamp".into(),
        mainstay_base::clock::rfc3339_seconds(at).into(),
    );
    meta.insert("deletionGracePeriodSeconds".into(), grace.into());
    if let Some(generation) = counted.filter(|_| first) {
        meta.insert("generation".into(), json!(generation + 1));
    }
}

/// Pods that a node runs get time to end; everything else none.
fn grace_seconds(write: &Write<'_>, options: &DeleteOptions, object: &Value) -> i64 {
    if &*write.resource.store != "core/pods" {
        return 0;
    }
    let unscheduled = object["spec"]["nodeName"].as_str().unwrap_or_default().is_empty();
    let ended = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if unscheduled || ended {
        return 0;
    }
    let own = object["spec"]["terminationGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(30);
    let wanted = options.grace_seconds.unwrap_or(own);
    let wanted = if wanted < 0 { 1 } else { wanted };
    match object["metadata"]["deletionGracePeriodSeconds"].as_i64() {
        Some(running) => wanted.min(running),
        None => wanted,
    }
}

/// The finalizers that a propagation policy means.
fn propagate(policy: Option<Propagation>, mut finalizers: Vec<String>) -> Vec<String> {
    let Some(policy) = policy else {
        return finalizers;
    };
    finalizers.retain(|finalizer| finalizer != ORPHAN && finalizer != FOREGROUND);
    match policy {
        Propagation::Orphan => finalizers.push(ORPHAN.into()),
        Propagation::Foreground => finalizers.push(FOREGROUND.into()),
        Propagation::Background => {}
    }
    finalizers
}
