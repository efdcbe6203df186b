//! What the kernel holds for pods of each class, beside the seed's tables.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_node::cri::runtime_v1 as v1;

use crate::machine::{Agent, BUSYBOX, Machine, eventually, on_machine};
use crate::standalone::running;

const LIMIT: Duration = Duration::from_secs(60);
/// A memory limit as the kernel shows that there is none.
const NO_LIMIT: &str = "9223372036854771712";

/// Manifest of a pod whose containers have these resources, in YAML's short form.
fn manifest(name: &str, resources: &[&str]) -> String {
    let container = |(at, resources): (usize, &&str)| {
        format!("{{name: c{at}, image: '{BUSYBOX}', command: [sleep, '1000'], resources: {resources}}}")
    };
    let containers: Vec<String> = resources.iter().enumerate().map(container).collect();
    format!(
        "metadata: {{name: {name}}}\nspec: {{terminationGracePeriodSeconds: 1, containers: [{}]}}",
        containers.join(", ")
    )
}

/// `cpu.shares`, `cpu.cfs_quota_us` and `memory.limit_in_bytes` of a cgroup.
fn values(machine: &Machine, path: &str) -> String {
    let read = |controller: &str, file: &str| {
        let file = format!(
            "/sys/fs/cgroup/{controller}{}{path}/{file}",
            machine.cgroup_root()
        );
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        match text.trim() {
            NO_LIMIT => "none".to_owned(),
            value => value.to_owned(),
        }
    };
    let (shares, quota) = (read("cpu", "cpu.shares"), read("cpu", "cpu.cfs_quota_us"));
    format!("{shares} {quota} {}", read("memory", "memory.limit_in_bytes"))
}

fn oom_score_adj(machine: &Machine, path: &str) -> i64 {
    let procs = format!(
        "/sys/fs/cgroup/memory{}{path}/cgroup.procs",
        machine.cgroup_root()
    );
    let pids = std::fs::read_to_string(procs).expect("a cgroup");
    let pid = pids.lines().next().expect("a process");
    let text = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("a process");
    text.trim().parse().expect("a number")
}

fn memory_total() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("meminfo");
    let line = text.lines().next().expect("a line");
    let kilobytes: i64 = line
        .split_whitespace()
        .nth(1)
        .expect("a number")
        .parse()
        .expect("a number");
    kilobytes << 10
}

/// Paths of the pods' cgroups by the pod's name, and of the containers' by `pod/container`.
fn paths(containers: &[v1::Container]) -> BTreeMap<String, String> {
    let mut paths = BTreeMap::new();
    for container in containers {
        let label = |key: &str| container.labels[key].clone();
        let (pod, uid) = (label("io.kubernetes.pod.name"), label("io.kubernetes.pod.uid"));
        let tier = match pod.trim_end_matches("-n1") {
            "guaranteed" => String::new(),
            class => format!("/{class}"),
        };
        let path = format!("/kubepods{tier}/pod{uid}");
        let name = pod.trim_end_matches("-n1");
        let own = &container.metadata.as_ref().expect("metadata").name;
        paths.insert(format!("{name}/{own}"), format!("{path}/{}", container.id));
        paths.insert(name.to_owned(), path);
    }
    paths
}

#[test]
fn the_kernel_holds_what_the_classes_promise() {
    on_machine(async |machine| {
        let guaranteed = [
            "{limits: {cpu: 500m, memory: 64Mi}}",
            "{limits: {cpu: 250m, memory: 32Mi}, requests: {cpu: 250m, memory: 32Mi}}",
        ];
        let burstable = [
            "{requests: {cpu: 100m, memory: 2Gi}, limits: {cpu: 200m, memory: 3Gi}}",
            "{requests: {cpu: 50m}}",
        ];
        machine.manifest("guaranteed.yaml", &manifest("guaranteed", &guaranteed));
        machine.manifest("burstable.yaml", &manifest("burstable", &burstable));
        machine.manifest("besteffort.yaml", &manifest("besteffort", &["{}"]));
        let agent = Agent::start(machine.settings("n1"));
        let containers = eventually("all five containers", LIMIT, async || {
            Some(running(machine).await).filter(|c| c.len() == 5)
        })
        .await;
        let paths = paths(&containers);
        let held: Vec<String> = paths
            .iter()
            .map(|(name, path)| format!("{name}: {}", values(machine, path)))
            .collect();
        assert_eq!(
            held,
            [
                "besteffort: 2 -1 none",
                "besteffort/c0: 2 -1 none",
                "burstable: 153 -1 none",
                "burstable/c0: 102 20000 3221225472",
                "burstable/c1: 51 -1 none",
                "guaranteed: 768 75000 100663296",
                "guaranteed/c0: 512 50000 67108864",
                "guaranteed/c1: 256 25000 33554432",
            ]
        );
        eventually("the classes are weighed", LIMIT, async || {
            let tiers = ["/kubepods/burstable", "/kubepods/besteffort"].map(|tier| values(machine, tier));
            (tiers == ["153 -1 none", "2 -1 none"]).then_some(())
        })
        .await;
        // The seed's formula. Negative scores need a capability that not every machine gives to root.
        let of_two_gigabytes = (1000 - 1000 * (2 << 30) / memory_total()).clamp(2, 999);
        let scores =
            ["besteffort/c0", "burstable/c0", "burstable/c1"].map(|c| oom_score_adj(machine, &paths[c]));
        assert_eq!(scores, [1000, of_two_gigabytes, 999]);
        agent.stop().await;
    });
}
