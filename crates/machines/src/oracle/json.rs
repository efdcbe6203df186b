//! The JSON tables: how a row becomes a call of a rule.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use mainstay_capi::{HealthChecks, UnhealthyCondition};
use serde_json::Value;

use super::table::JsonCheck;
use crate::rules::{
    amount::parse,
    control_plane::{Faulty, Member, domain_for_new, first_to_repair, member_to_delete},
    deletion::{Behavior, DrainPod, DrainRule, Owner, plan_drain},
    health::{SeenCondition, SeenNode, Target, Verdict, judge},
    rollout::{SetCounts, limits, on_delete_step, rolling_step},
    set::{Deletable, Remediable, sort_for_deletion, sort_for_remediation},
    template::{Candidate, find_new},
};

/// File name and check of each table.
pub const TABLES: &[(&str, JsonCheck)] = &[
    ("md_plan_step.json", plan_step),
    ("md_rollout_traces.json", rollout_trace),
    ("md_find_new_machineset.json", find_new_set),
    ("ms_delete_order.json", delete_order),
    ("ms_remediation_order.json", remediation_order),
    ("mhc_target_health.json", target_health),
    ("machine_drain_rules.json", drain_rules),
    ("kcp_failure_domain_choice.json", domain_choice),
    ("kcp_remediation_choice.json", remediation_choice),
];

type Row = Result<(), String>;

/// Any fixed time; rows tell ages only.
const NOW_SECONDS: i64 = 1_772_359_200;

fn now() -> Timestamp {
    Timestamp::from_second(NOW_SECONDS).expect("a constant in range")
}

