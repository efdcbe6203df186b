//! Which devices there are and which container has which. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};

use super::api::{Device, HEALTHY};
use crate::amount;
use crate::node_status::Devices;
use crate::{plan, podspec};

/// How long the devices of a lost plug-in are still counted, though none can be had.
const GRACE: Duration = Duration::from_secs(300);

/// The devices of one resource.
#[derive(Debug, Clone, Default)]
struct Resource {
    /// Id and health.
    devices: BTreeMap<String, bool>,
    /// When its plug-in was lost (monotonic); `None`: it is there.
    lost_at: Option<Duration>,
    /// Number of its connection: the end of an older one says nothing.
    generation: u64,
}

/// Device ids of a container by resource.
pub type Assigned = BTreeMap<String, BTreeSet<String>>;
/// By pod UID and container.
type Assignments = BTreeMap<String, BTreeMap<String, Assigned>>;

/// The form in which the book outlives the agent.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Saved {
    resources: BTreeSet<String>,
    assigned: Assignments,
}

/// All devices and who has them.
#[derive(Debug, Clone, Default)]
pub struct Book {
    resources: BTreeMap<String, Resource>,
    /// Resources of plug-ins that are not there: zero, but the node's.
    absent: BTreeSet<String>,
    assigned: Assignments,
    /// Connections so far.
    connections: u64,
}

impl Book {
    /// The text of a checkpoint.
    pub fn to_text(&self) -> String {
        let names = self.resources.keys().chain(&self.absent);
        let saved = Saved {
            resources: names.cloned().collect(),
            assigned: self.assigned.clone(),
        };
        serde_json::to_string(&saved).unwrap_or_default()
    }

    /// Reads a checkpoint; what cannot be read is an empty book.
    pub fn from_text(text: &str) -> Self {
        let saved: Saved = serde_json::from_str(text).unwrap_or_default();
        Book {
            absent: saved.resources,
            assigned: saved.assigned,
            ..Default::default()
        }
    }

    /// A plug-in has registered; returns the number of this connection.
    pub fn registered(&mut self, resource: &str) -> u64 {
        self.absent.remove(resource);
        self.connections += 1;
        let entry = self.resources.entry(resource.to_owned()).or_default();
        entry.generation = self.connections;
        entry.lost_at = None;
        entry.generation
    }

    /// Takes a plug-in's list of devices.
    pub fn listed(&mut self, resource: &str, generation: u64, devices: &[Device]) {
        if let Some(entry) = self
            .resources
            .get_mut(resource)
            .filter(|r| r.generation == generation)
        {
            let health = devices.iter().map(|d| (d.id.clone(), d.health == HEALTHY));
            entry.devices = health.collect();
        }
    }

    /// A connection has ended.
    pub fn lost(&mut self, resource: &str, generation: u64, now: Duration) {
        if let Some(entry) = self
            .resources
            .get_mut(resource)
            .filter(|r| r.generation == generation)
        {
            entry.lost_at = Some(now);
        }
    }

    /// What the node's status says of devices; forgets plug-ins that have been away too long.
    pub fn status(&mut self, now: Duration) -> Devices {
        let gone = |r: &Resource| r.lost_at.is_some_and(|at| now.saturating_sub(at) >= GRACE);
        let stale: Vec<String> = self
            .resources
            .iter()
            .filter(|(_, r)| gone(r))
            .map(|(name, _)| name.clone())
            .collect();
        for name in stale {
            self.resources.remove(&name);
            self.absent.insert(name);
        }
        let mut status = Devices {
            removed: self.absent.iter().cloned().collect(),
            ..Default::default()
        };
        for (name, resource) in &self.resources {
            let healthy = resource.devices.values().filter(|healthy| **healthy).count();
            let usable = if resource.lost_at.is_some() { 0 } else { healthy };
            status
                .capacity
                .insert(name.clone(), resource.devices.len() as i64);
            status.allocatable.insert(name.clone(), usable as i64);
        }
        status
    }

    fn taken(&self, resource: &str) -> BTreeSet<&String> {
        let containers = self.assigned.values().flat_map(BTreeMap::values);
        containers.filter_map(|a| a.get(resource)).flatten().collect()
    }

