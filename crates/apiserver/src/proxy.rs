//! Requests that are passed on to node agents: logs, exec, attach, port-forward, node proxy.

use std::sync::Arc;

use http::Response;

use crate::body::Body;
use crate::resources::Resource;
use crate::serve::Call;
use crate::server::Server;
use crate::status::{ApiError, ApiResult};

/// How the server reaches node agents.
#[derive(Debug)]
pub struct NodeClient {}

/// Passes a request on.
///
/// # Errors
/// 404 for a pod's node that does not exist, 502 when the node does not answer.
pub async fn serve(
    _server: &Arc<Server>,
    _resource: &Arc<Resource>,
    _call: Call,
) -> ApiResult<Response<Body>> {
    Err(ApiError::unavailable(
        "node agents cannot be reached from this server yet",
    ))
}
