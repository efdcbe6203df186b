//! The fault loops on real machines: crash, hung runtime, kernel log, broken network, frozen agent, killed manager,
//! interrupted start; and that nothing is left of it all. One installation serves the scenarios, one after another.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::computer::{self, signal};
use crate::faults::{
    GRACE, LIMIT, Machine, NextRepair, doctor, is_well, machines, manifests, node_condition, node_field,
    ready_boot, told, why,
};
use crate::support::{Installation, ready_nodes};
use crate::tools::{self, Said, apply, kubectl, run, try_kubectl, wait, wait_told};

/// Granted beyond the configured grace: what starting a machine takes.
const MORE: Duration = Duration::from_secs(10);
/// The first image may have to be composed.
const FIRST: Duration = Duration::from_secs(900);
/// Clients that create objects while the manager dies.
const WRITERS: usize = 3;

#[test]
fn faults_are_seen_told_and_repaired_and_nothing_is_left() {
    let installation = Installation::new();
    let before = computer::look();
    let manifests = manifests();
    interrupted_starts_can_be_run_again(&installation, &manifests);
    let demo = installation.demo();
    let management = installation.kubeconfig();
    let scene = Scene {
        installation: &installation,
        manifests: &manifests,
        management: &management,
        demo: &demo,
    };
    scene.wait_until_well();
    scene.nothing_acknowledged_is_lost_when_the_manager_dies();
    scene.a_crashed_machine_is_back_after_one_restart();
    scene.a_hung_runtime_is_restarted_without_a_reboot();
    scene.a_kernel_line_keeps_pods_away_until_it_is_over();
    scene.a_deadlock_is_told_and_ends_with_the_restart();
    scene.a_frozen_agent_is_replaced_and_its_identity_refused();
    scene.broken_hardware_climbs_the_ladder_to_a_ticket();
    let said = installation.down();
    assert!(said.well, "down: {}", said.err);
    wait_for_a_clean_computer(&before);
}

/// Others may use the computer too: what they make goes again, what we leave stays.
fn wait_for_a_clean_computer(before: &BTreeSet<String>) {
    wait_told("a computer as before", LIMIT, || {
        let after = computer::look();
        let more: Vec<&String> = after.difference(before).collect();
        match more.is_empty() {
            true => Ok(()),
            false => Err(format!("left on the computer: {more:#?}")),
        }
    });
}

/// The background process; a child that it has forked and that has not become another program yet does not count.
fn manager(installation: &Installation) -> Option<u32> {
    let folder = installation.folder.to_string_lossy().into_owned();
    let is = |_, line: &[String]| line.get(1).is_some_and(|word| word == "manage") && line.contains(&folder);
    let found = computer::find(is);
    let is_child = |pid: &u32| computer::parent(*pid).is_some_and(|parent| found.contains(&parent));
    found.iter().copied().find(|pid| !is_child(pid))
}

fn start(command: &mut Command) -> Child {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.spawn().expect("the binary starts")
}

/// Runs `up`, and ends it and its background process as soon as `point` is reached.
fn interrupt(
    installation: &Installation,
    manifests: &Path,
    how: &str,
    point: &str,
    reached: impl Fn() -> bool,
) {
    let mut up = start(&mut installation.up_command(manifests));
    wait(point, FIRST, || {
        let ended = up.try_wait().expect("it is our child");
        assert!(ended.is_none(), "up ended before {point}: {ended:?}");
        reached().then_some(())
    });
    signal(up.id(), how);
    let status = up.wait().expect("it is our child");
    if how == "INT" {
        assert_eq!(status.code(), Some(130), "a detached `up` says so");
        assert!(manager(installation).is_some(), "the work goes on without `up`");
    }
    kill_manager(installation);
}

fn kill_manager(installation: &Installation) {
    if let Some(pid) = manager(installation) {
        signal(pid, "KILL");
        wait("the killed manager to be gone", LIMIT, || {
            manager(installation).is_none().then_some(())
        });
    }
}

