//! Routes: tells the machines' network which node holds which range of pod addresses. Watches Nodes; alone writes the
//! condition NetworkUnavailable of the provider's nodes, and the routes within the cluster's range. Runs only where the
//! configuration names both.

mod plan;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ipnet::IpNet;
use mainstay_control::{Change, Controller, Error, ObjectKey, Requeue};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::context::Context;
use crate::kinds::Node;
use plan::{Seen, condition, facts, plan};

/// How often the network is compared with the nodes without any change of them.
const COMPARE: Duration = Duration::from_secs(60);

/// A range of pod addresses and the machine that has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The range.
    pub range: IpNet,
    /// The machine's address.
    pub via: IpAddr,
}

/// The network of one provider's machines. Errors are texts for people; they stand in the node's condition.
#[async_trait]
pub trait Routes: Send + Sync {
    /// The provider in the `providerID` of the nodes that this network connects.
    fn provider(&self) -> &str;
    /// The routes that stand, also those of other clusters.
    async fn list(&self) -> Result<Vec<Route>, String>;
    /// Adds a route. One to the same range that somebody else made is an error.
    async fn add(&self, route: Route) -> Result<(), String>;
    /// Removes a route; a missing one is no error.
    async fn remove(&self, route: Route) -> Result<(), String>;
}

/// Starts the controller. All nodes are one key: a range that moves must leave one route before it enters another.
pub(crate) fn start(context: Arc<Context>) -> JoinHandle<()> {
    Controller::new("route")
        .concurrency(1)
        .wake_on(&context.caches.nodes, |change: &Change<Node>| {
            let same =
                matches!((&change.old, &change.new), (Some(old), Some(new)) if facts(old) == facts(new));
            if same {
                Vec::new()
            } else {
                vec![ObjectKey::cluster("routes")]
            }
        })
        .run(context.stop.clone(), move |_| reconcile(context.clone()))
}

async fn reconcile(context: Arc<Context>) -> Result<Requeue, Error> {
    let (Some(routes), Some(cluster)) = (&context.config.routes, context.config.pod_cidr) else {
        return Ok(Requeue::Never);
    };
    let waiting = |what: String| Error::Waiting {
        what: format!("the network of provider {}: {what}", routes.provider()),
    };
    let nodes = context.caches.nodes.list();
    let held = routes.list().await.map_err(waiting)?;
    let plan = plan(&Seen {
        nodes: &nodes,
        held: &held,
        cluster,
        provider: routes.provider(),
    });
    for route in plan.remove {
        routes.remove(route).await.map_err(waiting)?;
    }
    let mut problems: BTreeMap<String, String> = BTreeMap::new();
    for (node, route) in plan.add {
        if let Err(problem) = routes.add(route).await {
            tracing::warn!(node, range = %route.range, problem, "could not route a node's pods");
            problems.insert(node, problem);
        }
    }
    for node in nodes
        .iter()
        .filter(|node| plan.routed.contains(&node.metadata.name))
    {
        report(
            &context,
            node,
            node.metadata.name.as_ref().and_then(|name| problems.get(name)),
        )
        .await?;
    }
    match problems.pop_first() {
        Some((node, problem)) => Err(waiting(format!("{node}: {problem}"))),
        None => Ok(Requeue::After(COMPARE)),
    }
}

async fn report(context: &Context, node: &Node, problem: Option<&String>) -> Result<(), Error> {
    let now = context.clock.now();
    let Some(conditions) = condition(node, problem.map(String::as_str), now) else {
        return Ok(());
    };
    let patch = json!({
        "metadata": {"resourceVersion": node.metadata.resource_version}, "status": {"conditions": conditions},
    });
    context
        .patch::<Node>(&ObjectKey::of(node), Some("status"), patch)
        .await
}
