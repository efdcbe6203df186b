//! What runs beside every API server: built-in controllers, scheduler, tenancy.

use std::sync::Arc;

use mainstay_access::UserInfo;
use mainstay_base::clock::SharedClock;
use mainstay_base::error::chain;
use mainstay_control::CancellationToken;
use mainstay_controlplane::ControlPlane;
use mainstay_workloads::Routes;

/// Starts them with their own identities; they end with `stop`.
///
/// # Errors
/// A text for people when the pod range or the scheduler's configuration cannot be used.
pub fn start(
    plane: &ControlPlane,
    pods: Option<&str>,
    routes: Option<Arc<dyn Routes>>,
    clock: SharedClock,
    stop: &CancellationToken,
) -> Result<(), String> {
    let client = |name: &str| plane.client(UserInfo::component(name));
    let range = |text: &str| {
        text.parse()
            .map_err(|_| format!("spec.network.pods: {text:?} is not a network"))
    };
    let workloads = mainstay_workloads::Config {
        ca_pem: plane.ca_pem().to_string(),
        signer: Some(plane.certificates().authority().clone()),
        pod_cidr: pods.map(range).transpose()?,
        routes,
        ..Default::default()
    };
    mainstay_workloads::start(
        client("system:kube-controller-manager"),
        workloads,
        clock.clone(),
        stop.clone(),
    );
    let scheduler = mainstay_scheduler::Config::default();
    mainstay_scheduler::start(
        client("system:kube-scheduler"),
        scheduler,
        clock.clone(),
        stop.clone(),
    )
    .map_err(|error| chain(&error))?;
    mainstay_tenancy::controller::start(client("system:mainstay:tenancy"), clock, stop.clone());
    Ok(())
}
