//! A world in memory: what policy decides on, without a server. For tests and for trying out a policy.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use crate::hooks::World;
use crate::object::Object;

type Keys = BTreeMap<(String, String), Arc<Object>>;

/// Objects by resource, namespace and name.
#[derive(Default)]
pub struct MemoryWorld {
    state: Mutex<(u64, HashMap<String, (u64, Keys)>)>,
}

impl MemoryWorld {
    /// Adds or replaces an object.
    pub fn put(&self, resource: &str, object: Value) {
        let mut state = self.state.lock();
        state.0 += 1;
        let revision = state.0;
        let meta = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_string();
        let key = (meta("namespace"), meta("name"));
        let bytes = serde_json::to_vec(&object).expect("a value is JSON");
        let entry = state.1.entry(resource.to_string()).or_default();
        entry.0 = revision;
        entry
            .1
            .insert(key, Arc::new(Object::new::<&str>(bytes.into(), revision, &[])));
    }

    /// Removes an object.
    pub fn remove(&self, resource: &str, namespace: &str, name: &str) {
        let mut state = self.state.lock();
        state.0 += 1;
        let revision = state.0;
        let entry = state.1.entry(resource.to_string()).or_default();
        entry.0 = revision;
        entry.1.remove(&(namespace.to_string(), name.to_string()));
    }
}

impl World for MemoryWorld {
    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let state = self.state.lock();
        state
            .1
            .get(resource)?
            .1
            .get(&(namespace.to_string(), name.to_string()))
            .cloned()
    }

    fn list(&self, resource: &str, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let state = self.state.lock();
        let Some((_, keys)) = state.1.get(resource) else {
            return Vec::new();
        };
        let wanted = keys
            .iter()
            .filter(|((own, _), _)| namespace.is_none_or(|namespace| own == namespace));
        wanted.map(|(_, object)| object.clone()).collect()
    }

    fn generation(&self, resource: &str) -> u64 {
        let state = self.state.lock();
        state.1.get(resource).map_or(0, |entry| entry.0)
    }
}
