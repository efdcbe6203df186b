//! Cgroup v2 with plain folders or with systemd's slices, on a machine of its own: what the agent wants is what the
//! kernel has, before and after systemd is reloaded; the right pod goes when memory is short; nothing is left behind.

mod kernel;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use mainstay_cri::Cri;
use serde_json::{Value, json};

use super::runtime::{Running, running, sandboxes};
use super::{create, phase, pod, until, until_running};
use crate::site::world::{NODE, Runtime, World};
use kernel::{Groups, Wanted};

const LIMIT: Duration = Duration::from_secs(30);
/// What all pods together may use.
const FOR_PODS: i64 = 400 << 20;
const MIB: i64 = 1 << 20;
const SLEEP: &str = "trap 'exit 0' TERM; sleep 100000 & wait";
/// Asks for more than its limit in one go, in a child of the container's first process.
const GLUTTON: &str = "dd if=/dev/zero of=/dev/null bs=96M count=1; sleep 100000";
/// Takes memory until somebody ends it, once the file is there.
const HOG: &str = "while ! [ -e /signs/hog-may-begin ]; do sleep 0.2; done; \
                   i=0; while true; do head -c 5242880 /dev/zero > /memory/$i; i=$((i+1)); sleep 0.05; done";
const BEGIN: &str = "/run/hog-may-begin";

