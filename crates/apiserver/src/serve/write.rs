//! Create, PUT, PATCH, DELETE and questions that are answered without storing anything.

use std::sync::Arc;

use http::{Response, StatusCode, header};
use mainstay_objects::decode::Parsed;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Call;
use super::options::{DeleteOptions, WriteOptions};
use super::read::{self, wanted};
use crate::body::Body;
use crate::cache::PageRequest;
use crate::negotiate::{self, Content, unsupported};
use crate::registry::update::Made;
use crate::registry::{Write, create as registry_create, delete as registry_delete, meta_text, update};
use crate::resources::{Gvk, Resource};
use crate::respond::{self, ListMeta, Wanted};
use crate::schema;
use crate::server::Server;
use mainstay_access::hooks::Ask;
use mainstay_access::status::{ApiError, ApiResult};

/// How many deletes of a deletecollection run at once.
const DELETE_PARALLEL: usize = 16;

/// Makes the frame of a write from a request.
pub fn frame<'a>(
    server: &'a Server,
    resource: &'a Arc<Resource>,
    call: &'a Call,
    options: WriteOptions,
) -> Write<'a> {
    let manager = match options.manager.as_str() {
        "" => manager_of(call.header(header::USER_AGENT)),
        given => given.to_string(),
    };
    Write {
        server,
        resource,
        subresource: &call.info.subresource,
        namespace: call.namespace(resource),
        name: &call.info.name,
        user: &call.user,
        options,
        manager,
    }
}

/// The field manager of a client that names none: the first part of its User-Agent.
fn manager_of(user_agent: &str) -> String {
    let name = user_agent.split('/').next().unwrap_or_default().trim();
    let name: String = name
        .chars()
        .filter(|letter| !letter.is_control())
        .take(128)
        .collect();
    if name.is_empty() { "unknown".into() } else { name }
}

fn object_content(call: &Call) -> ApiResult<Content> {
    match negotiate::content(&call.parts.headers)? {
        content @ (Content::Json | Content::Yaml | Content::Protobuf) => Ok(content),
        _ => Err(unsupported(call.header(header::CONTENT_TYPE))),
    }
}

/// Answers a create.
///
/// # Errors
/// As upstream.
pub async fn create(
    server: &Arc<Server>,
    resource: &Arc<Resource>,
    call: &Call,
) -> ApiResult<Response<Body>> {
    if !resource.allows("get") {
        return match (&*resource.store, resource.gvk.kind.as_str()) {
            ("core/bindings", _) => super::bindings::bind_plain(server, call).await,
            _ => ask(server, resource, &resource.gvk, call).await,
        };
    }
    let mut wanted = wanted(call, resource)?;
    let options = WriteOptions::parse(&call.query, "CreateOptions", false)?;
    let content = object_content(call)?;
    let decoded = schema::decode(resource, &resource.gvk, &call.body, content, options.validation)?;
    let write = frame(server, resource, call, options);
    let written = registry_create::create(&write, decoded.value, false).await?;
    wanted
        .warnings
        .extend(decoded.warnings.into_iter().chain(written.warnings));
    Ok(respond::object(
        StatusCode::CREATED,
        resource,
        &written.object,
        &wanted,
    ))
}

/// Answers a PUT of an object or subresource.
///
/// # Errors
/// As upstream.
pub async fn put(server: &Arc<Server>, resource: &Arc<Resource>, call: &Call) -> ApiResult<Response<Body>> {
    let mut wanted = wanted(call, resource)?;
    let options = WriteOptions::parse(&call.query, "UpdateOptions", false)?;
    let content = object_content(call)?;
    let decoded = schema::decode(resource, &resource.gvk, &call.body, content, options.validation)?;
    let (validation, first) = (options.validation, Mutex::new(Some(decoded.value)));
    let write = frame(server, resource, call, options);
    let change = |_: Option<&Value>| {
        let again = || schema::decode(resource, &resource.gvk, &call.body, content, validation);
        let first = first.lock().take();
        Ok(Made {
            object: first.map_or_else(|| again().map(|decoded| decoded.value), Ok)?,
            warnings: Vec::new(),
            tracked: false,
        })
    };
    let written = update::update(&write, &change, creates_on_update(resource)).await?;
    wanted
        .warnings
        .extend(decoded.warnings.into_iter().chain(written.warnings));
    let code = if written.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(respond::object(code, resource, &written.object, &wanted))
}

