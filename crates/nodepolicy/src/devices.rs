//! Which devices there are and which container has which. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};

use crate::admission::Refusal;
use crate::node_status::Devices;
use crate::numa::allot::{Asking, Giver, asking, at_once};
use crate::numa::{Hint, Hints, Mask, hints_for};
use crate::{amount, podspec};

/// How long the devices of a lost plug-in are still counted, though none can be had.
const GRACE: Duration = Duration::from_secs(300);

/// One device as its plug-in lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// Whether it may be used.
    pub healthy: bool,
    /// Memory nodes near it; none: nobody knows.
    pub nodes: Vec<u32>,
}

/// The devices of one resource.
#[derive(Debug, Clone, Default)]
struct Resource {
    /// By id.
    devices: BTreeMap<String, Listed>,
    /// When its plug-in was lost (monotonic); `None`: it is there.
    lost_at: Option<Duration>,
    /// Number of its connection: the end of an older one says nothing.
    generation: u64,
    /// Its plug-in wants to be asked which devices go well together.
    has_preference: bool,
}

impl Resource {
    fn healthy(&self) -> impl Iterator<Item = &Listed> {
        let usable = self.lost_at.is_none();
        self.devices.values().filter(move |d| usable && d.healthy)
    }

    /// Whether it matters from which memory node one comes.
    fn has_nodes(&self) -> bool {
        self.devices.values().any(|d| !d.nodes.is_empty())
    }

    fn is_near(&self, id: &str, mask: Mask) -> bool {
        let device = self.devices.get(id);
        device.is_some_and(|d| mask.has_any(d.nodes.iter().copied()))
    }
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
    /// Memory nodes by pod UID and container, as bits.
    near: BTreeMap<String, BTreeMap<String, u64>>,
}

/// All devices and who has them.
#[derive(Debug, Clone, Default)]
pub struct Book {
    resources: BTreeMap<String, Resource>,
    /// Resources of plug-ins that are not there: zero, but the node's.
    absent: BTreeSet<String>,
    assigned: Assignments,
    /// From which memory nodes a container's devices were to come.
    near: BTreeMap<String, BTreeMap<String, u64>>,
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
            near: self.near.clone(),
        };
        serde_json::to_string(&saved).unwrap_or_default()
    }

    /// Reads a checkpoint; what cannot be read is an empty book.
    pub fn from_text(text: &str) -> Self {
        let saved: Saved = serde_json::from_str(text).unwrap_or_default();
        Book {
            absent: saved.resources,
            assigned: saved.assigned,
            near: saved.near,
            ..Default::default()
        }
    }

    /// A plug-in has registered; returns the number of this connection. `has_preference`: it can say which devices go
    /// well together.
    pub fn registered(&mut self, resource: &str, has_preference: bool) -> u64 {
        self.absent.remove(resource);
        self.connections += 1;
        let entry = self.resources.entry(resource.to_owned()).or_default();
        entry.generation = self.connections;
        entry.has_preference = has_preference;
        entry.lost_at = None;
        entry.generation
    }

    fn of_connection(&mut self, resource: &str, generation: u64) -> Option<&mut Resource> {
        let entry = self.resources.get_mut(resource)?;
        (entry.generation == generation).then_some(entry)
    }

    /// Takes a plug-in's list of devices.
    pub fn listed(&mut self, resource: &str, generation: u64, devices: Vec<Listed>) {
        if let Some(entry) = self.of_connection(resource, generation) {
            entry.devices = devices.into_iter().map(|d| (d.id.clone(), d)).collect();
        }
    }

    /// A connection has ended.
    pub fn lost(&mut self, resource: &str, generation: u64, now: Duration) {
        if let Some(entry) = self.of_connection(resource, generation) {
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
            status
                .capacity
                .insert(name.clone(), resource.devices.len() as i64);
            status
                .allocatable
                .insert(name.clone(), resource.healthy().count() as i64);
        }
        status
    }

    /// All devices that may be used, by resource.
    pub fn usable(&self) -> impl Iterator<Item = (&String, Vec<&Listed>)> {
        self.resources
            .iter()
            .map(|(name, resource)| (name, resource.healthy().collect()))
    }

    /// Memory nodes near a device, as far as its plug-in is there to tell.
    pub fn nodes_of(&self, resource: &str, id: &str) -> Vec<u32> {
        let device = self.resources.get(resource).and_then(|r| r.devices.get(id));
        device.map(|d| d.nodes.clone()).unwrap_or_default()
    }

    fn taken(&self, resource: &str) -> BTreeSet<&String> {
        let containers = self.assigned.values().flat_map(BTreeMap::values);
        containers.filter_map(|a| a.get(resource)).flatten().collect()
    }

    /// Devices that nobody has.
    fn free(&self, resource: &str) -> BTreeSet<String> {
        let taken = self.taken(resource);
        let healthy = self
            .resources
            .get(resource)
            .into_iter()
            .flat_map(Resource::healthy);
        let free = healthy.filter(|d| !taken.contains(&d.id));
        free.map(|d| d.id.clone()).collect()
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

    /// Whether a pod has devices of a plug-in that wants to be asked which go well together.
    pub fn has_preference(&self, uid: &str) -> bool {
        let containers = self.assigned.get(uid).into_iter().flat_map(BTreeMap::values);
        let mut resources = containers.flat_map(BTreeMap::keys);
        resources.any(|name| self.resources.get(name).is_some_and(|r| r.has_preference))
    }

    /// Whether containers have other devices here than in another book.
    pub fn has_other_assignments(&self, other: &Book) -> bool {
        self.assigned != other.assigned
    }

    /// Takes a pod's devices back; tells whether it had any.
    pub fn release(&mut self, uid: &str) -> bool {
        self.near.remove(uid);
        self.assigned.remove(uid).is_some()
    }

    /// Pods that have devices.
    pub fn pods(&self) -> Vec<String> {
        self.assigned.keys().cloned().collect()
    }

    /// Chooses a pod's devices anew, with what plug-ins said that goes well together; what must still be asked is in
    /// the second value.
    ///
    /// # Errors
    /// When there are not enough any more; the pod keeps what it has.
    pub fn reconsidered(&self, pod: &Pod, said: &Preferences) -> Result<(Book, Vec<Question>), Refusal> {
        let uid = podspec::uid(pod);
        let near = self.near.get(uid).cloned().unwrap_or_default();
        let mut book = self.clone();
        book.release(uid);
        let mut draft = Draft::new(&book);
        draft.said = said.clone();
        for asking in asking(pod) {
            let bits = near.get(&asking.container.name);
            draft.give(&asking, bits.map(|bits| Mask::from_bits(*bits)))?;
        }
        Ok((draft.book, draft.questions))
    }

    /// Takes what [`Book::reconsidered`] found for a pod.
    pub fn take(&mut self, uid: &str, from: &Book) {
        if let Some(assigned) = from.assigned.get(uid) {
            self.assigned.insert(uid.to_owned(), assigned.clone());
        }
    }
}

