//! Eviction thresholds: which signal, how much must be left, for how long it may lack, how much to win back.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_semantics::quantity::{Format, Quantity};

use crate::config::{KubeletConfiguration, duration};

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Memory of the machine.
    Memory,
    /// Memory of all pods together.
    AllocatableMemory,
    /// Bytes of the agent's filesystem.
    NodefsBytes,
    /// Inodes of the agent's filesystem.
    NodefsInodes,
    /// Bytes of the runtime's filesystem.
    ImagefsBytes,
    /// Inodes of the runtime's filesystem.
    ImagefsInodes,
    /// Process ids.
    Pids,
}

/// Names and meaning of the signals: name, resource in messages, condition of the node.
const SIGNALS: &[(Signal, &str, &str, Condition)] = &[
    (Signal::Memory, "memory.available", "memory", Condition::Memory),
    (
        Signal::AllocatableMemory,
        "allocatableMemory.available",
        "memory",
        Condition::Memory,
    ),
    (
        Signal::NodefsBytes,
        "nodefs.available",
        "ephemeral-storage",
        Condition::Disk,
    ),
    (
        Signal::NodefsInodes,
        "nodefs.inodesFree",
        "inodes",
        Condition::Disk,
    ),
    (
        Signal::ImagefsBytes,
        "imagefs.available",
        "ephemeral-storage",
        Condition::Disk,
    ),
    (
        Signal::ImagefsInodes,
        "imagefs.inodesFree",
        "inodes",
        Condition::Disk,
    ),
    (Signal::Pids, "pid.available", "pids", Condition::Pid),
];

/// A pressure condition of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// MemoryPressure.
    Memory,
    /// DiskPressure.
    Disk,
    /// PIDPressure.
    Pid,
}

impl Condition {
    /// The condition's type.
    pub fn as_str(self) -> &'static str {
        match self {
            Condition::Memory => "MemoryPressure",
            Condition::Disk => "DiskPressure",
            Condition::Pid => "PIDPressure",
        }
    }
}

impl Signal {
    fn row(self) -> &'static (Signal, &'static str, &'static str, Condition) {
        // Every signal has its row; the first stands in for none.
        SIGNALS.iter().find(|r| r.0 == self).unwrap_or(&SIGNALS[0])
    }

    /// The signal of a name.
    pub fn named(name: &str) -> Option<Signal> {
        SIGNALS.iter().find(|r| r.1 == name).map(|r| r.0)
    }

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The resource that it is about, as messages call it.
    pub fn resource(self) -> &'static str {
        self.row().2
    }

    /// The condition that it sets.
    pub fn condition(self) -> Condition {
        self.row().3
    }
}

/// An absolute amount or a share of the capacity.
#[derive(Debug, Clone, PartialEq)]
pub enum Amount {
    /// A quantity.
    Quantity(Quantity),
    /// A share, 32 bits as in the kubelet.
    Share(f32),
}

impl Amount {
    /// Parses `10%` or `100Mi`; `0%` and `100%` give `None`: they switch the threshold off.
    ///
    /// # Errors
    /// When it is neither, in words.
    pub fn parse(text: &str) -> Result<Option<Amount>, String> {
        if let Some(percent) = text.strip_suffix('%') {
            let value: f32 = percent
                .parse()
                .map_err(|_| format!("eviction percentage {text:?} is no number"))?;
            if value <= 0.0 && text != "0%" {
                return Err(format!("eviction percentage threshold {text} must be >= 0%"));
            }
            let off = text == "0%" || text == "100%";
            return Ok((!off).then_some(Amount::Share(value / 100.0)));
        }
        let quantity: Quantity = text
            .parse()
            .map_err(|_| format!("eviction threshold {text:?} is no quantity"))?;
        if quantity.sign() < 0 || quantity.is_zero() {
            return Err(format!("eviction threshold {text} must be positive"));
        }
        Ok(Some(Amount::Quantity(quantity)))
    }