/// Resources whose PUT makes an absent object.
fn creates_on_update(resource: &Resource) -> bool {
    matches!(&*resource.store, "coordination.k8s.io/leases")
}

/// Answers a patch of any kind.
///
/// # Errors
/// As upstream.
pub async fn patch(server: &Arc<Server>, resource: &Arc<Resource>, call: &Call) -> ApiResult<Response<Body>> {
    let mut wanted = wanted(call, resource)?;
    let content = match negotiate::content(&call.parts.headers)? {
        Content::Json | Content::Yaml | Content::Protobuf => {
            return Err(unsupported(call.header(header::CONTENT_TYPE)));
        }
        content => content,
    };
    let apply = content == Content::Apply;
    let options = WriteOptions::parse(&call.query, "PatchOptions", apply)?;
    let write = frame(server, resource, call, options);
    let written = match apply {
        true => apply_patch(&write, &call.body).await?,
        false => {
            let change = |old: Option<&Value>| patched(&write, content, old, &call.body);
            update::update(&write, &change, false).await?
        }
    };
    wanted.warnings.extend(written.warnings);
    let code = if written.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(respond::object(code, resource, &written.object, &wanted))
}

fn patched(write: &Write<'_>, content: Content, old: Option<&Value>, body: &[u8]) -> ApiResult<Made> {
    let kind = &write.resource.gvk;
    let old = old.ok_or_else(|| ApiError::not_found(&kind.group, &write.resource.plural, write.name))?;
    let new = schema::patch(write.resource, kind, content, old, body)?;
    let fitted = schema::fit(
        write.resource,
        kind,
        Parsed::from_value(new),
        write.options.validation,
    );
    let schema::Decoded {
        value: mut object,
        warnings,
    } = fitted.map_err(|error| misfit(&error))?;
    if meta_text(&object, "resourceVersion") == meta_text(old, "resourceVersion") {
        crate::registry::metadata(&mut object).remove("resourceVersion");
    }
    Ok(Made {
        object,
        warnings,
        tracked: false,
    })
}

/// A patched object that no longer fits its type is unprocessable, not a bad request.
fn misfit(error: &ApiError) -> ApiError {
    if error.message.starts_with("strict decoding error") {
        return error.clone();
    }
    schema::misfit(&error.message)
}

async fn apply_patch(write: &Write<'_>, body: &[u8]) -> ApiResult<crate::registry::Written> {
    let resource = write.resource;
    let kind = &resource.gvk;
    let decoded = schema::decode_applied(resource, kind, body, write.options.validation)?;
    let now = mainstay_base::clock::rfc3339_seconds(write.server.clock.now());
    let change = |old: Option<&Value>| {
        let track = schema::Track {
            resource,
            manager: &write.manager,
            subresource: write.subresource,
            now: &now,
        };
        let mut object = track.apply(old, &decoded.value, write.options.force)?;
        let given = meta_text(&decoded.value, "resourceVersion");
        match given {
            "" => drop(crate::registry::metadata(&mut object).remove("resourceVersion")),
            given => {
                drop(crate::registry::metadata(&mut object).insert("resourceVersion".into(), given.into()))
            }
        }
        Ok(Made {
            object,
            warnings: decoded.warnings.clone(),
            tracked: true,
        })
    };
    update::update(write, &change, write.subresource.is_empty()).await
}

/// The options in a delete's body.
fn delete_body(call: &Call) -> ApiResult<Value> {
    if call.body.is_empty() {
        return Ok(Value::Null);
    }
    let content = object_content(call)?;
    if content == Content::Protobuf {
        return schema::from_protobuf(&call.body);
    }
    let value: Result<Value, String> = match content {
        Content::Yaml => serde_yaml_ng::from_slice(&call.body).map_err(|error| error.to_string()),
        _ => serde_json::from_slice(&call.body).map_err(|error| error.to_string()),
    };
    value.map_err(ApiError::bad_request)
}

