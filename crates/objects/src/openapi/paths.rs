//! The paths of resources: clients look for kinds and query parameters there.

use super::{Edition, Names, Resource};
use serde_json::{Map, Value, json};

const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
/// The last one needs merge keys, which schemas of custom resources do not carry: clients choose by this list.
const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
const WRITE: [(&str, &str); 3] = [
    ("dryRun", "string"),
    ("fieldManager", "string"),
    ("fieldValidation", "string"),
];
const LIST: [(&str, &str); 9] = [
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];

/// Verb, method, action, on the collection.
const OPERATIONS: [(&str, &str, &str, bool); 7] = [
    ("list", "get", "list", true),
    ("create", "post", "post", true),
    ("deletecollection", "delete", "deletecollection", true),
    ("get", "get", "get", false),
    ("update", "put", "put", false),
    ("patch", "patch", "patch", false),
    ("delete", "delete", "delete", false),
];

pub(super) fn add(paths: &mut Map<String, Value>, resource: &Resource<'_>, names: &Names, edition: Edition) {
    let root = match resource.group {
        "" => format!("/api/{}", resource.version),
        group => format!("/apis/{group}/{}", resource.version),
    };
    let place = if resource.namespaced {
        "/namespaces/{namespace}"
    } else {
        ""
    };
    let collection = format!("{root}{place}/{}", resource.plural);
    let item = format!("{collection}/{{name}}");
    let maker = Maker {
        resource,
        names,
        edition,
    };
    for (verb, method, action, on_collection) in OPERATIONS {
        if resource.verbs.contains(&verb) {
            let path = if on_collection { &collection } else { &item };
            maker.put(paths, path, method, action, "");
        }
    }
    if resource.namespaced && resource.verbs.contains(&"list") {
        maker.put(paths, &format!("{root}/{}", resource.plural), "get", "list", "");
    }
    for (name, verbs) in resource.subresources {
        let path = format!("{item}/{name}");
        for (verb, method, action, on_collection) in OPERATIONS {
            // Creation is the one collection verb that subresources have.
            if verbs.contains(&verb) && (!on_collection || verb == "create") {
                maker.put(paths, &path, method, action, name);
            }
        }
    }
}

struct Maker<'a> {
    resource: &'a Resource<'a>,
    names: &'a Names,
    edition: Edition,
}

impl Maker<'_> {
    fn put(&self, paths: &mut Map<String, Value>, path: &str, method: &str, action: &str, subresource: &str) {
        let entry = paths.entry(path).or_insert_with(|| {
            let places = ["name", "namespace"]
                .into_iter()
                .filter(|place| path.contains(&format!("{{{place}}}")));
            let parameters: Vec<Value> = places
                .map(|place| self.parameter(place, "path", "string", true))
                .collect();
            if parameters.is_empty() {
                json!({})
            } else {
                json!({"parameters": parameters})
            }
        });
        entry[method] = self.operation(path, action, subresource);
    }

    fn parameter(&self, name: &str, place: &str, kind: &str, required: bool) -> Value {
        let mut parameter = json!({"name": name, "in": place});
        match self.edition {
            Edition::V2 => parameter["type"] = kind.into(),
            Edition::V3 => parameter["schema"] = json!({"type": kind, "uniqueItems": true}),
        }
        if required {
            parameter["required"] = true.into();
        }
        parameter
    }

    fn operation(&self, path: &str, action: &str, subresource: &str) -> Value {
        let resource = self.resource;
        let query: &[(&str, &str)] = match action {
            "list" | "deletecollection" => &LIST,
            "get" => &[],
            _ => &WRITE,
        };
        let mut parameters: Vec<Value> = query
            .iter()
            .map(|(name, kind)| self.parameter(name, "query", kind, false))
            .collect();
        if action == "patch" {
            parameters.push(self.parameter("force", "query", "boolean", false));
        }
        let answer = match action {
            "list" => &self.names.list,
            "delete" | "deletecollection" => STATUS,
            _ => &self.names.object,
        };
        let body = match action {
            "post" | "put" => Some(self.names.object.as_str()),
            "delete" | "deletecollection" => Some(DELETE_OPTIONS),
            _ => None,
        };
        let mut operation = json!({
            "operationId": operation_id(action, path),
            "tags": [tag(resource)],
            "parameters": parameters,
            "responses": {"200": self.response(answer), "401": {"description": "Unauthorized"}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        });
        self.request(&mut operation, action, body, subresource);
        operation
    }

    fn response(&self, name: &str) -> Value {
        if name.is_empty() {
            return json!({"description": "OK"});
        }
        let schema = json!({"$ref": self.edition.reference(name)});
        match self.edition {
            Edition::V2 => json!({"description": "OK", "schema": schema}),
            Edition::V3 => json!({"description": "OK", "content": {"application/json": {"schema": schema}}}),
        }
    }

    fn request(&self, operation: &mut Value, action: &str, body: Option<&str>, subresource: &str) {
        let schema = match body.filter(|name| !name.is_empty() && matches!(subresource, "" | "status")) {
            Some(name) => json!({"$ref": self.edition.reference(name)}),
            None => json!({"type": "object"}),
        };
        let kinds: &[&str] = match action {
            "patch" if self.resource.schema.is_some() => &PATCH_TYPES[..3],
            "patch" => &PATCH_TYPES,
            _ if body.is_some() => &["application/json"],
            _ => return,
        };
        match self.edition {
            Edition::V2 => {
                operation["consumes"] = kinds.into();
                if let Value::Array(parameters) = &mut operation["parameters"] {
                    parameters.push(json!({"name": "body", "in": "body", "schema": schema}));
                }
            }
            Edition::V3 => {
                let content: Map<String, Value> = kinds
                    .iter()
                    .map(|kind| ((*kind).to_owned(), json!({"schema": schema})))
                    .collect();
                operation["requestBody"] = json!({"content": content});
            }
        }
    }
}

fn tag(resource: &Resource<'_>) -> String {
    let group = resource.group.split('.').next().unwrap_or_default();
    let group = if group.is_empty() { "core" } else { group };
    format!("{group}_{}", resource.version)
}

/// Unique and stable: the action and the words of the path.
fn operation_id(action: &str, path: &str) -> String {
    let words = path.split('/').filter(|word| !word.is_empty());
    let mut id = action.to_owned();
    for word in words {
        let mut letters = word.chars().filter(char::is_ascii_alphanumeric);
        id.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        id.extend(letters);
    }
    id
}
