//! Serves the socket where device plug-ins register, and follows those that did.

use std::sync::Arc;

use super::{RETRY, SOCKET, api, open};
use crate::pods::manager::Manager;

/// Takes registrations and follows plug-ins for as long as the agent runs.
pub async fn keep(manager: Arc<Manager>) {
    let shared = manager.shared().clone();
    let devices = shared.devices.clone();
    let taken = devices.to_follow.lock().take();
    let Some(mut to_follow) = taken else { return };
    let listener = loop {
        match open(&devices.folder, SOCKET) {
            Ok(listener) => break listener,
            Err(error) => tracing::error!(%error, "could not open the socket of device plug-ins"),
        }
        tokio::time::sleep(RETRY).await;
    };
    let incoming = futures::stream::unfold(listener, async |listener| {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let service = api::RegistrationService(devices.clone());
    let server = tonic::transport::Server::builder().add_service(service);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        if let Err(error) = server.serve_with_incoming(incoming).await {
            tracing::error!(
                error = mainstay_base::error::chain(&error),
                "device plug-ins cannot register any more"
            );
        }
    });
    loop {
        tokio::select! {
            Some(registered) = to_follow.recv() => {
                let devices = devices.clone();
                tasks.spawn(async move { devices.follow(registered).await });
            }
            () = devices.changed.notified() => shared.status_wanted.notify_one(),
            () = tokio::time::sleep(RETRY) => {
                if manager.knows_all() {
                    devices.release_all_but(&manager.uids(|_| true));
                }
            }
        }
    }
}
