//! Requests that are passed on to node agents and pods: logs, exec, attach, port-forward, proxy. Bytes pass through
//! unparsed; SPDY and WebSocket v4 are the runtime's business, what it does not speak is refused so that clients fall
//! back.

mod forward;
mod pods;
mod target;

pub use forward::NodeClient;

use std::sync::Arc;

use http::{Response, StatusCode, header};
use serde_json::Value;

use crate::body::Body;
use crate::resources::Resource;
use crate::serve::{Call, read};
use crate::server::Server;
use mainstay_access::hooks::{Authorize as _, Decision, Operation, Review};
use mainstay_access::status::{ApiError, ApiResult};

/// WebSocket subprotocols that container runtimes speak.
const WEBSOCKET: [&str; 4] = [
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];

/// Passes a request on.
///
/// # Errors
/// 404 for an absent pod, node or container, 400 for a protocol that cannot be passed on, 502 when the other side
/// does not answer.
pub async fn serve(server: &Arc<Server>, resource: &Arc<Resource>, call: Call) -> ApiResult<Response<Body>> {
    connects(server, resource, &call).await?;
    let subresource = call.info.subresource.as_str();
    let target = match (&*resource.store, subresource) {
        ("core/nodes", _) => target::node(server, &call)?,
        ("core/services", _) => target::service(server, &call)?,
        ("core/pods", "proxy") => target::pod(server, &call)?,
        _ => {
            read::reach(server, None).await?;
            match pods::target(server, &call)? {
                Some(target) => target,
                None => return Ok(crate::respond::plain(StatusCode::NO_CONTENT, "text/plain", "")),
            }
        }
    };
    refuse_protocol(&call)?;
    forward::forward(server, target, call).await
}

/// Opening a connection is more than reading: whoever upgrades needs the right to create, and admission is asked.
async fn connects(server: &Server, resource: &Resource, call: &Call) -> ApiResult<()> {
    if call.info.subresource == "log" {
        return Ok(());
    }
    if call.info.subresource != "proxy" && call.info.verb == "get" {
        let mut attributes = call.info.attributes(&call.user, &call.query);
        attributes.verb = "create";
        let decision = server.hooks.authorize(&attributes).await;
        if let Decision::Deny(why) | Decision::NoOpinion(why) = decision {
            return Err(crate::chain::forbidden(&attributes, &why));
        }
    }
    let mut review = Review {
        operation: Operation::Connect,
        group: resource.gvk.group.clone(),
        version: resource.gvk.version.clone(),
        resource: resource.plural.clone(),
        subresource: call.info.subresource.clone(),
        kind: resource.gvk.kind.clone(),
        namespace: call.info.namespace.clone(),
        name: call.info.name.clone(),
        user: call.user.clone(),
        object: Value::Null,
        old: Value::Null,
        options: Value::Null,
        dry_run: false,
        warnings: Vec::new(),
    };
    for plugin in &server.hooks.admit {
        plugin.validate(&mut review, &**server.caches()).await?;
    }
    Ok(())
}

/// Refuses WebSocket subprotocols that no runtime speaks (v5, tunnelled port-forward).
fn refuse_protocol(call: &Call) -> ApiResult<()> {
    let streams = matches!(call.info.subresource.as_str(), "exec" | "attach" | "portforward");
    if !streams || !call.header(header::UPGRADE).eq_ignore_ascii_case("websocket") {
        return Ok(());
    }
    let offered = call.header(header::SEC_WEBSOCKET_PROTOCOL);
    let known = offered.split(',').any(|one| WEBSOCKET.contains(&one.trim()));
    match known && call.info.subresource != "portforward" {
        true => Ok(()),
        false => Err(ApiError::bad_request(format!(
            "unable to upgrade: no subprotocol of {offered:?} is supported"
        ))),
    }
}
