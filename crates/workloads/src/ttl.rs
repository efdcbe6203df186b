//! How long nodes may remember ConfigMaps and Secrets: longer in larger clusters, so that their reads stay few. Watches
//! Nodes; alone writes the annotation `node.alpha.kubernetes.io/ttl`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mainstay_control::{Change, Controller, Error, ObjectKey, Requeue};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::kinds::Node;

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// Steps: fewest nodes, most nodes, seconds. They overlap, so that a cluster at an edge does not swing. Upstream's values.
const STEPS: [(usize, usize, u32); 5] = [
    (0, 100, 0),
    (90, 500, 15),
    (450, 1000, 30),
    (900, 2000, 60),
    (1800, usize::MAX, 300),
];

/// Starts the controller.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    let (size, step) = (context.caches.nodes.clone(), Arc::new(AtomicUsize::new(0)));
    let now = step.clone();
    Controller::new("node-ttl")
        .wake_on(&context.caches.nodes, move |change: &Change<Node>| {
            if change.old.is_some() && change.new.is_some() {
                return Vec::new();
            }
            let nodes = size.list();
            let (old, new) = (
                now.load(Ordering::Relaxed),
                next(now.load(Ordering::Relaxed), nodes.len()),
            );
            now.store(new, Ordering::Relaxed);
            if old == new {
                return vec![change.key.clone()];
            }
            nodes.iter().map(|node| ObjectKey::of(&**node)).collect()
        })
        .run(context.stop.clone(), move |key| {
            reconcile(context.clone(), key, STEPS[step.load(Ordering::Relaxed)].2)
        })
}

/// The step for a number of nodes, coming from another.
fn next(mut step: usize, nodes: usize) -> usize {
    while nodes > STEPS[step].1 {
        step += 1;
    }
    while nodes < STEPS[step].0 {
        step -= 1;
    }
    step
}

async fn reconcile(context: Arc<Context>, key: ObjectKey, seconds: u32) -> Result<Requeue, Error> {
    let Some(node) = context.caches.nodes.get(&key) else {
        return Ok(Requeue::Never);
    };
    let annotations = node.metadata.annotations.as_ref();
    let held = annotations.and_then(|annotations| annotations.get(ANNOTATION));
    let wanted = seconds.to_string();
    if held != Some(&wanted) {
        let patch = json!({"metadata": {"annotations": {ANNOTATION: wanted}}});
        context.patch::<Node>(&key, None, patch).await?;
    }
    Ok(Requeue::Never)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_at_an_edge_does_not_swing() {
        let walk = [50, 100, 101, 95, 89, 3000, 1800, 1799];
        let mut step = 0;
        let seconds = walk.map(|nodes| {
            step = next(step, nodes);
            STEPS[step].2
        });
        assert_eq!(seconds, [0, 0, 15, 15, 0, 300, 300, 60]);
    }
}
