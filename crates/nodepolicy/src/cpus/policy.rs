//! The static policy: whole processors for containers of Guaranteed pods, the rest shared by everybody else. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use mainstay_semantics::qos::Class;
use mainstay_semantics::quantity::Quantity;
use serde::{Deserialize, Serialize};

use super::set::CpuSet;
use super::take::{TooFew, distributed, packed};
use super::topology::{Level, Topology};
use crate::admission::Refusal;
use crate::numa::allot::{Asking, Giver, asking, at_once};
use crate::numa::{Hint, Hints, Mask, hints_for};
use crate::truth::truth;
use crate::{podspec, qos};

/// `cpuManagerPolicyOptions`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Whole cores only.
    pub full_cores_only: bool,
    /// Even shares of memory nodes where one does not suffice.
    pub distribute_across_numa: bool,
    /// Nobody but the system runs on the reserved processors.
    pub strict_reservation: bool,
    /// Few last-level caches.
    pub prefer_cache: bool,
}

const FULL_CORES: &str = "full-pcpus-only";
const DISTRIBUTE: &str = "distribute-cpus-across-numa";
const STRICT: &str = "strict-cpu-reservation";
const BY_CACHE: &str = "prefer-align-cpus-by-uncorecache";
/// Options that stand behind a switch which is off.
const ALPHA: &[&str] = &["align-by-socket", "distribute-cpus-across-cores"];

impl Options {
    /// Reads the options.
    ///
    /// # Errors
    /// When one is unknown, switched off, no truth value, or contradicts another; in the kubelet's words.
    pub fn parse(given: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut options = Options::default();
        for (name, text) in given {
            let field = match name.as_str() {
                FULL_CORES => &mut options.full_cores_only,
                DISTRIBUTE => &mut options.distribute_across_numa,
                STRICT => &mut options.strict_reservation,
                BY_CACHE => &mut options.prefer_cache,
                alpha if ALPHA.contains(&alpha) => {
                    return Err(format!(
                        "CPU Manager Policy Alpha-level Options not enabled, but option {name:?} provided"
                    ));
                }
                _ => return Err(format!("unknown CPU Manager Policy option: {name:?}")),
            };
            *field = truth(text).ok_or_else(|| {
                format!("bad value for option {name:?}: strconv.ParseBool: parsing {text:?}: invalid syntax")
            })?;
        }
        if options.prefer_cache && options.distribute_across_numa {
            return Err(format!(
                "static policy options {BY_CACHE} and {DISTRIBUTE} can not be used at the same time"
            ));
        }
        Ok(options)
    }
}

/// Why a container gets no processors of its own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocationError {
    /// Not a whole number of cores.
    #[error("SMT Alignment Error: requested {requested} cpus not multiple cpus per core = {per_core}")]
    NotWholeCores {
        /// Wanted processors.
        requested: usize,
        /// Threads of a core.
        per_core: usize,
    },
    /// Too few whole cores are free.
    #[error(
        "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = {available}, requested CPUs = {requested}, CPUs per core = {per_core}"
    )]
    TooFewCores {
        /// Free processors of whole cores.
        available: usize,
        /// Wanted processors.
        requested: usize,
        /// Threads of a core.
        per_core: usize,
    },
    /// Too few processors are free.
    #[error(transparent)]
    TooFew(#[from] TooFew),
}

impl From<AllocationError> for Refusal {
    fn from(error: AllocationError) -> Self {
        match &error {
            AllocationError::TooFew(_) => Refusal {
                reason: "UnexpectedAdmissionError".to_owned(),
                message: format!("Allocate failed due to {error}, which is unexpected"),
            },
            _ => Refusal {
                reason: "SMTAlignmentError".to_owned(),
                message: error.to_string(),
            },
        }
    }
}

/// Who has which processors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignments {
    /// Processors of all containers without their own.
    pub shared: CpuSet,
    /// By pod UID and container.
    pub exclusive: BTreeMap<String, BTreeMap<String, CpuSet>>,
}

/// The form in which assignments outlive the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Saved {
    default_cpu_set: String,
    entries: BTreeMap<String, BTreeMap<String, String>>,
}

impl Assignments {
    /// The text of a checkpoint.
    pub fn to_text(&self) -> String {
        let texts =
            |of: &BTreeMap<String, CpuSet>| of.iter().map(|(c, s)| (c.clone(), s.to_string())).collect();
        let saved = Saved {
            default_cpu_set: self.shared.to_string(),
            entries: self
                .exclusive
                .iter()
                .map(|(uid, of)| (uid.clone(), texts(of)))
                .collect(),
        };
        serde_json::to_string(&saved).unwrap_or_default()
    }

