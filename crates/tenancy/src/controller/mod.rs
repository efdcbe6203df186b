//! The two controllers of tenancy. `namespace` gives each user's or tenant's namespace its bindings, limits and
//! isolation; `tenant` adopts namespaces and reports what a tenant has.
//!
//! Watches Namespaces, Tenants, and the RoleBindings, LimitRanges and NetworkPolicies that carry the platform's label.
//! Writes those objects, the isolation labels of namespaces, and `namespaces` and `conditions` of a Tenant's status
//! (`used` is the API server's: it is charged with each write).

mod apply;
mod observe;
mod plan;

use std::sync::Arc;

use mainstay_base::clock::SharedClock;
use mainstay_control::{CancellationToken, Controller, Error, ObjectKey, Requeue};
use tokio::task::JoinHandle;

use observe::Caches;

/// Starts both controllers; they end with the token.
pub fn start(client: kube::Client, clock: SharedClock, stop: CancellationToken) -> Vec<JoinHandle<()>> {
    let caches = Caches::start(&client, &stop);
    vec![
        start_namespaces(&client, &caches, stop.clone()),
        start_tenants(&client, &caches, clock, stop),
    ]
}

/// The namespaces a tenant's change concerns: those that carry its label.
fn namespaces_of(caches: &Caches, tenant: &ObjectKey) -> Vec<ObjectKey> {
    let name = tenant.name.to_string();
    let own = caches
        .namespaces
        .select(|namespace| observe::tenant_of(namespace) == Some(name.as_str()));
    own.iter().map(|namespace| ObjectKey::of(&**namespace)).collect()
}

fn start_namespaces(client: &kube::Client, caches: &Caches, stop: CancellationToken) -> JoinHandle<()> {
    let of_object = |key: &ObjectKey| vec![ObjectKey::cluster(key.namespace.clone())];
    let (context, client) = (Arc::new(caches.clone()), client.clone());
    let controller = Controller::new("tenancy-namespace")
        .wake_on(&caches.namespaces, |change| vec![change.key.clone()])
        .wake_on(&caches.bindings, move |change| of_object(&change.key))
        .wake_on(&caches.limits, move |change| of_object(&change.key))
        .wake_on(&caches.policies, move |change| of_object(&change.key));
    // Tenants are not waited for: a cluster without that kind has owners all the same.
    let (queue, seen) = (controller.queue(), caches.clone());
    caches.tenants.listen(move |change| {
        namespaces_of(&seen, &change.key)
            .into_iter()
            .for_each(|key| queue.add(key))
    });
    controller.run(stop, move |key| {
        let (caches, client) = (context.clone(), client.clone());
        async move {
            let Some(seen) = observe::namespace(&caches, &key) else {
                return Ok(Requeue::Never);
            };
            apply::namespace(&client, &seen, plan::namespace(&seen)).await?;
            Ok::<_, Error>(Requeue::Never)
        }
    })
}

fn start_tenants(
    client: &kube::Client,
    caches: &Caches,
    clock: SharedClock,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let (context, client) = (Arc::new(caches.clone()), client.clone());
    let all = caches.clone();
    Controller::new("tenancy-tenant")
        .wake_on(&caches.tenants, |change| vec![change.key.clone()])
        .wake_on(&caches.namespaces, move |_| {
            all.tenants
                .list()
                .iter()
                .map(|tenant| ObjectKey::of(&**tenant))
                .collect()
        })
        .run(stop, move |key| {
            let (caches, client, clock) = (context.clone(), client.clone(), clock.clone());
            async move {
                let Some(seen) = observe::tenant(&caches, &key) else {
                    return Ok(Requeue::Never);
                };
                apply::tenant(&client, &seen, plan::tenant(&seen, clock.now())).await?;
                Ok::<_, Error>(Requeue::Never)
            }
        })
}

#[cfg(test)]
mod tests;