/// What plug-ins said that goes well together, by container and resource.
pub type Preferences = BTreeMap<(String, String), BTreeSet<String>>;

/// A question to a plug-in: which devices go well together?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// For this container.
    pub container: String,
    /// The plug-in's resource.
    pub resource: String,
    /// To choose from.
    pub available: BTreeSet<String>,
    /// To be among them.
    pub included: BTreeSet<String>,
    /// How many.
    pub count: usize,
}

/// Devices being given to the containers of one pod.
#[derive(Debug)]
pub struct Draft {
    /// The book with what was given so far.
    pub book: Book,
    /// What init containers that end left to the pod.
    reusable: Assigned,
    said: Preferences,
    questions: Vec<Question>,
}

/// Moves devices from `from` to `chosen` until these are `count`; tells whether they are.
fn fill(chosen: &mut BTreeSet<String>, from: &BTreeSet<String>, count: usize) -> bool {
    let more: Vec<String> = from.difference(chosen).cloned().collect();
    let missing = count.saturating_sub(chosen.len());
    chosen.extend(more.into_iter().take(missing));
    chosen.len() >= count
}

impl Draft {
    /// Nothing given yet.
    pub fn new(book: &Book) -> Self {
        Draft {
            book: book.clone(),
            reusable: BTreeMap::new(),
            said: Preferences::new(),
            questions: Vec::new(),
        }
    }

    /// What the plug-in prefers of `available`; a question is noted where it has not been asked.
    fn preferred(
        &mut self,
        container: &str,
        resource: &str,
        available: BTreeSet<String>,
        included: &BTreeSet<String>,
        count: usize,
    ) -> BTreeSet<String> {
        let asks = self
            .book
            .resources
            .get(resource)
            .is_some_and(|r| r.has_preference);
        if !asks {
            return BTreeSet::new();
        }
        let key = (container.to_owned(), resource.to_owned());
        if let Some(said) = self.said.get(&key) {
            return said.intersection(&available).cloned().collect();
        }
        self.questions.push(Question {
            container: key.0,
            resource: key.1,
            available: available.union(included).cloned().collect(),
            included: included.clone(),
            count,
        });
        BTreeSet::new()
    }

