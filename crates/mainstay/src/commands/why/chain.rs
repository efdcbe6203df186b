//! From objects to one chain of causes. Pure: objects in, lines out.

use std::collections::BTreeSet;

use jiff::Timestamp;
use mainstay_api::conditions::is_bad;
use mainstay_api::repair::{RepairPolicySpec, default_ladder};
use mainstay_api::{ComputeNode, POOL_LABEL};
use mainstay_machines::context::NodeView;
use mainstay_repair::controller::DEFAULT_POLICY;
use mainstay_repair::{story, trigger};
use serde_json::Value;

/// Kinds of which one machine consists, from the hardware up: what is lower is the cause of what is higher.
const DEPTH: [&str; 10] = [
    "BreakFixTicket",
    "Host",
    "OSImage",
    "ComputeNode",
    "Repair",
    "Machine",
    "Node",
    "Pod",
    "NodePool",
    "ClusterDeployment",
];

/// Kind, where it names another object, and that object's kind. Read in both directions.
const LINKS: [(&str, &str, &str); 9] = [
    ("ComputeNode", "/spec/hostRef/name", "Host"),
    ("Machine", "/spec/infrastructureRef/name", "ComputeNode"),
    ("Machine", "/status/nodeRef/name", "Node"),
    ("Repair", "/spec/hostRef/name", "Host"),
    ("Repair", "/spec/computeNodeRef/name", "ComputeNode"),
    ("BreakFixTicket", "/spec/hostRef/name", "Host"),
    ("Pod", "/spec/nodeName", "Node"),
    ("NodePool", "/spec/imageRef/name", "OSImage"),
    ("Event", "/involvedObject/name", "Pod"),
];

/// Repairs in these states are over.
const OVER: [&str; 2] = ["Healthy", "Cancelled"];

/// What is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
}

/// One object that was read.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its kind.
    pub kind: &'static str,
    /// The object.
    pub value: Value,
}

