//! Creates.

use serde_json::Value;

use super::commit::{Failure, Goal};
use super::{Write, Written, meta_text, metadata, strategy};
use crate::convert;
use crate::schema;
use mainstay_access::hooks::{Operation, Review};
use mainstay_access::status::{ApiError, ApiResult, Cause};

/// How often an address and a port are chosen anew when another server over the same store takes them first.
const CHOICES: usize = 20;
/// How many generated names are tried.
const NAME_TRIES: usize = 8;
/// Generated names are cut so that the suffix fits into this length.
const NAME_LENGTH: usize = 63;

/// Creates an object from its served form. `tracked`: its managedFields are already right.
///
/// # Errors
/// 400, 403, 404, 409, 422 as upstream.
pub async fn create(write: &Write<'_>, served: Value, tracked: bool) -> ApiResult<Written> {
    check(write, &served)?;
    let mut object = convert::to_stored(write.resource, served);
    if write.resource.namespaced {
        metadata(&mut object).insert("namespace".into(), write.namespace.into());
    }
    if &*write.resource.store == "certificates.k8s.io/certificatesigningrequests" {
        name_requester(write, &mut object);
    }
    let generated = meta_text(&object, "name").is_empty() && !meta_text(&object, "generateName").is_empty();
    if !generated {
        let name = meta_text(&object, "name").to_string();
        let stored = store(write, object, tracked).await?;
        return stored.ok_or_else(|| exists(write, &name));
    }
    for _ in 0..NAME_TRIES {
        let mut named = object.clone();
        let name = generated_name(write, meta_text(&named, "generateName"));
        metadata(&mut named).insert("name".into(), name.into());
        if let Some(written) = store(write, named, tracked).await? {
            return Ok(written);
        }
    }
    Err(exists(write, meta_text(&object, "generateName")).retry_after(1))
}

/// Stores an object that has its name; `None` when the name is taken.
async fn store(write: &Write<'_>, object: Value, tracked: bool) -> ApiResult<Option<Written>> {
    if write.server.allocator.chooses_for(write.resource) {
        for _ in 1..CHOICES {
            match once(write, object.clone(), tracked).await {
                Err(Failure::Taken) => {}
                Err(Failure::Raced) => return Ok(None),
                Err(Failure::Refused(error)) => return Err(error),
                Ok(written) => return Ok(Some(written)),
            }
        }
    }
    match once(write, object, tracked).await {
        Err(Failure::Taken) => Err(ApiError::too_many_requests(
            "too many writes contend for addresses and ports, try again",
            1,
        )),
        Err(Failure::Raced) => Ok(None),
        Err(Failure::Refused(error)) => Err(error),
        Ok(written) => Ok(Some(written)),
    }
}

async fn once(write: &Write<'_>, object: Value, tracked: bool) -> Result<Written, Failure> {
    let review = admitted(write, object, tracked).await?;
    let goal = Goal::Create(&review.object);
    let object = write.commit(&review.name, goal, &review).await?;
    Ok(Written {
        object,
        created: true,
        warnings: review.warnings,
    })
}

/// Who asks for a certificate is what the server saw, never what the client wrote.
fn name_requester(write: &Write<'_>, object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    ["username", "uid", "groups", "extra"].iter().for_each(|field| {
        spec.remove(*field);
    });
    let user = write.user;
    spec.insert("username".into(), user.name.clone().into());
    spec.insert("groups".into(), user.groups.clone().into());
    if !user.uid.is_empty() {
        spec.insert("uid".into(), user.uid.clone().into());
    }
    if !user.extra.is_empty() {
        spec.insert("extra".into(), serde_json::json!(user.extra));
    }
}

fn exists(write: &Write<'_>, name: &str) -> ApiError {
    ApiError::already_exists(&write.resource.gvk.group, &write.resource.plural, name)
}

fn check(write: &Write<'_>, served: &Value) -> ApiResult<()> {
    let namespace = meta_text(served, "namespace");
    if !namespace.is_empty() && namespace != write.namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(ApiError::bad_request(message));
    }
    if !meta_text(served, "resourceVersion").is_empty() {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    if write.resource.namespaced && write.namespace.is_empty() {
        return Err(ApiError::bad_request(
            "an empty namespace may not be set during creation",
        ));
    }
    Ok(())
}

fn generated_name(write: &Write<'_>, base: &str) -> String {
    let suffix = write.server.suffix();
    let mut end = base.len().min(NAME_LENGTH - suffix.len());
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &base[..end])
}

/// Brings the object to the state in which it is stored: first state, defaults, admission, validation, ownership.
async fn admitted(write: &Write<'_>, mut object: Value, is_tracked: bool) -> ApiResult<Review> {
    let resource = write.resource;
    strategy::prepare_create(resource, &mut object);
    let meta = metadata(&mut object);
    meta.insert("uid".into(), mainstay_base::ids::new_uid().into());
    meta.insert("creationTimestamp".into(), write.now().into());
    let managed = meta.remove("managedFields");
    schema::default(resource, &mut object);
    write
        .server
        .allocator
        .assign(write.server, resource, &mut object, &Value::Null)?;
    if let Some(managed) = managed {
        metadata(&mut object).insert("managedFields".into(), managed);
    }
    if !is_tracked {
        // Before admission, as upstream: what plugins add belongs to nobody.
        let now = write.now();
        let track = schema::Track {
            resource,
            manager: &write.manager,
            subresource: "",
            now: &now,
        };
        track.update(&Value::Null, &mut object);
    }
    let mut review = write.review(Operation::Create, object, Value::Null);
    review.name = meta_text(&review.object, "name").to_string();
    write.mutate(&mut review).await?;
    schema::default(resource, &mut review.object);
    strategy::after_admission(resource, &mut review.object);
    refuse_invalid(
        write,
        &review.object,
        schema::validate_create(resource, &review.object),
    )?;
    write.admit(&mut review).await?;
    Ok(review)
}

/// 422 with the causes, if there are any.
pub(super) fn refuse_invalid(write: &Write<'_>, object: &Value, mut causes: Vec<Cause>) -> ApiResult<()> {
    let name = meta_text(object, "name");
    if name.is_empty() && !causes.iter().any(|cause| cause.field == "metadata.name") {
        let text = "Required value: name or generateName is required";
        causes.insert(0, Cause::new("FieldValueRequired", "metadata.name", text));
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(
        &write.resource.gvk.group,
        &write.resource.gvk.kind,
        name,
        causes,
    ))
}
