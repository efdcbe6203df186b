//! Tables about eviction: thresholds, order, and whole passes over time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::node::name_of;
use super::{amounts, equal, number, on, pod_of, read, read_or_default, same_set, text};
use crate::admission::under_pressure;
use crate::config::{KubeletConfiguration, duration};
use crate::eviction::decide::{Eviction, Memory, Observation, Observations};
use crate::eviction::own_limits;
use crate::eviction::rank::{ContainerUse, FsUse, PodUse, VolumeUse, rank};
use crate::eviction::synchronize::{Machine, Reclaim, Rules, Wanted, synchronize};
use crate::eviction::thresholds::{Amount, Condition, Layout, Signal, Threshold, parse, with_containerfs};

fn configuration(row: &Value, hard: &str, soft: &str) -> Result<KubeletConfiguration, String> {
    Ok(KubeletConfiguration {
        eviction_hard: Some(read_or_default(&row[hard])?),
        eviction_soft: read_or_default(&row[soft])?,
        eviction_soft_grace_period: read_or_default(&row["soft_grace"])?,
        eviction_minimum_reclaim: read_or_default(&row["min_reclaim"])?,
        enforce_node_allocatable: read_or_default(&row["enforce_node_allocatable"])?,
        ..Default::default()
    })
}

fn shown_amount(amount: &Amount) -> String {
    match amount {
        Amount::Quantity(quantity) => quantity.canonical(),
        Amount::Share(share) => format!("share {share:?}"),
    }
}

fn shown(threshold: &Threshold) -> String {
    let reclaim = threshold.min_reclaim.as_ref().map(shown_amount);
    format!(
        "{} {} {} {reclaim:?}",
        threshold.signal.name(),
        shown_amount(&threshold.amount),
        duration::format(threshold.grace)
    )
}

fn wanted_amount(row: &Value, quantity: &str, share: &str) -> Option<String> {
    let share = row[share]
        .as_str()
        .map(|s| format!("share {:?}", s.parse::<f32>().unwrap_or(-1.0)));
    row[quantity].as_str().map(str::to_owned).or(share)
}

/// Expected thresholds; those without an operator can never be crossed and are left out, as we leave them out.
fn wanted_thresholds(row: &Value) -> Result<Vec<String>, String> {
    let rows: Vec<Value> = read_or_default(&row["thresholds"])?;
    let active = rows.iter().filter(|t| !text(t, "operator").is_empty());
    Ok(active
        .map(|t| {
            let amount = wanted_amount(t, "quantity", "percentage").unwrap_or_default();
            let reclaim = wanted_amount(t, "min_reclaim_quantity", "min_reclaim_percentage")
                .or_else(|| wanted_amount(t, "min_reclaim", ""));
            format!("{} {amount} {} {reclaim:?}", text(t, "signal"), text(t, "grace"))
        })
        .collect())
}

pub fn thresholds(row: &Value, _: &Value) -> Result<(), String> {
    let got = parse(&configuration(row, "eviction_hard", "eviction_soft")?);
    match (got, text(row, "err")) {
        (Err(why), wanted) => equal("err", why.as_str(), wanted),
        (Ok(_), wanted) if !wanted.is_empty() => Err(format!("expected the error {wanted:?}")),
        (Ok(got), _) => same_set(
            "thresholds",
            got.iter().map(shown).collect(),
            wanted_thresholds(row)?,
        ),
    }
}

pub fn containerfs(row: &Value, _: &Value) -> Result<(), String> {
    let layout = Layout {
        dedicated_imagefs: on(row, "dedicated_imagefs"),
        split: on(row, "split_container_image_fs"),
    };
    let (got, warning) = with_containerfs(parse(&configuration(row, "hard", "soft")?)?, layout);
    same_set(
        "thresholds",
        got.iter().map(shown).collect(),
        wanted_thresholds(row)?,
    )?;
    equal("warning", warning.as_deref(), row["warning"].as_str())
}

/// What the table of pod sets says about each pod of a set, by name.
fn pod_set(sets: &Value, set: &str) -> Result<BTreeMap<String, (usize, Value)>, String> {
    let found = sets
        .as_array()
        .into_iter()
        .flatten()
        .find(|s| text(s, "set") == set);
    let pods: Vec<Value> = read(&found.ok_or("no such set")?["pods"])?;
    let named = pods.into_iter().enumerate();
    Ok(named
        .map(|(at, p)| (text(&p, "name").to_owned(), (at, p)))
        .collect())
}

