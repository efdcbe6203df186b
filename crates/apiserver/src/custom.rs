//! Custom resources: follows CustomResourceDefinitions and serves what they define, without restart. A definition is
//! called Established only when its resources are served; one that is deleted takes its objects with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mainstay_objects::crd::CustomKind;
use serde_json::{Value, json};

use crate::cache::{Scope, Subscription};
use crate::registry::update::{self, Made};
use crate::registry::{Write, delete as registry_delete, finalizers, meta_text, metadata, set_finalizers};
use crate::resources::{Catalog, Gvk, Resource, SelectableField, Subresource};
use crate::schema::CustomType;
use crate::serve::options::{DeleteOptions, WriteOptions};
use crate::server::Server;
use mainstay_access::hooks::World as _;
use mainstay_access::object::Object;
use mainstay_access::query::Query;
use mainstay_access::status::ApiResult;
use mainstay_access::user::UserInfo;

/// Where definitions are stored.
pub const DEFINITIONS: &str = "apiextensions.k8s.io/customresourcedefinitions";
/// Keeps a definition until its objects are gone.
const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// How often a deleted definition's objects are looked at again.
const CLEANUP_EVERY: Duration = Duration::from_secs(1);

/// Brings a new definition into its first state.
pub(crate) fn first_state(definition: &mut Value) {
    let mut kept = finalizers(definition);
    if !kept.iter().any(|finalizer| finalizer == CLEANUP) {
        kept.push(CLEANUP.into());
    }
    set_finalizers(definition, kept);
    let kind = definition["spec"]["names"]["kind"]
        .as_str()
        .unwrap_or_default()
        .to_string();
    let names = &mut definition["spec"]["names"];
    if names["singular"].as_str().unwrap_or_default().is_empty() {
        names["singular"] = kind.to_lowercase().into();
    }
    if names["listKind"].as_str().unwrap_or_default().is_empty() {
        names["listKind"] = format!("{kind}List").into();
    }
    if definition["spec"]["conversion"].is_null() {
        definition["spec"]["conversion"] = json!({"strategy": "None"});
    }
    definition["status"] = json!({
        "acceptedNames": {"kind": "", "plural": ""}, "conditions": [], "storedVersions": stored_versions(definition),
    });
}

fn stored_versions(definition: &Value) -> Vec<String> {
    let mut known: Vec<String> = texts(&definition["status"]["storedVersions"]);
    for version in definition["spec"]["versions"].as_array().into_iter().flatten() {
        let name = version["name"].as_str().unwrap_or_default();
        if version["storage"] == true && !known.iter().any(|one| one == name) {
            known.push(name.into());
        }
    }
    known
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(|text| text.as_str().map(str::to_string))
        .collect()
}

/// Follows the definitions of a server.
pub(crate) struct Definitions {
    server: Arc<Server>,
    /// Compiled definitions by name, with the generation they were compiled from.
    compiled: HashMap<String, (String, Arc<CustomKind>)>,
}

impl Definitions {
    pub(crate) fn new(server: Arc<Server>) -> Self {
        Definitions {
            server,
            compiled: HashMap::new(),
        }
    }

    /// Serves what is defined now, and says so in the definitions' status.
    pub(crate) async fn serve(&mut self) {
        let definitions = self.server.caches().list(DEFINITIONS, None);
        let resources: Vec<Arc<Resource>> = definitions
            .iter()
            .filter_map(|object| self.compile(object))
            .flat_map(|kind| resources(&kind))
            .collect();
        for resource in &resources {
            self.server
                .caches()
                .set_fields(&resource.store, resource.fields.clone());
        }
        self.compiled
            .retain(|name, _| definitions.iter().any(|object| *object.name() == *name));
        self.server.set_catalog(Catalog::new(resources));
        for object in definitions {
            self.settle(&object).await;
        }
    }

    /// Serves what is defined, from change to change, until the server stops.
    pub(crate) async fn follow(mut self) {
        loop {
            let cache = self.server.caches().resource(DEFINITIONS);
            let Ok(Subscription { mut live, .. }) =
                cache.subscribe(Scope::All, self.server.caches().revision())
            else {
                tokio::time::sleep(CLEANUP_EVERY).await;
                continue;
            };
            self.serve().await;
            while let Some(()) = self.change(&mut live).await {
                self.serve().await;
            }
        }
    }

