//! `mainstay up`: preflight, background process, manifests, and waiting until all is as they say.

use std::collections::HashSet;
use std::time::Duration;

use kube::{Client, ResourceExt};
use mainstay_api::conditions::types;
use mainstay_api::{ClusterDeployment, NodePool, OSImage};
use mainstay_base::clock::{Clock, SystemClock};
use mainstay_base::error::chain;
use serde_json::json;

use super::manifests::{self, Manifest};
use super::{api, preflight};
use crate::args::UpArgs;
use crate::manager::state::{Layout, Running};
use crate::outcome::{Code, Failure, Finding, Outcome};
use crate::output::{Output, Step};

/// How many steps `up` shows.
const STEPS: usize = 5;
/// How often an awaited state is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long the background process may take to serve.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Runs the command.
pub fn run(args: &UpArgs, output: &Output) -> Outcome {
    let layout = Layout::new(&args.data.data_dir);
    crate::manager::bridge(&args.bridge)?;
    let manifests = manifests::read(&args.files)?;
    let running = super::block_on(async { Ok(settled(&layout).await) })?;
    check(args, output, &layout, &manifests, running.is_none())?;
    if args.dry_run {
        let document = json!({"objects": manifests.len(), "changed": false});
        output.answer("DryRun", document, || {
            format!("{} objects fit; nothing was changed", manifests.len())
        });
        return Ok(Code::Ok);
    }
    super::block_on(async {
        tokio::select! {
            outcome = bring_up(args, output, &layout, &manifests) => outcome,
            _ = tokio::signal::ctrl_c() => {
                output.note("detached; work goes on in the background. See how far it is: mainstay status");
                Ok(Code::Interrupted)
            }
        }
    })
}

/// Looks at the computer and at the manifests; changes nothing.
fn check(
    args: &UpArgs,
    output: &Output,
    layout: &Layout,
    manifests: &[Manifest],
    fresh: bool,
) -> Result<(), Failure> {
    let step = output.step(1, STEPS, "preflight", None);
    let addresses = if fresh {
        vec![args.listen, args.dashboard]
    } else {
        Vec::new()
    };
    let all = preflight::run(&args.data.data_dir, &addresses).without(&args.ignore);
    let wrong = super::block_on(check_manifests(args, layout, manifests, fresh))?;
    let (kind, id) = match wrong.is_empty() {
        true => ("findings", "MS-PRE-0001"),
        false => ("problems", "MS-CFG-0002"),
    };
    let findings: Vec<_> = wrong.into_iter().chain(all.findings).collect();
    if let Some(failure) = Failure::of(id, kind, findings) {
        drop(step);
        return Err(failure);
    }
    step.done(&format!("{} checks, {} objects", all.checks, manifests.len()));
    Ok(())
}

async fn check_manifests(
    args: &UpArgs,
    layout: &Layout,
    manifests: &[Manifest],
    fresh: bool,
) -> Result<Vec<Finding>, Failure> {
    let surroundings = crate::manager::surroundings(&args.bridge)?;
    if fresh || manifests.is_empty() {
        return Ok(manifests::check(manifests, &[], &|_, _| false, &surroundings));
    }
    let client = api::admin(layout).await?;
    let live = manifests::live(&client).await?;
    let mut served = HashSet::new();
    for manifest in manifests {
        let (version, kind) = (manifest.api_version(), manifest.kind());
        if manifests::serves(&client, version, kind).await {
            served.insert((version, kind));
        }
    }
    let serves = |version: &str, kind: &str| served.contains(&(version, kind));
    Ok(manifests::check(manifests, &live, &serves, &surroundings))
}

async fn bring_up(args: &UpArgs, output: &Output, layout: &Layout, manifests: &[Manifest]) -> Outcome {
    let deadline = Deadline::new(Duration::from_secs(args.timeout));
    let running = ensure_running(args, output, layout).await?;
    let client = api::admin(layout).await?;
    let step = output.step(3, STEPS, "manifests", None);
    for manifest in manifests {
        manifests::apply(&client, manifest, false).await?;
    }
    step.done(&format!("{} objects applied", manifests.len()));
    if !args.no_wait {
        wait_for_images(output, &client, &deadline).await?;
        wait_for_clusters(output, &client, &deadline).await?;
    }
    finish(output, layout, &running, &client).await
}