    /// Reads a checkpoint; `None` when it is none.
    pub fn from_text(text: &str) -> Option<Self> {
        let saved: Saved = serde_json::from_str(text).ok()?;
        let mut exclusive = BTreeMap::new();
        for (uid, containers) in saved.entries {
            let sets: Option<BTreeMap<String, CpuSet>> = containers
                .into_iter()
                .map(|(name, text)| Some((name, text.parse().ok()?)))
                .collect();
            exclusive.insert(uid, sets?);
        }
        Some(Assignments {
            shared: saved.default_cpu_set.parse().ok()?,
            exclusive,
        })
    }

    /// The processors of a container of its own, if it has any.
    pub fn of(&self, uid: &str, container: &str) -> Option<&CpuSet> {
        self.exclusive.get(uid)?.get(container)
    }

    /// Gives a pod's processors back to everybody; tells whether it had any.
    pub fn release(&mut self, uid: &str) -> bool {
        let Some(containers) = self.exclusive.remove(uid) else {
            return false;
        };
        self.shared = containers
            .values()
            .fold(self.shared.clone(), |all, set| all.union(set));
        true
    }
}

/// How many whole processors a container has to itself; 0: it shares.
pub fn exclusive_cpus(pod: &Pod, container: &Container) -> usize {
    let pod_level = pod.spec.as_ref().is_some_and(|s| s.resources.is_some());
    if qos::class(pod) != Class::Guaranteed || pod_level {
        return 0;
    }
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    let cpu = requests
        .and_then(|r| r.get("cpu"))
        .and_then(|q| Quantity::parse(&q.0).ok());
    match cpu {
        Some(cpu) if cpu.value() * 1000 == cpu.milli_value() => usize::try_from(cpu.value()).unwrap_or(0),
        _ => 0,
    }
}

/// The policy on one machine.
#[derive(Debug, Clone)]
pub struct StaticPolicy {
    topology: Topology,
    options: Options,
    reserved: CpuSet,
}

impl StaticPolicy {
    /// The policy with this many processors reserved for the system, or with exactly `named` if there are any.
    ///
    /// # Errors
    /// When nothing is reserved, or more than there is.
    pub fn new(topology: Topology, reserved: usize, named: CpuSet, options: Options) -> Result<Self, String> {
        let mut policy = StaticPolicy {
            topology,
            options,
            reserved: named,
        };
        if policy.reserved.is_empty() {
            let all = policy.topology.cpus();
            policy.reserved = policy.take(&all, reserved).unwrap_or_default();
        }
        if policy.reserved.len() != reserved || !policy.reserved.is_subset(&policy.topology.cpus()) {
            return Err(format!(
                "unable to reserve the required amount of CPUs (size of {} did not equal {})",
                policy.reserved, reserved
            ));
        }
        Ok(policy)
    }

    fn take(&self, from: &CpuSet, count: usize) -> Result<CpuSet, TooFew> {
        if count == 0 {
            return Ok(CpuSet::default());
        }
        if self.options.distribute_across_numa {
            let group = match self.options.full_cores_only {
                true => self.topology.per(Level::Core),
                false => 1,
            };
            return distributed(&self.topology, from, count, group);
        }
        packed(&self.topology, from, count, self.options.prefer_cache)
    }

    /// Assignments before any container came.
    pub fn initial(&self) -> Assignments {
        let all = self.topology.cpus();
        let shared = match self.options.strict_reservation {
            true => all.difference(&self.reserved),
            false => all,
        };
        Assignments {
            shared,
            exclusive: BTreeMap::new(),
        }
    }

    /// Whether assignments of an earlier run still fit this machine and this configuration.
    pub fn accepts(&self, held: &Assignments) -> bool {
        let sets: Vec<&CpuSet> = held.exclusive.values().flat_map(BTreeMap::values).collect();
        let apart = sets.iter().all(|set| set.intersection(&held.shared).is_empty());
        let all = sets.iter().fold(held.shared.clone(), |all, set| all.union(set));
        let reserved_free = sets.iter().all(|set| set.intersection(&self.reserved).is_empty());
        apart && reserved_free && all == self.initial().shared
    }