fn delete_write_options(options: &DeleteOptions) -> WriteOptions {
    WriteOptions {
        dry_run: options.dry_run,
        validation: super::options::FieldValidation::Ignore,
        manager: String::new(),
        force: false,
    }
}

/// Answers a delete.
///
/// # Errors
/// As upstream.
pub async fn delete(
    server: &Arc<Server>,
    resource: &Arc<Resource>,
    call: &Call,
) -> ApiResult<Response<Body>> {
    let wanted = wanted(call, resource)?;
    let options = DeleteOptions::parse(&call.query, &delete_body(call)?)?;
    let write = frame(server, resource, call, delete_write_options(&options));
    let deleted = registry_delete::delete(&write, &options).await?;
    if !deleted.gone || deleted.graceful || resource.custom.is_none() && &*resource.store == "core/namespaces"
    {
        return Ok(respond::object(
            StatusCode::OK,
            resource,
            &deleted.object,
            &wanted,
        ));
    }
    Ok(respond::value(
        StatusCode::OK,
        resource,
        deleted_status(resource, call, &deleted.object.uid()),
        &wanted,
    ))
}

fn deleted_status(resource: &Resource, call: &Call, uid: &str) -> Value {
    let mut details = json!({"name": call.info.name, "kind": resource.plural, "uid": uid});
    if !resource.gvk.group.is_empty() {
        details["group"] = resource.gvk.group.as_str().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Answers a deletecollection with the objects it deleted.
///
/// # Errors
/// The first that is not "not found".
pub async fn delete_collection(
    server: &Arc<Server>,
    resource: &Arc<Resource>,
    call: &Call,
) -> ApiResult<Response<Body>> {
    let wanted = wanted(call, resource)?;
    let options = DeleteOptions::parse(&call.query, &delete_body(call)?)?;
    let selection = read::selection(resource, call)?;
    read::reach(server, None).await?;
    let namespace = Some(call.namespace(resource)).filter(|namespace| !namespace.is_empty());
    let namespace = if resource.namespaced { namespace } else { Some("") };
    let request = PageRequest {
        namespace,
        ..PageRequest::default()
    };
    let caches = server.caches();
    let page = caches
        .resource(&resource.store)
        .page(&request, &selection, caches.revision());
    let page = page.map_err(|_| ApiError::internal("the present is always there"))?;
    for batch in page.objects.chunks(DELETE_PARALLEL) {
        let deletes = batch.iter().map(|object| async {
            let (namespace, name) = (object.namespace().into_owned(), object.name().into_owned());
            let frame = frame(server, resource, call, delete_write_options(&options));
            let write = Write {
                namespace: &namespace,
                name: &name,
                ..frame
            };
            registry_delete::delete(&write, &options).await
        });
        for outcome in futures::future::join_all(deletes).await {
            match outcome {
                Err(error) if error.code != 404 => return Err(error),
                _ => {}
            }
        }
    }
    let meta = ListMeta {
        revision: page.revision,
        ..ListMeta::default()
    };
    Ok(respond::list(resource, page.objects, &meta, &wanted))
}

/// Answers a create that stores nothing: access reviews, token reviews, token requests.
///
/// # Errors
/// 404 when nobody answers such questions.
pub async fn ask(
    server: &Arc<Server>,
    resource: &Arc<Resource>,
    kind: &Gvk,
    call: &Call,
) -> ApiResult<Response<Body>> {
    let wanted: Wanted = wanted(call, resource)?;
    let options = WriteOptions::parse(&call.query, "CreateOptions", false)?;
    let content = object_content(call)?;
    let decoded = schema::decode(resource, kind, &call.body, content, options.validation)?;
    let ask = Ask {
        info: &call.info,
        user: &call.user,
        object: decoded.value,
        world: &**server.caches(),
        authorize: &server.hooks,
    };
    for answer in &server.hooks.answer {
        if let Some(result) = answer.answer(&ask).await {
            return Ok(respond::value(StatusCode::CREATED, resource, result?, &wanted));
        }
    }
    Err(ApiError::no_resource())
}