/// A point in time after which waiting ends.
struct Deadline {
    clock: SystemClock,
    limit: Duration,
}

impl Deadline {
    fn new(limit: Duration) -> Self {
        Deadline {
            clock: SystemClock::new(),
            limit,
        }
    }

    fn check(&self, waiting_for: &str) -> Result<(), Failure> {
        if self.clock.monotonic() < self.limit {
            return Ok(());
        }
        let seconds = self.limit.as_secs();
        Err(Failure::new(
            "MS-RUN-0002",
            format!("after {seconds} s still waiting for {waiting_for}"),
        ))
    }
}

async fn ensure_running(args: &UpArgs, output: &Output, layout: &Layout) -> Result<Running, Failure> {
    let step = output.step(2, STEPS, "management plane", Some(Duration::from_secs(2)));
    if let Some(running) = Running::read(layout) {
        step.done(&format!("https://{} runs already", running.listen));
        return Ok(running);
    }
    layout
        .make()
        .map_err(|error| Failure::new("MS-SRV-0001", format!("{}: {error}", layout.root.display())))?;
    let process = spawn(args, layout)?;
    let deadline = Deadline::new(START_LIMIT);
    loop {
        let known = Running::read(layout);
        if let Some(running) = known.clone().filter(|running| running.serving) {
            step.done(&format!(
                "https://{}, data in {}",
                running.listen,
                layout.root.display()
            ));
            return Ok(running);
        }
        // Of two that were started at once, the one that holds the store is waited for.
        if !process.alive() && known.is_none() {
            return Err(Failure::new(
                "MS-RUN-0003",
                format!("{}; its log: {}", last_words(layout), layout.log().display()),
            ));
        }
        deadline.check("the management plane to serve")?;
        step.waiting("starting");
        tokio::time::sleep(LOOK).await;
    }
}

