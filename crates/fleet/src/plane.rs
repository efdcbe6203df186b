//! HostedControlPlane and ComputeCluster controllers. Watch these kinds; alone write their status,
//! HostedControlPlane.spec.controlPlaneEndpoint and Secret `<cluster>-kubeconfig`.

use std::time::Duration;

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, ResourceExt};
use mainstay_api::{
    ComputeCluster, FINALIZER, HostedControlPlane, Rack,
    cluster::ControlPlaneInitialization,
    compute::{FailureDomain, Initialization},
    conditions::{condition, reasons, set, types},
};
use mainstay_capi::{CLUSTER_NAME_LABEL, SECRET_TYPE};
use mainstay_control::{Error, ObjectKey, Requeue, write};
use mainstay_machines::objects::controlled_by;
use serde_json::json;

use crate::{Context, PlaneError, PlaneRequest, RunningPlane};

/// How soon a control plane that did not start is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The Cluster that a control plane belongs to: by label, else the one of its own name.
fn cluster_key(plane: &HostedControlPlane) -> ObjectKey {
    let name = plane
        .labels()
        .get(CLUSTER_NAME_LABEL)
        .cloned()
        .unwrap_or_else(|| plane.name_any());
    ObjectKey::namespaced(plane.namespace().unwrap_or_default(), name)
}

/// Starts one hosted control plane, or takes it down.
pub async fn reconcile(key: ObjectKey, ctx: &Context) -> Result<Requeue, Error> {
    let planes: Api<HostedControlPlane> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let Some(plane) = write::get(&planes, &key.name).await? else {
        return Ok(Requeue::Never);
    };
    let uid = plane.uid().unwrap_or_default();
    if plane.metadata.deletion_timestamp.is_some() {
        ctx.access.remove(&cluster_key(&plane));
        ctx.planes
            .remove(&key, &uid)
            .await
            .map_err(|error| waiting(&key, &error))?;
        write::remove_finalizer(&planes, &plane, FINALIZER).await?;
        return Ok(Requeue::Never);
    }
    if write::add_finalizer(&planes, &plane, FINALIZER).await? {
        return Ok(Requeue::After(Duration::ZERO));
    }
    let network = &plane.spec.network;
    let request = PlaneRequest {
        key: key.clone(),
        uid,
        version: plane.spec.version.clone(),
        pods: network.pods.clone(),
        services: network.services.clone(),
        endpoint: Some(plane.spec.control_plane_endpoint.clone()).filter(|endpoint| endpoint.is_known()),
    };
    let result = ctx.planes.ensure(&request).await;
    if let Ok(running) = &result {
        ctx.access.insert(cluster_key(&plane), running.access.clone());
        kubeconfig(ctx, &plane, running).await?;
        if plane.spec.control_plane_endpoint != running.endpoint {
            let spec = json!({"spec": {"controlPlaneEndpoint": running.endpoint}});
            write::merge(&planes, &key.name, spec).await?;
            return Ok(Requeue::After(Duration::ZERO));
        }
    }
    record(ctx, &planes, &plane, &result).await?;
    Ok(if result.is_ok() {
        Requeue::Never
    } else {
        Requeue::After(RETRY)
    })
}

fn waiting(key: &ObjectKey, error: &PlaneError) -> Error {
    Error::Waiting {
        what: format!("control plane {key} to stop: {error}"),
    }
}

async fn record(
    ctx: &Context,
    planes: &Api<HostedControlPlane>,
    plane: &HostedControlPlane,
    result: &Result<RunningPlane, PlaneError>,
) -> Result<(), Error> {
    let now = ctx.clock.now();
    let mut status = plane.status.clone().unwrap_or_default();
    status.external_managed_control_plane = true;
    let serving = i32::from(result.is_ok());
    (status.replicas, status.ready_replicas) = (serving, serving);
    let new = match result {
        Ok(running) => {
            status.initialization = ControlPlaneInitialization {
                control_plane_initialized: true,
            };
            status.version.clone_from(&running.version);
            condition(types::READY, true, reasons::AS_EXPECTED, "", now)
        }
        Err(error @ PlaneError::Invalid { .. }) => {
            condition(types::READY, false, reasons::INVALID, error.to_string(), now)
        }
        Err(error) => condition(types::READY, false, reasons::WAITING, error.to_string(), now),
    };
    set(&mut status.conditions, new);
    write::status(planes, plane, plane.status.as_ref(), &status)
        .await
        .map(|_| ())
}

async fn kubeconfig(ctx: &Context, plane: &HostedControlPlane, running: &RunningPlane) -> Result<(), Error> {
    let cluster = cluster_key(plane);
    let name = format!("{}-kubeconfig", cluster.name);
    let secrets: Api<Secret> = Api::namespaced(ctx.client.clone(), &cluster.namespace);
    let value = ByteString(running.kubeconfig.clone().into_bytes());
    if let Some(secret) = write::get(&secrets, &name).await? {
        // An administrator's certificate is renewed by whoever makes the kubeconfig; the address decides here.
        let held = secret
            .data
            .and_then(|mut data| data.remove("value"))
            .unwrap_or_default();
        let known = String::from_utf8_lossy(&held.0).contains(&format!(":{}", running.endpoint.port));
        if known {
            return Ok(());
        }
        write::merge(&secrets, &name, json!({"data": {"value": value}})).await?;
        return Ok(());
    }
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(cluster.namespace),
            labels: Some([(CLUSTER_NAME_LABEL.to_string(), cluster.name)].into()),
            owner_references: Some(vec![controlled_by(plane)]),
            ..Default::default()
        },
        type_: Some(SECRET_TYPE.into()),
        data: Some([("value".to_string(), value)].into()),
        ..Default::default()
    };
    write::create(&secrets, &secret).await.map(|_| ())
}

/// Publishes the racks as the cluster's failure domains.
pub async fn reconcile_infrastructure(key: ObjectKey, ctx: &Context) -> Result<Requeue, Error> {
    let clusters: Api<ComputeCluster> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let Some(cluster) = write::get(&clusters, &key.name).await? else {
        return Ok(Requeue::Never);
    };
    let racks: Vec<Rack> = write::list(&Api::all(ctx.client.clone()), "").await?;
    let mut domains: Vec<FailureDomain> = racks
        .iter()
        .map(|rack| FailureDomain {
            name: format!("{}/{}", rack.spec.zone, rack.name_any()),
            control_plane: true,
            attributes: [("zone", rack.spec.zone.clone()), ("rack", rack.name_any())]
                .map(|(key, value)| (key.to_string(), value))
                .into(),
        })
        .collect();
    domains.sort_by(|a, b| a.name.cmp(&b.name));
    let mut status = cluster.status.clone().unwrap_or_default();
    status.initialization = Initialization { provisioned: true };
    status.failure_domains = domains;
    set(
        &mut status.conditions,
        condition(types::READY, true, reasons::AS_EXPECTED, "", ctx.clock.now()),
    );
    write::status(&clusters, &cluster, cluster.status.as_ref(), &status).await?;
    Ok(Requeue::Never)
}