    /// Chooses devices: what an ended init container of the pod had, then free ones, near ones first and among equals
    /// those that the plug-in prefers.
    fn choose(
        &mut self,
        container: &str,
        resource: &str,
        count: usize,
        near: Option<Mask>,
    ) -> Result<BTreeSet<String>, String> {
        let known = self.book.resources.get(resource);
        if known.is_none_or(|r| r.healthy().next().is_none()) {
            return Err(format!(
                "no healthy devices present; cannot allocate unhealthy devices {resource}"
            ));
        }
        let mut chosen = BTreeSet::new();
        let left = self.reusable.get(resource).cloned().unwrap_or_default();
        if fill(&mut chosen, &left, count) {
            return Ok(chosen);
        }
        let free = self.book.free(resource);
        let needed = count - chosen.len();
        if free.len() < needed {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {needed}, Available: {}",
                free.len()
            ));
        }
        let near_ones = self.near_ones(resource, &free, near);
        if needed < near_ones.len() {
            let best = self.preferred(container, resource, near_ones.clone(), &chosen, count);
            let _ = fill(&mut chosen, &best, count) || fill(&mut chosen, &near_ones, count);
            return Ok(chosen);
        }
        if !fill(&mut chosen, &near_ones, count) {
            let best = self.preferred(container, resource, free.clone(), &chosen, count);
            let placed = self.placed(resource, &free);
            let _ = fill(&mut chosen, &best, count)
                || fill(&mut chosen, &placed, count)
                || fill(&mut chosen, &free, count);
        }
        Ok(chosen)
    }

    /// Those of some devices that come from the wanted memory nodes.
    fn near_ones(&self, resource: &str, ids: &BTreeSet<String>, near: Option<Mask>) -> BTreeSet<String> {
        let (Some(known), Some(mask)) = (self.book.resources.get(resource), near) else {
            return BTreeSet::new();
        };
        ids.iter().filter(|id| known.is_near(id, mask)).cloned().collect()
    }

    /// Those of some devices that are near any memory node.
    fn placed(&self, resource: &str, ids: &BTreeSet<String>) -> BTreeSet<String> {
        let placed = |id: &&String| !self.book.nodes_of(resource, id).is_empty();
        ids.iter().filter(placed).cloned().collect()
    }

    /// Hints for `count` devices; `held` are had already, `left` come from an init container.
    fn hints_of(
        &self,
        resource: &str,
        count: usize,
        held: BTreeSet<String>,
        left: &BTreeSet<String>,
    ) -> Option<Vec<Hint>> {
        let known = self.book.resources.get(resource).filter(|r| r.has_nodes())?;
        let (free, left) = match held.len() {
            0 => (self.book.free(resource), left.clone()),
            have if have == count => (held, BTreeSet::new()),
            _ => return Some(Vec::new()),
        };
        if free.union(&left).count() < count {
            return Some(Vec::new());
        }
        let mut nodes: Vec<u32> = known.devices.values().flat_map(|d| d.nodes.clone()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let could = |mask: Mask| known.devices.keys().filter(|id| known.is_near(id, mask)).count() >= count;
        let fits = |mask: Mask| {
            let must = left
                .iter()
                .filter(|id| !self.book.nodes_of(resource, id).is_empty());
            let must: Vec<&String> = must.collect();
            let more = free.iter().filter(|id| known.is_near(id, mask)).count();
            must.iter().all(|id| known.is_near(id, mask)) && must.len() + more >= count
        };
        Some(hints_for(&nodes, could, fits))
    }
}

impl Giver for Draft {
    fn hints(&self, asking: &Asking<'_>) -> Hints {
        let held = self.book.of(podspec::uid(asking.pod), &asking.container.name);
        let of = |resource: &str, count| {
            let held = held.get(resource).cloned().unwrap_or_default();
            let left = self.reusable.get(resource).cloned().unwrap_or_default();
            self.hints_of(resource, count, held, &left)
        };
        let wanted = self.book.wanted(asking.container).into_iter();
        wanted
            .map(|(name, count)| (name.clone(), of(&name, count)))
            .collect()
    }

    fn pod_hints(&self, pod: &Pod) -> Hints {
        let names: BTreeSet<String> = asking(pod)
            .flat_map(|a| self.book.wanted(a.container))
            .map(|(name, _)| name)
            .collect();
        let held = self.book.assigned.get(podspec::uid(pod));
        let of = |resource: &str| {
            let count = at_once(pod, |c| {
                let wanted = self.book.wanted(c).into_iter().find(|(name, _)| name == resource);
                wanted.map_or(0, |(_, count)| count)
            });
            let all = held.into_iter().flat_map(BTreeMap::values);
            let held = all.filter_map(|of| of.get(resource)).flatten().cloned().collect();
            self.hints_of(resource, count, held, &BTreeSet::new())
        };
        names.into_iter().map(|name| (name.clone(), of(&name))).collect()
    }

    fn give(&mut self, asking: &Asking<'_>, near: Option<Mask>) -> Result<(), Refusal> {
        let (uid, name) = (podspec::uid(asking.pod), &asking.container.name);
        for (resource, count) in self.book.wanted(asking.container) {
            let held = self.book.of(uid, name).remove(&resource);
            let ids = match held {
                Some(ids) => ids,
                None => self.choose(name, &resource, count, near).map_err(refusal)?,
            };
            let left = self.reusable.entry(resource.clone()).or_default();
            match asking.passes {
                true => left.extend(ids.iter().cloned()),
                false => left.retain(|id| !ids.contains(id)),
            }
            if let Some(mask) = near {
                let own = self.book.near.entry(uid.to_owned()).or_default();
                own.insert(name.clone(), mask.bits());
            }
            let own = self.book.assigned.entry(uid.to_owned()).or_default();
            own.entry(name.clone()).or_default().insert(resource, ids);
        }
        Ok(())
    }
}

fn refusal(why: String) -> Refusal {
    Refusal {
        reason: "UnexpectedAdmissionError".to_owned(),
        message: format!("Allocate failed due to {why}, which is unexpected"),
    }
}

#[cfg(test)]
mod tests;
