//! The API server's object of this node, as last seen: its labels, its taints, and what others put into its status.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use kube::Api;
use kube::runtime::watcher::{self, Event};
use parking_lot::Mutex;

use crate::admission::predicates::NodeView;
use crate::amount::{self, Amounts};
use crate::context::Shared;
use crate::{register, reserve};

/// Wait after sight of the object was lost.
const RETRY: Duration = Duration::from_secs(5);

/// The object as last seen; `None` until the node has joined.
#[derive(Debug, Default)]
pub struct OwnNode(Mutex<Option<Arc<Node>>>);

/// Order of two versions of an object; versions that are no numbers are taken as they come.
fn is_older(new: &Node, held: &Node) -> bool {
    let version = |node: &Node| node.metadata.resource_version.as_ref()?.parse::<u64>().ok();
    new.metadata.uid == held.metadata.uid && version(new) < version(held)
}

impl OwnNode {
    /// Takes a version of the object, unless a newer one is held; tells whether its status or labels changed.
    pub fn set(&self, mut node: Node) -> bool {
        node.metadata.managed_fields = None;
        let mut held = self.0.lock();
        if held.as_ref().is_some_and(|h| is_older(&node, h)) {
            return false;
        }
        let same = held.as_ref().is_some_and(|h| {
            h.status == node.status && h.metadata.labels == node.metadata.labels && h.spec == node.spec
        });
        *held = Some(Arc::new(node));
        !same
    }

    /// The object.
    pub fn get(&self) -> Option<Arc<Node>> {
        self.0.lock().clone()
    }

    /// What decides about pods: the node's own account, and what the API server adds to it.
    pub fn view(&self, shared: &Shared) -> NodeView {
        let own = allocatable(shared);
        let node = self.get();
        let mut view = match &node {
            Some(node) => NodeView::of(node),
            None => NodeView::of(&register::new_node(&shared.settings)),
        };
        view.name = shared.settings.node_name().to_owned();
        view.allocatable.extend(own);
        let devices = shared.devices.status();
        view.allocatable
            .extend(devices.removed.into_iter().map(|name| (name, 0)));
        view.allocatable.extend(devices.allocatable);
        view
    }
}

/// What pods may use by the node's own account.
pub fn allocatable(shared: &Shared) -> Amounts {
    let kubelet = &shared.settings.kubelet;
    let disk = crate::disk::filesystem(&shared.settings.dirs.root).map(|f| f.capacity_bytes as i64);
    let capacity = reserve::capacity(&shared.facts, kubelet, disk);
    reserve::allocatable(&capacity, kubelet, &kubelet.hard_thresholds())
}

fn capacity(status: Option<&NodeStatus>) -> Amounts {
    amount::amounts(status.and_then(|s| s.capacity.as_ref()))
}

/// Watches the object for as long as the agent runs; a capacity that somebody patched asks for a new status.
pub async fn keep(shared: Arc<Shared>) {
    loop {
        let api: Api<Node> = Api::all(shared.api.joined().await);
        let fields = format!("metadata.name={}", shared.settings.node_name());
        let config = watcher::Config::default().fields(&fields).any_semantic();
        let mut stream = watcher::watcher(api, config).boxed();
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Apply(node) | Event::InitApply(node)) => take(&shared, node),
                Ok(_) => {}
                Err(error) => {
                    let error = mainstay_base::error::chain(&error);
                    tracing::debug!(error, "lost sight of this node's own object");
                    break;
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn take(shared: &Shared, node: Node) {
    let before = shared.own_node.get();
    let before = before.as_ref().and_then(|n| n.status.as_ref());
    let changed = capacity(before) != capacity(node.status.as_ref());
    if shared.own_node.set(node) && changed {
        shared.status_wanted.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_older_version_is_not_taken() {
        let node = |version: &str, zone: &str| -> Node {
            serde_json::from_value(
                json!({"metadata": {"name": "n", "uid": "u", "resourceVersion": version, "labels": {"zone": zone}}}),
            )
            .expect("valid")
        };
        let own = OwnNode::default();
        assert_eq!(
            [
                own.set(node("10", "a")),
                own.set(node("9", "b")),
                own.set(node("11", "a"))
            ],
            [true, false, false]
        );
    }
}
