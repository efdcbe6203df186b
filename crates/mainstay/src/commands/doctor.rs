//! `mainstay status` and `doctor`: what is not well, since when, and what happens next.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Client, ResourceExt};
use mainstay_api::conditions::is_bad;
use mainstay_api::{BreakFixTicket, ClusterDeployment, ComputeNode, Host, NodePool, OSImage, Repair};
use mainstay_capi::Machine;
use serde_json::{Value, json};

use super::{api, preflight};
use crate::args::{DoctorArgs, Target};
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
pub fn status(args: &Target, output: &Output) -> Outcome {
    let (findings, pools) = super::block_on(async {
        let client = api::chosen(args).await?;
        Ok((examine(&client).await?, api::list::<NodePool>(&client).await?))
    })?;
    let running = match args.kubeconfig {
        Some(_) => None,
        None => Running::read(&Layout::new(&args.data.data_dir)),
    };
    let server = running
        .as_ref()
        .map(|running| format!("https://{}", running.listen));
    let dashboard = running.map(|running| running.dashboard);
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
    let document = json!({"verdict": verdict, "problems": bad, "server": server, "dashboard": dashboard});
    output.answer("Status", document, || {
        let pools: String = pools.iter().map(pool_line).collect();
        let more = if bad == 0 {
            String::new()
        } else {
            format!(" {bad} problems: mainstay doctor\n")
        };
        let dashboard = dashboard.iter().map(|url| format!(" dashboard {url}\n"));
        format!(
            "{verdict}  {}\n{pools}{more}{}",
            server.clone().unwrap_or_default(),
            dashboard.collect::<String>()
        )
    });
    Ok(if bad == 0 { Code::Ok } else { Code::No })
}

/// `mainstay doctor`: every problem with its next step; exit code 1 when there is one.
pub fn run(args: &DoctorArgs, output: &Output) -> Outcome {
    if args.pre {
        let all = preflight::run(&args.target.data.data_dir, &[]);
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
    let findings = super::block_on(async { examine(&api::chosen(&args.target).await?).await })?;
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
    for cluster in api::list::<ClusterDeployment>(client).await? {
        let conditions = cluster
            .status
            .as_ref()
            .map(|status| status.conditions.clone())
            .unwrap_or_default();
        let next = "the controllers go on when what is named changes";
        findings.push(by_conditions("cluster", &cluster, &conditions, next));
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
    let open = |ticket: &BreakFixTicket| {
        let state = ticket.status.as_ref().map(|status| status.state.as_str());
        state != Some("Closed")
    };
    for ticket in api::list::<BreakFixTicket>(client)
        .await?
        .into_iter()
        .filter(open)
    {
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
    let bad = conditions
        .iter()
        .find(|condition| is_bad(&condition.type_, &condition.status));
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
