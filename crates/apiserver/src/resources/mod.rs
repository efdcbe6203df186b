//! Which resources are served: the built-in table, plus what CustomResourceDefinitions add at run time.
//! A [`Catalog`] is immutable; a change makes a new one.

mod builtin;
pub mod fields;

use std::collections::HashMap;
use std::sync::Arc;

use crate::schema::CustomType;

pub use builtin::builtin;
pub use fields::SelectableField;

/// A group, version and kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Gvk {
    /// Empty for core.
    pub group: String,
    /// For example `v1`.
    pub version: String,
    /// For example `Pod`.
    pub kind: String,
}

/// A part of a resource with a path of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// For example `status`.
    pub name: String,
    /// What it answers with.
    pub kind: Gvk,
    /// Its verbs as letters, see [`verb_names`].
    pub verbs: String,
}

/// One served version of one resource.
#[derive(Debug, Clone)]
pub struct Resource {
    /// Group, version and kind of its objects.
    pub gvk: Gvk,
    /// The kind of its lists.
    pub list_kind: String,
    /// Plural name, as in paths.
    pub plural: String,
    /// Singular name.
    pub singular: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Verbs as letters, see [`verb_names`].
    pub verbs: String,
    /// For kubectl.
    pub short_names: Vec<String>,
    /// For kubectl, for example `all`.
    pub categories: Vec<String>,
    /// Its subresources.
    pub subresources: Vec<Subresource>,
    /// The resource's name in the store, the same for all versions; see [`mainstay_access::hooks::store_resource`].
    pub store: Arc<str>,
    /// The version of the stored bytes.
    pub storage: Gvk,
    /// The fields that field selectors may name, besides metadata.name and metadata.namespace.
    pub fields: Arc<[SelectableField]>,
    /// The compiled definition of a custom resource, `None` for built-in ones.
    pub custom: Option<Arc<CustomType>>,
    /// Whether kubectl is told that this version is deprecated, and the text of the warning.
    pub deprecated: Option<String>,
}

impl Resource {
    /// `v1`, or `apps/v1` with a group.
    pub fn api_version(&self) -> String {
        api_version(&self.gvk.group, &self.gvk.version)
    }

    /// Tells whether objects must be converted (beyond another apiVersion) between stored and served form.
    pub fn is_stored_as_served(&self) -> bool {
        self.gvk == self.storage
    }

    /// Finds a subresource.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }

    /// Tells whether the resource has this verb.
    pub fn allows(&self, verb: &str) -> bool {
        letter(verb).is_some_and(|letter| self.verbs.contains(letter))
    }
}

impl Subresource {
    /// Tells whether the subresource has this verb.
    pub fn allows(&self, verb: &str) -> bool {
        letter(verb).is_some_and(|letter| self.verbs.contains(letter))
    }
}

/// `v1`, or `apps/v1` with a group.
pub fn api_version(group: &str, version: &str) -> String {
    match group {
        "" => version.to_string(),
        _ => format!("{group}/{version}"),
    }
}

const VERBS: [(char, &str); 8] = [
    ('c', "create"),
    ('d', "delete"),
    ('D', "deletecollection"),
    ('g', "get"),
    ('l', "list"),
    ('p', "patch"),
    ('u', "update"),
    ('w', "watch"),
];

fn letter(verb: &str) -> Option<char> {
    VERBS
        .iter()
        .find(|(_, name)| *name == verb)
        .map(|(letter, _)| *letter)
}

/// Spells out verbs that are written as letters, in alphabetical order.
pub fn verb_names(letters: &str) -> impl Iterator<Item = &'static str> + '_ {
    VERBS
        .iter()
        .filter(|(letter, _)| letters.contains(*letter))
        .map(|(_, name)| *name)
}

/// One version of a group.
#[derive(Debug, Clone)]
pub struct Version {
    /// For example `v1beta1`.
    pub name: String,
    /// Its resources by name.
    pub resources: Vec<Arc<Resource>>,
}