fn hours_ago(value: &Value) -> Timestamp {
    now() - SignedDuration::from_hours(value.as_i64().unwrap_or(0))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

fn number(value: &Value) -> i32 {
    value.as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn texts(value: &Value) -> Vec<String> {
    list(value).iter().map(text).collect()
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Row {
    if got == want {
        Ok(())
    } else {
        Err(format!("{what}: got {got:?}, want {want:?}"))
    }
}

fn counts(set: &Value) -> SetCounts {
    SetCounts {
        name: text(&set["name"]),
        created: now() + SignedDuration::from_hours(set["createdHour"].as_i64().unwrap_or(0)),
        spec: number(&set["specReplicas"]),
        status: number(&set["statusReplicas"]),
        available: number(&set["availableReplicas"]),
    }
}

fn plan_step(row: &Value) -> Row {
    let new = counts(&row["newMachineSet"]);
    let olds: Vec<SetCounts> = list(&row["oldMachineSets"]).iter().map(counts).collect();
    let replicas = number(&row["replicas"]);
    let got = if row["strategy"] == "OnDelete" {
        on_delete_step(replicas, &new, &olds)
    } else {
        let (surge, unavailable) = (
            parse(&text(&row["maxSurge"])),
            parse(&text(&row["maxUnavailable"])),
        );
        let limits = limits(replicas, Some(&surge), Some(&unavailable)).map_err(|e| e.to_string())?;
        rolling_step(replicas, &limits, &new, &olds)
    };
    let want: BTreeMap<String, i32> =
        serde_json::from_value(row["wantSpecReplicasAfterOneStep"].clone()).map_err(|e| e.to_string())?;
    same("targets", got, want)
}

/// Replays a whole rollout in which machines appear and go at once and turn available some ticks later.
fn rollout_trace(row: &Value) -> Row {
    let replicas = number(&row["replicas"]);
    let (surge, unavailable) = (
        parse(&text(&row["maxSurge"])),
        parse(&text(&row["maxUnavailable"])),
    );
    let limits = limits(replicas, Some(&surge), Some(&unavailable)).map_err(|e| e.to_string())?;
    let (ready_after, last) = (number(&row["ticksToAvailable"]), number(&row["ticksToComplete"]));
    let trace = list(&row["trace"]);
    let (mut old, mut born): (i32, Vec<i32>) = (replicas, Vec::new());
    let (mut peak, mut lowest) = (0, replicas);
    for tick in 0..=last {
        let available =
            |born: &[i32]| number(&born.iter().filter(|b| tick - **b >= ready_after).count().into());
        let set = |name: &str, hour, machines, available| SetCounts {
            name: name.into(),
            created: now() + SignedDuration::from_hours(hour),
            spec: machines,
            status: machines,
            available,
        };
        let new = set("new", 1, number(&born.len().into()), available(&born));
        let targets = rolling_step(replicas, &limits, &new, &[set("old", 0, old, old)]);
        old = targets["old"];
        born.resize(usize::try_from(targets["new"]).map_err(|e| e.to_string())?, tick);
        let count = number(&born.len().into());
        if let Some(want) = trace.get(usize::try_from(tick).unwrap_or(usize::MAX)) {
            let got = [tick, old, count, available(&born)];
            let want = ["tick", "old", "new", "newAvailable"].map(|key| number(&want[key]));
            same("tick, old, new, available", got, want)?;
        }
        peak = peak.max(old + count);
        lowest = lowest.min(old + available(&born));
        if tick == last {
            same("complete", [old, available(&born)], [0, replicas])?;
        }
    }
    same("peak", peak, number(&row["peakMachines"]))?;
    same("lowest", lowest, number(&row["lowestAvailable"]))
}

fn find_new_set(row: &Value) -> Row {
    let time = |value: &Value| value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let sets: Vec<Candidate> = list(&row["machineSets"])
        .iter()
        .map(|set| Candidate {
            name: text(&set["name"]),
            created: time(&set["created"]).unwrap_or_else(now),
            replicas: number(&set["replicas"]),
            template_matches: set["templateMatches"] == true,
        })
        .collect();
    let at = time(&row["now"]).ok_or("row has no time")?;
    let (new, olds) = find_new(&sets, time(&row["rolloutAfter"]), at);
    let new = new.map_or("<create>".to_string(), |set| set.name.clone());
    let mut olds: Vec<String> = olds.iter().map(|set| set.name.clone()).collect();
    olds.sort();
    same(
        "new and old",
        (new, olds),
        (text(&row["wantNewMachineSet"]), texts(&row["wantOld"])),
    )
}

fn delete_order(row: &Value) -> Row {
    let machines: Vec<Deletable> = list(&row["machines"])
        .iter()
        .map(|machine| Deletable {
            name: text(&machine["name"]),
            created: hours_ago(&machine["ageHours"]),
            deleting: machine["deleting"] == true,
            annotated: machine["deleteMachineAnnotation"] == true,
            updating: machine["inPlaceUpdateInProgress"] == true,
            unhealthy: machine["noNodeRef"] == true
                || machine["healthCheckSucceededCondition"] == "False"
                || machine["nodeHealthyCondition"] == "False",
        })
        .collect();
    for (order, want) in row["fullDeletionOrderByPolicy"].as_object().into_iter().flatten() {
        let mut sorted = machines.clone();
        sort_for_deletion(&mut sorted, order, now());
        let got: Vec<String> = sorted.into_iter().map(|machine| machine.name).collect();
        same(order, got, texts(want))?;
    }
    Ok(())
}

fn remediation_order(row: &Value) -> Row {
    let mut machines: Vec<Remediable> = list(&row["unhealthyMachines"])
        .iter()
        .map(|machine| Remediable {
            name: text(&machine["name"]),
            created: hours_ago(&machine["ageHours"]),
            annotated: machine["annotated"] == true,
        })
        .collect();
    sort_for_remediation(&mut machines);
    let got: Vec<String> = machines.into_iter().map(|machine| machine.name).collect();
    same("order", got, texts(&row["wantRemediationOrder"]))
}

/// Reads `True since 3600s`.
fn since(value: &Value) -> Option<(String, Timestamp)> {
    let (status, age) = value.as_str()?.split_once(" since ")?;
    Some((
        status.to_string(),
        now() - SignedDuration::from_secs(age.trim_end_matches('s').parse().ok()?),
    ))
}

/// Reads `Ready=False 300s; Ready=Unknown 120s`.
fn condition_rules(value: &Value) -> Vec<UnhealthyCondition> {
    let parts = value.as_str().unwrap_or_default().split("; ");
    let parse = |part: &str| {
        let (condition, timeout) = part.split_once(' ')?;
        let (kind, status) = condition.split_once('=')?;
        let timeout_seconds = timeout.trim_end_matches('s').parse().ok()?;
        Some(UnhealthyCondition {
            kind: kind.into(),
            status: status.into(),
            timeout_seconds,
        })
    };
    parts.filter_map(parse).collect()
}

fn health_target(row: &Value) -> Target {
    let (machine, node) = (&row["machine"], &row["node"]);
    let ago = |value: &Value| Some(now() - SignedDuration::from_secs(value.as_str()?.parse().ok()?));
    let true_since = |key: &str| {
        since(&row["cluster"][key])
            .filter(|(s, _)| s == "True")
            .map(|(_, at)| at)
    };
    let seen = |(status, since)| SeenCondition {
        kind: "Ready".into(),
        status,
        since,
    };
    Target {
        created: ago(&machine["createdSecondsAgo"]).unwrap_or_else(now),
        infrastructure_ready: ago(&machine["infrastructureReadySecondsAgo"]),
        control_plane: machine["controlPlane"] == "true",
        remediate_annotation: machine["remediateMachineAnnotation"] == "true",
        node: match () {
            () if machine["nodeRef"].is_null() => SeenNode::Never,
            () if !node["state"].is_null() => SeenNode::Gone,
            () => SeenNode::There(since(&node["condition Ready"]).map(seen).into_iter().collect()),
        },
        conditions: Vec::new(),
        cluster_infrastructure_ready: true_since("InfrastructureReady"),
        control_plane_initialized: true_since("ControlPlaneInitialized"),
    }
}

fn target_health(row: &Value) -> Row {
    let checks = HealthChecks {
        node_startup_timeout_seconds: row["checks"]["nodeStartupTimeoutSeconds"].as_i64(),
        unhealthy_node_conditions: condition_rules(&row["checks"]["unhealthyNodeConditions"]),
        unhealthy_machine_conditions: condition_rules(&row["checks"]["unhealthyMachineConditions"]),
    };
    let (unhealthy, reason, wait) = match judge(&health_target(row), &checks, now()) {
        Verdict::Healthy => (false, String::new(), 0),
        Verdict::NotYet(wait) => (false, String::new(), wait.map_or(0, |wait| wait.as_secs())),
        Verdict::Unhealthy(reason, _) => (true, reason.to_string(), 0),
    };
    let recheck = text(&row["wantRecheckAfter"])
        .parse::<mainstay_api::GoDuration>()
        .map_err(|e| e.to_string())?;
    let want_wait = i64::try_from(recheck.0.as_secs()).unwrap_or(i64::MAX);
    same(
        "verdict",
        (unhealthy, reason, wait),
        (row["wantUnhealthy"] == true, text(&row["wantReason"]), want_wait),
    )
}

fn labels(value: &Value) -> BTreeMap<String, String> {
    value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), text(value)))
        .collect()
}

