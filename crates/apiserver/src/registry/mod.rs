//! Writes: what happens between a decoded object and the store's transaction. Every write goes through
//! [`create::create`], [`update::update`] or [`delete::delete`], whatever HTTP verb it came from.

pub mod commit;
pub mod create;
pub mod delete;
pub mod strategy;
pub(crate) mod turns;
pub mod update;

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::resources::Resource;
use crate::serve::options::WriteOptions;
use crate::server::Server;
use mainstay_access::hooks::{Operation, Review};
use mainstay_access::object::Object;
use mainstay_access::status::{ApiError, ApiResult};
use mainstay_access::user::UserInfo;

/// What every write carries.
pub struct Write<'a> {
    /// The server.
    pub server: &'a Server,
    /// The served version of the resource.
    pub resource: &'a Arc<Resource>,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// Empty for cluster scope.
    pub namespace: &'a str,
    /// Empty for creates.
    pub name: &'a str,
    /// Who writes.
    pub user: &'a Arc<UserInfo>,
    /// The checked options.
    pub options: WriteOptions,
    /// Who owns the written fields.
    pub manager: String,
}

/// A write's result.
#[derive(Debug)]
pub struct Written {
    /// The object as it is now; a dry run's has revision 0.
    pub object: Arc<Object>,
    /// Whether it is new.
    pub created: bool,
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
}

impl Write<'_> {
    fn review(&self, operation: Operation, object: Value, old: Value) -> Review {
        let resource = self.resource;
        Review {
            operation,
            group: resource.storage.group.clone(),
            version: resource.storage.version.clone(),
            resource: resource.plural.clone(),
            subresource: self.subresource.to_string(),
            kind: resource.storage.kind.clone(),
            namespace: self.namespace.to_string(),
            name: self.name.to_string(),
            user: self.user.clone(),
            object,
            old,
            options: Value::Null,
            dry_run: self.options.dry_run,
            warnings: Vec::new(),
        }
    }

    /// Runs the mutating half of admission.
    async fn mutate(&self, review: &mut Review) -> ApiResult<()> {
        for plugin in &self.server.hooks.admit {
            plugin.mutate(review, &**self.server.caches()).await?;
        }
        Ok(())
    }

    /// Runs the validating half of admission.
    async fn admit(&self, review: &mut Review) -> ApiResult<()> {
        for plugin in &self.server.hooks.admit {
            plugin.validate(review, &**self.server.caches()).await?;
        }
        Ok(())
    }

    fn not_found(&self, name: &str) -> ApiError {
        ApiError::not_found(&self.resource.gvk.group, &self.resource.plural, name)
    }

    fn now(&self) -> String {
        mainstay_base::clock::rfc3339_seconds(self.server.clock.now())
    }
}

/// The object's metadata; made if it is missing or no object.
pub fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(Map::new());
    }
    object["metadata"]
        .as_object_mut()
        .expect("made an object just above")
}

/// A text in the object's metadata, empty when absent.
pub fn meta_text<'a>(object: &'a Value, key: &str) -> &'a str {
    object["metadata"][key].as_str().unwrap_or_default()
}

/// The object's finalizers.
pub fn finalizers(object: &Value) -> Vec<String> {
    let list = object["metadata"]["finalizers"].as_array();
    list.into_iter()
        .flatten()
        .filter_map(|value| value.as_str().map(str::to_string))
        .collect()
}

/// Sets or removes the object's finalizers.
pub fn set_finalizers(object: &mut Value, finalizers: Vec<String>) {
    match finalizers.is_empty() {
        true => drop(metadata(object).remove("finalizers")),
        false => drop(metadata(object).insert("finalizers".into(), finalizers.into())),
    }
}
