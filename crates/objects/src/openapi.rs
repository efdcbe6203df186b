//! OpenAPI documents, v3 per group and version and v2 for all, made on request and kept by nobody.
//!
//! Structure comes from the type table or the schemas of custom resources, descriptions from a callback, paths from the
//! resources that the caller serves. Enough for `kubectl explain`, for its probing of query parameters, for
//! client-side validation and for typed three-way diffs.

mod custom;
mod paths;
mod schemas;

use crate::types::Types;
use serde_json::{Map, Value, json};

/// The sentence about a definition (`io.k8s.api.core.v1.Pod`) or one of its fields.
pub type Describe<'a> = &'a dyn Fn(&str, Option<&str>) -> Option<String>;

/// One served resource.
#[derive(Debug, Clone, Copy)]
pub struct Resource<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    pub list_kind: &'a str,
    pub plural: &'a str,
    pub namespaced: bool,
    /// As in discovery: `create`, `delete`, `deletecollection`, `get`, `list`, `patch`, `update`, `watch`.
    pub verbs: &'a [&'a str],
    /// Name and verbs of each subresource.
    pub subresources: &'a [(&'a str, &'a [&'a str])],
    /// `openAPIV3Schema` of a custom resource; `None` for built-in ones.
    pub schema: Option<&'a Value>,
}

/// Which document a schema is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edition {
    V2,
    V3,
}

impl Edition {
    fn reference(self, name: &str) -> String {
        match self {
            Edition::V2 => format!("#/definitions/{name}"),
            Edition::V3 => format!("#/components/schemas/{name}"),
        }
    }
}

/// The document of one group and version; `None` when none of the resources belongs to it.
pub fn v3(
    resources: &[Resource<'_>],
    group: &str,
    version: &str,
    title: &str,
    describe: Describe<'_>,
) -> Option<Value> {
    let own: Vec<&Resource<'_>> = resources
        .iter()
        .filter(|resource| resource.group == group && resource.version == version)
        .collect();
    if own.is_empty() {
        return None;
    }
    let (schemas, paths) = parts(&own, Edition::V3, describe);
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": title},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}

/// The document of all resources.
pub fn v2(resources: &[Resource<'_>], title: &str, describe: Describe<'_>) -> Value {
    let all: Vec<&Resource<'_>> = resources.iter().collect();
    let (definitions, paths) = parts(&all, Edition::V2, describe);
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": title},
        "paths": paths,
        "definitions": definitions,
    })
}

fn parts(
    resources: &[&Resource<'_>],
    edition: Edition,
    describe: Describe<'_>,
) -> (Map<String, Value>, Map<String, Value>) {
    let types = Types::builtin();
    let mut schemas = schemas::Schemas::new(types, edition, describe);
    let mut found = Map::new();
    for resource in resources {
        let names = match resource.schema {
            Some(schema) => custom::add(&mut schemas, resource, schema),
            None => builtin(&mut schemas, resource),
        };
        paths::add(&mut found, resource, &names, edition);
    }
    schemas.add_named("io.k8s.apimachinery.pkg.apis.meta.v1.Status");
    schemas.add_named("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions");
    (schemas.finish(), found)
}

/// The definitions of a resource's objects and lists.
pub(crate) struct Names {
    object: String,
    list: String,
}

fn builtin(schemas: &mut schemas::Schemas<'_>, resource: &Resource<'_>) -> Names {
    let mut add = |kind: &str| {
        let root = Types::builtin().root(resource.group, resource.version, kind);
        root.map(|root| schemas.add(root)).unwrap_or_default()
    };
    Names {
        object: add(resource.kind),
        list: add(resource.list_kind),
    }
}

#[cfg(test)]
mod tests;