    fn check_cores(&self, held: &Assignments, requested: usize) -> Result<(), AllocationError> {
        let per_core = self.topology.per(Level::Core);
        if !self.options.full_cores_only {
            return Ok(());
        }
        if !requested.is_multiple_of(per_core) {
            return Err(AllocationError::NotWholeCores { requested, per_core });
        }
        let cores = self.reserved.iter().filter_map(|cpu| self.topology.place(cpu));
        let reserved = cores.fold(CpuSet::default(), |all, place| {
            all.union(&self.topology.cpus_in(Level::Core, place.core))
        });
        let available = held.shared.difference(&reserved).len();
        match requested > available {
            true => Err(AllocationError::TooFewCores {
                available,
                requested,
                per_core,
            }),
            false => Ok(()),
        }
    }

    /// Takes processors of the wanted memory nodes first.
    fn take_near(&self, from: &CpuSet, count: usize, near: Option<Mask>) -> Result<CpuSet, TooFew> {
        let aligned = near.map_or(CpuSet::default(), |mask| self.on(from, mask));
        let first = self.take(&aligned, count.min(aligned.len()))?;
        let rest = self.take(&from.difference(&first), count - first.len())?;
        Ok(first.union(&rest))
    }

    /// Those of some processors that are on these memory nodes.
    fn on(&self, cpus: &CpuSet, mask: Mask) -> CpuSet {
        let is_on = |cpu: &u32| self.topology.place(*cpu).is_some_and(|p| mask.contains(p.numa));
        cpus.iter().filter(is_on).collect()
    }

    /// From which memory nodes `count` of the processors `free` and all of `must` can come.
    fn hints_of(&self, free: &CpuSet, must: &CpuSet, count: usize) -> Vec<Hint> {
        let nodes: Vec<u32> = self.topology.ids(Level::Numa).into_iter().collect();
        let all = self.topology.cpus();
        let could = |mask| self.on(&all, mask).len() >= count;
        let fits = |mask| {
            let kept = self.on(must, mask).len();
            kept == must.len() && kept + self.on(free, mask).len() >= count
        };
        hints_for(&nodes, could, fits)
    }

    /// Starts to give the containers of a pod their processors.
    pub fn draft(&self, held: &Assignments) -> Draft<'_> {
        Draft {
            policy: self,
            held: held.clone(),
            reusable: CpuSet::default(),
        }
    }

    /// The processors that containers can have to themselves.
    pub fn allocatable(&self) -> CpuSet {
        self.topology.cpus().difference(&self.reserved)
    }

    /// Gives the containers of a pod their processors, wherever these are. Nothing changes when one cannot get its share.
    ///
    /// # Errors
    /// Why not.
    pub fn allocate(&self, held: &Assignments, pod: &Pod) -> Result<Assignments, AllocationError> {
        let mut draft = self.draft(held);
        for asking in asking(pod) {
            draft.place(&asking, None)?;
        }
        Ok(draft.held)
    }
}

/// Processors being given to the containers of one pod. What an ended init container had, later ones may have.
#[derive(Debug)]
pub struct Draft<'p> {
    policy: &'p StaticPolicy,
    /// Who has which, with what was given so far.
    pub held: Assignments,
    reusable: CpuSet,
}

impl Draft<'_> {
    fn free(&self) -> CpuSet {
        self.held.shared.difference(&self.policy.reserved)
    }

    fn place(&mut self, asking: &Asking<'_>, near: Option<Mask>) -> Result<(), AllocationError> {
        let (uid, name) = (podspec::uid(asking.pod), &asking.container.name);
        let count = exclusive_cpus(asking.pod, asking.container);
        if count == 0 {
            return Ok(());
        }
        self.policy.check_cores(&self.held, count)?;
        let set = match self.held.of(uid, name) {
            Some(set) => set.clone(),
            None => {
                let free = self.free().union(&self.reusable);
                self.policy.take_near(&free, count, near)?
            }
        };
        self.held.shared = self.held.shared.difference(&set);
        self.reusable = match asking.passes {
            true => self.reusable.union(&set),
            false => self.reusable.difference(&set),
        };
        let own = self.held.exclusive.entry(uid.to_owned()).or_default();
        own.insert(name.clone(), set);
        Ok(())
    }

    fn cpu_hints(&self, count: usize, had: Option<&CpuSet>, must: &CpuSet) -> Hints {
        let hints = match had {
            Some(had) if had.len() == count => self.policy.hints_of(had, &CpuSet::default(), count),
            Some(_) => Vec::new(),
            None => self.policy.hints_of(&self.free(), must, count),
        };
        Hints::from([("cpu".to_owned(), Some(hints))])
    }
}