/// Namespace `tenant` carries label tenant=yes; the machine carries pool=cpu.
fn drain_rules(row: &Value) -> Row {
    let pods: Vec<DrainPod> = list(&row["pods"])
        .iter()
        .map(|pod| DrainPod {
            namespace: text(&pod["namespace"]),
            name: text(&pod["name"]),
            labels: labels(&pod["labels"]),
            namespace_labels: if pod["namespace"] == "tenant" {
                [("tenant".to_string(), "yes".to_string())].into()
            } else {
                BTreeMap::new()
            },
            owner: match pod["kind"].as_str() {
                Some("mirror") => Owner::Mirror,
                Some("daemonset") => Owner::DaemonSet,
                _ => Owner::Other,
            },
            deleting: !pod["deletedSecondsAgo"].is_null(),
        })
        .collect();
    let machine = [("pool".to_string(), "cpu".to_string())].into();
    let mut rules = Vec::new();
    for rule in list(&row["rules"]) {
        let for_machine: BTreeMap<String, String> = labels(&rule["machineSelector"]);
        let behavior = Behavior::parse(&text(&rule["behavior"])).ok_or("unknown behavior")?;
        if for_machine.is_empty() || for_machine == machine {
            rules.push(DrainRule {
                name: text(&rule["name"]),
                behavior,
                order: number(&rule["order"]),
                pod_labels: labels(&rule["podSelector"]),
                namespace_labels: labels(&rule["namespaceSelector"]),
            });
        }
    }
    for (pod, plan) in pods.iter().zip(plan_drain(&pods, &rules)) {
        let want = &row["want"][&pod.name];
        let got = (format!("{:?}", plan.behavior), plan.evict, plan.order);
        same(
            &pod.name,
            got,
            (
                text(&want["behavior"]),
                want["evictNow"] == true,
                number(&want["order"]),
            ),
        )?;
    }
    Ok(())
}

fn domain_choice(row: &Value) -> Row {
    let domains = texts(&row["failureDomains"]);
    let members: Vec<Member> = list(&row["machines"])
        .iter()
        .map(|machine| {
            let flags = texts(&machine["flags"]);
            let has = |flag: &str| flags.iter().any(|f| f == flag);
            Member {
                name: text(&machine["name"]),
                domain: text(&machine["failureDomain"]),
                age_hours: machine["ageHours"].as_i64().unwrap_or(0),
                outdated: has("outdated"),
                annotated: has("delete-machine-annotation"),
                unhealthy: flags.iter().any(|f| f.ends_with("=False")),
                deleting: has("deleting"),
            }
        })
        .collect();
    let one_of = |what: &str, got: Option<String>, any: &Value| {
        let fits = got
            .as_ref()
            .map_or(list(any).is_empty(), |got| texts(any).contains(got));
        if fits {
            Ok(())
        } else {
            Err(format!("{what}: got {got:?}, want any of {any}"))
        }
    };
    one_of(
        "domain",
        domain_for_new(&domains, &members),
        &row["wantScaleUpDomainAnyOf"],
    )?;
    let gone = member_to_delete(&domains, &members).map(|member| member.name.clone());
    one_of("delete", gone, &row["wantMachineToDeleteAnyOf"])
}

fn remediation_choice(row: &Value) -> Row {
    let members: Vec<Faulty> = list(&row["unhealthyMachines"])
        .iter()
        .map(|machine| Faulty {
            name: text(&machine["name"]),
            age_hours: machine["ageHours"].as_i64().unwrap_or(0),
            issues: texts(&machine["issues"]),
        })
        .collect();
    let got = first_to_repair(&members, row["stackedEtcd"] == true).map(|member| member.name.clone());
    same(
        "first",
        got.unwrap_or_default(),
        text(&row["wantRemediatedFirst"]),
    )
}
