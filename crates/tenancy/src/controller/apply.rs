//! Carrying out plans; every step can be repeated.

use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use mainstay_control::Error;
use mainstay_control::error::{found, is_conflict};
use serde_json::{Value, json};

use super::observe::{SeenNamespace, SeenTenant};
use super::plan::{Step, TenantStep};
use crate::TENANT_LABEL;

/// The kinds that are written: resource, group, kind.
const KINDS: &[(&str, &str, &str)] = &[
    ("rolebindings", "rbac.authorization.k8s.io", "RoleBinding"),
    ("limitranges", "", "LimitRange"),
    ("networkpolicies", "networking.k8s.io", "NetworkPolicy"),
];

fn resource(name: &str) -> ApiResource {
    let (plural, group, kind) = KINDS.iter().find(|row| row.0 == name).unwrap_or(&KINDS[0]);
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural)
}

fn api(client: &Client, namespace: &str, name: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &resource(name))
}

fn merge() -> PatchParams {
    PatchParams::apply("mainstay-tenancy")
}

/// Carries out a namespace's plan.
pub(super) async fn namespace(client: &Client, seen: &SeenNamespace, steps: Vec<Step>) -> Result<(), Error> {
    for step in steps {
        match step {
            Step::Enforce(level) => {
                label(client, &seen.name, "pod-security.kubernetes.io/enforce", &level).await?
            }
            Step::Create(kind, object) => create(client, &seen.name, kind, object).await?,
            Step::Replace(kind, object) => replace(client, &seen.name, kind, object).await?,
            Step::Delete(kind, name) => {
                let deleted = api(client, &seen.name, kind)
                    .delete(&name, &DeleteParams::default())
                    .await;
                found(deleted).map_err(Error::api(|| format!("delete {kind} {}/{name}", seen.name)))?;
            }
        }
    }
    Ok(())
}

async fn label(client: &Client, namespace: &str, key: &str, value: &str) -> Result<(), Error> {
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    let patch = Patch::Merge(json!({"metadata": {"labels": {key: value}}}));
    let patched = namespaces.patch(namespace, &merge(), &patch).await;
    found(patched).map_err(Error::api(|| format!("label namespace {namespace}")))?;
    Ok(())
}

fn parse(object: Value) -> DynamicObject {
    serde_json::from_value(object).expect("the plan makes whole objects")
}

async fn create(client: &Client, namespace: &str, kind: &str, object: Value) -> Result<(), Error> {
    match api(client, namespace, kind)
        .create(&PostParams::default(), &parse(object))
        .await
    {
        Err(error) if is_conflict(&error) => Ok(()),
        other => other
            .map(drop)
            .map_err(Error::api(|| format!("create {kind} in namespace {namespace}"))),
    }
}

/// Writes the deciding parts over what is there.
async fn replace(client: &Client, namespace: &str, kind: &str, mut object: Value) -> Result<(), Error> {
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_string();
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|field, _| field != "roleRef" && field != "metadata");
    }
    let patched = api(client, namespace, kind)
        .patch(&name, &merge(), &Patch::Merge(object))
        .await;
    found(patched).map_err(Error::api(|| format!("change {kind} {namespace}/{name}")))?;
    Ok(())
}

/// Carries out a tenant's plan.
pub(super) async fn tenant(client: &Client, seen: &SeenTenant, steps: Vec<TenantStep>) -> Result<(), Error> {
    for step in steps {
        match step {
            TenantStep::Adopt(namespace) => label(client, &namespace, TENANT_LABEL, &seen.name).await?,
            TenantStep::Status(status) => {
                let tenants: Api<mainstay_api::Tenant> = Api::all(client.clone());
                let patch = Patch::Merge(json!({"status": status}));
                let patched = tenants.patch_status(&seen.name, &merge(), &patch).await;
                found(patched).map_err(Error::api(|| format!("write the status of tenant {}", seen.name)))?;
            }
        }
    }
    Ok(())
}
