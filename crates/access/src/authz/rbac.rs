//! RBAC over the watch caches: the compiled index follows the four RBAC resources, object by object.

use std::collections::HashMap;
use std::sync::Arc;

use mainstay_policy::rbac::{
    Index, ObjectRef, Request, RoleRef, Rule, RulesReview, Subject, Who, rules_review,
};
use parking_lot::RwLock;
use serde_json::Value;

use crate::hooks::{Attributes, Decision, World};
use crate::object::Object;
use crate::user::UserInfo;

const RESOURCES: [&str; 4] = [
    "rbac.authorization.k8s.io/roles",
    "rbac.authorization.k8s.io/clusterroles",
    "rbac.authorization.k8s.io/rolebindings",
    "rbac.authorization.k8s.io/clusterrolebindings",
];

/// Whether the resource of this number holds bindings.
fn holds_bindings(number: usize) -> bool {
    number >= 2
}

#[derive(Default)]
struct State {
    index: Index,
    /// The revision of each object the index was built from, by resource.
    known: [HashMap<ObjectRef, u64>; 4],
    generations: [Option<u64>; 4],
}

/// The RBAC authorizer.
pub struct RbacAuthorizer {
    world: Arc<dyn World>,
    state: RwLock<State>,
}

impl RbacAuthorizer {
    /// Makes the authorizer; the index is built at the first request.
    pub fn new(world: Arc<dyn World>) -> Self {
        RbacAuthorizer {
            world,
            state: RwLock::default(),
        }
    }

    /// Decides by RBAC alone.
    pub fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        let decision = self.with_index(|index| index.decide(who(attributes.user), &request(attributes)));
        if decision.allowed {
            Decision::Allow
        } else {
            Decision::NoOpinion(String::new())
        }
    }

    /// Decides by RBAC alone and tells what allowed it.
    pub fn explain(&self, attributes: &Attributes<'_>) -> mainstay_policy::rbac::Decision {
        self.with_index(|index| index.decide(who(attributes.user), &request(attributes)))
    }

    /// Tells every rule that holds for the user in the namespace (empty: cluster-wide).
    pub fn rules(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        self.with_index(|index| index.rules(who(user), namespace))
    }

    /// Answers a SelfSubjectRulesReview.
    pub fn rules_review(&self, user: &UserInfo, namespace: &str) -> RulesReview {
        rules_review(&self.rules(user, namespace))
    }

    /// Tells the rules of a role; an empty namespace means a ClusterRole.
    pub fn role_rules(&self, namespace: &str, name: &str) -> Option<Vec<Rule>> {
        self.with_index(|index| {
            index
                .role(&ObjectRef::new(namespace, name))
                .map(|rules| rules.to_vec())
        })
    }

    /// Tells the namespaces in which a binding names the user; the empty text stands for cluster bindings.
    pub fn namespaces_of(&self, user: &UserInfo) -> Vec<String> {
        let found = self.with_index(|index| index.namespaces_of(who(user)));
        found.keys().map(|namespace| namespace.to_string()).collect()
    }

    fn with_index<T>(&self, read: impl FnOnce(&Index) -> T) -> T {
        let now = RESOURCES.map(|resource| Some(self.world.generation(resource)));
        {
            let state = self.state.read();
            if state.generations == now {
                return read(&state.index);
            }
        }
        let mut state = self.state.write();
        for (number, generation) in now.into_iter().enumerate() {
            if state.generations[number] != generation {
                state.follow(number, &self.world.list(RESOURCES[number], None));
                state.generations[number] = generation;
            }
        }
        read(&state.index)
    }
}

impl State {
    /// Takes over what changed since the last time; unchanged objects are not parsed again.
    fn follow(&mut self, number: usize, objects: &[Arc<Object>]) {
        let mut left = std::mem::take(&mut self.known[number]);
        let mut known = HashMap::with_capacity(objects.len());
        for object in objects {
            let at = ObjectRef::new(&object.namespace(), &object.name());
            if left.remove(&at) != Some(object.revision()) {
                self.set(number, &at, &object.value());
            }
            known.insert(at, object.revision());
        }
        for gone in left.keys() {
            if holds_bindings(number) {
                self.index.remove_binding(gone);
            } else {
                self.index.remove_role(gone);
            }
        }
        self.known[number] = known;
    }

    fn set(&mut self, number: usize, at: &ObjectRef, object: &Value) {
        if holds_bindings(number) {
            let role: RoleRef = read(&object["roleRef"]);
            let subjects: Vec<Subject> = read(&object["subjects"]);
            self.index.set_binding(at.clone(), &role, &subjects);
        } else {
            let rules: Vec<Rule> = read(&object["rules"]);
            self.index.set_role(at.clone(), Arc::from(rules));
        }
    }
}

/// Reads a part of a stored object; what is malformed grants nothing.
pub(super) fn read<T: serde::de::DeserializeOwned + Default>(value: &Value) -> T {
    T::deserialize(value).unwrap_or_default()
}

fn who(user: &UserInfo) -> Who<'_> {
    Who {
        name: &user.name,
        groups: &user.groups,
    }
}

fn request<'a>(attributes: &Attributes<'a>) -> Request<'a> {
    if !attributes.is_resource {
        return Request::Path {
            verb: attributes.verb,
            path: attributes.path,
        };
    }
    Request::Resource {
        verb: attributes.verb,
        group: attributes.group,
        resource: attributes.resource,
        subresource: attributes.subresource,
        namespace: attributes.namespace,
        name: attributes.name,
    }
}
