//! Reads and applies manifests: all files are read and checked before the first object is applied.

use std::path::{Path, PathBuf};

use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client};
use mainstay_base::error::chain;
use mainstay_fleet::validate::schema::Kinds;
use mainstay_fleet::validate::set::{self, Problem, Surroundings};
use mainstay_fleet::validate::{FieldError, Rule};
use serde::Deserialize;
use serde_json::Value;

use crate::explain;
use crate::outcome::{Failure, Finding};

/// Field manager of what a person applies with `up -f`.
const FIELD_MANAGER: &str = "mainstay-up";

/// One object of a manifest and where it stands.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The file.
    pub file: PathBuf,
    /// The object.
    pub object: Value,
}

impl Manifest {
    fn text(&self, pointer: &str) -> &str {
        self.object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Group and version.
    pub fn api_version(&self) -> &str {
        self.text("/apiVersion")
    }

    /// Its kind.
    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// Its namespace, `default` where none is said.
    pub fn namespace(&self) -> &str {
        match self.text("/metadata/namespace") {
            "" => "default",
            namespace => namespace,
        }
    }
}

/// Reads all files named, folders file by file in the order of their names.
///
/// # Errors
/// Names the file and what is missing in it.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Manifest>, Failure> {
    let mut manifests = Vec::new();
    for path in paths {
        for file in files(path)? {
            read_file(&file, &mut manifests)?;
        }
    }
    Ok(manifests)
}

fn wrong(file: &Path, problem: impl std::fmt::Display) -> Failure {
    Failure::new("MS-CFG-0001", format!("{}: {problem}", file.display()))
}

fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let is_manifest = |file: &PathBuf| {
        file.extension()
            .is_some_and(|kind| ["yaml", "yml", "json"].iter().any(|known| kind == *known))
    };
    let entries = std::fs::read_dir(path).map_err(|error| wrong(path, error))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(is_manifest)
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(wrong(path, "no .yaml, .yml or .json file in this folder"));
    }
    Ok(files)
}

fn read_file(file: &Path, manifests: &mut Vec<Manifest>) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| wrong(file, error))?;
    for (number, document) in serde_yaml_ng::Deserializer::from_str(&text).enumerate() {
        // By way of YAML's own values, which refuse a key that is given twice.
        let parsed = serde_yaml_ng::Value::deserialize(document).map_err(|error| wrong(file, error))?;
        let place = |problem: String| wrong(file, format!("document {}: {problem}", number + 1));
        let object = serde_json::to_value(parsed).map_err(|error| place(error.to_string()))?;
        if object.is_null() {
            continue;
        }
        if !object.is_object() {
            return Err(place("is no object with apiVersion, kind and metadata".into()));
        }
        let manifest = Manifest {
            file: file.to_path_buf(),
            object,
        };
        for field in ["/apiVersion", "/kind", "/metadata/name"] {
            if manifest.text(field).is_empty() {
                let name = field.trim_start_matches('/').replace('/', ".");
                return Err(place(format!("{name} is missing")));
            }
        }
        manifests.push(manifest);
    }
    Ok(())
}

/// Checks all manifests by themselves, against each other and against what is there, before the first is applied.
/// `served` are the kinds of a running plane besides ours, as `apiVersion/Kind`.
pub fn check(
    manifests: &[Manifest],
    live: &[Value],
    served: &dyn Fn(&str, &str) -> bool,
    surroundings: &Surroundings,
) -> Vec<Finding> {
    let objects: Vec<Value> = manifests.iter().map(|manifest| manifest.object.clone()).collect();
    let kinds = Kinds::new(&objects);
    let by_schema = objects.iter().enumerate().flat_map(|(manifest, object)| {
        let errors = kinds.check(object).into_iter();
        errors.map(move |error| Problem { manifest, error })
    });
    let problems: Vec<Problem> = by_schema
        .filter(|problem| {
            let manifest = &manifests[problem.manifest];
            problem.error.rule != Rule::Kind || !served(manifest.api_version(), manifest.kind())
        })
        .collect();
    // One message per cause: what the others say about an object that cannot be read follows from that.
    let problems = match problems.is_empty() {
        true => set::check(&objects, live, surroundings),
        false => problems,
    };
    problems
        .iter()
        .map(|problem| finding(&manifests[problem.manifest], &problem.error))
        .collect()
}

