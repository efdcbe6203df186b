//! Filters: may this pod run on this node? One [`Filter`] per pod holds what is computed once.

use mainstay_semantics::toleration::{Effect, Taint, first_untolerated, tolerated};

use crate::interpod::PodRules;
use crate::node::{Node, NodeInfo, affinity_matches};
use crate::pod::Shape;
use crate::reason::Reason;
use crate::snapshot::Snapshot;
use crate::spread::SpreadRules;
use crate::volume::VolumeRules;

/// What a cordoned node would be tainted with: tolerating it means running on cordoned nodes.
const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// The filters, prepared for one pod shape against one snapshot.
#[derive(Debug)]
pub struct Filter<'a> {
    shape: &'a Shape,
    spread: SpreadRules<'a>,
    pods: PodRules<'a>,
    volumes: &'a VolumeRules,
    ignored: &'a [String],
}

impl<'a> Filter<'a> {
    /// Prepares the filters. Looks at the whole cluster only if the pod, or a pod in it, has rules about
    /// other pods.
    pub fn new(shape: &'a Shape, snapshot: &Snapshot) -> Self {
        Filter {
            shape,
            spread: SpreadRules::required(shape, snapshot),
            pods: PodRules::new(shape, snapshot),
            volumes: VolumeRules::NONE,
            ignored: &[],
        }
    }

    /// Adds what is known about the pod's volumes.
    pub fn with_volumes(mut self, volumes: &'a VolumeRules) -> Self {
        self.volumes = volumes;
        self
    }

    /// Leaves resources to extenders that manage them (`ignoredByScheduler`).
    pub fn ignoring(mut self, resources: &'a [String]) -> Self {
        self.ignored = resources;
        self
    }

    /// Collects why the node does not take the pod: nothing means it does. Stops at the first filter that
    /// says no, as upstream does; several resources may be lacking at once.
    pub fn reasons(&self, node: &Node) -> Vec<Reason> {
        if let Some(reason) = self.static_reason(&node.info) {
            return vec![reason];
        }
        if ports_taken(self.shape, node) {
            return vec![Reason::Ports];
        }
        let lacking = self.lacking(node);
        if !lacking.is_empty() {
            return lacking;
        }
        let late = || {
            self.volumes
                .reason(node)
                .or_else(|| self.spread.reason(&node.info))
                .or_else(|| self.pods.reason(&node.info))
        };
        late().into_iter().collect()
    }

    /// Tells whether the node takes the pod.
    pub fn passes(&self, node: &Node) -> bool {
        self.static_reason(&node.info).is_none()
            && !ports_taken(self.shape, node)
            && self.has_room(node)
            && self.volumes.reason(node).is_none()
            && self.spread.reason(&node.info).is_none()
            && self.pods.reason(&node.info).is_none()
    }

    fn static_reason(&self, info: &NodeInfo) -> Option<Reason> {
        static_reason(self.shape, info)
    }

    fn has_room(&self, node: &Node) -> bool {
        match self.ignored {
            [] => node.pods_free() > 0 && node.free.fits(&self.shape.requests),
            _ => self.lacking(node).is_empty(),
        }
    }

    fn lacking(&self, node: &Node) -> Vec<Reason> {
        let full = (node.pods_free() <= 0).then_some(Reason::TooManyPods);
        let lacking = node.free.lacking(&self.shape.requests).into_iter();
        let counted = lacking.filter(|name| !self.ignored.iter().any(|ignored| **ignored == **name));
        full.into_iter()
            .chain(counted.map(Reason::Insufficient))
            .collect()
    }
}

/// Checks what depends on the node's fixed facts alone: cordon, taints, node affinity; and what no node has: devices.
pub fn static_reason(shape: &Shape, info: &NodeInfo) -> Option<Reason> {
    if shape.claims_devices {
        return Some(Reason::DeviceClaims);
    }
    if info.unschedulable && !bears_cordon(shape) {
        return Some(Reason::Unschedulable);
    }
    let hard = [Effect::NoSchedule, Effect::NoExecute];
    if let Some(taint) = first_untolerated(&info.taints, &shape.tolerations, &hard) {
        return Some(Reason::Taint {
            key: taint.key.as_str().into(),
            value: taint.value.as_str().into(),
        });
    }
    (!affinity_matches(shape, info)).then_some(Reason::NodeAffinity)
}

fn bears_cordon(shape: &Shape) -> bool {
    let cordon = Taint {
        key: UNSCHEDULABLE_TAINT.to_owned(),
        value: String::new(),
        effect: Effect::NoSchedule,
    };
    tolerated(&shape.tolerations, &cordon)
}

fn ports_taken(shape: &Shape, node: &Node) -> bool {
    shape
        .host_ports
        .iter()
        .any(|wanted| node.ports.iter().any(|taken| taken.conflicts(wanted)))
}