/// A group with its versions, preferred first.
#[derive(Debug, Clone)]
pub struct Group {
    /// Empty for core.
    pub name: String,
    /// Preferred first.
    pub versions: Vec<Version>,
}

/// Everything that is served at one moment.
#[derive(Debug, Default)]
pub struct Catalog {
    groups: Vec<Group>,
    /// By group, version and plural.
    by_path: HashMap<String, HashMap<String, HashMap<String, Arc<Resource>>>>,
}

impl Catalog {
    /// The built-in resources and these custom ones.
    pub fn new(custom: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        let mut catalog = Catalog::default();
        builtin()
            .iter()
            .for_each(|resource| catalog.add(resource.clone()));
        let mut custom: Vec<_> = custom.into_iter().collect();
        custom.sort_by(|a, b| {
            let by_version = version_order(&b.gvk.version).cmp(&version_order(&a.gvk.version));
            (&a.gvk.group, by_version, &a.plural).cmp(&(&b.gvk.group, std::cmp::Ordering::Equal, &b.plural))
        });
        custom.into_iter().for_each(|resource| catalog.add(resource));
        catalog
    }

    fn add(&mut self, resource: Arc<Resource>) {
        let path = (resource.gvk.group.clone(), resource.gvk.version.clone());
        let at = match self.groups.iter().position(|group| group.name == path.0) {
            Some(at) => at,
            None => {
                self.groups.push(Group {
                    name: path.0.clone(),
                    versions: Vec::new(),
                });
                self.groups.len() - 1
            }
        };
        let versions = &mut self.groups[at].versions;
        match versions.iter_mut().find(|version| version.name == path.1) {
            Some(version) => version.resources.push(resource.clone()),
            None => versions.push(Version {
                name: path.1.clone(),
                resources: vec![resource.clone()],
            }),
        }
        let versions = self.by_path.entry(path.0).or_default();
        versions
            .entry(path.1)
            .or_default()
            .insert(resource.plural.clone(), resource);
    }

    /// Finds a resource by its path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_path.get(group)?.get(version)?.get(plural)
    }

    /// Finds a resource by the kind of its objects.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.by_path
            .get(group)?
            .get(version)?
            .values()
            .find(|resource| resource.gvk.kind == kind)
    }

    /// Tells whether this group version exists.
    pub fn has_version(&self, group: &str, version: &str) -> bool {
        self.by_path
            .get(group)
            .is_some_and(|versions| versions.contains_key(version))
    }

    /// All groups, core first.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Finds a group.
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }
}

/// Orders versions as Kubernetes prefers them: v2, v1, v1beta2, v1beta1, v1alpha1, others.
pub fn version_order(version: &str) -> (u8, u32, u32) {
    let Some(rest) = version.strip_prefix('v') else {
        return (0, 0, 0);
    };
    for (rank, word) in [(2, "beta"), (1, "alpha")] {
        if let Some((major, minor)) = rest.split_once(word) {
            return match (major.parse(), minor.parse()) {
                (Ok(major), Ok(minor)) => (rank, major, minor),
                _ => (0, 0, 0),
            };
        }
    }
    rest.parse().map_or((0, 0, 0), |major| (3, major, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_preferred_as_upstream_does() {
        let mut versions = ["v1beta1", "v1", "v2", "v1alpha1", "v1beta2", "foo"];
        versions.sort_by_key(|version| std::cmp::Reverse(version_order(version)));
        assert_eq!(versions, ["v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo"]);
    }

    #[test]
    fn built_in_resources_are_found() {
        let catalog = Catalog::new([]);
        let pods = catalog.find("", "v1", "pods").unwrap();
        assert_eq!((&*pods.store, pods.gvk.kind.as_str()), ("core/pods", "Pod"));
        let events = catalog.find("events.k8s.io", "v1", "events").unwrap();
        assert_eq!(
            (&*events.store, events.storage.group.as_str()),
            ("core/events", "")
        );
        let hpa = catalog
            .find("autoscaling", "v1", "horizontalpodautoscalers")
            .unwrap();
        assert_eq!(hpa.storage.version, "v2");
    }
}
