//! The table as data, and the script that leads from one state of it to another in one transaction.
//!
//! Changes go in as differences: a large cluster is not loaded anew for one endpoint, and the sets in which clients'
//! endpoints are remembered survive.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::Ipv4Addr;

/// The table's family and name; nobody else writes it.
pub const TABLE: &str = "ip mainstay";

/// A set or a map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Types and flags.
    pub header: String,
    /// Elements; for a map with what each leads to, else with nothing.
    pub elements: BTreeMap<String, String>,
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where the kernel calls it; none: it is called by others.
    pub hook: Option<&'static str>,
    /// Its rules, in order.
    pub rules: Vec<String>,
}

/// Everything in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Sets.
    pub sets: BTreeMap<String, Table>,
    /// Maps.
    pub maps: BTreeMap<String, Table>,
    /// Chains.
    pub chains: BTreeMap<String, Chain>,
}

/// UDP flows to be forgotten, for the kernel would send their next packets the old way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Those that this endpoint answers.
    From {
        /// Its address.
        address: Ipv4Addr,
        /// Its port.
        port: u16,
    },
    /// Those to this Service's address.
    To {
        /// The address.
        address: Ipv4Addr,
        /// The port.
        port: u16,
    },
}

/// The target in the name of an endpoint's chain, if it is one of a UDP port.
fn endpoint_of(chain: &str) -> Option<(Ipv4Addr, u16)> {
    let mut parts = chain.strip_prefix("endpoint/")?.split('/').skip(2);
    if parts.next()? != "udp" {
        return None;
    }
    let _service_port = parts.next()?;
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Address and port of a key of the map of addresses, if it is one of a UDP port.
fn udp_address(key: &str) -> Option<(Ipv4Addr, u16)> {
    let mut parts = key.split(" . ");
    let address = parts.next()?.parse().ok()?;
    if parts.next()? != "udp" {
        return None;
    }
    Some((address, parts.next()?.parse().ok()?))
}

impl Ruleset {
    /// The script that makes the table whatever it was before.
    pub fn whole(&self) -> String {
        let mut script = format!("add table {TABLE}\ndelete table {TABLE}\nadd table {TABLE}\n");
        self.difference(&Ruleset::default(), &mut script);
        script
    }

    /// The script that leads from `old`, which the kernel holds, to this; none when they are equal.
    pub fn since(&self, old: &Ruleset) -> Option<String> {
        if self == old {
            return None;
        }
        if self.redefines(old) {
            return Some(self.whole());
        }
        let mut script = String::new();
        self.difference(old, &mut script);
        Some(script)
    }

    /// Whether something keeps its name and becomes another kind of thing: that cannot be had by a difference.
    fn redefines(&self, old: &Ruleset) -> bool {
        let header = |new: &BTreeMap<String, Table>, old: &BTreeMap<String, Table>| {
            new.iter()
                .any(|(name, table)| old.get(name).is_some_and(|old| old.header != table.header))
        };
        let hook =
            |(name, chain): (&String, &Chain)| old.chains.get(name).is_some_and(|old| old.hook != chain.hook);
        header(&self.sets, &old.sets) || header(&self.maps, &old.maps) || self.chains.iter().any(hook)
    }

    /// The UDP flows that the kernel remembers and that no longer lead where these rules lead: those to endpoints that are
    /// gone, and those to addresses that nobody served.
    pub fn stale_flows(&self, old: &Ruleset) -> Vec<Flow> {
        let ended = old
            .chains
            .keys()
            .filter(|name| !self.chains.contains_key(*name))
            .filter_map(|name| endpoint_of(name))
            .map(|(address, port)| Flow::From { address, port });
        let unserved = |rules: &Ruleset, key: &String| {
            let map = rules.maps.get("unserved-addresses");
            map.is_some_and(|map| map.elements.contains_key(key))
        };
        let begun = self
            .maps
            .get("addresses")
            .into_iter()
            .flat_map(|map| map.elements.keys())
            .filter(|key| unserved(old, key) && !unserved(self, key))
            .filter_map(|key| udp_address(key))
            .map(|(address, port)| Flow::To { address, port });
        ended.chain(begun).collect()
    }

    fn difference(&self, old: &Ruleset, script: &mut String) {
        for (name, set) in new_ones(&self.sets, &old.sets) {
            line(script, &format!("add set {TABLE} {name} {{ {} }}", set.header));
        }
        for (name, map) in new_ones(&self.maps, &old.maps) {
            line(script, &format!("add map {TABLE} {name} {{ {} }}", map.header));
        }
        for (name, chain) in new_ones(&self.chains, &old.chains) {
            let hook = chain
                .hook
                .map(|hook| format!(" {{ {hook} }}"))
                .unwrap_or_default();
            line(script, &format!("add chain {TABLE} {name}{hook}"));
        }
        for (name, set) in &self.sets {
            elements(script, name, set, old.sets.get(name));
        }
        self.rules(old, script);
        for (name, map) in &self.maps {
            elements(script, name, map, old.maps.get(name));
        }
        // A chain goes after everything that leads to it.
        let gone: Vec<&String> = old
            .chains
            .keys()
            .filter(|name| !self.chains.contains_key(*name))
            .collect();
        for verb in ["flush", "delete"] {
            for name in &gone {
                line(script, &format!("{verb} chain {TABLE} {name}"));
            }
        }
        for (kind, old, new) in [("map", &old.maps, &self.maps), ("set", &old.sets, &self.sets)] {
            for name in old.keys().filter(|name| !new.contains_key(*name)) {
                line(script, &format!("delete {kind} {TABLE} {name}"));
            }
        }
    }

    fn rules(&self, old: &Ruleset, script: &mut String) {
        for (name, chain) in &self.chains {
            let before = old.chains.get(name).map(|chain| chain.rules.as_slice());
            if before == Some(&chain.rules) {
                continue;
            }
            if before.is_some_and(|rules| !rules.is_empty()) {
                line(script, &format!("flush chain {TABLE} {name}"));
            }
            for rule in &chain.rules {
                line(script, &format!("add rule {TABLE} {name} {rule}"));
            }
        }
    }
}

fn line(script: &mut String, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(script, "{text}");
}

fn new_ones<'a, T>(
    new: &'a BTreeMap<String, T>,
    old: &'a BTreeMap<String, T>,
) -> impl Iterator<Item = (&'a String, &'a T)> {
    new.iter().filter(|(name, _)| !old.contains_key(*name))
}

/// Removes what is gone or leads elsewhere now, then adds.
fn elements(script: &mut String, name: &str, new: &Table, old: Option<&Table>) {
    let nothing = BTreeMap::new();
    let old = old.map_or(&nothing, |table| &table.elements);
    let same = |(key, value): &(&String, &String)| old.get(*key) == Some(value);
    let kept: BTreeSet<&String> = new.elements.iter().filter(same).map(|(key, _)| key).collect();
    let gone: Vec<&str> = old
        .keys()
        .filter(|key| !kept.contains(key))
        .map(String::as_str)
        .collect();
    if !gone.is_empty() {
        line(
            script,
            &format!("delete element {TABLE} {name} {{ {} }}", gone.join(", ")),
        );
    }
    let added: Vec<String> = new
        .elements
        .iter()
        .filter(|(key, _)| !kept.contains(key))
        .map(|(key, value)| match value.as_str() {
            "" => key.clone(),
            verdict => format!("{key} : {verdict}"),
        })
        .collect();
    if !added.is_empty() {
        line(
            script,
            &format!("add element {TABLE} {name} {{ {} }}", added.join(", ")),
        );
    }
}
