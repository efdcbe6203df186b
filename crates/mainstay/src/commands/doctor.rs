//! `mainstay status`, `doctor` and `why`: what is not well, since when, and what happens next.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Client, ResourceExt};
use mainstay_api::{BreakFixTicket, ComputeNode, Host, NodePool, OSImage, Repair};
use mainstay_capi::Machine;
use serde_json::{Value, json};

use super::{api, preflight};
use crate::args::{DataDir, DoctorArgs, WhyArgs};
use crate::manager::state::{Layout, Running};
use crate::outcome::{Code, Failure, Outcome};
use crate::output::Output;

/// One line of the report.
#[derive(Debug, Clone, PartialEq)]
struct Finding {
    object: String,
    well: bool,
    problem: String,
    since: String,
    next: String,
}

impl Finding {
    fn document(&self) -> Value {
        json!({
            "object": self.object, "well": self.well, "problem": self.problem, "since": self.since, "next": self.next,
        })
    }

    fn line(&self) -> String {
        if self.well {
            return format!(" ✓ {}\n", self.object);
        }
        let since = if self.since.is_empty() {
            String::new()
        } else {
            format!(" since {}", self.since)
        };
        format!(
            " ✗ {}: {}{since}\n   next: {}\n",
            self.object, self.problem, self.next
        )
    }
}

/// `mainstay status`: the short form, always with an answer.
pub fn status(args: &DataDir, output: &Output) -> Outcome {
    let layout = Layout::new(&args.data_dir);
    let Some(running) = Running::read(&layout) else {
        let problem = format!("nothing runs on {}", layout.root.display());
        return Err(Failure::new("MS-RUN-0001", problem));
    };
    let (findings, pools) = super::block_on(async {
        let client = api::admin(&layout).await?;
        Ok((examine(&client).await?, api::list::<NodePool>(&client).await?))
    })?;
    let bad = findings.iter().filter(|finding| !finding.well).count();
    let pool_line = |pool: &NodePool| {
        let ready = pool.status.as_ref().map_or(0, |status| status.ready_replicas);
        format!(
            " pool {}: {ready} of {} nodes ready\n",
            pool.name_any(),
            pool.spec.replicas.unwrap_or(0)
        )
    };
    let verdict = if bad == 0 { "HEALTHY" } else { "DEGRADED" };
    let document = json!({
        "verdict": verdict, "problems": bad, "server": format!("https://{}", running.listen),
        "dashboard": running.dashboard,
    });
    output.answer("Status", document, || {
        let pools: String = pools.iter().map(pool_line).collect();
        let more = if bad == 0 {
            String::new()
        } else {
            format!(" {bad} problems: mainstay doctor\n")
        };
        format!(
            "{verdict}  https://{}\n{pools}{more} dashboard {}\n",
            running.listen, running.dashboard
        )
    });
    Ok(if bad == 0 { Code::Ok } else { Code::No })
}

/// `mainstay doctor`: every problem with its next step; exit code 1 when there is one.
pub fn run(args: &DoctorArgs, output: &Output) -> Outcome {
    if args.pre {
        let all = preflight::run(&args.data.data_dir, &[]);
        let well = all.findings.is_empty();
        let table = || {
            if well {
                format!(" ✓ {} checks\n", all.checks)
            } else {
                preflight::table(&all)
            }
        };
        output.answer(
            "Preflight",
            json!({"checks": all.checks, "findings": all.findings}),
            table,
        );
        return Ok(if well { Code::Ok } else { Code::No });
    }
    let layout = Layout::new(&args.data.data_dir);
    let findings = super::block_on(async { examine(&api::admin(&layout).await?).await })?;
    report(&findings, args.all, output)
}

fn report(findings: &[Finding], all: bool, output: &Output) -> Outcome {
    let shown: Vec<&Finding> = findings.iter().filter(|finding| all || !finding.well).collect();
    let bad = findings.iter().filter(|finding| !finding.well).count();
    let items: Vec<Value> = shown.iter().map(|finding| finding.document()).collect();
    output.answer(
        "Doctor",
        json!({"checked": findings.len(), "problems": bad, "items": items}),
        || {
            let lines: String = shown.iter().map(|finding| finding.line()).collect();
            format!(
                "{lines}{} of {} objects are well\n",
                findings.len() - bad,
                findings.len()
            )
        },
    );
    Ok(if bad == 0 { Code::Ok } else { Code::No })
}

