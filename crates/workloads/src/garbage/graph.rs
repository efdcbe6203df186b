//! Who owns whom, over all kinds: a node per object that exists, edges by owner reference.

use std::collections::{HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use mainstay_control::ObjectKey;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// One object.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    /// Which kind: index into the discovered kinds' names, `plural.group/version`.
    pub kind: String,
    pub key: ObjectKey,
    pub owners: Vec<OwnerReference>,
    pub deleting: bool,
    pub finalizers: Vec<String>,
}

impl Item {
    pub(super) fn of(kind: &str, meta: &ObjectMeta) -> Item {
        Item {
            kind: kind.into(),
            key: ObjectKey::namespaced(
                meta.namespace.clone().unwrap_or_default(),
                meta.name.clone().unwrap_or_default(),
            ),
            owners: meta.owner_references.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
        }
    }

    pub(super) fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|held| held == finalizer)
    }

    fn waits_for_dependents(&self) -> bool {
        self.deleting && self.has(FOREGROUND)
    }
}

/// All objects that matter: those with owners, those that are owned, those being deleted.
#[derive(Debug, Default)]
pub(super) struct Graph {
    items: HashMap<String, Item>,
    dependents: HashMap<String, HashSet<String>>,
}

/// What shall happen to one object.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    Nothing,
    /// The owner is not known: ask the server whether it exists.
    Verify(Vec<OwnerReference>),
    /// No owner is left: delete it, with its dependents before it if `foreground`.
    Delete {
        foreground: bool,
    },
    /// Some owner lives: drop the references to the others.
    Unlink(Vec<String>),
    /// Being deleted in the foreground: delete these dependents first.
    DeleteDependents(Vec<String>),
    /// Being deleted as orphaning: unlink these dependents first.
    OrphanDependents(Vec<String>),
    /// Nothing stands in the way of the deletion any more.
    Release(&'static str),
}

