//! Reads and applies manifests: all files are read and checked before the first object is applied.

use std::path::{Path, PathBuf};

use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client};
use mainstay_base::error::chain;
use serde::Deserialize;
use serde_json::Value;

use crate::outcome::Failure;

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
    for document in serde_yaml_ng::Deserializer::from_str(&text) {
        let object = Value::deserialize(document).map_err(|error| wrong(file, error))?;
        if object.is_null() {
            continue;
        }
        let manifest = Manifest {
            file: file.to_path_buf(),
            object,
        };
        for field in ["/apiVersion", "/kind", "/metadata/name"] {
            if manifest.text(field).is_empty() {
                let name = field.trim_start_matches('/').replace('/', ".");
                return Err(wrong(
                    file,
                    format!("object {}: {name} is missing", manifests.len() + 1),
                ));
            }
        }
        manifests.push(manifest);
    }
    Ok(())
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
            error.ends_with("a.yaml: object 1: metadata.name is missing"),
            "{error}"
        );
    }

    #[test]
    fn broken_yaml_names_the_file() {
        let error = read_text("a: [").expect_err("broken");
        assert!(error.contains("a.yaml: "), "{error}");
    }
}
