//! The fleet controllers on an in-memory control plane with the simulated provider: from one ClusterDeployment
//! to machines, through failures, image changes and deletion.

mod admission;
mod world;

use std::sync::atomic::{AtomicUsize, Ordering};

use mainstay_api::{
    BreakFixTicket, ClusterDeployment, ComputeNode, Host, HostState, OSImage, Repair,
    repair::{Action, RepairState},
};
use mainstay_capi::Machine;
use mainstay_provider::{HostId, sim::Fault};
use serde_json::json;
use world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_object_becomes_a_cluster_whose_machines_have_joined() {
    let world = World::start().await;
    world.apply_examples().await;
    world.ready("demo").await;
    let nodes: Vec<ComputeNode> = world.list().await;
    let mut domains: Vec<&str> = nodes
        .iter()
        .map(|node| node.spec.failure_domain.as_str())
        .collect();
    domains.sort_unstable();
    assert_eq!(domains, ["z1/r1", "z2/r2"], "machines spread over the racks");
    let machines: Vec<Machine> = world.list().await;
    assert!(
        machines
            .iter()
            .all(|m| m.status.as_ref().is_some_and(|status| status.phase == "Running"))
    );
    let cluster: ClusterDeployment = world.get("demo").await;
    let status = cluster.status.expect("a status");
    assert_eq!(
        (
            status.phase.as_str(),
            status.pools[0].ready,
            status.pools[0].wanted
        ),
        ("Ready", 2, 2)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_image_replaces_machines_one_by_one() {
    let world = World::start().await;
    world.apply_examples().await;
    world.ready("demo").await;
    world.images.set_commit("c2");
    world
        .patch::<OSImage>(
            "node",
            json!({"spec": {"sysctls": {"net.core.somaxconn": "4096"}}}),
        )
        .await;
    let fewest = AtomicUsize::new(usize::MAX);
    world
        .until("both machines run the new image", || async {
            let nodes: Vec<ComputeNode> = world.list().await;
            let machines: Vec<Machine> = world.list().await;
            let running = |m: &&Machine| m.status.as_ref().is_some_and(|s| s.phase == "Running");
            fewest.fetch_min(machines.iter().filter(running).count(), Ordering::Relaxed);
            let new = nodes.iter().filter(|node| world::booted(node) == "c2").count();
            nodes.len() == 2 && new == 2
        })
        .await;
    assert_eq!(fewest.into_inner(), 1, "never more than one machine was missing");
    world.ready("demo").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_smaller_pool_gives_its_host_back_and_deletion_frees_all() {
    let world = World::start().await;
    world.apply_examples().await;
    world.ready("demo").await;
    world
        .patch::<mainstay_api::NodePool>("demo-a", json!({"spec": {"replicas": 1}}))
        .await;
    let free = || async {
        let hosts: Vec<Host> = world.list().await;
        let state = |host: &Host| {
            host.status
                .as_ref()
                .map(|status| status.state)
                .unwrap_or_default()
        };
        hosts
            .iter()
            .filter(|host| state(host) == HostState::Available)
            .count()
    };
    world
        .until("three hosts are free", || async { free().await == 3 })
        .await;
    world.delete::<ClusterDeployment>("demo").await;
    world
        .until("all hosts are free", || async { free().await == 4 })
        .await;
    world
        .until("the cluster is gone", || async {
            world.list::<ClusterDeployment>().await.is_empty()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_does_not_fit_says_so_and_makes_nothing() {
    let world = World::start().await;
    world.apply_examples().await;
    world.ready("demo").await;
    let cluster: ClusterDeployment = world.get("demo").await;
    let mut other = ClusterDeployment::new("other", cluster.spec.clone());
    other.metadata.namespace = Some("default".into());
    world.create(&other).await;
    world
        .until("the overlap is reported", || async {
            let seen: ClusterDeployment = world.get("other").await;
            seen.status.is_some_and(|s| {
                s.phase == "Invalid"
                    && s.conditions
                        .iter()
                        .any(|c| c.message.contains("overlaps with 10.244.0.0/16 of cluster demo"))
            })
        })
        .await;
}

/// Breaks the host of the first machine and waits until its repair is in `state`; gives host and repair.
async fn break_one(world: &World, fault: Fault, state: RepairState) -> (String, Repair) {
    let nodes: Vec<ComputeNode> = world.list().await;
    let host = nodes[0].spec.host_ref.clone().expect("a machine has a host").name;
    world.provider.inject(&HostId::new("default", &host), fault);
    let found = || async {
        let repairs: Vec<Repair> = world.list().await;
        repairs
            .into_iter()
            .find(|repair| repair.status.as_ref().is_some_and(|status| status.state == state))
    };
    world
        .until("the repair gets there", || async { found().await.is_some() })
        .await;
    (host, found().await.expect("it was just there"))
}

fn actions(repair: &Repair) -> Vec<(Action, String)> {
    let steps = &repair.status.as_ref().expect("a status").steps;
    steps
        .iter()
        .map(|step| (step.action, step.result.clone()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_is_restarted_and_damage_is_installed_anew() {
    let world = World::start().await;
    world.apply_examples_with_fast_repairs().await;
    world.ready("demo").await;
    let (_, repair) = break_one(&world, Fault::Corruption, RepairState::Probation).await;
    let last = actions(&repair).pop();
    assert_eq!(
        last,
        Some((Action::Reprovision, "Healthy".to_string())),
        "{:?}",
        actions(&repair)
    );
    let tried: Vec<Action> = actions(&repair).into_iter().map(|(action, _)| action).collect();
    assert!(tried.contains(&Action::Restart) && tried.is_sorted(), "{tried:?}");
    world.ready("demo").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_hardware_is_ticketed_and_replaced_and_returns_after_its_repair() {
    let world = World::start().await;
    world.apply_examples_with_fast_repairs().await;
    world.ready("demo").await;
    let (host, repair) = break_one(&world, Fault::Hardware, RepairState::Ticketed).await;
    let state = || async { world.get::<Host>(&host).await.status.unwrap_or_default().state };
    world
        .until("the host is out", || async {
            state().await == HostState::BreakFix
        })
        .await;
    world
        .until("another host took its place", || async {
            let nodes: Vec<ComputeNode> = world.list().await;
            let on = |node: &ComputeNode| node.spec.host_ref.clone().unwrap_or_default().name;
            nodes.len() == 2
                && nodes
                    .iter()
                    .all(|node| on(node) != host && !world::booted(node).is_empty())
        })
        .await;
    world.ready("demo").await;
    let ended: Repair = world.get(repair.metadata.name.as_deref().expect("a name")).await;
    assert!(
        ended.status.expect("a status").fencing_proof.is_some(),
        "replaced only with proof"
    );
    world.provider.heal(&HostId::new("default", &host));
    let ticket: Vec<BreakFixTicket> = world.list().await;
    let name = ticket[0].metadata.name.clone().expect("a name");
    world
        .patch::<BreakFixTicket>(&name, json!({"spec": {"resolved": true}}))
        .await;
    world
        .until("the host is back", || async {
            state().await == HostState::Available
        })
        .await;
}
