//! Follows Services and EndpointSlices with the node's own identity, keeps the packet filter's table and the names true
//! to them. While the API server is away both stay as they are.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use kube::Client;
use mainstay_base::error::chain;
use mainstay_control::{Cache, CancellationToken, EventKind, Scope};
use mainstay_host::network::{Side, forget_udp_flows};
use mainstay_services::dns::Zone;
use mainstay_services::model::{EndpointSlice, Service};
use mainstay_services::proxy::{Flow, NodeFacts, Ruleset, compile};
use tokio::sync::{Notify, watch};

use crate::config::ClusterNetwork;
use crate::context::Shared;

/// Changes within this time go into the kernel together.
const GATHER: Duration = Duration::from_millis(100);
/// Wait after the kernel refused the rules.
const RETRY: Duration = Duration::from_secs(5);

/// Why Services are not translated on this node.
#[derive(Debug, thiserror::Error)]
enum RulesError {
    /// The kernel or the `nft` program refused.
    #[error("failed to load the packet filter rules of Services")]
    Refused(#[source] mainstay_host::Error),
    /// The task that loads them ended.
    #[error("the packet filter rules of Services were not loaded to the end")]
    Ended,
}

/// Names as they are now; none until Services have been seen.
pub type Names = watch::Sender<Option<Arc<Zone>>>;

/// What one pass after another remembers.
struct Keeper<'a> {
    shared: &'a Shared,
    network: &'a ClusterNetwork,
    facts: NodeFacts,
    names: Names,
    /// What the kernel holds; none when that is not known.
    held: Option<Ruleset>,
    failed: bool,
}

/// Keeps them for as long as the agent runs.
pub async fn keep(shared: &Shared, network: &ClusterNetwork, range: &str, names: Names) {
    let mut keeper = Keeper {
        shared,
        network,
        facts: facts(shared, network, range),
        names,
        held: None,
        failed: false,
    };
    let mut current = shared.api.watch();
    loop {
        let client = current.borrow_and_update().clone();
        let following = async {
            match &client {
                Some(client) => keeper.follow(client).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = following => {}
            changed = current.changed() => if changed.is_err() { return },
        }
    }
}

fn facts(shared: &Shared, network: &ClusterNetwork, range: &str) -> NodeFacts {
    let v4 = |text: &String| text.parse::<Ipv4Addr>().ok();
    NodeFacts {
        name: shared.settings.node_name().to_owned(),
        addresses: shared.host_ips.iter().filter_map(v4).collect(),
        pod_range: range.parse().ok(),
        pod_ranges: network
            .pod_ranges
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect(),
        answered_here: v4(&network.cluster_dns).into_iter().collect(),
    }
}

/// The cluster's ranges: addresses that only its own names stand for.
fn ranges(network: &ClusterNetwork) -> Vec<IpNet> {
    let all = network.pod_ranges.iter().chain(&network.service_ranges);
    all.filter_map(|text| text.parse().ok()).collect()
}

impl Keeper<'_> {
    /// Follows with one client, for ever.
    async fn follow(&mut self, client: &Client) {
        let stop = CancellationToken::new();
        let _ends_with_this = stop.clone().drop_guard();
        let services: Cache<Service> = Cache::start(client, Scope::default(), stop.clone());
        let slices: Cache<EndpointSlice> = Cache::start(client, Scope::default(), stop);
        let changed = Arc::new(Notify::new());
        let (one, other) = (changed.clone(), changed.clone());
        services.listen(move |_| one.notify_one());
        slices.listen(move |_| other.notify_one());
        tokio::join!(services.ready(), slices.ready());
        loop {
            let good = self.pass(&services.list(), &slices.list()).await;
            tokio::time::sleep(if good { GATHER } else { RETRY }).await;
            if good {
                changed.notified().await;
            }
        }
    }

    /// One pass; tells whether the kernel took the rules.
    async fn pass(&mut self, services: &[Arc<Service>], slices: &[Arc<EndpointSlice>]) -> bool {
        let zone = Zone::build(
            &self.network.cluster_domain,
            &ranges(self.network),
            services,
            slices,
        );
        self.names.send_replace(Some(Arc::new(zone)));
        let wanted = compile(services, slices, &self.facts);
        let script = match &self.held {
            Some(held) => wanted.since(held),
            None => Some(wanted.whole()),
        };
        let Some(script) = script else { return true };
        let load = tokio::task::spawn_blocking(move || mainstay_host::network::load_rules(&script));
        let done = match load.await {
            Ok(done) => done.map_err(RulesError::Refused),
            Err(_) => Err(RulesError::Ended),
        };
        self.report(done.as_ref().err());
        if let (Ok(()), Some(held)) = (&done, &self.held) {
            forget(wanted.stale_flows(held)).await;
        }
        // After a refusal nothing is known of the table but that it is not the wanted one.
        self.held = done.is_ok().then_some(wanted);
        self.held.is_some()
    }

    fn report(&mut self, problem: Option<&RulesError>) {
        let node = self.shared.settings.node_name();
        match problem {
            Some(error) => {
                let message = chain(error);
                tracing::error!(error = message, "Services are not translated on this node");
                if !self.failed {
                    self.shared
                        .events
                        .node(node, EventKind::Warning, "ServiceRulesRefused", message);
                }
            }
            None if self.failed => {
                let message = "Services are translated again";
                self.shared
                    .events
                    .node(node, EventKind::Normal, "ServiceRulesLoaded", message);
            }
            None => {}
        }
        self.failed = problem.is_some();
    }
}

/// Forgets flows that the rules no longer lead to. What cannot be forgotten ends by itself when its sender is silent for a
/// while.
async fn forget(flows: Vec<Flow>) {
    if flows.is_empty() {
        return;
    }
    let work = move || {
        for flow in flows {
            let (side, address, port) = match flow {
                Flow::From { address, port } => (Side::AnsweredBy, address, port),
                Flow::To { address, port } => (Side::SentTo, address, port),
            };
            if let Err(error) = forget_udp_flows(side, address.into(), port) {
                tracing::warn!(%address, port, error = chain(&error), "old UDP flows were not forgotten");
            }
        }
    };
    // A panic in there has been reported already.
    let _ = tokio::task::spawn_blocking(work).await;
}

/// Whether an address is one of the cluster's own names' server.
pub(super) fn is_own_server(network: &ClusterNetwork, address: IpAddr) -> bool {
    network.cluster_dns.parse() == Ok(address)
}
