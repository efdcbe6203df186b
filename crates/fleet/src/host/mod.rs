//! Host controller: checks assets, reads their hardware, and brings repaired ones back. Watches Hosts, Racks
//! and BreakFixTickets; alone writes Host.status except consumerRef, image, incarnation and lastTask, which
//! belong to the consumer.

mod plan;

use std::time::Duration;

use kube::{Api, ResourceExt};
use mainstay_api::{BreakFixTicket, Host, HostStatus, Rack, host::Hardware};
use mainstay_control::{Error, ObjectKey, Requeue, write};
use mainstay_provider::{HostId, HostSpec as ProviderHost, Sku};

pub use plan::{Next, Seen, plan};

use crate::Context;

/// How soon a failed inspection is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// What the provider must know of a host.
pub fn provider_host(host: &Host) -> ProviderHost {
    let mut sku = Sku::default();
    if let Some(resources) = &host.spec.resources {
        sku.cpu_millis = u64::from(resources.cpus) * 1000;
        sku.memory_bytes = resources.memory_mib << 20;
        sku.disk_bytes = resources.disk_mib << 20;
    }
    let mut settings = std::collections::BTreeMap::new();
    if let Some(bmc) = &host.spec.bmc {
        settings.insert("bmc".to_string(), bmc.address.clone());
    }
    if !host.spec.boot_mac.is_empty() {
        settings.insert("bootMAC".to_string(), host.spec.boot_mac.clone());
    }
    ProviderHost {
        id: host_id(host),
        sku,
        settings,
    }
}

/// The provider's name of a host.
pub fn host_id(host: &Host) -> HostId {
    HostId::new(&host.namespace().unwrap_or_default(), &host.name_any())
}

/// Moves one host forward in its life.
pub async fn reconcile(key: ObjectKey, ctx: &Context) -> Result<Requeue, Error> {
    let hosts: Api<Host> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let Some(host) = write::get(&hosts, &key.name).await? else {
        return Ok(Requeue::Never);
    };
    let tickets: Api<BreakFixTicket> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let open = write::list(&tickets, "").await?;
    let racks: Api<Rack> = Api::all(ctx.client.clone());
    let seen = Seen {
        rack_exists: write::get(&racks, &host.spec.rack).await?.is_some(),
        twins: twins(&host, &write::list(&hosts, "").await?),
        open_ticket: open
            .iter()
            .any(|t| t.spec.host_ref.name == key.name && !t.spec.resolved),
        provider_known: host.spec.provider.is_empty() || ctx.providers.contains_key(&host.spec.provider),
        host,
    };
    let now = ctx.clock.now();
    let (mut status, next) = plan(&seen, now);
    let mut requeue = Requeue::Never;
    if next == Next::Inspect {
        match inspect(ctx, &seen.host).await {
            Ok(hardware) => plan::inspected(&mut status, hardware, now),
            Err(problem) => {
                plan::not_inspected(&mut status, &problem, now);
                requeue = Requeue::After(RETRY);
            }
        }
    }
    let old = seen.host.status.clone().unwrap_or_default();
    write_status(&hosts, &seen.host, &old, &status).await?;
    Ok(requeue)
}

async fn write_status(
    hosts: &Api<Host>,
    host: &Host,
    old: &HostStatus,
    new: &HostStatus,
) -> Result<(), Error> {
    let read = host.status.as_ref().map(|_| old);
    write::status(hosts, host, read, new).await.map(|_| ())
}

/// Other hosts with the same identity: what they share.
fn twins(host: &Host, all: &[Host]) -> Vec<String> {
    let others = all.iter().filter(|other| other.name_any() != host.name_any());
    let same = |own: &str, other: &str| !own.is_empty() && own == other;
    others
        .filter_map(|other| {
            let what = match () {
                () if same(&host.spec.serial, &other.spec.serial) => "spec.serial",
                () if same(&host.spec.boot_mac, &other.spec.boot_mac) => "spec.bootMAC",
                () if host.spec.unit > 0
                    && host.spec.rack == other.spec.rack
                    && host.spec.unit == other.spec.unit =>
                {
                    "spec.unit"
                }
                () => return None,
            };
            Some(format!("{what} is the same as that of host {}", other.name_any()))
        })
        .collect()
}

async fn inspect(ctx: &Context, host: &Host) -> Result<Hardware, String> {
    let Some(provider) = ctx.providers.get(&host.spec.provider) else {
        return Err(format!("no provider {:?}", host.spec.provider));
    };
    let found = provider
        .inventory(&provider_host(host))
        .await
        .map_err(|error| error.to_string())?;
    Ok(Hardware {
        cpus: u32::try_from(found.cpu_millis / 1000).unwrap_or(u32::MAX),
        memory_bytes: found.memory_bytes,
        numa_nodes: found.numa_nodes,
        nics: found.macs,
        ..Default::default()
    })
}