    /// Waits for the next change, or, while definitions wait for their objects to go, a moment.
    async fn change(&self, live: &mut crate::cache::Receiver) -> Option<()> {
        let ending = self
            .server
            .caches()
            .list(DEFINITIONS, None)
            .iter()
            .any(|object| is_ending(object));
        let event = match ending {
            true => tokio::time::timeout(CLEANUP_EVERY, live.recv())
                .await
                .unwrap_or(None),
            false => live.recv().await,
        };
        while live.try_next().is_some() {}
        match event {
            None if !ending || live.is_closed() => None,
            _ => Some(()),
        }
    }

    fn compile(&mut self, object: &Object) -> Option<Arc<CustomKind>> {
        let name = object.name().into_owned();
        let version = format!("{}/{}", object.uid(), object.scalar("metadata.generation"));
        if let Some((known, kind)) = self.compiled.get(&name)
            && *known == version
        {
            return Some(kind.clone());
        }
        match CustomKind::compile(&object.value()) {
            Ok(kind) => {
                let kind = Arc::new(kind);
                self.compiled.insert(name, (version, kind.clone()));
                Some(kind)
            }
            Err(errors) => {
                let why: Vec<String> = errors.iter().map(ToString::to_string).collect();
                tracing::error!(
                    definition = name,
                    why = why.join("; "),
                    "a stored definition does not compile"
                );
                None
            }
        }
    }

    /// Writes what is true into a definition's status, and goes on with its deletion.
    async fn settle(&self, object: &Object) {
        let value = object.value();
        let name = object.name().into_owned();
        if is_ending(object) {
            if let Err(error) = self.clean(&name, &value).await {
                tracing::warn!(definition = name, %error, "deleting a definition's objects failed");
            }
            return;
        }
        if is_established(&value) && value["status"]["storedVersions"] == json!(stored_versions(&value)) {
            return;
        }
        let now = mainstay_base::clock::rfc3339_seconds(self.server.clock.now());
        let change = |old: Option<&Value>| {
            let mut definition = old.cloned().unwrap_or_default();
            establish(&mut definition, &now);
            Ok(Made {
                object: definition,
                warnings: Vec::new(),
                tracked: false,
            })
        };
        if let Err(error) = self.update(&name, "status", &change).await {
            tracing::warn!(definition = name, %error, "establishing a definition failed");
        }
    }

    async fn update(&self, name: &str, subresource: &str, change: &update::Change<'_>) -> ApiResult<()> {
        let catalog = self.server.catalog();
        let Some(resource) = catalog.find("apiextensions.k8s.io", "v1", "customresourcedefinitions") else {
            return Ok(());
        };
        let user = own_user();
        let write = frame(&self.server, resource, subresource, ("", name), &user)?;
        update::update(&write, change, false).await.map(drop)
    }

    /// Deletes a definition's objects; when none is left, lets the definition go.
    async fn clean(&self, name: &str, definition: &Value) -> ApiResult<()> {
        if !finalizers(definition)
            .iter()
            .any(|finalizer| finalizer == CLEANUP)
        {
            return Ok(());
        }
        let kind = self.compiled.get(name).map(|(_, kind)| kind.clone());
        let mut left = 0;
        if let Some(kind) = &kind {
            let store = format!("{}/{}", kind.group, kind.plural);
            let objects = self.server.caches().list(&store, None);
            left = objects.len();
            self.delete_all(kind, &objects).await?;
        }
        if left > 0 {
            return Ok(());
        }
        let change = |old: Option<&Value>| {
            let mut definition = old.cloned().unwrap_or_default();
            let kept = finalizers(&definition)
                .into_iter()
                .filter(|finalizer| finalizer != CLEANUP)
                .collect();
            set_finalizers(&mut definition, kept);
            metadata(&mut definition).remove("resourceVersion");
            Ok(Made {
                object: definition,
                warnings: Vec::new(),
                tracked: false,
            })
        };
        self.update(name, "", &change).await
    }

