//! One scheduling decision: extenders around `placement`, nothing written.

use std::sync::Arc;

use mainstay_placement::decide::{Misfit, Options, best, feasible};
use mainstay_placement::preempt::{Victims, preempt};
use mainstay_placement::volume::VolumeRules;
use mainstay_placement::{Budgets, Pod, Reason, Snapshot};

use crate::extender::Extender;

/// What was decided for a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It goes to this node.
    Bind {
        /// The node's name.
        node: String,
    },
    /// It fits nowhere, but will when these pods are gone.
    Preempt {
        /// The node's name.
        node: String,
        /// Who must go.
        victims: Vec<Arc<Pod>>,
        /// The event's text.
        message: String,
    },
    /// It fits nowhere.
    Unschedulable {
        /// The event's text.
        message: String,
    },
    /// An extender failed: try again.
    Failed {
        /// What failed.
        message: String,
    },
}

/// What a decision looks at.
#[derive(Debug)]
pub struct Cycle<'a> {
    /// The cluster as this pod sees it.
    pub snapshot: &'a Snapshot,
    /// Weights and such.
    pub options: &'a Options,
    /// Extenders in order.
    pub extenders: &'a [Extender],
    /// The pod's volumes.
    pub volumes: &'a VolumeRules,
    /// Disruption budgets.
    pub budgets: &'a Budgets,
    /// Where to begin in the list of nodes, so that ties do not always fall on the same one.
    pub start: usize,
    /// Victims of an earlier decision are still stopping: no further ones now.
    pub victims_stopping: bool,
}

/// Decides for one pod.
pub async fn decide(cycle: &Cycle<'_>, pod: &Pod) -> Decision {
    let found = feasible(
        &pod.shape,
        cycle.snapshot,
        cycle.volumes,
        cycle.options,
        cycle.start,
    );
    let mut candidates = match found {
        Ok(found) => found,
        Err(misfit) => return make_room(cycle, pod, misfit),
    };
    let concerned: Vec<&Extender> = cycle
        .extenders
        .iter()
        .filter(|extender| extender.is_concerned(&pod.shape))
        .collect();
    let mut misfit = Misfit {
        reasons: vec![Vec::new(); cycle.snapshot.nodes().len()],
    };
    for extender in &concerned {
        match extender.filter(pod, cycle.snapshot, &candidates).await {
            Ok(answer) => {
                for (at, reason) in answer.refused {
                    misfit.reasons[at] = vec![Reason::Extender(reason.into())];
                }
                candidates = answer.accepted;
            }
            Err(error) if extender.is_ignorable() => {
                tracing::warn!(extender = extender.url(), %error, "extender left out");
            }
            Err(error) => {
                return Decision::Failed {
                    message: mainstay_base::error::chain(&error),
                };
            }
        }
    }
    if candidates.is_empty() {
        return make_room(cycle, pod, misfit);
    }
    let mut extra = vec![0.0; candidates.len()];
    for extender in &concerned {
        extender
            .prioritize(pod, cycle.snapshot, &candidates, &mut extra)
            .await;
    }
    let chosen = best(&pod.shape, cycle.snapshot, &candidates, &extra, cycle.options);
    match chosen.map(|at| cycle.snapshot.nodes()[at].info.name.to_string()) {
        Some(node) => Decision::Bind { node },
        None => Decision::Unschedulable {
            message: misfit.text(),
        },
    }
}

fn make_room(cycle: &Cycle<'_>, pod: &Pod, misfit: Misfit) -> Decision {
    let text = misfit.text();
    if misfit.reasons.is_empty() {
        return Decision::Unschedulable { message: text };
    }
    if cycle.victims_stopping {
        let message =
            format!("{text} preemption: not eligible due to terminating pod on the nominated node.");
        return Decision::Unschedulable { message };
    }
    match preempt(&pod.shape, cycle.snapshot, &misfit, cycle.volumes, cycle.budgets) {
        Err(none) => Decision::Unschedulable {
            message: format!("{text} preemption: {}", none.0),
        },
        Ok(Victims { node, pods, .. }) => Decision::Preempt {
            node: cycle.snapshot.nodes()[node].info.name.to_string(),
            victims: pods,
            message: text,
        },
    }
}