    /// The amount for a capacity.
    pub fn of(&self, capacity: i64) -> i64 {
        match self {
            Amount::Quantity(quantity) => quantity.value(),
            Amount::Share(share) => (capacity as f64 * f64::from(*share)) as i64,
        }
    }

    /// The amount for a capacity as messages show it.
    pub fn text(&self, capacity: i64) -> String {
        match self {
            Amount::Quantity(quantity) => quantity.canonical(),
            Amount::Share(_) => bytes_text(self.of(capacity)),
        }
    }
}

/// Bytes in their shortest binary form.
pub fn bytes_text(bytes: i64) -> String {
    Quantity::new(bytes, Format::BinarySI).canonical()
}

/// One threshold.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    /// What is watched.
    pub signal: Signal,
    /// How much must be left.
    pub amount: Amount,
    /// How long it may lack; zero for hard thresholds.
    pub grace: Duration,
    /// How much more to win back once evicting.
    pub min_reclaim: Option<Amount>,
}

impl Threshold {
    /// Whether it is a hard threshold.
    pub fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }
}

/// Reads the thresholds of a configuration, hard ones first.
///
/// # Errors
/// When a signal or an amount is unknown; names the entry.
pub fn parse(config: &KubeletConfiguration) -> Result<Vec<Threshold>, String> {
    let mut all = Vec::new();
    let reclaim = &config.eviction_minimum_reclaim;
    for (name, text) in config.hard_thresholds() {
        all.extend(one(&name, &text, Duration::ZERO, reclaim)?);
    }
    for (name, text) in &config.eviction_soft {
        let grace = config.eviction_soft_grace_period.get(name);
        let grace = grace.ok_or_else(|| {
            format!("grace period must be specified for the soft eviction threshold {name}")
        })?;
        let grace = duration::parse(grace).ok_or_else(|| format!("{name}: {grace:?} is no duration"))?;
        all.extend(one(name, text, grace, reclaim)?);
    }
    if config.enforce_node_allocatable.iter().any(|e| e == "pods") {
        let memory: Vec<Threshold> = all
            .iter()
            .filter(|t| t.signal == Signal::Memory && t.is_hard())
            .cloned()
            .collect();
        all.extend(memory.into_iter().map(|t| Threshold {
            signal: Signal::AllocatableMemory,
            ..t
        }));
    }
    Ok(all)
}

fn one(
    name: &str,
    text: &str,
    grace: Duration,
    reclaim: &BTreeMap<String, String>,
) -> Result<Option<Threshold>, String> {
    // Containerfs follows from the others; ports and files are off unless a signal source is configured.
    if name.starts_with("containerfs.") {
        return Ok(None);
    }
    let signal = Signal::named(name).ok_or_else(|| format!("unsupported eviction signal {name}"))?;
    let Some(amount) = Amount::parse(text)? else {
        return Ok(None);
    };
    let min_reclaim = match reclaim.get(name) {
        Some(text) => Amount::parse(text)?,
        None => None,
    };
    Ok(Some(Threshold {
        signal,
        amount,
        grace,
        min_reclaim,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read_with_their_grace() {
        let text = "evictionHard: {memory.available: 100Mi, nodefs.available: 0%}\nevictionSoft: {memory.available: 10%}\n\
                    evictionSoftGracePeriod: {memory.available: 1m30s}\nenforceNodeAllocatable: [none]";
        let (config, _) = KubeletConfiguration::parse(text).expect("valid");
        let read = parse(&config).expect("valid");
        let shown: Vec<String> = read
            .iter()
            .map(|t| format!("{} < {} for {:?}", t.signal.name(), t.amount.text(1000), t.grace))
            .collect();
        assert_eq!(
            shown,
            [
                "memory.available < 100Mi for 0ns",
                "memory.available < 100 for 90s"
            ]
        );
    }

    #[test]
    fn a_soft_threshold_needs_a_grace() {
        let (config, _) =
            KubeletConfiguration::parse("evictionSoft: {memory.available: 1Gi}").expect("valid");
        assert!(parse(&config).expect_err("no grace").contains("memory.available"));
    }
}
