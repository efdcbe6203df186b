//! An object of any kind as a watch delivers it. One watcher serves the caches of all kinds: compiled once for each
//! kind, it was a tenth of the program.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The object as JSON without `managedFields`, by far its largest part.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Name, namespace and resourceVersion only.
    metadata: ObjectMeta,
    object: Value,
}

impl Seen {
    /// Reads the object as the kind that is asked for.
    ///
    /// # Errors
    /// When a field has another type.
    pub(crate) fn read<P: DeserializeOwned>(self) -> Result<P, serde_json::Error> {
        serde_json::from_value(self.object)
    }
}

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut object = Value::deserialize(from)?;
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
            return Err(D::Error::missing_field("metadata"));
        };
        metadata.remove("managedFields");
        let text = |name: &str| metadata.get(name).and_then(Value::as_str).map(String::from);
        let metadata = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..Default::default()
        };
        Ok(Seen { metadata, object })
    }
}

impl Resource for Seen {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        of.kind.as_str().into()
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        of.group.as_str().into()
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        of.version.as_str().into()
    }

    fn api_version(of: &ApiResource) -> Cow<'_, str> {
        of.api_version.as_str().into()
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        of.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