    /// Chooses devices of one resource: what an ended init container of the pod had, then what is free.
    fn choose(
        &self,
        resource: &str,
        count: usize,
        reusable: &BTreeSet<String>,
    ) -> Result<BTreeSet<String>, String> {
        let taken = self.taken(resource);
        let known = self.resources.get(resource).filter(|r| r.lost_at.is_none());
        let healthy = known
            .into_iter()
            .flat_map(|r| r.devices.iter().filter(|(_, h)| **h));
        let free = healthy.map(|(id, _)| id).filter(|id| !taken.contains(id));
        let all: BTreeSet<&String> = free.chain(reusable).collect();
        if all.len() < count {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {count}, Available: {}",
                all.len()
            ));
        }
        let rest = all.iter().copied().filter(|id| !reusable.contains(*id));
        Ok(reusable.iter().chain(rest).take(count).cloned().collect())
    }

    /// Gives the containers of a pod their devices. Nothing changes when one cannot get its share; tells whether
    /// anything did.
    ///
    /// # Errors
    /// Why not.
    pub fn allocate(&mut self, pod: &Pod) -> Result<bool, String> {
        let Some(spec) = pod.spec.as_ref() else {
            return Ok(false);
        };
        let uid = podspec::uid(pod);
        let mut now = self.clone();
        let mut reusable: Assigned = BTreeMap::new();
        let inits = spec
            .init_containers
            .iter()
            .flatten()
            .map(|c| (c, !plan::is_sidecar(c)));
        for (container, passes) in inits.chain(spec.containers.iter().map(|c| (c, false))) {
            for (resource, count) in self.wanted(container) {
                let held = now
                    .assigned
                    .get(uid)
                    .and_then(|of| of.get(&container.name)?.get(&resource));
                let left = reusable.entry(resource.clone()).or_default();
                let ids = match held {
                    Some(ids) => ids.clone(),
                    None => now.choose(&resource, count, left)?,
                };
                match passes {
                    true => left.extend(ids.iter().cloned()),
                    false => left.retain(|id| !ids.contains(id)),
                }
                let own = now.assigned.entry(uid.to_owned()).or_default();
                own.entry(container.name.clone())
                    .or_default()
                    .insert(resource, ids);
            }
        }
        let changed = now.assigned != self.assigned;
        *self = now;
        Ok(changed)
    }

    /// The devices that a container asks of plug-ins.
    fn wanted(&self, container: &Container) -> Vec<(String, usize)> {
        let limits = amount::amounts(container.resources.as_ref().and_then(|r| r.limits.as_ref()));
        let ours = |name: &String| self.resources.contains_key(name) || self.absent.contains(name);
        let wanted = limits
            .into_iter()
            .filter(|(name, count)| *count > 0 && ours(name));
        wanted.map(|(name, count)| (name, count as usize)).collect()
    }

    /// The devices of a container.
    pub fn of(&self, uid: &str, container: &str) -> Assigned {
        let found = self.assigned.get(uid).and_then(|of| of.get(container));
        found.cloned().unwrap_or_default()
    }

    /// Takes a pod's devices back; tells whether it had any.
    pub fn release(&mut self, uid: &str) -> bool {
        self.assigned.remove(uid).is_some()
    }

    /// Pods that have devices.
    pub fn pods(&self) -> Vec<String> {
        self.assigned.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NAME: &str = "example.com/dongle";

    fn device(id: &str, health: &str) -> Device {
        Device {
            id: id.into(),
            health: health.into(),
            topology: None,
        }
    }

    fn pod(uid: &str, init: i64, app: i64) -> Pod {
        let asks = |count: i64| json!({"limits": {NAME: count.to_string()}});
        serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": {
            "initContainers": [{"name": "i", "resources": asks(init)}],
            "containers": [{"name": "c", "resources": asks(app)}]}}))
        .expect("valid")
    }

    fn book() -> (Book, u64) {
        let mut book = Book::default();
        let generation = book.registered(NAME);
        let devices = [
            device("a", HEALTHY),
            device("b", HEALTHY),
            device("c", "Unhealthy"),
        ];
        book.listed(NAME, generation, &devices);
        (book, generation)
    }

    #[test]
    fn sick_devices_are_counted_and_never_given() {
        let (mut book, _) = book();
        let status = book.status(Duration::ZERO);
        assert_eq!((status.capacity[NAME], status.allocatable[NAME]), (3, 2));
        let said = book.allocate(&pod("u", 0, 3)).expect_err("only two are well");
        assert_eq!(
            said,
            "requested number of devices unavailable for example.com/dongle. Requested: 3, Available: 2"
        );
        assert!(book.of("u", "c").is_empty());
    }

    #[test]
    fn an_init_container_leaves_its_devices_to_the_pod_and_they_outlive_the_agent() {
        let (mut book, _) = book();
        book.allocate(&pod("u", 2, 2)).expect("the same two");
        assert_eq!(book.of("u", "i"), book.of("u", "c"));
        assert!(book.allocate(&pod("v", 0, 1)).is_err());
        let mut again = Book::from_text(&book.to_text());
        assert_eq!(again.of("u", "c"), book.of("u", "c"));
        assert_eq!(again.status(Duration::ZERO).removed, [NAME]);
        assert!(again.release("u"));
    }

    #[test]
    fn a_lost_plug_in_counts_for_five_minutes_and_is_zero_then() {
        let (mut book, generation) = book();
        book.lost(NAME, generation, Duration::from_secs(10));
        let soon = book.status(Duration::from_secs(20));
        assert_eq!((soon.capacity[NAME], soon.allocatable[NAME]), (3, 0));
        let late = book.status(Duration::from_secs(310));
        assert_eq!(
            (late.capacity.get(NAME), late.removed),
            (None, vec![NAME.to_owned()])
        );
        book.registered(NAME);
        book.lost(NAME, generation, Duration::from_secs(400));
        assert!(
            book.status(Duration::from_secs(900)).removed.is_empty(),
            "an older connection ended"
        );
    }
}
