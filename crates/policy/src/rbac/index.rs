//! Roles and bindings compiled for lookup: a decision touches only the bindings of the asking user and groups.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Request, RoleRef, Rule, Rules, Subject, Who, service_account_user};

/// Names a role or a binding; the namespace of cluster roles and cluster bindings is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// The namespace, or the empty text.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectRef {
    /// Names an object; `namespace` is empty for cluster scope.
    pub fn new(namespace: &str, name: &str) -> Self {
        ObjectRef {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// The answer to a request and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether some rule allows the request.
    pub allowed: bool,
    /// What allowed it, in the words kubectl shows; empty when nothing did.
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Holder {
    User(String),
    Group(String),
}

#[derive(Debug)]
struct Binding {
    holders: Vec<Holder>,
    role: ObjectRef,
}

/// All roles and bindings of a cluster. Cheap to update one object at a time.
#[derive(Debug, Default)]
pub struct Index {
    roles: HashMap<ObjectRef, Rules>,
    bindings: HashMap<ObjectRef, Binding>,
    /// Namespace → holder → names of bindings; the empty namespace holds the cluster bindings.
    held: HashMap<Arc<str>, HashMap<Holder, BTreeSet<Arc<str>>>>,
}

impl Index {
    /// Adds or replaces a role; an empty namespace means a ClusterRole.
    pub fn set_role(&mut self, at: ObjectRef, rules: Rules) {
        self.roles.insert(at, rules);
    }

    /// Removes a role; bindings to it grant nothing from then on.
    pub fn remove_role(&mut self, at: &ObjectRef) {
        self.roles.remove(at);
    }

    /// Tells the rules of a role.
    pub fn role(&self, at: &ObjectRef) -> Option<&Rules> {
        self.roles.get(at)
    }

    /// Adds or replaces a binding; an empty namespace means a ClusterRoleBinding.
    pub fn set_binding(&mut self, at: ObjectRef, role: &RoleRef, subjects: &[Subject]) {
        self.remove_binding(&at);
        let holders: Vec<Holder> = subjects.iter().filter_map(|s| holder(s, &at.namespace)).collect();
        let names = self.held.entry(at.namespace.clone()).or_default();
        for holder in &holders {
            names.entry(holder.clone()).or_default().insert(at.name.clone());
        }
        let role_namespace = if role.kind == "Role" { &*at.namespace } else { "" };
        let role = ObjectRef::new(role_namespace, &role.name);
        self.bindings.insert(at, Binding { holders, role });
    }

    /// Removes a binding.
    pub fn remove_binding(&mut self, at: &ObjectRef) {
        let Some(old) = self.bindings.remove(at) else {
            return;
        };
        let Some(names) = self.held.get_mut(&at.namespace) else {
            return;
        };
        for holder in old.holders {
            if let Some(set) = names.get_mut(&holder) {
                set.remove(&at.name);
                if set.is_empty() {
                    names.remove(&holder);
                }
            }
        }
        if names.is_empty() {
            self.held.remove(&at.namespace);
        }
    }

    /// Decides a request: cluster bindings first, then those of the request's namespace.
    pub fn decide(&self, who: Who<'_>, request: &Request<'_>) -> Decision {
        for (at, role, rules) in self.grants(who, request.namespace()) {
            if rules.iter().any(|rule| rule.allows(request)) {
                return Decision {
                    allowed: true,
                    reason: reason(&at, role, who),
                };
            }
        }
        Decision {
            allowed: false,
            reason: String::new(),
        }
    }

    /// Collects every rule that holds for the user in the namespace (empty: cluster-wide ones alone).
    pub fn rules(&self, who: Who<'_>, namespace: &str) -> Vec<Rule> {
        let grants = self.grants(who, namespace);
        grants.flat_map(|(_, _, rules)| rules.iter().cloned()).collect()
    }

    /// Tells the users and groups that hold a role in a namespace by bindings there, for reports.
    pub fn namespaces_of(&self, who: Who<'_>) -> BTreeMap<Arc<str>, usize> {
        let mut found = BTreeMap::new();
        for (namespace, names) in &self.held {
            let count = holders_of(who)
                .filter(|holder| names.contains_key(holder))
                .count();
            if count > 0 {
                found.insert(namespace.clone(), count);
            }
        }
        found
    }

    fn grants<'a>(
        &'a self,
        who: Who<'a>,
        namespace: &'a str,
    ) -> impl Iterator<Item = (ObjectRef, &'a ObjectRef, &'a Rules)> {
        let scopes = std::iter::once("").chain((!namespace.is_empty()).then_some(namespace));
        scopes.flat_map(move |scope| {
            let names = self.held.get_key_value(scope);
            names.into_iter().flat_map(move |(scope, names)| {
                let sets = holders_of(who).filter_map(|holder| names.get(&holder));
                sets.flatten().filter_map(|name| self.grant(scope, name))
            })
        })
    }

    fn grant(&self, scope: &Arc<str>, name: &Arc<str>) -> Option<(ObjectRef, &ObjectRef, &Rules)> {
        let at = ObjectRef {
            namespace: scope.clone(),
            name: name.clone(),
        };
        let role = &self.bindings.get(&at)?.role;
        let rules = self.roles.get(role)?;
        Some((at, role, rules))
    }
}

fn holders_of<'a>(who: Who<'a>) -> impl Iterator<Item = Holder> + 'a {
    let groups = who.groups.iter().map(|group| Holder::Group(group.clone()));
    std::iter::once(Holder::User(who.name.to_string())).chain(groups)
}

fn holder(subject: &Subject, binding_namespace: &str) -> Option<Holder> {
    match subject.kind.as_str() {
        "User" => Some(Holder::User(subject.name.clone())),
        "Group" => Some(Holder::Group(subject.name.clone())),
        "ServiceAccount" => {
            let own = &subject.namespace;
            let namespace = if own.is_empty() { binding_namespace } else { own };
            (!namespace.is_empty()).then(|| Holder::User(service_account_user(namespace, &subject.name)))
        }
        _ => None,
    }
}

fn reason(at: &ObjectRef, role: &ObjectRef, who: Who<'_>) -> String {
    let role_kind = if role.namespace.is_empty() {
        "ClusterRole"
    } else {
        "Role"
    };
    let who = who.name;
    if at.namespace.is_empty() {
        return format!(
            "RBAC: allowed by ClusterRoleBinding \"{}\" of {role_kind} \"{}\" to \"{who}\"",
            at.name, role.name
        );
    }
    format!(
        "RBAC: allowed by RoleBinding \"{}/{}\" of {role_kind} \"{}\" to \"{who}\"",
        at.namespace, at.name, role.name
    )
}