fn finding(manifest: &Manifest, error: &FieldError) -> Finding {
    let id = error.rule.id();
    Finding {
        id,
        name: manifest.file.display().to_string(),
        problem: format!("{} {}: {error}", manifest.kind(), manifest.name()),
        fix: explain::find(id).map_or("", |entry| entry.fix).into(),
    }
}

/// Reads what the checks look at from a running plane.
///
/// # Errors
/// When the API refuses or cannot be reached.
pub async fn live(client: &Client) -> Result<Vec<Value>, Failure> {
    let mut objects = Vec::new();
    for kind in set::KINDS {
        let gvk = GroupVersionKind::gvk(mainstay_api::GROUP, mainstay_api::VERSION, kind);
        let (resource, _) = pinned_kind(client, &gvk).await.map_err(super::api::refused)?;
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let listed = api.list(&Default::default()).await.map_err(super::api::refused)?;
        for object in listed.items {
            let mut value = serde_json::to_value(object).unwrap_or_default();
            // Items of a list need not say their kind.
            value["apiVersion"] = mainstay_api::API_VERSION.into();
            value["kind"] = kind.into();
            objects.push(value);
        }
    }
    Ok(objects)
}

/// Tells whether a running plane serves a kind.
pub async fn serves(client: &Client, api_version: &str, kind: &str) -> bool {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    pinned_kind(client, &GroupVersionKind::gvk(group, version, kind))
        .await
        .is_ok()
}

/// Applies one object by server-side apply.
///
/// # Errors
/// With the server's reason.
pub async fn apply(client: &Client, manifest: &Manifest, dry_run: bool) -> Result<(), Failure> {
    let refused = |error: kube::Error| {
        let what = format!("{} {}", manifest.kind(), manifest.name());
        Failure::new(
            "MS-CFG-0002",
            format!("{}: {what}: {}", manifest.file.display(), chain(&error)),
        )
    };
    let (group, version) = manifest
        .text("/apiVersion")
        .split_once('/')
        .unwrap_or(("", manifest.text("/apiVersion")));
    let kind = GroupVersionKind::gvk(group, version, manifest.kind());
    let (resource, capabilities) = pinned_kind(client, &kind).await.map_err(refused)?;
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => Api::namespaced_with(client.clone(), manifest.namespace(), &resource),
    };
    let mut params = PatchParams::apply(FIELD_MANAGER).force();
    params.dry_run = dry_run;
    api.patch(manifest.name(), &params, &Patch::Apply(&manifest.object))
        .await
        .map_err(refused)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().expect("a folder for the test");
        std::fs::write(folder.path().join("a.yaml"), text).expect("a file for the test");
        let manifests = read(&[folder.path().to_path_buf()]).map_err(|failure| failure.message)?;
        Ok(manifests
            .iter()
            .map(|one| format!("{} {}/{}", one.kind(), one.namespace(), one.name()))
            .collect())
    }

    #[test]
    fn documents_are_read_in_order_and_empty_ones_skipped() {
        let text = "---\napiVersion: v1\nkind: A\nmetadata: {name: x}\n---\n---\napiVersion: v1\nkind: B\nmetadata: {name: y, namespace: z}\n";
        assert_eq!(read_text(text), Ok(vec!["A default/x".into(), "B z/y".into()]));
    }

    #[test]
    fn a_missing_field_is_named() {
        let error = read_text("apiVersion: v1\nkind: A\n").expect_err("no name");
        assert!(
            error.ends_with("a.yaml: document 1: metadata.name is missing"),
            "{error}"
        );
    }

    #[test]
    fn broken_yaml_names_the_file_and_the_place() {
        for (text, place) in [
            ("a: [", "line 2 column 1"),
            (
                "apiVersion: v1\nkind: A\nkind: B\nmetadata: {name: x}\n",
                "\"kind\"",
            ),
            ("- 1\n", "document 1"),
        ] {
            let error = read_text(text).expect_err("broken");
            assert!(error.contains("a.yaml: ") && error.contains(place), "{error}");
        }
    }

    #[test]
    fn examples_pass_the_checks() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/local");
        let manifests = read(&[folder]).expect("the examples can be read");
        let surroundings = Surroundings {
            providers: vec!["local".into()],
            reserved: Vec::new(),
        };
        assert_eq!(check(&manifests, &[], &|_, _| false, &surroundings), Vec::new());
    }
}