/// `mainstay why KIND/NAME`: the findings about one object and what hangs on it.
pub fn why(args: &WhyArgs, output: &Output) -> Outcome {
    let layout = Layout::new(&args.data.data_dir);
    let wanted = args.object.to_lowercase();
    let (_, name) = wanted
        .split_once('/')
        .filter(|(kind, name)| !kind.is_empty() && !name.is_empty())
        .ok_or_else(|| {
            Failure::new(
                "MS-CFG-0003",
                format!("{:?} is not KIND/NAME, for example host/h1", args.object),
            )
        })?;
    let findings = super::block_on(async { examine(&api::admin(&layout).await?).await })?;
    let about: Vec<Finding> = findings
        .into_iter()
        .filter(|finding| finding.object.contains(name))
        .collect();
    if about.is_empty() {
        return Err(Failure::new(
            "MS-API-0003",
            format!("nothing is known about {}", args.object),
        ));
    }
    report(&about, true, output)
}

async fn examine(client: &Client) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    let repairs: Vec<Repair> = api::list(client).await?;
    for image in api::list::<OSImage>(client).await? {
        let conditions = image
            .status
            .as_ref()
            .map(|status| status.conditions.clone())
            .unwrap_or_default();
        findings.push(by_conditions(
            "image",
            &image,
            &conditions,
            "the image controller tries again",
        ));
    }
    for pool in api::list::<NodePool>(client).await? {
        findings.push(pool_finding(&pool));
    }
    for host in api::list::<Host>(client).await? {
        let conditions = host
            .status
            .as_ref()
            .map(|status| status.conditions.clone())
            .unwrap_or_default();
        let next = next_of(&repairs, &host.name_any());
        findings.push(by_conditions("host", &host, &conditions, &next));
    }
    for node in api::list::<ComputeNode>(client).await? {
        let conditions = node
            .status
            .as_ref()
            .map(|status| status.conditions.clone())
            .unwrap_or_default();
        let next = next_of(&repairs, &node.name_any());
        findings.push(by_conditions("computenode", &node, &conditions, &next));
    }
    for machine in api::list::<Machine>(client).await? {
        let conditions = machine
            .status
            .as_ref()
            .map(|status| status.conditions.clone())
            .unwrap_or_default();
        let next = next_of(&repairs, &machine.name_any());
        findings.push(by_conditions("machine", &machine, &conditions, &next));
    }
    for ticket in api::list::<BreakFixTicket>(client).await? {
        findings.push(Finding {
            object: format!("ticket/{}", ticket.name_any()),
            well: false,
            problem: "hardware waits for a person".into(),
            since: String::new(),
            next: "nothing until the ticket is closed".into(),
        });
    }
    Ok(findings)
}

/// What the repair ladder will do next about an object, if it is at work on it.
fn next_of(repairs: &[Repair], name: &str) -> String {
    let about = |repair: &&Repair| {
        let text = serde_json::to_string(&repair.spec).unwrap_or_default();
        text.contains(&format!("\"{name}\""))
    };
    let open = repairs
        .iter()
        .filter(about)
        .find_map(|repair| repair.status.as_ref().map(|status| (repair, status)));
    match open {
        Some((repair, status)) => format!("repair {} is at {:?}", repair.name_any(), status.state),
        None => "the controllers go on; a repair starts when its policy's time has passed".into(),
    }
}

fn by_conditions<K: ResourceExt>(kind: &str, object: &K, conditions: &[Condition], next: &str) -> Finding {
    // A condition named after a good state is a problem when it is not True.
    let bad = conditions
        .iter()
        .find(|condition| condition.status == "False" || condition.status == "Unknown");
    Finding {
        object: format!("{kind}/{}", object.name_any()),
        well: bad.is_none(),
        problem: bad
            .map(|bad| {
                format!(
                    "{} is {}: {} ({})",
                    bad.type_, bad.status, bad.message, bad.reason
                )
            })
            .unwrap_or_default(),
        since: bad
            .map(|bad| bad.last_transition_time.0.to_string())
            .unwrap_or_default(),
        next: next.into(),
    }
}

fn pool_finding(pool: &NodePool) -> Finding {
    let ready = pool.status.as_ref().map_or(0, |status| status.ready_replicas);
    let wanted = pool.spec.replicas.unwrap_or(0);
    Finding {
        object: format!("pool/{}", pool.name_any()),
        well: ready >= wanted,
        problem: format!("{ready} of {wanted} nodes are ready"),
        since: String::new(),
        next: "missing nodes are made or repaired".into(),
    }
}
