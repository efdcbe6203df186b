//! Disks that run full, of bytes and of inodes: the agent's, the runtime's, and one that is both.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, PostParams};
use mainstay_testkit::{admin, plane};
use serde_json::json;

use crate::defence::{eviction, is_unharmed, node_is, pod};
use crate::machine::{Agent, on_machine_with, sh};
use crate::rules::{in_phase, joined, node_user};

/// Mounts a filesystem of its own at `folder`/`part`.
fn disk(folder: &Path, part: &str, megabytes: u32) {
    let (file, at) = (folder.join(format!("{part}.img")), folder.join(part));
    let (file, at) = (file.display(), at.display());
    sh(&format!(
        "truncate -s {megabytes}M {file} && mkfs.ext4 -q -O ^has_journal -m 0 -N 4096 {file} && mkdir -p {at} && mount -o loop {file} {at}"
    ));
}

fn split(folder: &Path) {
    disk(folder, "kubelet", 96);
    disk(folder, "root", 96);
}

fn joined_disks(folder: &Path) {
    disk(folder, "disk", 112);
    let folder = folder.display();
    sh(&format!(
        "for part in kubelet root; do mkdir -p {folder}/disk/$part {folder}/$part && mount --bind {folder}/disk/$part {folder}/$part; done"
    ));
}

const FILLS_VOLUME: &str = "head -c 78643200 /dev/zero > /m/x; sleep 1000";
const FILLS_LAYER: &str = "head -c 78643200 /dev/zero > /x; sleep 1000";
const MAKES_FILES: &str = "i=0; while [ $i -lt 4000 ]; do : > /m/$i; i=$((i+1)); done; sleep 1000";
const MAKES_FILES_IN_LAYER: &str =
    "mkdir /x; i=0; while [ $i -lt 4000 ]; do : > /x/$i; i=$((i+1)); done; sleep 1000";

#[test]
fn the_pod_that_fills_a_disk_goes_whichever_disk_it_is() {
    on_machine_with(split, async |machine| {
        let plane = plane().await;
        let pods: Api<Pod> = Api::namespaced(admin(&plane), "default");
        let nodes: Api<Node> = Api::all(admin(&plane));
        let mut settings = joined(machine, plane.ca_pem(), plane.client(node_user()));
        let least = |signal: &str, least: &str| (signal.to_owned(), least.to_owned());
        settings.kubelet.eviction_hard = Some(
            [
                least("nodefs.available", "30Mi"),
                least("nodefs.inodesFree", "300"),
                least("imagefs.available", "30Mi"),
                least("imagefs.inodesFree", "300"),
            ]
            .into(),
        );
        settings.kubelet.eviction_pressure_transition_period = Duration::from_secs(3);
        let agent = Agent::start(settings);
        let create = async |name: &str, script: &str| {
            let pod = pod(name, script, json!({}), json!({}));
            pods.create(&PostParams::default(), &pod).await.expect("created");
        };
        create("modest", "head -c 1048576 /dev/zero > /m/x; sleep 1000").await;
        in_phase(&pods, "modest", "Running").await;
        let rows = [
            (
                "volume",
                FILLS_VOLUME,
                "ephemeral-storage. Threshold quantity: 30Mi, available: ",
            ),
            (
                "inodes",
                MAKES_FILES,
                "inodes. Threshold quantity: 300, available: ",
            ),
            (
                "layer",
                FILLS_LAYER,
                "ephemeral-storage. Threshold quantity: 30Mi, available: ",
            ),
            (
                "layer-inodes",
                MAKES_FILES_IN_LAYER,
                "inodes. Threshold quantity: 300, available: ",
            ),
        ];
        for (name, script, expected) in rows {
            create(name, script).await;
            node_is(&nodes, "DiskPressure", "True").await;
            let (reason, message) = eviction(&in_phase(&pods, name, "Failed").await);
            let expected = format!("The node was low on resource: {expected}");
            assert!(
                reason == "Evicted" && message.starts_with(&expected),
                "{reason}: {message}"
            );
            // A volume goes with the pod's end, a writable layer when the node still lacks space; the object stays.
            node_is(&nodes, "DiskPressure", "False").await;
            let left = pods.get(name).await.expect("there").status.expect("a status");
            let ended = left
                .container_statuses
                .into_iter()
                .flatten()
                .filter_map(|c| c.state?.terminated);
            assert_eq!(
                (left.phase.as_deref(), ended.count()),
                (Some("Failed"), 1),
                "{name} lost what was told of it"
            );
        }
        is_unharmed(&pods, "modest").await;
        agent.stop().await;
        plane.stop().await;
    });
}

#[test]
fn on_one_disk_the_thresholds_of_images_are_not_looked_at() {
    on_machine_with(joined_disks, async |machine| {
        let plane = plane().await;
        let pods: Api<Pod> = Api::namespaced(admin(&plane), "default");
        let nodes: Api<Node> = Api::all(admin(&plane));
        let mut settings = joined(machine, plane.ca_pem(), plane.client(node_user()));
        let least = |signal: &str, least: &str| (signal.to_owned(), least.to_owned());
        // More than the disk has: if it were looked at, no pod could stay.
        let hard = [
            least("nodefs.available", "40Mi"),
            least("imagefs.available", "10Gi"),
            least("nodefs.inodesFree", "300"),
            least("imagefs.inodesFree", "1000000"),
        ];
        settings.kubelet.eviction_hard = Some(hard.into());
        settings.kubelet.eviction_pressure_transition_period = Duration::from_secs(3);
        let agent = Agent::start(settings);
        let create = async |name: &str, script: &str| {
            let pod = pod(name, script, json!({}), json!({}));
            pods.create(&PostParams::default(), &pod).await.expect("created");
        };
        create("modest", "sleep 1000").await;
        in_phase(&pods, "modest", "Running").await;
        let rows = [
            (
                "layer",
                FILLS_LAYER,
                "ephemeral-storage. Threshold quantity: 40Mi",
            ),
            ("inodes", MAKES_FILES, "inodes. Threshold quantity: 300"),
        ];
        for (name, script, expected) in rows {
            create(name, script).await;
            let (reason, message) = eviction(&in_phase(&pods, name, "Failed").await);
            let expected = format!("The node was low on resource: {expected}, available: ");
            assert!(
                reason == "Evicted" && message.starts_with(&expected),
                "{reason}: {message}"
            );
            node_is(&nodes, "DiskPressure", "False").await;
        }
        is_unharmed(&pods, "modest").await;
        agent.stop().await;
        plane.stop().await;
    });
}
