//! Restarts the machine's services when the repair ladder asks for it, and says so on the Node. Detection does this
//! because it still runs when the agent or the runtime hangs. Alone writes the annotation of what was carried out.

use std::path::Path;
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use mainstay_api::repair::{RESTART_SERVICES_ANNOTATION, SERVICES_RESTARTED_ANNOTATION};
use mainstay_base::error::chain;
use mainstay_control::{Cache, CancellationToken, Scope, projection};
use mainstay_host::supervise::{self, Service};
use serde_json::json;
use tokio::sync::Notify;

/// What the image's pid 1 keeps running.
const SERVICES: &str = "/usr/lib/mainstay/services.json";
/// The service that this code runs in: it restarts the others.
const OWN: &str = "detect";
/// Wait after a failed write.
const RETRY: Duration = Duration::from_secs(5);

projection! {
    /// A Node, as far as requests to it are concerned.
    pub struct Asked = "" "v1" "Node" "nodes" cluster {}
}

/// The request that is still to be carried out.
fn due(node: &Asked) -> Option<String> {
    let annotation = |key: &str| node.annotations().get(key).filter(|id| !id.is_empty());
    let asked = annotation(RESTART_SERVICES_ANNOTATION)?;
    (annotation(SERVICES_RESTARTED_ANNOTATION) != Some(asked)).then(|| asked.clone())
}

/// Follows the node's own object until told to stop.
pub async fn follow(client: Client, node: &str, stop: CancellationToken) {
    let scope = Scope {
        fields: Some(format!("metadata.name={node}")),
        ..Default::default()
    };
    let nodes: Cache<Asked> = Cache::start(&client, scope, stop.child_token());
    let changed = std::sync::Arc::new(Notify::new());
    let wake = changed.clone();
    nodes.listen(move |_| wake.notify_one());
    let api: Api<Asked> = Api::all(client);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed.notified() => {}
        }
        let asked = nodes.select(|_| true).pop().and_then(|node| due(&node));
        if let Some(id) = asked
            && let Err(error) = carry_out(&api, node, &id).await
        {
            tracing::warn!(problem = chain(&error), "the services' restart was not reported");
            tokio::time::sleep(RETRY).await;
            changed.notify_one();
        }
    }
}

/// Ends the services, which pid 1 starts again at once; then reports it. Doing it twice does no harm.
async fn carry_out(api: &Api<Asked>, node: &str, id: &str) -> Result<(), kube::Error> {
    let ended = tokio::task::spawn_blocking(|| end_services(Path::new(SERVICES)))
        .await
        .unwrap_or_else(|error| Err(error.to_string()));
    match ended {
        Ok(names) => tracing::info!(request = id, services = names.join(","), "services are restarted"),
        Err(problem) => {
            // Not reported as done: the ladder goes on to the next rung when its time is over.
            tracing::error!(request = id, problem, "services cannot be restarted");
            return Ok(());
        }
    }
    let patch = json!({"metadata": {"annotations": {SERVICES_RESTARTED_ANNOTATION: id}}});
    api.patch(node, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map(|_| ())
}

fn end_services(list: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read(list).map_err(|error| format!("{}: {error}", list.display()))?;
    let services: Vec<Service> =
        serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", list.display()))?;
    let others: Vec<Service> = services
        .into_iter()
        .filter(|service| !service.once && service.name != OWN)
        .collect();
    supervise::end_services(&others).map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_due_until_its_very_id_is_reported() {
        let mut node = Asked::default();
        assert_eq!(due(&node), None);
        let annotations = node.annotations_mut();
        annotations.insert(RESTART_SERVICES_ANNOTATION.into(), "r-1".into());
        assert_eq!(due(&node).as_deref(), Some("r-1"));
        node.annotations_mut()
            .insert(SERVICES_RESTARTED_ANNOTATION.into(), "r-0".into());
        assert_eq!(due(&node).as_deref(), Some("r-1"));
        node.annotations_mut()
            .insert(SERVICES_RESTARTED_ANNOTATION.into(), "r-1".into());
        assert_eq!(due(&node), None);
    }
}
