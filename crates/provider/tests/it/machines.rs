//! The life of machines: start, isolation, power, adoption after `kill -9` of the manager, images, clean removal.

use std::collections::BTreeSet;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use mainstay_base::clock::{Clock, SystemClock};
use mainstay_host::ledger::Ledger;
use mainstay_provider::local::{Config, LocalProvider};
use mainstay_provider::{HostId, PowerOperation, PowerState, Provider, RequestId, Wipe};

use crate::world::{World, agent_binary, done, init_pid, inside, traces, until};

const SECOND: Duration = Duration::from_secs(1);

fn id(text: &str) -> RequestId {
    RequestId(text.to_owned())
}

/// A pod's network as the runtime makes it: bridge, masquerade, ports.
const CNI_ADD: &str = r#"ip netns add pod && echo '{"cniVersion":"0.4.0","name":"n","type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.9.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}' | CNI_COMMAND=ADD CNI_CONTAINERID=p CNI_NETNS=/run/netns/pod CNI_IFNAME=eth0 CNI_PATH=/usr/lib/cni /usr/lib/cni/bridge"#;

async fn power(provider: &LocalProvider, host: &HostId, operation: PowerOperation, request: &str) {
    provider.power(host, operation, &id(request)).await.unwrap();
    done(provider, &id(request)).await;
}

async fn pid(provider: &LocalProvider, host: &HostId) -> u32 {
    init_pid(
        &provider
            .boot_identity(host)
            .await
            .unwrap()
            .expect("it runs")
            .boot_id,
    )
}

