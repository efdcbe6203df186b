//! What went over network interfaces, as the kernel counts it for the namespace of a process.

use std::path::Path;

use serde_json::{Value, json};

/// Counts of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets with errors.
    pub errors: u64,
    /// Packets that were thrown away.
    pub dropped: u64,
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What came in.
    pub received: Counts,
    /// What went out.
    pub sent: Counts,
}

/// The interfaces that a process has, without loopback; `None` when it is gone.
pub fn of_process(pid: u32) -> Option<Vec<Interface>> {
    read(Path::new(&format!("/proc/{pid}/net/dev")))
}

/// The machine's own interfaces, without loopback and the ends of pods' links.
pub fn of_machine() -> Vec<Interface> {
    let mut all = read(Path::new("/proc/self/net/dev")).unwrap_or_default();
    all.retain(|interface| !interface.name.starts_with("veth"));
    all
}

fn read(file: &Path) -> Option<Vec<Interface>> {
    Some(parse(&std::fs::read_to_string(file).ok()?))
}

fn parse(text: &str) -> Vec<Interface> {
    let one = |line: &str| {
        let (name, counts) = line.split_once(':')?;
        let counts: Vec<u64> = counts
            .split_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        let of = |at: usize| {
            Some(Counts {
                bytes: *counts.get(at)?,
                packets: *counts.get(at + 1)?,
                errors: *counts.get(at + 2)?,
                dropped: *counts.get(at + 3)?,
            })
        };
        Some(Interface {
            name: name.trim().to_owned(),
            received: of(0)?,
            sent: of(8)?,
        })
    };
    text.lines()
        .filter_map(one)
        .filter(|interface| interface.name != "lo")
        .collect()
}

/// The `network` part of a summary: the first interface by itself, then all; nothing without any.
pub fn summary(at: &str, interfaces: &[Interface]) -> Option<Value> {
    let one = |i: &Interface| {
        json!({
            "name": i.name, "rxBytes": i.received.bytes, "rxErrors": i.received.errors,
            "txBytes": i.sent.bytes, "txErrors": i.sent.errors,
        })
    };
    let first = interfaces
        .iter()
        .find(|i| i.name == "eth0")
        .or(interfaces.first())?;
    let mut network = one(first);
    network["time"] = json!(at);
    network["interfaces"] = interfaces.iter().map(one).collect();
    Some(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
            lo:  100 1 0 0 0 0 0 0 100 1 0 0 0 0 0 0\n  eth0: 2000 20 2 3 0 0 0 0 1000 10 1 4 0 0 0 0\n";
        let found = parse(text);
        let counts = |bytes, packets, errors, dropped| Counts {
            bytes,
            packets,
            errors,
            dropped,
        };
        let eth0 = Interface {
            name: "eth0".into(),
            received: counts(2_000, 20, 2, 3),
            sent: counts(1_000, 10, 1, 4),
        };
        assert_eq!(found, [eth0]);
        let told = summary("now", &found).expect("an interface");
        assert_eq!(
            (&told["rxBytes"], &told["interfaces"][0]["txErrors"]),
            (&json!(2_000), &json!(1))
        );
        assert_eq!(summary("now", &[]), None);
    }
}