impl Seen {
    /// Stands for a workload cluster that could not be asked.
    pub fn unreachable(cluster: &str, problem: &str) -> Self {
        Seen {
            kind: "Unreachable",
            value: serde_json::json!({"metadata": {"name": cluster}, "problem": problem}),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.text("/metadata/namespace")
    }

    fn text(&self, pointer: &str) -> &str {
        text(&self.value, pointer)
    }

    fn label(&self) -> String {
        let kind = match self.kind {
            "BreakFixTicket" => "ticket".into(),
            "ClusterDeployment" | "Unreachable" => "cluster".into(),
            "NodePool" => "pool".into(),
            "OSImage" => "image".into(),
            kind => kind.to_lowercase(),
        };
        match self.kind {
            "Event" => format!("pod/{}", self.text("/involvedObject/name")),
            _ => format!("{kind}/{}", self.name()),
        }
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// One thing that happened or holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When; empty where nobody noted it.
    pub at: String,
    /// The object, as `why` takes it.
    pub object: String,
    /// What.
    pub what: String,
    /// Whether it is a problem, not only a fact.
    pub bad: bool,
    depth: usize,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What was asked about.
    pub object: String,
    /// Whether nothing is wrong with it or below it.
    pub well: bool,
    /// Since when it is not well.
    pub since: String,
    /// The cause that lies lowest, of these the first.
    pub because: String,
    /// In the order of time.
    pub lines: Vec<Line>,
    /// What automation does next.
    pub next: String,
}

/// Explains; None when there is no such object.
pub fn explain(subject: &Subject, seen: &[Seen], now: Timestamp) -> Option<Explanation> {
    let itself = seen
        .iter()
        .find(|object| object.kind == subject.kind && object.name() == subject.name)?;
    let about = related(itself, seen);
    let mut lines: Vec<Line> = about.iter().flat_map(|object| lines(object)).collect();
    lines.extend(unreachable(seen, itself));
    lines.sort_by(|a, b| (a.at.is_empty(), &a.at, a.depth).cmp(&(b.at.is_empty(), &b.at, b.depth)));
    lines.dedup();
    let cause = lines.iter().filter(|line| line.bad).min_by_key(|line| line.depth);
    let since = lines
        .iter()
        .find(|line| line.bad && !line.at.is_empty())
        .map(|line| line.at.clone());
    Some(Explanation {
        object: itself.label(),
        well: cause.is_none(),
        since: cause.and(since).unwrap_or_default(),
        because: cause
            .map(|line| format!("{} {}", line.object, line.what))
            .unwrap_or_default(),
        next: next(&about, cause, &Policies { seen, now }),
        lines,
    })
}

fn depth(kind: &str) -> usize {
    DEPTH
        .iter()
        .position(|known| *known == kind)
        .unwrap_or(DEPTH.len())
}

/// The object and everything of the same machine; of pools and clusters also what belongs to them and is not well.
fn related<'a>(itself: &'a Seen, seen: &'a [Seen]) -> Vec<&'a Seen> {
    let mut chosen: Vec<&Seen> = vec![itself];
    let mut known = BTreeSet::from([(itself.kind, itself.name().to_string())]);
    let mut at = 0;
    while at < chosen.len() {
        let from = chosen[at];
        at += 1;
        if from.kind == "OSImage" {
            // Images are shared: from one pool they must not lead to the others.
            continue;
        }
        for other in seen {
            let key = (other.kind, other.name().to_string());
            if !known.contains(&key) && (linked(from, other) || linked(other, from)) && !over(other) {
                known.insert(key);
                chosen.push(other);
            }
        }
    }
    for member in seen.iter().filter(|object| belongs(object, itself)) {
        let key = (member.kind, member.name().to_string());
        if known.insert(key) && lines(member).iter().any(|line| line.bad) {
            chosen.push(member);
        }
    }
    chosen
}

fn linked(from: &Seen, to: &Seen) -> bool {
    LINKS.iter().any(|(kind, pointer, target)| {
        from.kind == *kind && to.kind == *target && !to.name().is_empty() && from.text(pointer) == to.name()
    })
}

fn over(object: &Seen) -> bool {
    object.kind == "Repair" && OVER.contains(&object.text("/status/state"))
}

/// Whether a machine, pool or node belongs to the pool or cluster that is asked about.
fn belongs(object: &Seen, to: &Seen) -> bool {
    let label = |name: &str| {
        object.value["metadata"]["labels"][name]
            .as_str()
            .unwrap_or_default()
    };
    match to.kind {
        "NodePool" => label("mainstay.dev/pool") == to.name(),
        "ClusterDeployment" => {
            label("cluster.x-k8s.io/cluster-name") == to.name()
                || object.text("/spec/clusterName") == to.name()
        }
        _ => false,
    }
}

fn lines(object: &Seen) -> Vec<Line> {
    let line = |at: &str, bad: bool, what: String| Line {
        at: at.into(),
        object: object.label(),
        what,
        bad,
        depth: depth(object.kind),
    };
    let mut all = conditions(object, &line);
    match object.kind {
        "Host" => all.extend(host(object, &line)),
        "Repair" => all.extend(repair(object, &line)),
        "BreakFixTicket" if object.text("/status/state") != "Closed" => {
            let what = format!("waits for a person: {}", object.text("/spec/summary"));
            all.push(line(object.text("/metadata/creationTimestamp"), true, what));
        }
        "Pod" => all.extend(containers(object, &line)),
        "NodePool" => all.extend(pool(object, &line)),
        "Event" => {
            let at = [object.text("/lastTimestamp"), object.text("/eventTime")];
            let at = at.into_iter().find(|at| !at.is_empty()).unwrap_or_default();
            let what = format!("{}: {}", object.text("/reason"), object.text("/message"));
            all.push(line(at, true, what));
        }
        "ComputeNode" => {
            let task = &object.value["status"]["task"];
            if !task.is_null() {
                let what = format!("the provider is at step {}", text(task, "/step"));
                all.push(line(text(task, "/startedAt"), false, what));
            }
        }
        _ => {}
    }
    all
}

fn conditions(object: &Seen, line: &dyn Fn(&str, bool, String) -> Line) -> Vec<Line> {
    // A finished pod is not ready, and that is well.
    if object.kind == "Pod" && object.text("/status/phase") == "Succeeded" {
        return Vec::new();
    }
    let conditions = object.value["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    let bad = conditions
        .filter(|condition| is_bad(text(condition, "/type"), text(condition, "/status")))
        .map(|condition| {
            let mut what = format!("{} is {}", text(condition, "/type"), text(condition, "/status"));
            let (message, reason) = (text(condition, "/message"), text(condition, "/reason"));
            match (message.is_empty(), reason.is_empty()) {
                (false, false) => what += &format!(": {message} ({reason})"),
                (false, true) => what += &format!(": {message}"),
                (true, false) => what += &format!(" ({reason})"),
                (true, true) => {}
            }
            line(text(condition, "/lastTransitionTime"), true, what)
        });
    bad.collect()
}

fn host(object: &Seen, line: &dyn Fn(&str, bool, String) -> Line) -> Vec<Line> {
    let (state, power) = (object.text("/status/state"), object.text("/status/powerState"));
    let mut all = Vec::new();
    if state == "BreakFix" {
        all.push(line(
            "",
            true,
            "is out of the pool until its ticket is closed".into(),
        ));
    }
    if power == "Off" && state == "Provisioned" {
        all.push(line("", true, "is powered off".into()));
    }
    if object.value["spec"]["maintenance"] == true {
        all.push(line(
            "",
            false,
            "is in maintenance: nothing automatic happens".into(),
        ));
    }
    all
}

fn repair(object: &Seen, line: &dyn Fn(&str, bool, String) -> Line) -> Vec<Line> {
    let fault = format!(
        "fault seen by {}: {} {}",
        object.text("/spec/fault/source"),
        object.text("/spec/fault/type"),
        object.text("/spec/fault/message")
    );
    // In probation the machine works again; it is only watched.
    let mut all = vec![line(
        object.text("/spec/fault/firstSeen"),
        object.text("/status/state") != "Probation",
        fault.trim().into(),
    )];
    for step in object.value["status"]["steps"].as_array().into_iter().flatten() {
        let result = match text(step, "/result") {
            "" => "under way",
            result => result,
        };
        let what = format!("{}: {result} {}", text(step, "/action"), text(step, "/evidence"));
        all.push(line(text(step, "/startedAt"), false, what.trim().into()));
    }
    all
}

fn containers(object: &Seen, line: &dyn Fn(&str, bool, String) -> Line) -> Vec<Line> {
    let of = |list: &str| {
        object.value["status"][list]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    let statuses = of("initContainerStatuses")
        .into_iter()
        .chain(of("containerStatuses"));
    statuses
        .flat_map(|status| {
            let name = text(&status, "/name").to_string();
            let state = |pointer: &str, at: &str, word: &str| {
                let state = status.pointer(pointer)?;
                let reason = text(state, "/reason");
                let quiet = reason.is_empty()
                    || ["ContainerCreating", "PodInitializing", "Completed"].contains(&reason);
                (!quiet).then(|| {
                    let code = state["exitCode"]
                        .as_i64()
                        .map(|code| format!(", exit code {code}"));
                    let what = format!(
                        "container {name} {word} {reason}{} {}",
                        code.unwrap_or_default(),
                        text(state, "/message")
                    );
                    line(text(state, at), true, what.trim().into())
                })
            };
            [
                state("/lastState/terminated", "/finishedAt", "ended:"),
                state("/state/waiting", "/startedAt", "waits:"),
                state("/state/terminated", "/finishedAt", "ended:"),
            ]
        })
        .flatten()
        .collect()
}

fn pool(object: &Seen, line: &dyn Fn(&str, bool, String) -> Line) -> Vec<Line> {
    let ready = object.value["status"]["readyReplicas"].as_i64().unwrap_or(0);
    let wanted = object.value["spec"]["replicas"].as_i64().unwrap_or(0);
    let mut all = Vec::new();
    if ready < wanted {
        all.push(line("", true, format!("{ready} of {wanted} nodes are ready")));
    }
    let blocked = object.text("/status/rollout/blockedBy");
    if !blocked.is_empty() {
        all.push(line("", false, format!("the rollout waits: {blocked}")));
    }
    all
}

/// Said only where it matters: nodes and pods live in clusters.
fn unreachable(seen: &[Seen], itself: &Seen) -> Vec<Line> {
    let matters = !["Host", "OSImage", "BreakFixTicket"].contains(&itself.kind);
    let gone = seen
        .iter()
        .filter(|object| object.kind == "Unreachable" && matters);
    gone.map(|object| Line {
        at: String::new(),
        object: object.label(),
        what: format!("could not be asked: {}", object.text("/problem")),
        bad: false,
        depth: depth("ClusterDeployment"),
    })
    .collect()
}

fn next(about: &[&Seen], cause: Option<&Line>, policies: &Policies<'_>) -> String {
    let Some(cause) = cause else {
        return "nothing: all is as it should be".into();
    };
    if about
        .iter()
        .any(|object| object.kind == "BreakFixTicket" && object.text("/status/state") != "Closed")
    {
        return "nothing automatic until a person closes the ticket (spec.resolved: true)".into();
    }
    if let Some(repair) = about.iter().find(|object| object.kind == "Repair") {
        return policies.repair_next(repair);
    }
    let task = about
        .iter()
        .map(|object| text(&object.value, "/status/task/step"))
        .find(|step| !step.is_empty());
    if let Some(step) = task {
        return format!("the provider goes on with {step}");
    }
    if let Some(coming) = policies.suspicion(about) {
        return coming;
    }
    let words = match about.first().map(|object| object.kind) {
        Some("Pod") if cause.what.starts_with("PodScheduled") => {
            "the scheduler tries again when nodes change; the autoscaler adds one where a pool may grow"
        }
        Some("Pod") => "the node's agent tries again with back-off",
        Some("OSImage") => "the image is composed again with back-off, at once when the object changes",
        Some("ClusterDeployment" | "NodePool") => "the controllers go on when what is named above changes",
        _ => "the controllers go on by themselves; no trigger of a repair policy matches",
    };
    words.into()
}

/// The repair policies that were read, and the time: what the ladder will do is told by its own functions.
struct Policies<'a> {
    seen: &'a [Seen],
    now: Timestamp,
}

impl Policies<'_> {
    fn named(&self, name: &str) -> RepairPolicySpec {
        let found = self
            .seen
            .iter()
            .find(|object| object.kind == "RepairPolicy" && object.name() == name);
        let spec = found.and_then(|policy| serde_json::from_value(policy.value["spec"].clone()).ok());
        spec.unwrap_or_else(|| RepairPolicySpec {
            ladder: default_ladder(),
            ..Default::default()
        })
    }

    fn repair_next(&self, repair: &Seen) -> String {
        let name = match repair.text("/spec/policyRef/name") {
            "" => DEFAULT_POLICY,
            name => name,
        };
        let status = serde_json::from_value(repair.value["status"].clone()).unwrap_or_default();
        format!(
            "repair {}: {}",
            repair.name(),
            story::next(&self.named(name), &status)
        )
    }

    /// The repair that will begin unless the machine recovers.
    fn suspicion(&self, about: &[&Seen]) -> Option<String> {
        let of = |kind: &str| about.iter().find(|object| object.kind == kind);
        let compute: ComputeNode = serde_json::from_value(of("ComputeNode")?.value.clone()).ok()?;
        let node: Option<NodeView> =
            of("Node").and_then(|node| serde_json::from_value(node.value.clone()).ok());
        let label = compute.metadata.labels.clone().unwrap_or_default();
        let pool = self.seen.iter().find(|object| {
            object.kind == "NodePool" && label.get(POOL_LABEL).is_some_and(|name| name == object.name())
        });
        let name = pool.map_or("", |pool| pool.text("/spec/repairPolicyRef/name"));
        let name = if name.is_empty() { DEFAULT_POLICY } else { name };
        let health = trigger::health(&self.named(name), &compute, node.as_ref(), self.now);
        story::suspicion(name, &health, self.now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn seen(kind: &'static str, name: &str, rest: Value) -> Seen {
        let mut value = rest;
        value["metadata"]["name"] = name.into();
        Seen { kind, value }
    }

    fn condition(kind: &str, status: &str, at: &str, message: &str) -> Value {
        json!({"type": kind, "status": status, "lastTransitionTime": at, "message": message, "reason": "R"})
    }

    fn machine(state: &str) -> Vec<Seen> {
        let probe = condition(
            "ComputeNodeProbePassed",
            "False",
            "2026-01-01T03:02:20Z",
            "no answer",
        );
        let ready = condition("Ready", "Unknown", "2026-01-01T03:02:11Z", "lease lapsed");
        let pressure = condition("MemoryPressure", "False", "2026-01-01T01:00:00Z", "fine");
        vec![
            seen(
                "Host",
                "h1",
                json!({"status": {"state": "Provisioned", "powerState": "On"}}),
            ),
            seen(
                "Host",
                "h2",
                json!({"status": {"state": "Available", "powerState": "Off"}}),
            ),
            seen(
                "ComputeNode",
                "demo-a-1",
                json!({"spec": {"hostRef": {"name": "h1"}}, "status": {"conditions": [probe]}}),
            ),
            seen(
                "Machine",
                "m1",
                json!({
                    "metadata": {"labels": {"mainstay.dev/pool": "demo-a"}},
                    "spec": {"infrastructureRef": {"name": "demo-a-1"}}, "status": {"nodeRef": {"name": "n1"}},
                }),
            ),
            seen("Node", "n1", json!({"status": {"conditions": [ready, pressure]}})),
            seen(
                "Repair",
                "r1",
                json!({
                    "spec": {
                        "hostRef": {"name": "h1"},
                        "fault": {"source": "Probe", "type": "ComputeNodeProbePassed", "firstSeen": "2026-01-01T03:02:20Z"},
                    },
                    "status": {
                        "state": state, "waitingFor": {"gate": "breaker", "nextLook": "2026-01-01T03:14:00Z"},
                        "steps": [{"action": "Restart", "startedAt": "2026-01-01T03:03:00Z", "result": "StillFaulty"}],
                    },
                }),
            ),
        ]
    }

    fn check(kind: &'static str, name: &str, seen: &[Seen], want: Expect) {
        let subject = Subject {
            kind,
            name: name.into(),
        };
        let text = match explain(&subject, seen, Timestamp::UNIX_EPOCH) {
            None => "unknown".into(),
            Some(explanation) => super::super::table(&explanation),
        };
        want.assert_eq(&text);
    }

    #[test]
    fn a_silent_node_is_explained_from_its_machine_up_with_the_repair() {
        check(
            "Node",
            "n1",
            &machine("Waiting"),
            expect![[r#"
            node/n1: not well since 2026-01-01T03:02:11Z: computenode/demo-a-1 ComputeNodeProbePassed is False: no answer (R)
              2026-01-01T03:02:11Z  node/n1               Ready is Unknown: lease lapsed (R)
              2026-01-01T03:02:20Z  computenode/demo-a-1  ComputeNodeProbePassed is False: no answer (R)
              2026-01-01T03:02:20Z  repair/r1             fault seen by Probe: ComputeNodeProbePassed
              2026-01-01T03:03:00Z  repair/r1             Restart: StillFaulty
            Next: repair r1: held by breaker; next look 2026-01-01T03:14:00Z, then RestartService
        "#]],
        );
    }

    #[test]
    fn a_free_host_is_well_and_an_unknown_one_is_not_there() {
        check(
            "Host",
            "h2",
            &machine("Waiting"),
            expect![[r#"
            host/h2: well
            Next: nothing: all is as it should be
        "#]],
        );
        check("Host", "h9", &machine("Waiting"), expect!["unknown"]);
    }

    #[test]
    fn a_pod_that_fits_nowhere_and_one_that_crashes() {
        let message = "0/2 nodes are available: 2 Insufficient cpu.";
        let scheduled = condition("PodScheduled", "False", "2026-01-01T04:00:00Z", message);
        let pod = seen(
            "Pod",
            "web-0",
            json!({"status": {"phase": "Pending", "conditions": [scheduled]}}),
        );
        check(
            "Pod",
            "web-0",
            &[pod],
            expect![[r#"
            pod/web-0: not well since 2026-01-01T04:00:00Z: pod/web-0 PodScheduled is False: 0/2 nodes are available: 2 Insufficient cpu. (R)
              2026-01-01T04:00:00Z  pod/web-0  PodScheduled is False: 0/2 nodes are available: 2 Insufficient cpu. (R)
            Next: the scheduler tries again when nodes change; the autoscaler adds one where a pool may grow
        "#]],
        );
        let status = json!({
            "name": "c", "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
            "lastState": {"terminated": {"reason": "Error", "exitCode": 3, "finishedAt": "2026-01-01T04:00:00Z"}},
        });
        let pod = seen(
            "Pod",
            "web-0",
            json!({"status": {"phase": "Running", "containerStatuses": [status]}}),
        );
        check(
            "Pod",
            "web-0",
            &[pod],
            expect![[r#"
            pod/web-0: not well since 2026-01-01T04:00:00Z: pod/web-0 container c ended: Error, exit code 3
              2026-01-01T04:00:00Z  pod/web-0  container c ended: Error, exit code 3
                                    pod/web-0  container c waits: CrashLoopBackOff back-off 40s
            Next: the node's agent tries again with back-off
        "#]],
        );
    }

    #[test]
    fn a_pool_shows_its_machines_that_are_not_well() {
        let mut all = machine("Healthy");
        let bad = condition("Ready", "False", "2026-01-01T03:05:00Z", "no node");
        all[3].value["status"]["conditions"] = json!([bad]);
        all.push(seen(
            "NodePool",
            "demo-a",
            json!({"spec": {"replicas": 2}, "status": {"readyReplicas": 1}}),
        ));
        check(
            "NodePool",
            "demo-a",
            &all,
            expect![[r#"
            pool/demo-a: not well since 2026-01-01T03:05:00Z: machine/m1 Ready is False: no node (R)
              2026-01-01T03:05:00Z  machine/m1   Ready is False: no node (R)
                                    pool/demo-a  1 of 2 nodes are ready
            Next: the controllers go on when what is named above changes
        "#]],
        );
    }
}