fn interrupted_starts_can_be_run_again(installation: &Installation, manifests: &Path) {
    let has = |path: &str| installation.folder.join(path).exists();
    interrupt(
        installation,
        manifests,
        "KILL",
        "the manager's first moment",
        || manager(installation).is_some(),
    );
    interrupt(installation, manifests, "INT", "the plane to serve", || {
        has("admin.kubeconfig")
    });
    interrupt(installation, manifests, "KILL", "the first machine", || {
        let hosts = std::fs::read_dir(installation.folder.join("machines/hosts"));
        let mut made = hosts.into_iter().flatten().flatten();
        made.any(|host| host.path().join("var.img").exists())
    });
    if tools::full_tier() {
        interrupted_at_every_line_of_the_ledger(installation, manifests);
    }
    let said = run(&mut installation.up_command(manifests));
    assert!(said.well, "up after interruptions: {}{}", said.out, said.err);
    // A second `up` finds everything as it is to be.
    let state = objects(installation);
    let said = run(&mut installation.up_command(manifests));
    assert!(said.well, "second up: {}{}", said.out, said.err);
    assert_eq!(objects(installation), state);
}

/// From nothing, each start is killed as soon as it has written down one thing more than the one before.
fn interrupted_at_every_line_of_the_ledger(installation: &Installation, manifests: &Path) {
    let lines = || {
        let text = std::fs::read_to_string(installation.folder.join("ledger.jsonl"));
        text.map_or(0, |text| text.lines().count())
    };
    let said = installation.down();
    assert!(said.well, "down: {}", said.err);
    let mut seen = lines();
    loop {
        let mut up = start(&mut installation.up_command(manifests));
        let ended = wait("one more line or the end", FIRST, || {
            let ended = up.try_wait().expect("it is our child");
            (ended.is_some() || lines() > seen).then_some(ended)
        });
        if let Some(status) = ended {
            assert!(status.success(), "up after {seen} lines: {status}");
            return;
        }
        seen = lines();
        signal(up.id(), "KILL");
        up.wait().expect("it is our child");
        kill_manager(installation);
    }
}

/// Names and uids of what `up` made.
fn objects(installation: &Installation) -> String {
    let kinds = "datacenters,racks,hosts,osimages,clusterdeployments,nodepools,machines,computenodes";
    let template = r#"jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.uid}{"\n"}{end}"#;
    kubectl(&installation.kubeconfig(), &["get", kinds, "-A", "-o", template])
}

/// A running installation and how to reach it.
struct Scene<'a> {
    installation: &'a Installation,
    manifests: &'a Path,
    management: &'a Path,
    demo: &'a Path,
}