fn pod_of_set(stats: &Value) -> Result<Pod, String> {
    let resources =
        json!({"requests": amounts(text(stats, "requests")), "limits": amounts(text(stats, "limits"))});
    pod_of(&json!({"metadata": {"name": stats["name"], "uid": stats["name"]},
        "spec": {"priority": stats["priority"], "containers": [{"name": "c", "resources": resources}],
            "volumes": [{"name": "scratch", "emptyDir": {}}]}}))
}

fn use_of(pod: Pod, stats: &Value) -> PodUse {
    let each = number(stats, "inodes_rootfs_and_emptydir_each");
    let fs = |key: &str, inodes: i64| FsUse {
        bytes: number(stats, key),
        inodes,
    };
    PodUse {
        known: !on(stats, "no_stats"),
        memory: number(stats, "memory_working_set"),
        pids: number(stats, "process_count"),
        containers: vec![ContainerUse {
            name: "c".to_owned(),
            memory: number(stats, "memory_working_set"),
            rootfs: fs("rootfs_used", each),
            logs: fs("logs_used", number(stats, "inodes_logs")),
        }],
        volumes: vec![VolumeUse {
            name: "scratch".to_owned(),
            used: fs("emptydir_used", each),
            on_disk: true,
        }],
        ..PodUse::unmeasured(Arc::new(pod))
    }
}

fn layout_of(row: &Value) -> Layout {
    Layout {
        dedicated_imagefs: on(row, "dedicated_imagefs"),
        split: on(row, "split_fs"),
    }
}

pub fn rank_order(row: &Value, sets: &Value) -> Result<(), String> {
    let mut stats: Vec<(usize, Value)> = pod_set(sets, text(row, "set"))?.into_values().collect();
    stats.sort_by_key(|(at, _)| *at);
    let uses = stats.iter().map(|(_, s)| Ok(use_of(pod_of_set(s)?, s)));
    let mut uses = uses.collect::<Result<Vec<PodUse>, String>>()?;
    let signal = Signal::named(text(row, "signal")).ok_or("no such signal")?;
    rank(signal, layout_of(row), &mut uses);
    equal(
        "order",
        uses.iter().map(|u| name_of(&u.pod)).collect::<Vec<_>>(),
        read(&row["order"])?,
    )
}

/// What happened during one pass.
#[derive(Default)]
struct Happened {
    conditions: BTreeSet<Condition>,
    events: Vec<String>,
    evicted: Vec<Value>,
    reclaimed: Vec<String>,
}

/// A machine as a row and its step describe it.
struct TableMachine<'r> {
    layout: Layout,
    pods: &'r [PodUse],
    step: &'r Value,
    happened: Mutex<Happened>,
}

const MIB: i64 = 1 << 20;

impl Machine for TableMachine<'_> {
    async fn look(&self) -> (Layout, Observations) {
        let left = |key: &str, capacity: i64| Observation {
            available: number(self.step, key),
            capacity,
        };
        let seen = Observations::from([
            // The table gives no capacity of memory: shares of it are not in it.
            (Signal::Memory, left("memory_available", 4 << 30)),
            (
                Signal::NodefsBytes,
                left("nodefs_available_of_1000Mi", 1000 * MIB),
            ),
            (
                Signal::ImagefsBytes,
                left("imagefs_available_of_1000Mi", 1000 * MIB),
            ),
            (Signal::NodefsInodes, left("nodefs_inodes_free_of_1000", 1000)),
        ]);
        (self.layout, seen)
    }

    async fn pods(&self, wanted: Wanted) -> Vec<PodUse> {
        let mut pods = self.pods.to_vec();
        if wanted == Wanted::Limited {
            pods.retain(own_limits::has_any);
        }
        pods
    }

    async fn reclaim(&self, what: Reclaim) {
        let name = match what {
            Reclaim::DeadContainers => "DeleteAllUnusedContainers",
            Reclaim::UnusedImages => "DeleteUnusedImages",
        };
        self.happened().reclaimed.push(name.to_owned());
    }

    fn publish(&self, conditions: &BTreeSet<Condition>) {
        self.happened().conditions = conditions.clone();
    }

    fn tell_starved(&self, resource: &str) {
        let event = format!("Warning EvictionThresholdMet Attempting to reclaim {resource}");
        self.happened().events.push(event);
    }

    fn evict(&self, eviction: &Eviction) -> bool {
        let name = self
            .pods
            .iter()
            .find(|p| p.uid() == eviction.uid)
            .map(|p| name_of(&p.pod));
        let notes = eviction.annotations.iter().map(|(k, v)| format!("{k}:{v}"));
        let notes: Vec<String> = notes.collect();
        let mut event = format!("Warning Evicted {}", eviction.message);
        if !notes.is_empty() {
            event.push_str(&format!(" map[{}]", notes.join(" ")));
        }
        let condition = json!({"message": eviction.message, "reason": "TerminationByKubelet", "status": "True",
            "type": "DisruptionTarget"});
        let conditions: Vec<Value> = eviction.disruption.then_some(condition).into_iter().collect();
        let evicted = json!({"pod": name, "message": eviction.message, "reason": "Evicted", "phase": "Failed",
            "grace_override": eviction.grace_seconds, "conditions": conditions});
        let mut happened = self.happened();
        happened.events.push(event);
        happened.evicted.push(evicted);
        true
    }
}