/// Runs it with one way of making cgroups: `cgroupfs` or `systemd`.
pub async fn run(folder: &Path, driver: &str) -> Result<()> {
    let runtime = Runtime {
        systemd: driver == "systemd",
        unrestricted: true,
    };
    let mut world = World::start_with(folder, runtime).await?;
    let outcome = Trial::begin(&mut world, driver).await;
    if outcome.is_err() {
        let text = std::fs::read_to_string(folder.join("containerd.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(40)..].join("\n");
        println!("containerd.log:\n{last}");
    }
    outcome.with_context(|| format!("with {driver}"))
}

/// What the agent is told beside the usual.
fn configuration(driver: &str) -> Result<Value> {
    Ok(json!({
        "cgroupDriver": driver, "cgroupRoot": "", "podPidsLimit": 64,
        "systemReserved": {"memory": (kernel::memory()? - FOR_PODS).to_string()},
        "evictionHard": {"memory.available": "100Mi"},
    }))
}

fn resources(requests: Value, limits: Value) -> Value {
    json!({"resources": {"requests": requests, "limits": limits}})
}

/// The pods that are looked at.
fn pods() -> Result<Vec<Pod>> {
    let guaranteed = json!({"cpu": "500m", "memory": "64Mi"});
    let huge = json!({"cpu": "100m", "memory": "32Mi", "hugepages-2Mi": "4Mi"});
    let mut critical = pod(
        "critical",
        SLEEP,
        &json!({"resources": {"requests": {"memory": "16Mi"}}}),
    )?;
    if let Some(spec) = &mut critical.spec {
        spec.priority_class_name = Some("system-node-critical".to_owned());
    }
    Ok(vec![
        pod("guaranteed", SLEEP, &resources(guaranteed.clone(), guaranteed))?,
        pod(
            "burstable",
            SLEEP,
            &resources(
                json!({"cpu": "250m", "memory": "32Mi"}),
                json!({"cpu": "500m", "memory": "96Mi"}),
            ),
        )?,
        pod("besteffort", SLEEP, &json!({}))?,
        pod("huge", SLEEP, &resources(huge.clone(), huge))?,
        critical,
    ])
}

/// What is written of a pod: class, `cpu.weight`, `cpu.max`, `memory.max`, hugepages, score of its container.
type Row = (
    &'static str,
    &'static str,
    i64,
    &'static str,
    Option<i64>,
    i64,
    i64,
);

/// What upstream sets, in numbers of cgroup v2.
fn expected() -> Result<Vec<Row>> {
    let burstable = 1000 - 1000 * 32 * MIB / kernel::memory()?;
    Ok(vec![
        (
            "guaranteed",
            "guaranteed",
            59,
            "50000 100000",
            Some(64 * MIB),
            0,
            -997,
        ),
        (
            "burstable",
            "burstable",
            35,
            "50000 100000",
            Some(96 * MIB),
            0,
            burstable,
        ),
        ("besteffort", "besteffort", 1, "max 100000", None, 0, 1000),
        (
            "huge",
            "guaranteed",
            17,
            "10000 100000",
            Some(32 * MIB),
            4 * MIB,
            -997,
        ),
        ("critical", "burstable", 1, "max 100000", None, 0, -997),
    ])
}

struct Trial<'w> {
    world: &'w mut World,
    pods: Api<Pod>,
    cri: Cri,
    groups: Groups,
    /// systemd has been reloaded: it then takes `memory.oom.group` away, which no scope of version 252 can ask for.
    is_reloaded: bool,
}

impl Trial<'_> {
    async fn begin(world: &mut World, driver: &str) -> Result<()> {
        let configuration = configuration(driver)?;
        world.start_agent(&configuration).await?;
        println!("{driver}: the node is ready");
        let mut trial = Trial {
            pods: Api::default_namespaced(world.client().clone()),
            cri: world.cri()?,
            groups: Groups::new(driver),
            is_reloaded: false,
            world,
        };
        for pod in &pods()? {
            create(&trial.pods, pod).await?;
        }
        for (name, ..) in expected()? {
            until_running(&trial.pods, name).await?;
        }
        println!("{driver}: the pods run");
        println!("{}", trial.until_limited().await?);
        let mut failed = Vec::new();
        let mut note = |what: &'static str, outcome: Result<()>| {
            if let Err(error) = outcome {
                println!("{driver}: {what}: {error:#}");
                failed.push(what);
            }
        };
        note("scores", trial.scores().await);
        if driver == "systemd" {
            note("reload", trial.reloaded().await);
        }
        note("figures", trial.figures().await);
        note("out of memory", trial.out_of_memory().await);
        note("a new agent", trial.adopted(&configuration).await);
        note("eviction", trial.evicted().await);
        note("memory QoS", trial.protected(&configuration).await);
        note("removal", trial.removed().await);
        ensure!(failed.is_empty(), "what failed: {}", failed.join(", "));
        Ok(())
    }

    async fn uid(&self, name: &str) -> Result<String> {
        let pod = self.pods.get(name).await?;
        pod.metadata.uid.context("a pod has a uid")
    }

    /// Waits until the kernel limits what it should: the classes are weighed a moment after a pod has come.
    async fn until_limited(&self) -> Result<String> {
        until("limits are set", LIMIT, async || self.limits().await).await
    }

    /// What the kernel limits is what the pods asked for.
    async fn limits(&self) -> Result<String> {
        let mut lines = Vec::new();
        let groups = &self.groups;
        let top = groups.class("guaranteed");
        ensure!(
            groups.read(&top, "pids.max")? != "max",
            "no limit of processes for all pods"
        );
        // Two processors are 2048 shares.
        let mut wanted = vec![
            Wanted::new(&top, "cpu.weight", 174),
            Wanted::new(&top, "memory.max", FOR_PODS),
            Wanted::new(&groups.class("burstable"), "cpu.weight", 35),
            Wanted::new(&groups.class("besteffort"), "cpu.weight", 1),
        ];
        let running = running(&self.cri).await?;
        for (name, class, weight, quota, memory, huge, _) in expected()? {
            let path = groups.pod(class, &self.uid(name).await?);
            let memory = memory.map_or("max".to_owned(), |bytes| bytes.to_string());
            let container = groups.container(&path, &running.get(name).context("it does not run")?.id);
            for group in [&path, &container] {
                wanted.push(Wanted::new(group, "cpu.max", quota));
                wanted.push(Wanted::new(group, "memory.max", &memory));
            }
            wanted.push(Wanted::new(&path, "cpu.weight", weight));
            wanted.push(Wanted::new(&path, "pids.max", 64));
            if !self.is_reloaded {
                wanted.push(Wanted::new(&container, "memory.oom.group", 1));
            }
            wanted.push(Wanted::new(&container, "hugetlb.2MB.max", huge));
            if huge > 0 {
                wanted.push(Wanted::new(&path, "hugetlb.2MB.max", huge));
            }
            lines.push(format!(
                "{name}: {path}: cpu.weight {weight}, cpu.max {quota}, memory.max {memory}, hugetlb {huge}"
            ));
        }
        groups.show(&wanted)?;
        Ok(lines.join("\n"))
    }

    /// Scores of containers, of what holds their namespaces, and of the agent itself.
    async fn scores(&self) -> Result<()> {
        let running = running(&self.cri).await?;
        let sandboxes = sandboxes(&self.cri).await?;
        for (name, class, .., score) in expected()? {
            let uid = self.uid(name).await?;
            let path = self.groups.pod(class, &uid);
            let found = self.groups.score(
                &self
                    .groups
                    .container(&path, &running.get(name).context("it does not run")?.id),
            )?;
            ensure!(found == score, "oom_score_adj of {name} is {found}, not {score}");
            let pause = self
                .groups
                .score(&self.groups.container(&path, &sandboxes[&uid]))?;
            ensure!(pause == -998, "oom_score_adj of the sandbox of {name} is {pause}");
            println!("{name}: oom_score_adj {found}, its sandbox {pause}");
        }
        let agent = kernel::score(self.world.agent_pid()?)?;
        ensure!(agent == -999, "oom_score_adj of the agent is {agent}");
        Ok(())
    }

    /// systemd knows the limits: after a reload, when it writes all of them again, they are what they were.
    async fn reloaded(&mut self) -> Result<()> {
        let mut before = BTreeMap::new();
        let mut paths: Vec<String> = ["guaranteed", "burstable", "besteffort"]
            .map(|c| self.groups.class(c))
            .into();
        for (name, class, ..) in expected()? {
            let path = self.groups.pod(class, &self.uid(name).await?);
            let unit = path.rsplit('/').next().unwrap_or_default();
            ensure!(
                said("systemctl", &["is-active", unit])? == "active",
                "{unit} is not active"
            );
            paths.push(path);
        }
        for path in &paths {
            before.insert(path.clone(), self.groups.all(path)?);
        }
        said("systemctl", &["daemon-reload"])?;
        self.is_reloaded = true;
        for (path, values) in &before {
            let now = self.groups.all(path)?;
            ensure!(
                now == *values,
                "{path} had {values:?}, has {now:?} after the reload"
            );
        }
        let burstable = self.groups.pod("burstable", &self.uid("burstable").await?);
        let unit = burstable.rsplit('/').next().unwrap_or_default();
        let names = [
            "CPUWeight",
            "CPUQuotaPerSecUSec",
            "MemoryMax",
            "TasksMax",
            "Slice",
        ];
        let shown = said("systemctl", &["show", "-p", &names.join(","), unit])?;
        for wanted in [
            "CPUWeight=35",
            "CPUQuotaPerSecUSec=500ms",
            "MemoryMax=100663296",
            "TasksMax=64",
        ] {
            ensure!(
                shown.lines().any(|line| line == wanted),
                "{unit} lacks {wanted}:\n{shown}"
            );
        }
        println!("systemd: limits are the same after a reload");
        Ok(())
    }

    async fn ask(&self, path: &str) -> Result<String> {
        let path = format!("/api/v1/nodes/{NODE}/proxy/{path}");
        let request = hyper::Request::get(path).body(Vec::new())?;
        Ok(self.world.client().request_text(request).await?)
    }

    /// The agent measures what runs.
    async fn figures(&self) -> Result<()> {
        until("all figures are there", LIMIT, async || {
            let summary: Value = serde_json::from_str(&self.ask("stats/summary").await?)?;
            let pods = summary["pods"].as_array().cloned().unwrap_or_default();
            let burstable = pods
                .iter()
                .find(|p| p["podRef"]["name"] == "burstable")
                .context("no such pod")?;
            for (what, value) in [
                ("node cpu", &summary["node"]["cpu"]["usageCoreNanoSeconds"]),
                ("node memory", &summary["node"]["memory"]["workingSetBytes"]),
                ("pod cpu", &burstable["cpu"]["usageCoreNanoSeconds"]),
                ("pod memory", &burstable["memory"]["workingSetBytes"]),
                (
                    "container cpu",
                    &burstable["containers"][0]["cpu"]["usageCoreNanoSeconds"],
                ),
                (
                    "container memory",
                    &burstable["containers"][0]["memory"]["workingSetBytes"],
                ),
                ("processes", &burstable["process_stats"]["process_count"]),
            ] {
                ensure!(value.as_u64().is_some_and(|v| v > 0), "{what} is {value}");
            }
            // Pressure is told by the second version alone.
            for pressure in [&summary["node"]["io"], &burstable["cpu"], &burstable["memory"]] {
                let total = &pressure["psi"]["some"]["total"];
                ensure!(total.is_u64(), "no pressure in {pressure}");
            }
            let series = self.ask("metrics/cadvisor").await?;
            let pressure = "container_pressure_memory_waiting_seconds_total{";
            ensure!(series.contains(pressure), "no series of pressure");
            for name in [
                "container_memory_working_set_bytes",
                "container_cpu_usage_seconds_total",
            ] {
                let mut of_pod = series
                    .lines()
                    .filter(|l| l.starts_with(name) && l.contains("pod=\"burstable\""));
                let value = of_pod
                    .next()
                    .and_then(|l| l.rsplit(' ').next()?.parse::<f64>().ok());
                ensure!(value.is_some_and(|v| v > 0.0), "{name} is {value:?}");
            }
            Ok(())
        })
        .await?;
        println!("stats/summary and metrics/cadvisor have figures");
        Ok(())
    }

    /// A process that goes past its container's limit takes all of the container with it.
    async fn out_of_memory(&self) -> Result<()> {
        let limits = resources(json!({"memory": "48Mi"}), json!({"memory": "48Mi"}));
        create(&self.pods, &pod("glutton", GLUTTON, &limits)?).await?;
        until("the glutton is killed", LIMIT, async || {
            let status = self.pods.get("glutton").await?.status.unwrap_or_default();
            let containers = status.container_statuses.unwrap_or_default();
            let container = containers.first().context("no container yet")?;
            let states = [&container.state, &container.last_state];
            let mut ends = states.into_iter().flatten().filter_map(|s| s.terminated.as_ref());
            let end = ends.next().with_context(|| format!("it runs: {container:?}"))?;
            ensure!(end.reason.as_deref() == Some("OOMKilled"), "{end:?}");
            ensure!(end.exit_code == 137, "{end:?}");
            Ok(())
        })
        .await?;
        self.pods
            .delete("glutton", &DeleteParams::default().grace_period(0))
            .await?;
        println!("out of memory: OOMKilled, 137, the whole container");
        Ok(())
    }

    async fn known(&self) -> Result<BTreeMap<String, Running>> {
        let mut all = running(&self.cri).await?;
        let names: Vec<&str> = expected()?.into_iter().map(|row| row.0).collect();
        all.retain(|name, _| names.contains(&name.as_str()));
        Ok(all)
    }

    /// A new agent finds cgroups that are there and leaves their containers alone.
    async fn adopted(&mut self, configuration: &Value) -> Result<()> {
        let before = self.known().await?;
        self.world.kill_agent();
        self.world.start_agent(configuration).await?;
        // Only the new one answers, and only for pods that it knows.
        self.figures().await?;
        self.until_limited().await?;
        let now = self.known().await?;
        ensure!(now == before, "{before:?} became {now:?}");
        println!("a new agent has adopted all of it");
        Ok(())
    }

    /// All pods together come near their limit: the one that took the memory goes, and it alone.
    async fn evicted(&self) -> Result<()> {
        let before = self.known().await?;
        let mut more = json!({"resources": {"requests": {"memory": "1Mi"}}});
        more["volumeMounts"] =
            json!([{"name": "memory", "mountPath": "/memory"}, {"name": "signs", "mountPath": "/signs"}]);
        create(&self.pods, &pod("hog", HOG, &more)?).await?;
        until_running(&self.pods, "hog").await?;
        std::fs::write(BEGIN, "")?;
        until("the hog is evicted", LIMIT, async || {
            let hog = self.pods.get("hog").await?;
            let reason = hog.status.as_ref().and_then(|s| s.reason.as_deref());
            ensure!(
                phase(&hog) == "Failed" && reason == Some("Evicted"),
                "{:?}",
                hog.status
            );
            Ok(())
        })
        .await?;
        let now = self.known().await?;
        ensure!(now == before, "{before:?} became {now:?}");
        let message = self.pods.get("hog").await?.status.and_then(|s| s.message);
        println!("evicted: the hog alone: {}", message.unwrap_or_default());
        Ok(())
    }

    /// With `MemoryQoS` what pods request is left to them, and who goes on towards his limit is slowed down.
    async fn protected(&mut self, configuration: &Value) -> Result<()> {
        let mut more = configuration.clone();
        more["featureGates"] = json!({"MemoryQoS": true});
        more["memoryReservationPolicy"] = json!("TieredReservation");
        self.world.start_agent(&more).await?;
        let kept = json!({"cpu": "100m", "memory": "16Mi"});
        let kept = pod("kept", SLEEP, &resources(kept.clone(), kept))?;
        let limits = resources(json!({"memory": "16Mi"}), json!({"memory": "32Mi"}));
        let slowed = pod("slowed", SLEEP, &limits)?;
        for (name, pod) in [("kept", kept), ("slowed", slowed)] {
            create(&self.pods, &pod).await?;
            until_running(&self.pods, name).await?;
        }
        until("memory is protected", LIMIT, async || self.protection().await).await?;
        println!("memory.min, memory.low and memory.high are set with MemoryQoS");
        Ok(())
    }

    async fn protection(&self) -> Result<()> {
        let groups = &self.groups;
        // Requested by the Guaranteed pods 64 + 32 + 16, by the Burstable ones 32 + 16 + 16.
        let running = running(&self.cri).await?;
        let container = |path: &str, name: &str| {
            let one = running.get(name).context("it does not run")?;
            anyhow::Ok(groups.container(path, &one.id))
        };
        let kept = groups.pod("guaranteed", &self.uid("kept").await?);
        let slowed = groups.pod("burstable", &self.uid("slowed").await?);
        let (of_kept, of_slowed) = (container(&kept, "kept")?, container(&slowed, "slowed")?);
        groups.show(&[
            Wanted::new(&groups.class("guaranteed"), "memory.min", 176 * MIB),
            Wanted::new(&groups.class("burstable"), "memory.low", 64 * MIB),
            Wanted::new(&kept, "memory.min", 16 * MIB),
            Wanted::new(&of_kept, "memory.min", 16 * MIB),
            Wanted::new(&of_kept, "memory.high", "max"),
            Wanted::new(&slowed, "memory.low", 16 * MIB),
            Wanted::new(&of_slowed, "memory.low", 16 * MIB),
            // Nine tenths of the way from 16 to 32 MiB, whole pages.
            Wanted::new(&of_slowed, "memory.high", 31_875_072),
        ])
    }

    /// With the pods go their cgroups, and systemd's units.
    async fn removed(&self) -> Result<()> {
        for pod in self.pods.list(&ListParams::default()).await?.items {
            let name = pod.metadata.name.context("a pod has a name")?;
            self.pods
                .delete(&name, &DeleteParams::default().grace_period(1))
                .await?;
        }
        until("nothing is left", LIMIT, async || {
            let left = self.groups.pods()?;
            ensure!(left.is_empty(), "cgroups {left:?}");
            let units = said(
                "systemctl",
                &["list-units", "--all", "--plain", "--no-legend", "kubepods*pod?*"],
            )?;
            let units: Vec<&str> = units.lines().filter(|line| line.contains("-pod")).collect();
            ensure!(units.is_empty(), "units {units:?}");
            let pods = self.pods.list(&ListParams::default()).await?.items;
            ensure!(pods.is_empty(), "{} pods", pods.len());
            Ok(())
        })
        .await?;
        println!("no cgroup is left");
        Ok(())
    }
}

/// What a program says.
fn said(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .context("systemctl")?;
    if !output.status.success() {
        bail!(
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