impl Graph {
    /// Sets an object and tells which others must be looked at.
    pub(super) fn put(&mut self, uid: &str, item: Item) -> Vec<String> {
        let mut affected = vec![uid.to_string()];
        if let Some(old) = self.items.get(uid) {
            if *old == item {
                return Vec::new();
            }
            for owner in &old.owners {
                if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                    dependents.remove(uid);
                }
                affected.push(owner.uid.clone());
            }
        }
        for owner in &item.owners {
            self.dependents
                .entry(owner.uid.clone())
                .or_default()
                .insert(uid.to_string());
        }
        if item.deleting {
            affected.extend(self.dependents_of(uid));
            affected.extend(item.owners.iter().map(|owner| owner.uid.clone()));
        }
        self.items.insert(uid.to_string(), item);
        affected
    }

    /// Removes an object and tells which others must be looked at: its dependents and its owners.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        let mut affected = self.dependents_of(uid);
        if let Some(old) = self.items.remove(uid) {
            for owner in old.owners {
                if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                    dependents.remove(uid);
                    if dependents.is_empty() {
                        self.dependents.remove(&owner.uid);
                    }
                }
                affected.push(owner.uid);
            }
        }
        affected
    }

    pub(super) fn get(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    pub(super) fn uids_of(&self, kind: &str) -> Vec<String> {
        self.items
            .iter()
            .filter(|(_, item)| item.kind == kind)
            .map(|(uid, _)| uid.clone())
            .collect()
    }

    fn dependents_of(&self, uid: &str) -> Vec<String> {
        let mut dependents: Vec<_> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        dependents.sort();
        dependents
    }

    /// Decides about one object; `absent` are the owners the server has just said do not exist.
    pub(super) fn plan(&self, uid: &str, absent: &HashSet<String>) -> Step {
        let Some(item) = self.items.get(uid) else {
            return Step::Nothing;
        };
        if item.deleting {
            return self.plan_deleting(uid, item);
        }
        if item.owners.is_empty() {
            return Step::Nothing;
        }
        let unknown =
            |owner: &&OwnerReference| !self.items.contains_key(&owner.uid) && !absent.contains(&owner.uid);
        let unknown: Vec<_> = item.owners.iter().filter(unknown).cloned().collect();
        if !unknown.is_empty() {
            return Step::Verify(unknown);
        }
        let waiting =
            |owner: &&OwnerReference| self.items.get(&owner.uid).is_some_and(Item::waits_for_dependents);
        let solid = |owner: &&OwnerReference| self.items.contains_key(&owner.uid) && !waiting(owner);
        if item.owners.iter().any(|owner| solid(&owner)) {
            let loose = item
                .owners
                .iter()
                .filter(|owner| !solid(owner))
                .map(|owner| owner.uid.clone());
            let loose: Vec<_> = loose.collect();
            return if loose.is_empty() {
                Step::Nothing
            } else {
                Step::Unlink(loose)
            };
        }
        let any_waits = item.owners.iter().any(|owner| waiting(&owner));
        Step::Delete {
            foreground: any_waits && !self.dependents_of(uid).is_empty(),
        }
    }

    fn plan_deleting(&self, uid: &str, item: &Item) -> Step {
        let dependents = self.dependents_of(uid);
        if item.has(ORPHAN) {
            return if dependents.is_empty() {
                Step::Release(ORPHAN)
            } else {
                Step::OrphanDependents(dependents)
            };
        }
        if !item.has(FOREGROUND) {
            return Step::Nothing;
        }
        let blocks = |dependent: &&String| {
            let owners = self
                .items
                .get(*dependent)
                .map(|item| item.owners.as_slice())
                .unwrap_or_default();
            owners
                .iter()
                .any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
        };
        if !dependents.iter().any(|dependent| blocks(&dependent)) {
            return Step::Release(FOREGROUND);
        }
        let alive = |dependent: &String| self.items.get(dependent).is_some_and(|item| !item.deleting);
        let alive: Vec<_> = dependents.into_iter().filter(alive).collect();
        if alive.is_empty() {
            Step::Nothing
        } else {
            Step::DeleteDependents(alive)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(owners: &[&str], state: &str) -> Item {
        let owner = |uid: &&str| OwnerReference {
            uid: uid.to_string(),
            block_owner_deletion: Some(true),
            ..Default::default()
        };
        Item {
            kind: "pods./v1".into(),
            key: ObjectKey::cluster("x"),
            owners: owners.iter().map(owner).collect(),
            deleting: state != "lives",
            finalizers: if state == "lives" {
                vec![]
            } else {
                vec![state.into()]
            },
        }
    }

    fn graph(items: &[(&str, &[&str], &str)]) -> Graph {
        let mut graph = Graph::default();
        for (uid, owners, state) in items {
            graph.put(uid, item(owners, state));
        }
        graph
    }

    fn none() -> HashSet<String> {
        HashSet::new()
    }

    #[test]
    fn an_unknown_owner_is_verified_before_anything_is_deleted() {
        let graph = graph(&[("pod", &["set"], "lives")]);
        assert!(matches!(graph.plan("pod", &none()), Step::Verify(owners) if owners[0].uid == "set"));
        assert_eq!(
            graph.plan("pod", &HashSet::from(["set".into()])),
            Step::Delete { foreground: false }
        );
    }

    #[test]
    fn one_living_owner_keeps_an_object() {
        let graph = graph(&[("a", &[], "lives"), ("pod", &["a", "b"], "lives")]);
        assert_eq!(
            graph.plan("pod", &HashSet::from(["b".into()])),
            Step::Unlink(vec!["b".into()])
        );
    }

    #[test]
    fn foreground_deletion_goes_from_the_leaves_up() {
        let mut graph = graph(&[
            ("deploy", &[], FOREGROUND),
            ("set", &["deploy"], "lives"),
            ("pod", &["set"], "lives"),
        ]);
        assert_eq!(
            graph.plan("deploy", &none()),
            Step::DeleteDependents(vec!["set".into()])
        );
        assert_eq!(graph.plan("set", &none()), Step::Delete { foreground: true });
        graph.put("set", item(&["deploy"], FOREGROUND));
        assert_eq!(graph.plan("deploy", &none()), Step::Nothing);
        assert_eq!(graph.plan("pod", &none()), Step::Delete { foreground: false });
        assert!(graph.remove("pod").contains(&"set".to_string()));
        assert_eq!(graph.plan("set", &none()), Step::Release(FOREGROUND));
        graph.remove("set");
        assert_eq!(graph.plan("deploy", &none()), Step::Release(FOREGROUND));
    }

    #[test]
    fn orphaning_unlinks_dependents_first() {
        let mut graph = graph(&[("set", &[], ORPHAN), ("pod", &["set"], "lives")]);
        assert_eq!(
            graph.plan("set", &none()),
            Step::OrphanDependents(vec!["pod".into()])
        );
        graph.put("pod", item(&[], "lives"));
        assert_eq!(graph.plan("set", &none()), Step::Release(ORPHAN));
    }
}