impl TableMachine<'_> {
    fn happened(&self) -> parking_lot::MutexGuard<'_, Happened> {
        self.happened.lock()
    }
}

/// The words of a text whose bracketed list is a set.
fn as_set(text: &str) -> BTreeSet<&str> {
    text.split([' ', '[', ']']).collect()
}

fn same_admission(step: &Value, conditions: &BTreeSet<Condition>) -> Result<(), String> {
    let pod = |requests: Value| {
        pod_of(&json!({"metadata": {"name": "new"},
            "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}}))
    };
    let best_effort = under_pressure(conditions, &pod(json!({}))?);
    let burstable = under_pressure(conditions, &pod(json!({"cpu": "1"}))?);
    equal(
        "admit_new_besteffort",
        best_effort.is_none(),
        on(step, "admit_new_besteffort"),
    )?;
    equal(
        "admit_new_burstable",
        burstable.is_none(),
        on(step, "admit_new_burstable"),
    )?;
    let said = best_effort.map_or(String::new(), |r| format!("{}: {}", r.reason, r.message));
    equal("reject", as_set(&said), as_set(text(step, "besteffort_reject")))
}

fn same_step(step: &Value, happened: &Happened) -> Result<(), String> {
    let conditions = happened.conditions.iter().map(|c| c.as_str().to_owned());
    same_set(
        "conditions",
        conditions.collect(),
        read_or_default(&step["node_conditions_true"])?,
    )?;
    equal("events", &happened.events, &read_or_default(&step["events"])?)?;
    equal("evicted", &happened.evicted, &read_or_default(&step["evicted"])?)?;
    equal(
        "reclaimed",
        &happened.reclaimed,
        &read_or_default(&step["reclaim_calls"])?,
    )?;
    same_admission(step, &happened.conditions)
}

pub fn passes(row: &Value, sets: &Value) -> Result<(), String> {
    let rules = Rules {
        thresholds: parse(&configuration(row, "hard", "soft")?)?,
        transition: duration::parse(text(row, "pressure_transition")).ok_or("no transition period")?,
        max_grace_seconds: number(row, "max_pod_grace_seconds"),
    };
    let stats = pod_set(sets, text(row, "stats_set"))?;
    let pods: Vec<Pod> = read_or_default(&row["pods"])?;
    let mut uses: Vec<PodUse> = pods
        .into_iter()
        .map(|pod| {
            let stats = stats.get(&name_of(&pod)).map_or(&Value::Null, |(_, s)| s);
            use_of(pod, stats)
        })
        .collect();
    let mut memory = Memory::default();
    let steps: Vec<Value> = read(&row["steps"])?;
    for step in &steps {
        let machine = TableMachine {
            layout: layout_of(row),
            pods: &uses,
            step,
            happened: Mutex::default(),
        };
        let at = number(step, "at_seconds");
        let now = Duration::from_secs(at as u64);
        let evicted = futures::executor::block_on(synchronize(&rules, &mut memory, &machine, now));
        let happened = machine.happened.into_inner();
        same_step(step, &happened).map_err(|why| format!("{} at {at} s: {why}", text(row, "name")))?;
        uses.retain(|pod| evicted.iter().all(|e| e.uid != pod.uid()));
    }
    Ok(())
}
