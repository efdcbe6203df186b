//! How processors are arranged: cores, shared caches, memory nodes, sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::set::CpuSet;

/// A level of the arrangement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Physical cores; their threads are processors.
    Core,
    /// Groups that share a last-level cache.
    Cache,
    /// Memory nodes.
    Numa,
    /// Sockets.
    Socket,
}

/// Where a processor is. Core and cache numbers are unique on the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Physical core.
    pub core: u32,
    /// Group of the last-level cache.
    pub cache: u32,
    /// Memory node.
    pub numa: u32,
    /// Socket.
    pub socket: u32,
}

impl Place {
    /// The number at a level.
    pub fn at(&self, level: Level) -> u32 {
        match level {
            Level::Core => self.core,
            Level::Cache => self.cache,
            Level::Numa => self.numa,
            Level::Socket => self.socket,
        }
    }
}

/// Processors and their places.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology(BTreeMap<u32, Place>);

impl FromIterator<(u32, Place)> for Topology {
    fn from_iter<I: IntoIterator<Item = (u32, Place)>>(places: I) -> Self {
        Topology(places.into_iter().collect())
    }
}

impl Topology {
    /// All processors.
    pub fn cpus(&self) -> CpuSet {
        self.0.keys().copied().collect()
    }

    /// The part with these processors alone.
    pub fn only(&self, cpus: &CpuSet) -> Topology {
        let kept = self.0.iter().filter(|(cpu, _)| cpus.contains(**cpu));
        Topology(kept.map(|(cpu, place)| (*cpu, *place)).collect())
    }

    /// All numbers of a level, ascending.
    pub fn ids(&self, level: Level) -> BTreeSet<u32> {
        self.0.values().map(|place| place.at(level)).collect()
    }

    /// Numbers of `level` that are inside number `id` of `outer`, ascending.
    pub fn ids_within(&self, level: Level, outer: Level, id: u32) -> BTreeSet<u32> {
        let inside = self.0.values().filter(|place| place.at(outer) == id);
        inside.map(|place| place.at(level)).collect()
    }

    /// Processors in number `id` of a level.
    pub fn cpus_in(&self, level: Level, id: u32) -> CpuSet {
        let inside = self.0.iter().filter(|(_, place)| place.at(level) == id);
        inside.map(|(cpu, _)| *cpu).collect()
    }

    /// The place of a processor.
    pub fn place(&self, cpu: u32) -> Option<Place> {
        self.0.get(&cpu).copied()
    }

    /// Processors per number of a level, if they are spread evenly; at least 1.
    pub fn per(&self, level: Level) -> usize {
        (self.0.len() / self.ids(level).len().max(1)).max(1)
    }

    /// Reads the arrangement of `cpus` below `/sys/devices/system`; what the kernel does not tell is one of each.
    pub fn read(system: &Path, cpus: &CpuSet) -> Topology {
        let nodes = numa_nodes(&system.join("node"));
        let places = cpus.iter().map(|cpu| {
            let dir = system.join(format!("cpu/cpu{cpu}"));
            let first = |file: &str| list(&dir.join(file))?.iter().next();
            let node = nodes.iter().find(|(_, cpus)| cpus.contains(cpu));
            let socket = number(&dir.join("topology/physical_package_id")).unwrap_or(0);
            let place = Place {
                core: first("topology/thread_siblings_list").unwrap_or(cpu),
                cache: first("cache/index3/shared_cpu_list").unwrap_or(socket),
                numa: node.map_or(0, |(id, _)| *id),
                socket,
            };
            (cpu, place)
        });
        places.collect()
    }
}

fn number(file: &Path) -> Option<u32> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn list(file: &Path) -> Option<CpuSet> {
    std::fs::read_to_string(file).ok()?.parse().ok()
}

fn numa_nodes(dir: &Path) -> Vec<(u32, CpuSet)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let id = name.strip_prefix("node")?.parse().ok()?;
            Some((id, list(&entry.path().join("cpulist"))?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_files_tell_the_arrangement() {
        let dir = tempfile::tempdir().expect("a folder");
        let put = |file: &str, text: &str| {
            let file = dir.path().join(file);
            std::fs::create_dir_all(file.parent().expect("a parent")).expect("made");
            std::fs::write(file, text).expect("written");
        };
        for (cpu, siblings, package) in [(0, "0,2", "0"), (1, "1,3", "1"), (2, "0,2", "0"), (3, "1,3", "1")] {
            put(&format!("cpu/cpu{cpu}/topology/thread_siblings_list"), siblings);
            put(&format!("cpu/cpu{cpu}/topology/physical_package_id"), package);
        }
        put("node/node0/cpulist", "0,2\n");
        put("node/node1/cpulist", "1,3\n");
        let all: CpuSet = "0-3".parse().expect("a list");
        let topology = Topology::read(dir.path(), &all);
        assert_eq!(topology.cpus_in(Level::Core, 1).to_string(), "1,3");
        assert_eq!(topology.cpus_in(Level::Numa, 0).to_string(), "0,2");
        assert_eq!((topology.per(Level::Core), topology.per(Level::Socket)), (2, 2));
    }
}
