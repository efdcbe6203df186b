//! `mainstay host`: faults and restarts by hand, to see the repair loops at work.

use kube::{Api, Client, ResourceExt};
use mainstay_api::{ComputeNode, Host};
use mainstay_base::clock::{Clock, SystemClock};
use mainstay_base::error::chain;
use mainstay_capi::Machine;
use mainstay_control::write;
use mainstay_provider::{HostId, local};
use serde_json::json;

use super::api;
use crate::args::{HostCommand, HostTarget};
use crate::manager::state::Layout;
use crate::outcome::{Code, Failure, Outcome};
use crate::output::Output;

/// Runs the command.
pub fn run(command: &HostCommand, output: &Output) -> Outcome {
    let (target, crash) = match command {
        HostCommand::Crash(target) => (target, true),
        HostCommand::Restart(target) => (target, false),
    };
    let layout = Layout::new(&target.data.data_dir);
    let host = super::block_on(async {
        let client = api::admin(&layout).await?;
        let (host, compute) = find(&client, target).await?;
        if !crash {
            let Some(compute) = compute else {
                return Err(refused(format!("host {} has no machine", host.name_any())));
            };
            restart(&client, &compute).await?;
        }
        Ok(host)
    })?;
    let name = host.name_any();
    if crash {
        crash_machine(&layout, &host)?;
    }
    let done = if crash { "crashed" } else { "restart asked for" };
    output.answer("HostAction", json!({"host": name, "done": done}), || {
        format!("host {name}: {done}; see what happens next: mainstay why host/{name}\n")
    });
    Ok(Code::Ok)
}

fn refused(problem: String) -> Failure {
    Failure::new("MS-API-0003", problem)
}

/// The host of this name, or the one that the node of this name runs on, with its machine.
async fn find(client: &Client, target: &HostTarget) -> Result<(Host, Option<ComputeNode>), Failure> {
    let here = |namespace: Option<String>| namespace.as_deref() == Some(&target.namespace);
    let computes: Vec<ComputeNode> = api::list(client).await?;
    let machines: Vec<Machine> = api::list(client).await?;
    let of_node = machines
        .iter()
        .find(|machine| machine.name_any() == target.name && here(machine.namespace()))
        .map(|machine| machine.spec.infrastructure_ref.name.clone());
    let compute = computes
        .into_iter()
        .filter(|c| here(c.namespace()))
        .find(|compute| {
            let host = compute.spec.host_ref.as_ref().map(|host| &host.name);
            host == Some(&target.name) || Some(compute.name_any()) == of_node
        });
    let on = compute.as_ref().and_then(|compute| compute.spec.host_ref.clone());
    let name = on.map_or_else(|| target.name.clone(), |host| host.name);
    let hosts: Vec<Host> = api::list(client).await?;
    let host = hosts
        .into_iter()
        .find(|host| host.name_any() == name && here(host.namespace()))
        .ok_or_else(|| refused(format!("there is no host or node {}", target.name)))?;
    Ok((host, compute))
}

async fn restart(client: &Client, compute: &ComputeNode) -> Result<(), Failure> {
    let nodes: Api<ComputeNode> = Api::namespaced(client.clone(), &compute.namespace().unwrap_or_default());
    let id = format!("by-hand-{}", SystemClock::new().now().as_second());
    let patch = json!({"spec": {"restart": {"id": id}}});
    let written = write::merge(&nodes, &compute.name_any(), patch).await;
    written
        .map(|_| ())
        .map_err(|error| Failure::new("MS-API-0002", chain(&error)))
}

fn crash_machine(layout: &Layout, host: &Host) -> Result<(), Failure> {
    let name = host.name_any();
    if host.spec.provider != "local" {
        let provider = &host.spec.provider;
        return Err(refused(format!(
            "host {name} is of provider {provider}: only local machines can be crashed"
        )));
    }
    let id = HostId::new(&host.namespace().unwrap_or_default(), &name);
    match local::crash(&layout.machines(), &id) {
        Ok(true) => Ok(()),
        Ok(false) => Err(refused(format!("the machine on host {name} does not run"))),
        Err(error) => Err(refused(chain(&error))),
    }
}
