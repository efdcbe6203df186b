//! The handlers behind the request chain, one module per kind of request.

pub mod bindings;
pub mod discovery;
pub mod eviction;
pub mod health;
pub mod options;
pub mod read;
pub mod scale;
pub mod watch;
pub mod write;

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};

use crate::body::Body;
use crate::resources::Resource;
use crate::server::Server;
use crate::{proxy, respond};
use mainstay_access::hooks::Visible;
use mainstay_access::info::RequestInfo;
use mainstay_access::query::Query;
use mainstay_access::status::{ApiError, ApiResult};
use mainstay_access::user::UserInfo;

/// One request after authentication and authorization, with its body read.
pub struct Call {
    /// Method, URI and headers.
    pub parts: Parts,
    /// The body, empty for none.
    pub body: Bytes,
    /// The decoded query.
    pub query: Query,
    /// What the request is about.
    pub info: Arc<RequestInfo>,
    /// Who makes it.
    pub user: Arc<UserInfo>,
    /// When it came.
    pub received: jiff::Timestamp,
    /// What the user may see, for filtered lists.
    pub visible: Option<Visible>,
}

impl Call {
    /// A header as text, empty when absent.
    pub fn header(&self, name: http::HeaderName) -> &str {
        self.parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The namespace that a resource request is about; empty for cluster-scoped resources.
    pub fn namespace(&self, resource: &Resource) -> &str {
        if resource.namespaced {
            &self.info.namespace
        } else {
            ""
        }
    }
}

/// Answers a request.
///
/// # Errors
/// Whatever the client must hear.
pub async fn dispatch(server: &Arc<Server>, call: Call) -> ApiResult<Response<Body>> {
    if !call.info.is_resource {
        return Ok(plain_path(server, &call));
    }
    let catalog = server.catalog();
    let info = &call.info;
    let Some(resource) = catalog.find(&info.group, &info.version, &info.resource).cloned() else {
        return Err(ApiError::no_resource());
    };
    if info.is_named_path() && resource.namespaced && info.namespace.is_empty() {
        return Err(ApiError::no_resource());
    }
    if !resource.namespaced && !info.namespace.is_empty() && &*resource.store != "core/namespaces" {
        return Err(ApiError::no_resource());
    }
    let mut response = match info.subresource.as_str() {
        "" => object_request(server, &resource, &call).await?,
        _ => Box::pin(subresource_request(server, &resource, call)).await?,
    };
    if let Some(text) = &resource.deprecated {
        respond::warn(&mut response, std::slice::from_ref(text));
    }
    Ok(response)
}

fn plain_path(server: &Arc<Server>, call: &Call) -> Response<Body> {
    health::serve(server, call)
        .or_else(|| discovery::serve(server, call))
        .or_else(|| document(server, &call.info.path))
        .unwrap_or_else(|| respond::text(StatusCode::NOT_FOUND, "404 page not found\n"))
}

/// A JSON document that policy serves, for example the keys of service account tokens.
fn document(server: &Server, path: &str) -> Option<Response<Body>> {
    let found = server
        .hooks
        .answer
        .iter()
        .find_map(|answer| answer.document(path))?;
    Some(respond::plain(
        StatusCode::OK,
        "application/json",
        found.to_string(),
    ))
}

async fn object_request(
    server: &Arc<Server>,
    resource: &Arc<Resource>,
    call: &Call,
) -> ApiResult<Response<Body>> {
    let verb = call.info.verb.as_str();
    if !resource.allows(verb) {
        return Err(ApiError::method_not_allowed());
    }
    let named = call.info.is_named();
    match verb {
        "get" => read::get(server, resource, call).await,
        "list" => read::list(server, resource, call).await,
        "watch" => watch::watch(server, resource, call).await,
        "create" if !named => write::create(server, resource, call).await,
        "update" if named => write::put(server, resource, call).await,
        "patch" if named => write::patch(server, resource, call).await,
        "delete" => write::delete(server, resource, call).await,
        "deletecollection" => write::delete_collection(server, resource, call).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

async fn subresource_request(
    server: &Arc<Server>,
    resource: &Arc<Resource>,
    call: Call,
) -> ApiResult<Response<Body>> {
    let Some(sub) = resource.subresource(&call.info.subresource) else {
        return Err(ApiError::no_resource());
    };
    if !sub.allows(&call.info.verb) {
        return Err(ApiError::method_not_allowed());
    }
    match (sub.name.as_str(), call.info.verb.as_str()) {
        ("log" | "exec" | "attach" | "portforward" | "proxy", _) => {
            proxy::serve(server, resource, call).await
        }
        ("binding", _) => bindings::bind(server, resource, &call).await,
        ("eviction", _) => eviction::evict(server, resource, &call).await,
        ("scale", _) => scale::serve(server, resource, &call).await,
        (_, "get") => read::get(server, resource, &call).await,
        (_, "update") => write::put(server, resource, &call).await,
        (_, "patch") => write::patch(server, resource, &call).await,
        (_, "create") => write::ask(server, resource, &sub.kind, &call).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}
