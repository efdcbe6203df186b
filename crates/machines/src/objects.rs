//! Infrastructure and bootstrap objects of any provider, reached through the Cluster API contract.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, PostParams},
    core::GroupVersionKind,
};
use mainstay_capi::ContractRef;
use mainstay_control::{
    Error,
    error::{found, is_conflict},
};
use serde_json::Value;

/// Version served for a contract group.
fn version_of(group: &str) -> &'static str {
    match group {
        mainstay_api::GROUP => mainstay_api::VERSION,
        _ => "v1beta2",
    }
}

/// Address of the kind that a contract reference names. The plural is the lower-case kind with an `s`, which
/// holds for every kind that follows the contract.
pub fn resource_of(reference: &ContractRef) -> ApiResource {
    let gvk = GroupVersionKind::gvk(
        &reference.api_group,
        version_of(&reference.api_group),
        &reference.kind,
    );
    ApiResource::from_gvk_with_plural(&gvk, &format!("{}s", reference.kind.to_lowercase()))
}

fn api(client: &Client, namespace: &str, reference: &ContractRef) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &resource_of(reference))
}

/// Reads a referenced object; None when it is gone or nothing is referenced.
pub async fn get(
    client: &Client,
    namespace: &str,
    reference: &ContractRef,
) -> Result<Option<DynamicObject>, Error> {
    if reference.is_empty() {
        return Ok(None);
    }
    let read = found(api(client, namespace, reference).get(&reference.name).await);
    read.map_err(Error::api(|| {
        format!("read {} {namespace}/{}", reference.kind, reference.name)
    }))
}

/// Deletes a referenced object; one that is gone is no error.
pub async fn delete(client: &Client, namespace: &str, reference: &ContractRef) -> Result<(), Error> {
    if reference.is_empty() {
        return Ok(());
    }
    let gone = found(
        api(client, namespace, reference)
            .delete(&reference.name, &DeleteParams::default())
            .await,
    );
    gone.map(|_| ()).map_err(Error::api(|| {
        format!("delete {} {namespace}/{}", reference.kind, reference.name)
    }))
}

/// The kind that a template's objects have.
pub fn cloned_ref(template: &ContractRef, name: &str) -> ContractRef {
    ContractRef {
        api_group: template.api_group.clone(),
        kind: template
            .kind
            .strip_suffix("Template")
            .unwrap_or(&template.kind)
            .to_string(),
        name: name.to_string(),
    }
}

/// Makes the object `name` from a template unless it exists.
///
/// # Errors
/// [`Error::Waiting`] when the template does not exist.
pub async fn clone_template(
    client: &Client,
    namespace: &str,
    template: &ContractRef,
    name: &str,
    owner: OwnerReference,
    labels: &std::collections::BTreeMap<String, String>,
) -> Result<(), Error> {
    let wanted = cloned_ref(template, name);
    let Some(source) = get(client, namespace, template).await? else {
        return Err(Error::Waiting {
            what: format!("{} {namespace}/{}", template.kind, template.name),
        });
    };
    let mut object = DynamicObject::new(name, &resource_of(&wanted)).within(namespace);
    object.metadata.labels = Some(labels.clone());
    object.metadata.owner_references = Some(vec![owner]);
    let annotations = object.annotations_mut();
    annotations.insert("cluster.x-k8s.io/cloned-from-name".into(), template.name.clone());
    let group_kind = format!("{}.{}", template.kind, template.api_group);
    annotations.insert("cluster.x-k8s.io/cloned-from-groupkind".into(), group_kind);
    object.data = serde_json::json!({ "spec": source.data["spec"]["template"]["spec"] });
    match api(client, namespace, &wanted)
        .create(&PostParams::default(), &object)
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if is_conflict(&error) => Ok(()),
        Err(error) => Err(Error::api(|| {
            format!("create {} {namespace}/{name}", wanted.kind)
        })(error)),
    }
}

/// Reads a flag of the contract, such as `/status/initialization/provisioned`.
pub fn flag(object: Option<&DynamicObject>, pointer: &str) -> bool {
    object
        .and_then(|object| object.data.pointer(pointer))
        .and_then(Value::as_bool)
        .unwrap_or(false)
}

/// Reads a text of the contract; empty when absent.
pub fn text(object: Option<&DynamicObject>, pointer: &str) -> String {
    object
        .and_then(|object| object.data.pointer(pointer))
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_string()
}

/// The reference that makes `owner` the controller of another object.
pub fn controlled_by<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Name of the controlling owner of this kind.
pub fn controller_of<K: Resource<DynamicType = ()>>(object: &K, kind: &str) -> Option<String> {
    let owners = object.meta().owner_references.iter().flatten();
    owners
        .into_iter()
        .find(|owner| owner.kind == kind && owner.controller == Some(true))
        .map(|o| o.name.clone())
}

/// Compiles a label selector of a spec; one that is not valid selects nothing.
pub fn selector(
    selector: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
) -> mainstay_semantics::selector::Selector {
    use mainstay_semantics::selector::{LabelSelector, Selector};
    let value = serde_json::to_value(selector).unwrap_or(Value::Null);
    LabelSelector::from_json(&value).unwrap_or_else(|_| Selector::nothing())
}
