//! Tables about pods that come to the node: predicates, sysctls, preemption.

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::node::name_of;
use super::{equal, on, pod_of, read, read_or_default, text};
use crate::admission::predicates::{Misfit, NodeView};
use crate::admission::preempt::recover;
use crate::admission::sysctl::AllowList;
use crate::admission::{Decision, Refusal, place};

/// A kernel that has every safe sysctl.
const KERNEL: &str = "6.1.0";

fn same_refusal(got: Option<Refusal>, row: &Value) -> Result<(), String> {
    let wanted = (!on(row, "admit")).then(|| Refusal {
        reason: text(row, "reason").to_owned(),
        message: text(row, "message").to_owned(),
    });
    equal("refusal", got, wanted)
}

pub fn admission(row: &Value, _: &Value) -> Result<(), String> {
    let node: Option<Node> = read(&row["node"])?;
    let pod = read::<Option<Pod>>(&row["pod"])?.unwrap_or_default();
    let others: Vec<Pod> = read_or_default(&row["other_pods"])?;
    let others: Vec<&Pod> = others.iter().collect();
    let got = match place(node.as_ref().map(NodeView::of).as_ref(), &pod, &others) {
        Decision::Admit { .. } => None,
        Decision::Refuse { refusal, .. } => Some(refusal),
    };
    same_refusal(got, row)
}

/// Reads a message such as `Node didn't have enough resource: cpu, requested: 1, used: 2, capacity: 3`.
fn misfit(message: &str) -> Option<Misfit> {
    let mut parts = message
        .strip_prefix("Node didn't have enough resource: ")?
        .split(", ");
    let name = parts.next()?.to_owned();
    let mut number = |key: &str| {
        parts
            .next()?
            .strip_prefix(key)?
            .strip_prefix(": ")?
            .parse::<i64>()
            .ok()
    };
    Some(Misfit::Resource {
        name,
        requested: number("requested")?,
        used: number("used")?,
        capacity: number("capacity")?,
    })
}

pub fn preemption(row: &Value, context: &Value) -> Result<(), String> {
    let running: Vec<Pod> = read(&context["running_pods"])?;
    let running: Vec<&Pod> = running.iter().collect();
    let texts: Vec<String> = read_or_default(&row["failures"])?;
    let other = Misfit::Predicate {
        name: "NodeAffinity",
        what: "node(s) didn't match Pod's node affinity/selector",
    };
    let misfits = texts.iter().map(|t| misfit(t).unwrap_or(other.clone())).collect();
    let pod = pod_of(&row["pod"])?;
    let (remaining, victims) = match recover(&pod, &running, misfits) {
        Err(why) => return equal("err", why.as_str(), text(row, "err")),
        Ok(recovery) => (recovery.remaining, recovery.victims),
    };
    equal("err", "", text(row, "err"))?;
    equal(
        "remaining",
        remaining.iter().map(Misfit::message).collect::<Vec<_>>(),
        read_or_default(&row["remaining_failures"])?,
    )?;
    let wanted: Vec<Value> = read_or_default(&row["killed_in_order"])?;
    equal(
        "killed",
        victims.into_iter().map(name_of).collect::<Vec<_>>(),
        wanted.iter().map(|w| text(w, "pod").to_owned()).collect(),
    )
}

pub fn sysctls(row: &Value, _: &Value) -> Result<(), String> {
    let extra: Vec<String> = read_or_default(&row["extra_allowed"])?;
    let list = AllowList::of_node(KERNEL, &extra)?;
    let pod = json!({"spec": {"containers": [], "hostNetwork": row["host_network"], "hostIPC": row["host_ipc"],
        "securityContext": {"sysctls": [{"name": row["sysctl"], "value": "1"}]}}});
    same_refusal(list.refuse(&pod_of(&pod)?), row)
}

pub fn sysctl_patterns(row: &Value, _: &Value) -> Result<(), String> {
    let got = AllowList::new([text(row, "pattern")]).map(|_| ());
    let wanted = match on(row, "ok") {
        true => Ok(()),
        false => Err(text(row, "err").to_owned()),
    };
    equal("pattern", got, wanted)
}
