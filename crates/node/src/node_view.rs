//! What decides about pods on this node: its own account of itself, and its object as the API server has it.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use kube::Api;
use kube::runtime::watcher::{self, Event};
use mainstay_nodepolicy::admission::predicates::NodeView;

use crate::amount::{self, Amounts};
use crate::context::Shared;
use crate::{register, reserve};

/// Wait after sight of the object was lost.
const RETRY: Duration = Duration::from_secs(5);

/// What decides about pods: the node's own account, and what the API server adds to it.
pub fn view(shared: &Shared) -> NodeView {
    let own = allocatable(shared);
    let node = shared.own_node.get();
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
