//! Updates: PUT, every patch, server-side apply and subresource writes, as one read-change-write loop.

use std::sync::Arc;

use mainstay_store::{Entry, Key};
use serde_json::Value;

use super::commit::{Failure, Goal, canonical};
use super::create::refuse_invalid;
use super::{Write, Written, create, finalizers, meta_text, metadata, strategy};
use crate::convert;
use crate::schema;
use mainstay_access::hooks::{Operation, Review};
use mainstay_access::object::Object;
use mainstay_access::status::{ApiError, ApiResult};

/// How often a change is applied anew when somebody else writes in between.
const TRIES: usize = 20;

/// A changed object in served form.
pub struct Made {
    /// The object.
    pub object: Value,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
    /// Whether managedFields are already right (server-side apply computes them itself).
    pub tracked: bool,
}

/// What changes an object; gets the present one in served form, `None` when it does not exist.
pub type Change<'a> = dyn Fn(Option<&Value>) -> ApiResult<Made> + Send + Sync + 'a;

/// Applies `change` to the object that `write` names.
///
/// # Errors
/// 400, 403, 404, 409, 422 as upstream; 404 also when it does not exist and `create_absent` is off.
pub async fn update(write: &Write<'_>, change: &Change<'_>, create_absent: bool) -> ApiResult<Written> {
    let key = Key::new(&write.resource.store, write.namespace, write.name);
    for _ in 0..TRIES {
        let entry = write.server.caches().store().get(&key).await;
        let entry = entry.map_err(|error| ApiError::unavailable(error.to_string()))?;
        let Some(entry) = entry else {
            if !create_absent {
                return Err(write.not_found(write.name));
            }
            return create_by_update(write, change).await;
        };
        match once(write, change, entry).await {
            Err(Failure::Raced | Failure::Taken) => {}
            Err(Failure::Refused(error)) => return Err(error),
            Ok(written) => return Ok(written),
        }
    }
    Err(modified(write))
}

fn modified(write: &Write<'_>) -> ApiError {
    ApiError::modified(&write.resource.gvk.group, &write.resource.plural, write.name)
}

async fn create_by_update(write: &Write<'_>, change: &Change<'_>) -> ApiResult<Written> {
    let mut made = change(None)?;
    if !meta_text(&made.object, "uid").is_empty() {
        let why = "uid mismatch: the provided object specified a uid, and no existing object was found";
        return Err(ApiError::conflict(
            &write.resource.gvk.group,
            &write.resource.plural,
            write.name,
            why,
        ));
    }
    metadata(&mut made.object).insert("name".into(), write.name.into());
    let mut written = create::create(write, made.object, made.tracked).await?;
    written.warnings.extend(made.warnings);
    Ok(written)
}

async fn once(write: &Write<'_>, change: &Change<'_>, entry: Entry) -> Result<Written, Failure> {
    let resource = write.resource;
    let present = Arc::new(Object::new(entry.value, entry.revision, &resource.fields));
    let old = present.value();
    let made = match resource.is_stored_as_served() {
        true => change(Some(&old))?,
        false => change(Some(&convert::to_served(resource, old.clone())))?,
    };
    check(write, &old, &made.object)?;
    let mut new = convert::to_stored(resource, made.object);
    strategy::prepare_update(resource, write.subresource, &old, &mut new);
    schema::default(resource, &mut new);
    write
        .server
        .allocator
        .assign(write.server, resource, &mut new, &old)?;
    if !made.tracked {
        let now = write.now();
        let subresource = write.subresource;
        let track = schema::Track {
            resource,
            manager: &write.manager,
            subresource,
            now: &now,
        };
        track.update(&old, &mut new);
    }
    let mut review = write.review(Operation::Update, new, old);
    write.mutate(&mut review).await?;
    schema::default(resource, &mut review.object);
    let causes = schema::validate_update(resource, write.subresource, &review.object, &review.old);
    refuse_invalid(write, &review.object, causes)?;
    write.admit(&mut review).await?;
    let warnings: Vec<String> = made
        .warnings
        .into_iter()
        .chain(std::mem::take(&mut review.warnings))
        .collect();
    let object = store(write, &present, &review).await?;
    Ok(Written {
        object,
        created: false,
        warnings,
    })
}

/// Stores a change; nothing when nothing changed; a deletion when the last finalizer of a deleted object is gone.
async fn store(write: &Write<'_>, present: &Arc<Object>, review: &Review) -> Result<Arc<Object>, Failure> {
    let new = &review.object;
    if is_finished(write, new) {
        let gone = write
            .commit(write.name, Goal::Delete(new, present.revision()), review)
            .await?;
        return Ok(gone);
    }
    let bytes = canonical(new);
    if bytes == *present.bytes() {
        return Ok(present.clone());
    }
    let goal = Goal::Replace(new, present.revision());
    write.commit_bytes(write.name, goal, bytes, review).await
}

/// Whether an object that is being deleted has nothing left to wait for.
fn is_finished(write: &Write<'_>, object: &Value) -> bool {
    let meta = &object["metadata"];
    let waits_for_node = meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
    let namespace_content = &*write.resource.store == "core/namespaces"
        && object["spec"]["finalizers"]
            .as_array()
            .is_some_and(|f| !f.is_empty());
    meta["deletionTimestamp"].is_string()
        && !waits_for_node
        && !namespace_content
        && finalizers(object).is_empty()
}

fn check(write: &Write<'_>, old: &Value, new: &Value) -> Result<(), Failure> {
    let name = meta_text(new, "name");
    if !name.is_empty() && name != write.name {
        let message = format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            write.name
        );
        return Err(ApiError::bad_request(message).into());
    }
    let namespace = meta_text(new, "namespace");
    if !namespace.is_empty() && namespace != write.namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(ApiError::bad_request(message).into());
    }
    let conflict =
        |why: String| ApiError::conflict(&write.resource.gvk.group, &write.resource.plural, write.name, why);
    let (uid, is) = (meta_text(new, "uid"), meta_text(old, "uid"));
    if !uid.is_empty() && uid != is {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {is}");
        return Err(conflict(why).into());
    }
    let (revision, is) = (
        meta_text(new, "resourceVersion"),
        meta_text(old, "resourceVersion"),
    );
    if !revision.is_empty() && revision != is {
        if revision.parse::<u64>().is_err() {
            return Err(ApiError::bad_request(format!("invalid resource version: {revision:?}")).into());
        }
        return Err(modified(write).into());
    }
    Ok(())
}
