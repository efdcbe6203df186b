//! Tables about processors and about the order of a shutdown.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::node::name_of;
use super::{equal, number, on, pod_of, read_or_default, text};
use crate::cpus::policy::{Options, StaticPolicy};
use crate::cpus::set::CpuSet;
use crate::cpus::topology::{Place, Topology};
use crate::shutdown::{PriorityGrace, from_periods, groups};

/// Threads are numbered after all first threads, as the kernel does.
fn topology(row: &Value) -> Topology {
    let of = |key: &str| number(row, key) as u32;
    let per_numa = of("cores_per_numa").max(1);
    let numa_per_socket = of("numa_per_socket").max(1);
    let cores = of("sockets") * numa_per_socket * per_numa;
    let places = (0..cores * of("threads").max(1)).map(|cpu| {
        let core = cpu % cores;
        let numa = core / per_numa;
        let place = Place {
            core,
            cache: numa,
            numa,
            socket: numa / numa_per_socket,
        };
        (cpu, place)
    });
    places.collect()
}

fn policy(row: &Value) -> Result<StaticPolicy, String> {
    let options: BTreeMap<String, String> = read_or_default(&row["options"])?;
    let reserved = number(row, "reserved_cpus") as usize;
    StaticPolicy::new(
        topology(row),
        reserved,
        CpuSet::default(),
        Options::parse(&options)?,
    )
}

fn pod_of_step(step: &Value) -> Result<Pod, String> {
    let requests = json!({"cpu": step["cpu"], "memory": "1Gi"});
    let limits = on(step, "guaranteed").then(|| requests.clone());
    pod_of(&json!({"metadata": {"uid": step["pod"]}, "spec": {"containers": [
        {"name": "c", "resources": {"requests": requests, "limits": limits}}]}}))
}

pub fn static_policy(row: &Value, _: &Value) -> Result<(), String> {
    let policy = match policy(row) {
        Ok(policy) => policy,
        Err(why) => return equal("policy_err", why.as_str(), text(row, "policy_err")),
    };
    equal("policy_err", "", text(row, "policy_err"))?;
    let mut held = policy.initial();
    equal(
        "initial",
        held.shared.to_string().as_str(),
        text(row, "initial_shared"),
    )?;
    let steps: Vec<Value> = read_or_default(&row["steps"])?;
    for step in &steps {
        let said = match policy.allocate(&held, &pod_of_step(step)?) {
            Ok(now) => {
                held = now;
                String::new()
            }
            Err(error) => error.to_string(),
        };
        equal("err", said.as_str(), text(step, "err"))?;
        let own = held
            .of(text(step, "pod"), "c")
            .map(CpuSet::to_string)
            .unwrap_or_default();
        equal("exclusive", own.as_str(), text(step, "exclusive"))?;
        equal(
            "shared",
            held.shared.to_string().as_str(),
            text(step, "shared_after"),
        )?;
    }
    Ok(())
}

/// The table's pods: `prio<N>` has priority N, `nilprio` none.
const PRIORITIES: [i32; 11] = [
    -10,
    0,
    1,
    999,
    1000,
    1001,
    100_000,
    1_000_000_000,
    1_999_999_999,
    2_000_000_000,
    2_000_001_000,
];

fn pods_by_priority() -> Result<Vec<Pod>, String> {
    let named = PRIORITIES.iter().map(|p| (format!("prio{p}"), Some(*p)));
    let all = named.chain([("nilprio".to_owned(), None)]);
    all.map(|(name, priority)| {
        pod_of(&json!({"metadata": {"name": name}, "spec": {"containers": [], "priority": priority}}))
    })
    .collect()
}

pub fn shutdown_groups(row: &Value, _: &Value) -> Result<(), String> {
    let grace = |group: &Value, key: &str| PriorityGrace {
        priority: number(group, "Priority") as i32,
        shutdown_grace_period_seconds: number(group, key),
    };
    let listed = |key: &str| -> Result<Vec<PriorityGrace>, String> {
        let rows: Vec<Value> = read_or_default(&row[key])?;
        Ok(rows
            .iter()
            .map(|g| grace(g, "ShutdownGracePeriodSeconds"))
            .collect())
    };
    let seconds = |key: &str| Duration::from_secs(number(row, key) as u64);
    let mut periods = listed("by_priority")?;
    if row["by_priority"].is_null() {
        let critical = seconds("shutdownGracePeriodCriticalPods_s");
        periods = from_periods(seconds("shutdownGracePeriod_s"), critical);
        equal("migrated", &periods, &listed("migrated")?)?;
    }
    periods.sort_by_key(|p| p.priority);
    let pods = pods_by_priority()?;
    let pods: Vec<&Pod> = pods.iter().collect();
    let got: Vec<(PriorityGrace, Vec<String>)> = groups(&periods, &pods)
        .into_iter()
        .map(|(period, pods)| (period, pods.into_iter().map(name_of).collect()))
        .collect();
    let wanted: Vec<Value> = read_or_default(&row["groups"])?;
    let wanted = wanted
        .iter()
        .map(|g| Ok((grace(g, "Grace"), read_or_default(&g["Pods"])?)))
        .collect::<Result<Vec<(PriorityGrace, Vec<String>)>, String>>()?;
    equal("groups", got, wanted)
}
