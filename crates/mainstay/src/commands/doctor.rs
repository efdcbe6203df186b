//! `mainstay status` and `doctor`: what is not well, since when, and what happens next.

use kube::ResourceExt;
use mainstay_api::NodePool;
use serde_json::{Value, json};

use super::findings::{Finding, examine};
use super::{api, preflight};
use crate::args::{DoctorArgs, Target};
use crate::manager::state::{Layout, Running};
use crate::outcome::{Code, Outcome};
use crate::output::Output;

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
