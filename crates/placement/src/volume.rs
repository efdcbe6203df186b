//! What a pod's claims say about nodes: bound volumes with node affinity, and claims that wait.

use mainstay_semantics::node_affinity::NodeSelector;

use crate::node::Node;
use crate::reason::Reason;

/// The volume rules of one pod, resolved from its claims by the caller.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VolumeRules {
    /// Where each bound volume may be used.
    pub bound: Vec<NodeSelector>,
    /// A claim is missing, lost, or must be bound first: no node will do.
    pub blocked: bool,
}

impl VolumeRules {
    /// No claims.
    pub const NONE: &'static VolumeRules = &VolumeRules {
        bound: Vec::new(),
        blocked: false,
    };

    /// Checks the rules for a node.
    pub fn reason(&self, node: &Node) -> Option<Reason> {
        if self.blocked {
            return Some(Reason::VolumeBinding);
        }
        let reachable = |selector: &NodeSelector| selector.matches(&node.info.name, &node.info.labels);
        (!self.bound.iter().all(reachable)).then_some(Reason::VolumeZone)
    }
}