impl Giver for Draft<'_> {
    fn hints(&self, asking: &Asking<'_>) -> Hints {
        let had = self.held.of(podspec::uid(asking.pod), &asking.container.name);
        match exclusive_cpus(asking.pod, asking.container) {
            0 => Hints::new(),
            count => self.cpu_hints(count, had, &self.reusable),
        }
    }

    fn pod_hints(&self, pod: &Pod) -> Hints {
        let count = at_once(pod, |container| exclusive_cpus(pod, container));
        if count == 0 {
            return Hints::new();
        }
        let had = self.held.exclusive.get(podspec::uid(pod));
        let had = had.into_iter().flat_map(BTreeMap::values);
        let had = had.fold(CpuSet::default(), |all, set| all.union(set));
        let whole = Some(&had).filter(|had| had.len() == count);
        self.cpu_hints(count, whole, &had)
    }

    fn give(&mut self, asking: &Asking<'_>, near: Option<Mask>) -> Result<(), Refusal> {
        Ok(self.place(asking, near)?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::topology::Place;
    use super::*;
    use serde_json::json;

    fn policy(options: Options) -> StaticPolicy {
        let place = |cpu| Place {
            core: cpu % 4,
            ..Default::default()
        };
        let topology = (0..8).map(|cpu| (cpu, place(cpu))).collect();
        StaticPolicy::new(topology, 1, CpuSet::default(), options).expect("enough processors")
    }

    fn pod(uid: &str, init: &str, cpu: &str) -> Pod {
        let both = |cpu: &str| json!({"requests": {"cpu": cpu, "memory": "1Gi"}, "limits": {"cpu": cpu, "memory": "1Gi"}});
        serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": {
            "initContainers": [{"name": "i", "resources": both(init)}],
            "containers": [{"name": "c", "resources": both(cpu)}]}}))
        .expect("valid")
    }

    #[test]
    fn an_init_container_leaves_its_processors_to_the_pod_and_the_pod_gives_them_back() {
        let policy = policy(Options::default());
        let held = policy
            .allocate(&policy.initial(), &pod("u", "2", "4"))
            .expect("enough");
        let (init, app) = (held.of("u", "i").expect("set"), held.of("u", "c").expect("set"));
        assert!(init.is_subset(app), "{init} {app}");
        assert_eq!(held.shared.len(), 4);
        assert_eq!(Assignments::from_text(&held.to_text()), Some(held.clone()));
        assert!(policy.accepts(&held));
        let mut after = held;
        assert!(after.release("u") && after == policy.initial());
    }

    #[test]
    fn a_pod_that_does_not_fit_changes_nothing() {
        let policy = policy(Options {
            full_cores_only: true,
            ..Default::default()
        });
        let said = policy
            .allocate(&policy.initial(), &pod("u", "2", "3"))
            .expect_err("not whole cores");
        assert_eq!(
            said.to_string(),
            "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2"
        );
    }

    #[test]
    fn assignments_for_another_machine_are_not_taken_over() {
        let policy = policy(Options::default());
        let other = Assignments {
            shared: "0-3".parse().expect("a list"),
            ..Default::default()
        };
        assert!(!policy.accepts(&other));
    }

    #[test]
    fn processors_come_from_one_memory_node_or_not_at_all() {
        let topology: Topology = (0..8)
            .map(|cpu| {
                let place = Place {
                    core: cpu,
                    numa: cpu / 4,
                    socket: cpu / 4,
                    ..Default::default()
                };
                (cpu, place)
            })
            .collect();
        let policy = StaticPolicy::new(topology, 1, CpuSet::default(), Options::default()).expect("enough");
        let single = crate::numa::Manager {
            policy: crate::numa::Policy::SingleNode,
            nodes: crate::numa::Nodes {
                ids: vec![0, 1],
                ..Default::default()
            },
            ..Default::default()
        };
        let mut held = policy.initial();
        let mut allot = |uid: &str, count: &str| -> Result<String, String> {
            let mut draft = policy.draft(&held);
            single
                .allot(&pod(uid, count, count), &mut [&mut draft])
                .map_err(|r| r.reason)?;
            held = draft.held;
            Ok(held.of(uid, "c").map(ToString::to_string).unwrap_or_default())
        };
        assert_eq!(allot("a", "4"), Ok("4-7".to_owned()));
        assert_eq!(allot("b", "4"), Err("TopologyAffinityError".to_owned()));
        assert_eq!(allot("c", "2"), Ok("1-2".to_owned()));
        assert_eq!(
            allot("c", "2"),
            Ok("1-2".to_owned()),
            "asked again, it keeps them"
        );
    }
}
