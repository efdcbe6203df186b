//! The API server's object of this node, as last seen: its labels, its taints, and what others put into its status.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;

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
