//! Get and list, from the watch caches.

use std::sync::Arc;

use http::{Response, StatusCode};

use super::Call;
use super::options::{Continue, ListOptions, Match, revision};
use crate::body::Body;
use crate::cache::{PageRequest, Selection};
use crate::negotiate::{self, Offer};
use crate::resources::Resource;
use crate::respond::{self, ListMeta, Wanted};
use crate::server::Server;
use crate::shape::tables::Include;
use mainstay_access::object::Object;
use mainstay_access::status::{ApiError, ApiResult, Cause};

/// Reads how a request wants its answer.
///
/// # Errors
/// 406 when that cannot be had.
pub fn wanted(call: &Call, resource: &Resource) -> ApiResult<Wanted> {
    let offer = Offer {
        shapes: true,
        protobuf: resource.custom.is_none(),
    };
    let format = negotiate::format(&call.parts.headers, call.query.flag("pretty"), offer)?;
    let include_object = Include::parse(call.query.get("includeObject").unwrap_or_default());
    Ok(Wanted {
        format,
        include_object,
        now: call.received,
        warnings: Vec::new(),
    })
}

/// Answers a get.
///
/// # Errors
/// 404, or 504 for a revision that has not happened yet.
pub async fn get(server: &Server, resource: &Arc<Resource>, call: &Call) -> ApiResult<Response<Body>> {
    let wanted = wanted(call, resource)?;
    reach(server, revision(&call.query)?).await?;
    let found = find(server, resource, call.namespace(resource), &call.info.name)?;
    Ok(respond::object(StatusCode::OK, resource, &found, &wanted))
}

/// Looks up an object in the cache.
///
/// # Errors
/// 404.
pub fn find(server: &Server, resource: &Resource, namespace: &str, name: &str) -> ApiResult<Arc<Object>> {
    let found = server.caches().resource(&resource.store).get(namespace, name);
    found.ok_or_else(|| ApiError::not_found(&resource.gvk.group, &resource.plural, name))
}

/// Waits until the caches are as new as a client wants: `None` = as the newest write, 0 = as they are.
///
/// # Errors
/// 504 for a revision that has not happened yet.
pub async fn reach(server: &Server, revision: Option<u64>) -> ApiResult<()> {
    let caches = server.caches();
    match revision {
        Some(0) => Ok(()),
        None => caches
            .fresh()
            .await
            .map_err(|error| ApiError::unavailable(error.to_string())),
        Some(wanted) if wanted <= caches.revision() => Ok(()),
        Some(wanted) => {
            let current = caches
                .store()
                .current()
                .await
                .map_err(|e| ApiError::unavailable(e.to_string()))?;
            if wanted > current || !caches.reach(wanted).await {
                return Err(too_new(wanted, current));
            }
            Ok(())
        }
    }
}

fn too_new(wanted: u64, current: u64) -> ApiError {
    let message = format!("Too large resource version: {wanted}, current: {current}");
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
        .cause(Cause::new(
            "ResourceVersionTooLarge",
            "",
            "Too large resource version",
        ))
        .retry_after(1)
}

/// Compiles a request's selectors.
///
/// # Errors
/// 400 when they make no sense.
pub fn selection(resource: &Resource, call: &Call) -> ApiResult<Selection> {
    let text = |key: &str| call.query.get(key).unwrap_or_default();
    let selection = Selection::parse(resource, text("labelSelector"), text("fieldSelector"))?;
    Ok(match &call.visible {
        Some(visible) => selection.restrict(visible.clone()),
        None => selection,
    })
}

/// Answers a list.
///
/// # Errors
/// 400, 406, 410, 422 or 504 as upstream.
pub async fn list(server: &Server, resource: &Arc<Resource>, call: &Call) -> ApiResult<Response<Body>> {
    let wanted = wanted(call, resource)?;
    let options = ListOptions::parse(&call.query, false)?;
    let selection = selection(resource, call)?;
    let page = page(server, resource, call, &options, &selection).await?;
    let last = page
        .objects
        .last()
        .filter(|_| page.remaining > 0 && options.limit > 0);
    let meta = ListMeta {
        revision: page.revision,
        continues: last.map(|object| {
            let (namespace, name) = (object.namespace().into_owned(), object.name().into_owned());
            Continue {
                revision: page.revision,
                namespace,
                name,
            }
            .encode()
        }),
        remaining: (last.is_some() && selection.is_everything()).then_some(page.remaining),
    };
    Ok(respond::list(resource, page.objects, &meta, &wanted))
}

async fn page(
    server: &Server,
    resource: &Resource,
    call: &Call,
    options: &ListOptions,
    selection: &Selection,
) -> ApiResult<crate::cache::Page> {
    let exact = match (options.matching, options.revision) {
        (Match::Exact, at) => at,
        (Match::Unset, Some(at)) if options.limit > 0 && at > 0 => Some(at),
        _ => None,
    };
    let token = options.continues.as_ref();
    let at = token.map(|token| token.revision).or(exact).filter(|at| *at > 0);
    reach(server, at.or(options.revision)).await?;
    let namespace = Some(call.namespace(resource)).filter(|namespace| !namespace.is_empty());
    let request = PageRequest {
        namespace: if resource.namespaced { namespace } else { Some("") },
        at,
        after: token.map(|token| (token.namespace.as_str(), token.name.as_str())),
        limit: options.limit,
    };
    let caches = server.caches();
    let applied = caches.revision();
    caches
        .resource(&resource.store)
        .page(&request, selection, applied)
        .map_err(|floor| outlived(token, at.unwrap_or_default(), floor))
}

/// 410; a client that was reading pages gets a token with which it may go on in the present.
fn outlived(token: Option<&Continue>, at: u64, floor: u64) -> ApiError {
    let Some(token) = token else {
        return ApiError::expired(format!("too old resource version: {at} ({floor})"));
    };
    let message = "The provided continue parameter is too old to display a consistent list result. Start a new list without \
                   it, or use the token in this answer to go on with objects that may have changed meanwhile.";
    let inconsistent = Continue {
        revision: 0,
        ..token.clone()
    };
    ApiError {
        continues: Some(inconsistent.encode().into()),
        ..ApiError::expired(message)
    }
}