    async fn delete_all(&self, kind: &Arc<CustomKind>, objects: &[Arc<Object>]) -> ApiResult<()> {
        let Some(resource) = resources(kind).into_iter().next() else {
            return Ok(());
        };
        let user = own_user();
        for object in objects.iter().filter(|object| !is_ending(object)) {
            let (namespace, name) = (object.namespace(), object.name());
            let write = frame(&self.server, &resource, "", (&namespace, &name), &user)?;
            match registry_delete::delete(&write, &DeleteOptions::default()).await {
                Err(error) if error.code != 404 => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn own_user() -> Arc<UserInfo> {
    let groups = [mainstay_access::user::GROUP_MASTERS];
    Arc::new(UserInfo::new("system:apiserver", groups))
}

fn frame<'a>(
    server: &'a Server,
    resource: &'a Arc<Resource>,
    subresource: &'a str,
    (namespace, name): (&'a str, &'a str),
    user: &'a Arc<UserInfo>,
) -> ApiResult<Write<'a>> {
    Ok(Write {
        server,
        resource,
        subresource,
        namespace,
        name,
        user,
        options: WriteOptions::parse(&Query::default(), "UpdateOptions", false)?,
        manager: "mainstay".into(),
    })
}

fn is_ending(object: &Object) -> bool {
    !object.scalar("metadata.deletionTimestamp").is_empty()
}

fn is_established(definition: &Value) -> bool {
    let conditions = definition["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    let names = definition["status"]["acceptedNames"] == definition["spec"]["names"];
    names
        && conditions
            .filter(|one| one["type"] == "Established" && one["status"] == "True")
            .count()
            > 0
}

fn establish(definition: &mut Value, now: &str) {
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now});
    let stored = stored_versions(definition);
    let was: Vec<Value> = definition["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut conditions = vec![
        condition("NamesAccepted", "NoConflicts", "no conflicts found"),
        condition(
            "Established",
            "InitialNamesAccepted",
            "the initial names have been accepted",
        ),
    ];
    for one in &mut conditions {
        if let Some(same) = was
            .iter()
            .find(|old| old["type"] == one["type"] && old["status"] == "True")
        {
            *one = same.clone();
        }
    }
    definition["status"] = json!({
        "acceptedNames": definition["spec"]["names"], "conditions": conditions, "storedVersions": stored,
    });
    metadata(definition).remove("resourceVersion");
    debug_assert!(!meta_text(definition, "name").is_empty());
}

/// The resources that a definition's served versions make.
fn resources(kind: &Arc<CustomKind>) -> Vec<Arc<Resource>> {
    let Some(storage) = kind.storage_version() else {
        return Vec::new();
    };
    let mut paths: Vec<String> = kind
        .versions
        .iter()
        .flat_map(|version| version.selectable_fields.iter().cloned())
        .collect();
    paths.sort();
    paths.dedup();
    let fields: Arc<[SelectableField]> = paths
        .into_iter()
        .map(|path| SelectableField {
            path,
            unset: String::new(),
        })
        .collect();
    let gvk = |version: &str| Gvk {
        group: kind.group.clone(),
        version: version.into(),
        kind: kind.kind.clone(),
    };
    let served = kind
        .versions
        .iter()
        .enumerate()
        .filter(|(_, version)| version.served);
    served
        .map(|(number, version)| {
            Arc::new(Resource {
                gvk: gvk(&version.name),
                list_kind: kind.list_kind.clone(),
                plural: kind.plural.clone(),
                singular: kind.singular.clone(),
                namespaced: kind.namespaced,
                verbs: "cdDglpuw".into(),
                short_names: kind.short_names.clone(),
                categories: kind.categories.clone(),
                subresources: subresources(version, &gvk(&version.name)),
                store: format!("{}/{}", kind.group, kind.plural).into(),
                storage: gvk(&storage.name),
                fields: fields.clone(),
                custom: Some(Arc::new(CustomType {
                    kind: kind.clone(),
                    version: number,
                })),
                deprecated: version.deprecation.clone().map(|text| match text.as_str() {
                    "" => format!("{}/{} {} is deprecated", kind.group, version.name, kind.kind),
                    _ => text,
                }),
            })
        })
        .collect()
}

fn subresources(version: &mainstay_objects::crd::CustomVersion, own: &Gvk) -> Vec<Subresource> {
    let mut found = Vec::new();
    if version.scale.is_some() {
        let kind = Gvk {
            group: "autoscaling".into(),
            version: "v1".into(),
            kind: "Scale".into(),
        };
        found.push(Subresource {
            name: "scale".into(),
            kind,
            verbs: "gpu".into(),
        });
    }
    if version.status {
        found.push(Subresource {
            name: "status".into(),
            kind: own.clone(),
            verbs: "gpu".into(),
        });
    }
    found
}
