//! Reads the two tables of built-in resources, once per process.

use std::sync::{Arc, OnceLock};

use super::{Gvk, Resource, Subresource, api_version, fields};
use mainstay_access::hooks::store_resource;

const TABLES: [&str; 2] = [include_str!("core.txt"), include_str!("groups.txt")];

/// The built-in resources, core first, in the order of discovery.
pub fn builtin() -> &'static [Arc<Resource>] {
    static TABLE: OnceLock<Vec<Arc<Resource>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut found: Vec<Arc<Resource>> = Vec::new();
        for line in TABLES.iter().flat_map(|table| table.lines()) {
            if let Some(resource) = parse(line, &found) {
                found.push(Arc::new(resource));
            }
        }
        found
    })
}

/// Reads one line; the first version of a resource in the table is the one that is stored.
fn parse(line: &str, before: &[Arc<Resource>]) -> Option<Resource> {
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let group_version = words.next().filter(|word| !word.starts_with('#'))?;
    let (group, version) = group_version.rsplit_once('/').unwrap_or(("", group_version));
    let (plural, kind, scope) = (words.next()?, words.next()?, words.next()?);
    let (short, categories, verbs) = (words.next()?, words.next()?, words.next()?);
    let gvk = gvk(group, version, kind);
    let store = stored_in(group, plural);
    let storage = match before.iter().find(|resource| *resource.store == *store) {
        Some(first) => first.gvk.clone(),
        None => gvk.clone(),
    };
    Some(Resource {
        list_kind: format!("{kind}List"),
        plural: plural.into(),
        singular: kind.to_lowercase(),
        namespaced: scope == "N",
        verbs: verbs_of(verbs),
        short_names: words_of(short),
        categories: words_of(categories),
        subresources: words
            .filter_map(|word| subresource(word, group, version))
            .collect(),
        fields: fields::builtin(&store),
        store: store.into(),
        storage,
        gvk,
        custom: None,
        deprecated: deprecation(group, version, plural),
    })
}

/// Events are one resource with two groups.
fn stored_in(group: &str, plural: &str) -> String {
    match (group, plural) {
        ("events.k8s.io", "events") => "core/events".into(),
        _ => store_resource(group, plural),
    }
}

fn subresource(word: &str, group: &str, version: &str) -> Option<Subresource> {
    let (name, rest) = word.split_once('=')?;
    let (kind, verbs) = rest.rsplit_once(':')?;
    let kind = match kind.split_once('/') {
        None => gvk(group, version, kind),
        Some((group, rest)) => {
            let (version, kind) = rest.split_once('.')?;
            gvk(group, version, kind)
        }
    };
    Some(Subresource {
        name: name.into(),
        kind,
        verbs: verbs_of(verbs),
    })
}

fn gvk(group: &str, version: &str, kind: &str) -> Gvk {
    Gvk {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
    }
}

fn words_of(list: &str) -> Vec<String> {
    match list {
        "-" => Vec::new(),
        _ => list.split(',').map(str::to_string).collect(),
    }
}

fn verbs_of(letters: &str) -> String {
    match letters {
        "*" => "cdDglpuw".into(),
        _ => letters.into(),
    }
}

fn deprecation(group: &str, version: &str, plural: &str) -> Option<String> {
    let text = match (group, plural) {
        ("", "componentstatuses") => "v1 ComponentStatus is deprecated in v1.19+".to_string(),
        ("", "endpoints") => {
            "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_string()
        }
        ("networking.k8s.io" | "storage.k8s.io", _) if version == "v1beta1" => {
            format!("{} is deprecated; use {group}/v1", api_version(group, version))
        }
        _ => return None,
    };
    Some(text)
}