async fn containerd_answers(provider: &LocalProvider, host: &HostId) -> Duration {
    let pid = pid(provider, host).await;
    until("containerd answers", SECOND * 60, async || {
        inside(pid, "ctr version").is_ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_machines_start_are_isolated_and_leave_nothing() {
    let world = World::new("a");
    let provider = LocalProvider::open(world.config(86)).await.unwrap();
    let hosts = [HostId::new("default", "h1"), HostId::new("default", "h2")];
    let clock = SystemClock::new();
    for host in &hosts {
        provider
            .provision(world.request(&format!("p-{host}"), host, 1))
            .await
            .unwrap();
    }
    for host in &hosts {
        done(&provider, &id(&format!("p-{host}"))).await;
    }
    for host in &hosts {
        let waited = containerd_answers(&provider, host).await;
        let mebibytes = provider.memory_bytes(host).await.unwrap() >> 20;
        eprintln!(
            "{host}: containerd answers {:?} after the request, {waited:?} after the start, {mebibytes} MiB",
            clock.monotonic()
        );
    }
    let (first, second) = (pid(&provider, &hosts[0]).await, pid(&provider, &hosts[1]).await);
    let refused = inside(first, "touch /usr/x").unwrap_err().to_string();
    assert!(refused.contains("Read-only file system"), "{refused}");
    assert!(inside(first, "echo 1 > /proc/sys/vm/swappiness").is_err());
    inside(
        first,
        "echo 1 > /proc/sys/net/ipv4/ip_forward && touch /etc/x /var/x /run/x",
    )
    .unwrap();
    assert!(inside(second, "test -e /etc/x").is_err());
    assert_eq!(
        inside(first, "hostname; cat /etc/hostname").unwrap(),
        "node-h1\nnode-h1\n"
    );
    assert!(
        inside(
            first,
            "dd if=/dev/zero of=/dev/kmsg count=0; mknod /tmp/d b 7 0; cat /tmp/d"
        )
        .is_err()
    );
    let pinged = inside(
        first,
        "busybox ping -c 1 -W 5 10.213.86.3 && busybox ping -c 1 -W 5 10.213.86.1",
    )
    .unwrap();
    assert!(pinged.contains("1 packets received"), "{pinged}");
    let boot = provider.boot_identity(&hosts[0]).await.unwrap().unwrap();
    assert_eq!(
        inside(first, "cat /proc/sys/kernel/random/boot_id")
            .unwrap()
            .trim(),
        boot.boot_id
    );
    assert_eq!(
        inside(first, "df -B1G --output=size /var | tail -1")
            .unwrap()
            .trim(),
        "4"
    );

    for image in ["mainstay.local/pause:1", "docker.io/library/busybox:1.35"] {
        until("the images are imported", SECOND * 30, async || {
            inside(first, "ctr -n k8s.io images ls -q").is_ok_and(|list| list.contains(image))
        })
        .await;
    }
    let ran = inside(
        first,
        "ctr -n k8s.io run --rm mainstay.local/busybox:1 t1 /bin/echo from a container",
    )
    .unwrap();
    assert_eq!(ran, "from a container\n");
    // With the capabilities that a program of the machine has: nsenter comes with the host's.
    let privileged = "setpriv --bounding-set -sys_module,-sys_rawio,-sys_boot,-sys_time,-sys_tty_config,\
        -mac_override,-mac_admin,-syslog,-wake_alarm,-block_suspend \
        ctr -n k8s.io run --privileged --rm mainstay.local/busybox:1 t2 /bin/echo ok";
    assert_eq!(inside(first, privileged).unwrap(), "ok\n");
    let added = inside(first, CNI_ADD).unwrap();
    assert!(added.contains("10.244.9."), "{added}");
    inside(first, "ip netns exec pod busybox ping -c 1 -W 5 10.213.86.3").unwrap();

    for host in &hosts {
        provider
            .deprovision(host, Wipe::Quick, &id(&format!("d-{host}")))
            .await
            .unwrap();
        done(&provider, &id(&format!("d-{host}"))).await;
    }
    assert_eq!(provider.machine(&hosts[0]).await.unwrap(), None);
    assert!(world.ledger.undo().unwrap().is_empty());
    assert!(traces(&world.instance, world.folder.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn power_crash_and_images_behave_like_hardware() {
    let world = World::new("b");
    let provider = LocalProvider::open(world.config(87)).await.unwrap();
    let host = HostId::new("default", "h1");
    provider.provision(world.request("p1", &host, 1)).await.unwrap();
    done(&provider, &id("p1")).await;
    containerd_answers(&provider, &host).await;
    inside(
        pid(&provider, &host).await,
        "echo kept > /var/kept; echo own > /etc/own",
    )
    .unwrap();
    let first = provider.boot_identity(&host).await.unwrap().unwrap();

    power(&provider, &host, PowerOperation::Off, "off").await;
    assert_eq!(provider.power_state(&host).await.unwrap(), PowerState::Off);
    assert_eq!(provider.boot_identity(&host).await.unwrap(), None);
    power(&provider, &host, PowerOperation::On, "on").await;
    let second = provider.boot_identity(&host).await.unwrap().unwrap();
    assert_ne!(first.boot_id, second.boot_id);
    assert_eq!(
        inside(pid(&provider, &host).await, "cat /var/kept /etc/own").unwrap(),
        "kept\nown\n"
    );

    provider.crash(&host).await.unwrap();
    assert_eq!(provider.power_state(&host).await.unwrap(), PowerState::Off);
    let other = world.other_commit();
    assert_ne!(other, world.commit);
    provider.stage_image(&host, &other, &id("s1")).await.unwrap();
    done(&provider, &id("s1")).await;
    power(&provider, &host, PowerOperation::Cycle, "c1").await;
    let image = provider.machine(&host).await.unwrap().unwrap().image;
    assert_eq!(
        (&image.booted, image.previous.as_ref(), image.tries_left),
        (&other, Some(&world.commit), 2)
    );
    assert!(
        inside(pid(&provider, &host).await, "cat /usr/lib/mainstay/image.json")
            .unwrap()
            .contains("\"2\"")
    );
    // Never confirmed: two more starts, and the old image is back by itself.
    power(&provider, &host, PowerOperation::Reset, "c2").await;
    power(&provider, &host, PowerOperation::Reset, "c3").await;
    let image = provider.machine(&host).await.unwrap().unwrap().image;
    assert_eq!(image.booted, world.commit);
    assert!(image.last_failure.unwrap().contains(&other));

    let error = provider
        .provision(world.request("old", &host, 0))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("incarnation 0 is older than 1"),
        "{error}"
    );
    provider.provision(world.request("p2", &host, 2)).await.unwrap();
    done(&provider, &id("p2")).await;
    assert!(inside(pid(&provider, &host).await, "test -e /var/kept -o -e /etc/own").is_err());
    drop(provider);
    assert!(world.ledger.undo().unwrap().is_empty());
    assert!(traces(&world.instance, world.folder.path()).is_empty());
}

/// A manager in a process of its own, to be killed, that has been asked for one machine.
fn killable_manager(world: &World, host: &HostId) -> Child {
    let tree = world.store.deploy(&world.commit).unwrap();
    let request = serde_json::to_string(&world.request("p1", host, 1)).unwrap();
    let images = world.folder.path().join("images");
    let paths = [
        world.folder.path(),
        world.instance.as_ref(),
        &images,
        &tree,
        request.as_ref(),
    ];
    #[allow(clippy::disallowed_methods)]
    std::process::Command::new(agent_binary())
        .arg("manager")
        .args(paths)
        .spawn()
        .unwrap()
}

/// Waits for a text in the task's file, then ends the manager as `kill -9` does.
async fn kill_when(world: &World, mut manager: Child, text: &str) {
    let task = world.folder.path().join("tasks/p1.json");
    let seen = async || std::fs::read_to_string(&task).is_ok_and(|content| content.contains(text));
    until("the task comes that far", SECOND * 60, seen).await;
    manager.kill().unwrap();
    manager.wait().unwrap();
}

/// A second manager over what the first one left.
async fn successor(world: &World) -> (LocalProvider, Arc<Ledger>) {
    let ledger = Arc::new(Ledger::open(&world.folder.path().join("ledger.jsonl")).unwrap());
    let config = Config {
        ledger: ledger.clone(),
        ..world.config(88)
    };
    (LocalProvider::open(config).await.unwrap(), ledger)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_outlives_a_killed_manager_and_is_adopted() {
    let (world, host) = (World::new("c"), HostId::new("default", "h1"));
    kill_when(&world, killable_manager(&world, &host), "\"Done\"").await;
    let (provider, ledger) = successor(&world).await;
    assert_eq!(provider.power_state(&host).await.unwrap(), PowerState::On);
    let before = provider.boot_identity(&host).await.unwrap().unwrap();
    containerd_answers(&provider, &host).await;
    provider.provision(world.request("p1", &host, 1)).await.unwrap();
    assert_eq!(provider.boot_identity(&host).await.unwrap().unwrap(), before);

    assert!(!traces(&world.instance, world.folder.path()).is_empty());
    assert!(ledger.undo().unwrap().is_empty());
    assert_eq!(traces(&world.instance, world.folder.path()), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provisioning_whose_manager_is_killed_is_finished_by_the_next() {
    let (world, host) = (World::new("d"), HostId::new("default", "h1"));
    kill_when(&world, killable_manager(&world, &host), "\"Running\"").await;
    let (provider, ledger) = successor(&world).await;
    done(&provider, &id("p1")).await;
    containerd_answers(&provider, &host).await;
    assert_eq!(provider.machine(&host).await.unwrap().unwrap().incarnation, 1);
    assert!(ledger.undo().unwrap().is_empty());
    assert_eq!(traces(&world.instance, world.folder.path()), BTreeSet::new());
}
