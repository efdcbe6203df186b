//! Why a node does not take a pod, in the words users know from `kubectl describe pod`.

use std::fmt;
use std::sync::Arc;

/// One reason; `Display` is the text of events and conditions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The node is cordoned.
    Unschedulable,
    /// The pod asks for another node by name.
    NodeName,
    /// This taint is not tolerated.
    Taint {
        /// The taint's key.
        key: Arc<str>,
        /// The taint's value, often empty.
        value: Arc<str>,
    },
    /// `nodeSelector` or node affinity does not match.
    NodeAffinity,
    /// A host port is taken.
    Ports,
    /// Too little of a resource is left.
    Insufficient(Arc<str>),
    /// The node is full by number of pods.
    TooManyPods,
    /// A claim's volume is in another zone or on another node.
    VolumeZone,
    /// A claim is not bound and cannot be bound here.
    VolumeBinding,
    /// The pod claims devices, which nothing here allocates.
    DeviceClaims,
    /// The pod would make the spread too uneven.
    Spread,
    /// The node lacks the label that makes the spread's domains.
    SpreadLabel,
    /// No pod the pod wants to be near is in the node's domain.
    PodAffinity,
    /// A pod that the pod wants to be away from is in the node's domain.
    PodAntiAffinity,
    /// A pod in the node's domain wants to be away from this one.
    ExistingAntiAffinity,
    /// An extender refused the node, in its own words.
    Extender(Arc<str>),
}

impl Reason {
    /// Tells whether removing pods from the node could help.
    ///
    /// A request above a node's total counts as helpable, as releases up to 1.29 had it: the text users
    /// learned from (`No preemption victims found`) is part of the product's contract.
    pub fn preemption_may_help(&self) -> bool {
        matches!(
            self,
            Reason::Insufficient(_)
                | Reason::TooManyPods
                | Reason::Ports
                | Reason::Spread
                | Reason::PodAntiAffinity
                | Reason::ExistingAntiAffinity
                | Reason::Extender(_)
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Reason::Insufficient(resource) => return write!(out, "Insufficient {resource}"),
            Reason::Taint { key, value } => {
                return write!(out, "node(s) had untolerated taint {{{key}: {value}}}");
            }
            Reason::Extender(text) => text,
            Reason::Unschedulable => "node(s) were unschedulable",
            Reason::NodeName => "node(s) didn't match the requested node name",
            Reason::NodeAffinity => "node(s) didn't match Pod's node affinity/selector",
            Reason::Ports => "node(s) didn't have free ports for the requested pod ports",
            Reason::TooManyPods => "Too many pods",
            Reason::VolumeZone => "node(s) had no available volume zone",
            Reason::VolumeBinding => "node(s) didn't find available persistent volumes to bind",
            Reason::DeviceClaims => "cannot allocate all claims",
            Reason::Spread => "node(s) didn't match pod topology spread constraints",
            Reason::SpreadLabel => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
            Reason::PodAffinity => "node(s) didn't match pod affinity rules",
            Reason::PodAntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Reason::ExistingAntiAffinity => "node(s) didn't satisfy existing pods anti-affinity rules",
        };
        out.write_str(text)
    }
}