impl Scene<'_> {
    fn first(&self) -> Machine {
        wait("a machine with a node", LIMIT, || {
            machines(self.management).into_iter().next()
        })
    }

    fn events(&self, machine: &Machine) -> String {
        let about = format!("involvedObject.name={}", machine.compute);
        let template = r#"jsonpath={range .items[*]}{.reason} {.message}{"\n"}{end}"#;
        kubectl(
            self.management,
            &["get", "events", "--field-selector", &about, "-o", template],
        )
    }

    fn wait_until_well(&self) {
        wait("two nodes to be ready", LIMIT, || {
            (ready_nodes(self.demo) == 2).then_some(())
        });
        wait("doctor to find nothing", LIMIT, || {
            is_well(self.installation).then_some(())
        });
    }

    fn nothing_acknowledged_is_lost_when_the_manager_dies(&self) {
        let (acknowledged, stop) = (Mutex::new(BTreeSet::new()), AtomicBool::new(false));
        let machines_before = machines(self.management);
        let inits = |all: &[Machine]| all.iter().map(|m| m.init(self.installation)).collect::<Vec<_>>();
        let inits_before = inits(&machines_before);
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (acknowledged, stop) = (&acknowledged, &stop);
                scope.spawn(move || self.write(writer, acknowledged, stop));
            }
            let written = || acknowledged.lock().len();
            wait("the writers to be at work", LIMIT, || {
                (written() >= 20).then_some(())
            });
            let pid = manager(self.installation).expect("it runs");
            signal(pid, "KILL");
            let said = run(&mut self.installation.up_command(self.manifests));
            let at_restart = written();
            let more = wait_for(LIMIT, || written() >= at_restart + 5);
            stop.store(true, Ordering::Relaxed);
            assert!(said.well, "up after kill -9: {}{}", said.out, said.err);
            assert!(more, "writing does not go on");
        });
        for kubeconfig in [self.management, self.demo] {
            let prefix = if kubeconfig == self.demo {
                "demo"
            } else {
                "management"
            };
            let names = kubectl(kubeconfig, &["get", "configmaps", "-o", "name"]);
            let there: BTreeSet<String> = names.lines().map(|line| format!("{prefix} {line}")).collect();
            let all = acknowledged.lock();
            let lost: Vec<_> = all
                .iter()
                .filter(|name| name.starts_with(prefix) && !there.contains(*name))
                .collect();
            assert!(lost.is_empty(), "acknowledged, then lost: {lost:?}");
        }
        assert_eq!(machines(self.management), machines_before);
        assert_eq!(
            inits(&machines_before),
            inits_before,
            "machines were started anew"
        );
        self.wait_until_well();
    }

    /// Creates ConfigMaps in both clusters and notes those that were acknowledged.
    fn write(&self, writer: usize, acknowledged: &Mutex<BTreeSet<String>>, stop: &AtomicBool) {
        for number in 0.. {
            let (kubeconfig, prefix) = match number % 2 {
                0 => (self.management, "management"),
                _ => (self.demo, "demo"),
            };
            let name = format!("crash-{writer}-{number}");
            if try_kubectl(kubeconfig, &["create", "configmap", &name, "--from-literal=k=v"]).well {
                let mut all = acknowledged.lock();
                all.insert(format!("{prefix} configmap/{name}"));
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    fn a_crashed_machine_is_back_after_one_restart(&self) {
        let machine = self.first();
        let repair = NextRepair::of(self.management, &machine.host);
        let boot = wait("the node to be ready", LIMIT, || {
            ready_boot(self.demo, &machine.name)
        });
        machine.crash(self.installation);
        let crashed = Instant::now();
        wait("the machine to be back", LIMIT, || {
            ready_boot(self.demo, &machine.name).filter(|now| *now != boot)
        });
        let (took, granted) = (crashed.elapsed(), GRACE + MORE);
        eprintln!("a crashed machine is back after {took:?}, granted are {granted:?}");
        // Elsewhere the machine is shared with other tests: that nothing but a restart was needed is what must hold.
        assert!(!tools::full_tier() || took <= granted, "{took:?} of {granted:?}");
        let steps = repair.reaches("Healthy");
        assert_eq!(steps, "Restart Healthy");
        let now = repair.now().expect("it was just there");
        assert_eq!(now["status"]["fencingProof"]["type"], "BootIDChanged");
        let told = self.events(&machine);
        for reason in ["RepairBegins", "RepairStep", "RepairStepEnded", "RepairHelped"] {
            assert!(told.contains(reason), "no event {reason}: {told}");
        }
        self.wait_until_well();
    }

    fn a_hung_runtime_is_restarted_without_a_reboot(&self) {
        let machine = self.first();
        let repair = NextRepair::of(self.management, &machine.host);
        let boot = wait("the node to be ready", LIMIT, || {
            ready_boot(self.demo, &machine.name)
        });
        let hung = machine.service(self.installation, "/containerd", "");
        signal(hung, "STOP");
        wait("the node to be not ready", LIMIT, || {
            (node_condition(self.demo, &machine.name, "Ready") == "False").then_some(())
        });
        let steps = repair.reaches("Healthy");
        assert_eq!(steps, "RestartService Healthy");
        assert_eq!(
            ready_boot(self.demo, &machine.name),
            Some(boot),
            "it was rebooted"
        );
        assert_ne!(machine.service(self.installation, "/containerd", ""), hung);
        self.wait_until_well();
    }

    fn a_kernel_line_keeps_pods_away_until_it_is_over(&self) {
        let machine = self.first();
        let taint = "problem.mainstay.dev/readonly-filesystem";
        let taints = || node_field(self.demo, &machine.name, "{.spec.taints[*].key}");
        machine.kernel_says(
            self.installation,
            "EXT4-fs (vda): Remounting filesystem read-only",
        );
        wait("the condition", LIMIT, || {
            (node_condition(self.demo, &machine.name, "ReadonlyFilesystem") == "True").then_some(())
        });
        wait("the taint", LIMIT, || taints().contains(taint).then_some(()));
        let said = doctor(self.installation);
        assert!(
            said.contains(&machine.name) && said.contains("ReadonlyFilesystem"),
            "doctor: {said}"
        );
        let said = why(self.installation, &format!("node/{}", machine.name));
        assert!(
            said.contains("FilesystemIsReadOnly") && said.contains("since"),
            "why: {said}"
        );
        apply(self.demo, &self.installation.folder, &pinned_pod(&machine.name));
        wait("the pod to be refused by the taint", LIMIT, || {
            let why = r#"jsonpath={.status.conditions[?(@.type=="PodScheduled")].message}"#;
            let said = try_kubectl(self.demo, &["get", "pod", "pinned", "-o", why]);
            said.out.contains(taint).then_some(())
        });
        machine.kernel_says(
            self.installation,
            "EXT4-fs (vda): re-mounted 0b7c r/w. Quota mode: none.",
        );
        wait("the condition to end", LIMIT, || {
            (node_condition(self.demo, &machine.name, "ReadonlyFilesystem") == "False").then_some(())
        });
        wait("the taint to go", LIMIT, || {
            (!taints().contains(taint)).then_some(())
        });
        let ready = ["wait", "--for=condition=Ready", "pod/pinned", "--timeout=120s"];
        kubectl(self.demo, &ready);
        kubectl(self.demo, &["delete", "pod", "pinned", "--grace-period=1"]);
        self.wait_until_well();
    }

    fn a_deadlock_is_told_and_ends_with_the_restart(&self) {
        let machine = self.first();
        let repair = NextRepair::of(self.management, &machine.host);
        let boot = wait("the node to be ready", LIMIT, || {
            ready_boot(self.demo, &machine.name)
        });
        let line = "INFO: task docker:20744 blocked for more than 120 seconds.";
        machine.kernel_says(self.installation, line);
        // In the middle of the fault: what is wrong, since when, what happens next.
        wait("doctor to tell the deadlock", LIMIT, || {
            let said = doctor(self.installation);
            let told =
                said.contains("KernelDeadlock") && said.contains("DockerHung") && said.contains(" since ");
            told.then_some(())
        });
        let said = wait("why to tell the coming repair", LIMIT, || {
            let said = why(self.installation, &format!("host/{}", machine.host));
            said.contains("a repair begins").then_some(said)
        });
        assert!(said.contains("policy default"), "why: {said}");
        wait("why to tell the running repair", LIMIT, || {
            let said = why(self.installation, &format!("node/{}", machine.name));
            said.contains("Restart runs since").then_some(())
        });
        let steps = repair.reaches("Healthy");
        assert_eq!(steps, "Restart Healthy");
        assert_ne!(ready_boot(self.demo, &machine.name), Some(boot));
        assert_eq!(
            node_condition(self.demo, &machine.name, "KernelDeadlock"),
            "False"
        );
        self.wait_until_well();
    }

    fn a_frozen_agent_is_replaced_and_its_identity_refused(&self) {
        let machine = self.first();
        let repair = NextRepair::of(self.management, &machine.host);
        let pki = machine.inside(
            self.installation,
            "/var/lib/kubelet/pki/kubelet-client-current.pem",
        );
        let twin = self.twin(&std::fs::read_to_string(pki).expect("the agent has a certificate"));
        let ask =
            |verb: &str, more: &[&str]| try_kubectl(&twin, &[&[verb, "node", &machine.name], more].concat());
        assert!(
            ask("get", &[]).well,
            "the twin is the node as long as nothing has happened"
        );
        let marker = machine.inside(self.installation, "/var/marker");
        std::fs::write(&marker, "x").expect("/var is writable");
        let agent = machine.service(self.installation, "/mainstay", "node");
        signal(agent, "STOP");
        wait("the node to be unknown", LIMIT, || {
            (node_condition(self.demo, &machine.name, "Ready") == "Unknown").then_some(())
        });
        wait("doctor to tell the silent node", LIMIT, || {
            let said = doctor(self.installation);
            (said.contains(&machine.name) && said.contains("stopped posting")).then_some(())
        });
        let steps = repair.reaches("Healthy");
        assert_eq!(steps, "Reprovision Healthy");
        let node = node_field(self.demo, &machine.name, "{.metadata.annotations}");
        assert!(node.contains(r#""mainstay.dev/incarnation":"2""#), "{node}");
        assert_eq!(node_condition(self.demo, &machine.name, "Ready"), "True");
        let gone = !machine.inside(self.installation, "/var/marker").exists();
        assert!(gone, "/var was not wiped");
        // The frozen agent can only continue by its certificate: that is worth nothing any more.
        assert_eq!(
            computer::command_line(agent),
            Vec::<String>::new(),
            "the frozen agent still lives"
        );
        refused(&ask("get", &[]));
        refused(&ask("annotate", &["twin=1"]));
        let renew = [
            "-n",
            "kube-node-lease",
            "patch",
            "lease",
            &machine.name,
            "--type=merge",
            "-p",
        ];
        refused(&try_kubectl(
            &twin,
            &[&renew[..], &[r#"{"spec":{"holderIdentity":"twin"}}"#]].concat(),
        ));
        self.wait_until_well();
    }

    /// A kubeconfig for the workload cluster with the certificate and key of an agent.
    fn twin(&self, identity: &str) -> std::path::PathBuf {
        let text = kubectl(self.demo, &["config", "view", "--raw", "-o", "json"]);
        let mut config: Value = serde_json::from_str(&text).expect("it is JSON");
        let file = self.installation.folder.join("twin.pem");
        std::fs::write(&file, identity).expect("writable");
        config["users"][0]["user"] = json!({"client-certificate": file, "client-key": file});
        let path = self.installation.folder.join("twin.kubeconfig");
        std::fs::write(&path, config.to_string()).expect("writable");
        path
    }

    fn broken_hardware_climbs_the_ladder_to_a_ticket(&self) {
        let machine = self.first();
        let repair = NextRepair::of(self.management, &machine.host);
        machine.break_network(self.installation);
        wait("why to tell the restart", LIMIT, || {
            let said = why(self.installation, &format!("host/{}", machine.host));
            said.contains("Restart runs since").then_some(())
        });
        wait("why to tell the reinstallation", LIMIT, || {
            let said = why(self.installation, &format!("host/{}", machine.host));
            (said.contains("Reprovision runs since") && said.contains("BreakFix")).then_some(())
        });
        let steps = repair.reaches("Ticketed");
        assert!(
            steps.starts_with("Restart StillFaulty, Reprovision StillFaulty, BreakFix"),
            "{steps}"
        );
        let replacement = wait("another host to take the place", LIMIT, || {
            let now = machines(self.management);
            let moved = now.len() == 2 && now.iter().all(|other| other.host != machine.host);
            (moved && ready_nodes(self.demo) == 2).then_some(now)
        });
        assert!(!replacement.iter().any(|other| other.name == machine.name));
        let now = repair.now().expect("it stays");
        assert_eq!(now["status"]["fencingProof"]["type"], "PowerOff");
        let ticket = now["status"]["ticketRef"]["name"]
            .as_str()
            .expect("it has a ticket");
        let said = why(self.installation, &format!("host/{}", machine.host));
        assert!(said.contains(ticket) && said.contains("resolved"), "why: {said}");
        let state = || {
            kubectl(
                self.management,
                &["get", "host", &machine.host, "-o", "jsonpath={.status.state}"],
            )
        };
        assert_eq!(state(), "BreakFix");
        let patch = [
            "patch",
            "breakfixticket",
            ticket,
            "--type=merge",
            "-p",
            r#"{"spec":{"resolved":true}}"#,
        ];
        kubectl(self.management, &patch);
        wait("the host to be back in the pool", LIMIT, || {
            (state() == "Available").then_some(())
        });
        assert_eq!(told(&repair.now().expect("it stays")).0, "Healthy");
        self.wait_until_well();
    }
}

fn refused(said: &Said) {
    let why = "incarnation 2 has replaced this one";
    assert!(!said.well && said.err.contains(why), "{}{}", said.out, said.err);
}

/// Waits without failing; tells whether it came.
fn wait_for(limit: Duration, mut look: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < limit {
        if look() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    false
}

fn pinned_pod(node: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: pinned}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {node}}}
  containers:
  - name: c
    image: mainstay.local/busybox:1
    command: [sh, -c, 'exec sleep 100000']
"
    )
}