/// Who serves; a background process that only starts yet, after an interrupted `up`, is waited for.
async fn settled(layout: &Layout) -> Option<Running> {
    let deadline = Deadline::new(START_LIMIT);
    loop {
        let running = Running::read(layout)?;
        if running.serving || deadline.check("the management plane to serve").is_err() {
            return Some(running);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Starts the background process, which outlives this one.
fn spawn(args: &UpArgs, layout: &Layout) -> Result<mainstay_host::process::ProcessId, Failure> {
    let failed = |problem: String| Failure::new("MS-SRV-0001", problem);
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let command: Vec<String> = [
        program.to_string_lossy().as_ref(),
        "manage",
        "--data-dir",
        layout.root.to_string_lossy().as_ref(),
        "--listen",
        &args.listen.to_string(),
        "--dashboard",
        &args.dashboard.to_string(),
        "--bridge",
        &args.bridge,
    ]
    .map(String::from)
    .to_vec();
    let pid = mainstay_host::supervise::start(&command, &[], &layout.log())
        .map_err(|error| failed(chain(&error)))?;
    mainstay_host::process::ProcessId::of(pid)
        .ok_or_else(|| failed("the background process ended at once".into()))
}

fn last_words(layout: &Layout) -> String {
    let log = std::fs::read_to_string(layout.log()).unwrap_or_default();
    let last = log.lines().rev().find(|line| line.starts_with('✗'));
    last.map_or("it said nothing", |line| line.trim_start_matches('✗').trim())
        .to_string()
}

async fn wait_for_images(output: &Output, client: &Client, deadline: &Deadline) -> Result<(), Failure> {
    let step = output.step(4, STEPS, "images", Some(Duration::from_secs(120)));
    loop {
        let images: Vec<OSImage> = api::list(client).await?;
        let commit = |image: &OSImage| {
            image
                .status
                .as_ref()
                .map(|status| status.commit.clone())
                .filter(|commit| !commit.is_empty())
        };
        let waiting: Vec<String> = images
            .iter()
            .filter(|image| commit(image).is_none())
            .map(not_composed)
            .collect();
        if waiting.is_empty() {
            let shown = images
                .iter()
                .map(|image| format!("{}:{:.8}", image.name_any(), commit(image).unwrap_or_default()));
            step.done(&shown.collect::<Vec<_>>().join(", "));
            return Ok(());
        }
        let what = format!("{} to be composed", waiting.join(", "));
        step.waiting(&what);
        deadline.check(&what)?;
        tokio::time::sleep(LOOK).await;
    }
}

/// An image that is waited for, and why it could not be composed so far.
fn not_composed(image: &OSImage) -> String {
    let conditions = image.status.iter().flat_map(|status| &status.conditions);
    let mut failed = conditions.filter(|one| one.type_ == types::COMPOSED && one.status == "False");
    match failed.next() {
        Some(why) => format!("image {} ({}; it is tried again)", image.name_any(), why.message),
        None => format!("image {}", image.name_any()),
    }
}

async fn wait_for_clusters(output: &Output, client: &Client, deadline: &Deadline) -> Result<(), Failure> {
    let step = output.step(5, STEPS, "clusters", Some(Duration::from_secs(20)));
    loop {
        let clusters: Vec<ClusterDeployment> = api::list(client).await?;
        let pools: Vec<NodePool> = api::list(client).await?;
        let problems = unready(&clusters, &pools);
        show(&step, &problems);
        if problems.is_empty() {
            let ready: i32 = pools
                .iter()
                .filter_map(|pool| pool.status.as_ref())
                .map(|status| status.ready_replicas)
                .sum();
            step.done(&format!("{} clusters, {ready} nodes ready", clusters.len()));
            return Ok(());
        }
        deadline.check(&problems.join("; "))?;
        tokio::time::sleep(LOOK).await;
    }
}

fn show(step: &Step<'_>, problems: &[String]) {
    if let Some(first) = problems.first() {
        step.waiting(first);
    }
}

/// What is not yet as the manifests say, a line each.
fn unready(clusters: &[ClusterDeployment], pools: &[NodePool]) -> Vec<String> {
    let mut problems = Vec::new();
    for cluster in clusters {
        let made = pools
            .iter()
            .filter(|pool| pool.spec.cluster_name == cluster.name_any())
            .count();
        if made < cluster.spec.node_pools.len() {
            problems.push(format!(
                "cluster {}: {made} of {} pools made",
                cluster.name_any(),
                cluster.spec.node_pools.len()
            ));
        }
    }
    for pool in pools {
        let ready = pool.status.as_ref().map_or(0, |status| status.ready_replicas);
        let wanted = pool.spec.replicas.unwrap_or(0);
        if ready < wanted {
            problems.push(format!(
                "pool {}: {ready} of {wanted} nodes ready",
                pool.name_any()
            ));
        }
    }
    problems
}

async fn finish(output: &Output, layout: &Layout, running: &Running, client: &Client) -> Outcome {
    let clusters: Vec<ClusterDeployment> = api::list(client).await?;
    let kubeconfig = layout.kubeconfig();
    let document = json!({
        "server": format!("https://{}", running.listen), "kubeconfig": kubeconfig, "dashboard": running.dashboard,
        "clusters": clusters.iter().map(ResourceExt::name_any).collect::<Vec<_>>(),
    });
    output.answer("Up", document, || {
        let mut text = format!(
            "Ready.\n  export KUBECONFIG={}\n  kubectl get datacenters,racks,hosts,clusterdeployments,nodepools,computenodes,machines -A\n",
            kubeconfig.display()
        );
        if let Some(cluster) = clusters.first() {
            let name = cluster.name_any();
            text += &format!("  mainstay kubeconfig {name} > {name}.kubeconfig && kubectl --kubeconfig {name}.kubeconfig get nodes\n");
        }
        text += &format!("  mainstay doctor        # what is not well, and what happens next\n  dashboard: {}\n", running.dashboard);
        text += "Undo everything: mainstay down\n";
        text
    });
    Ok(Code::Ok)
}
