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
    /// Bytes of the filesystem with the containers' writable layers.
    ContainerfsBytes,
    /// Inodes of the filesystem with the containers' writable layers.
    ContainerfsInodes,
    /// Process ids.
    Pids,
    /// Ports of the node that the kernel hands out.
    Ports,
    /// Open files.
    Files,
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
    (
        Signal::ContainerfsBytes,
        "containerfs.available",
        "ephemeral-storage",
        Condition::Disk,
    ),
    (
        Signal::ContainerfsInodes,
        "containerfs.inodesFree",
        "inodes",
        Condition::Disk,
    ),
    (Signal::Pids, "pid.available", "pids", Condition::Pid),
    (Signal::Ports, "ports.available", "ports", Condition::Ports),
    (Signal::Files, "files.available", "files", Condition::Files),
];

/// A pressure condition. The first three are conditions of the Node object; the kubelet knows no others, and nobody
/// would look at them there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// MemoryPressure.
    Memory,
    /// DiskPressure.
    Disk,
    /// PIDPressure.
    Pid,
    /// Ports lack.
    Ports,
    /// Open files lack.
    Files,
}

impl Condition {
    /// The condition's type.
    pub fn as_str(self) -> &'static str {
        match self {
            Condition::Memory => "MemoryPressure",
            Condition::Disk => "DiskPressure",
            Condition::Pid => "PIDPressure",
            Condition::Ports => "PortsPressure",
            Condition::Files => "FilesPressure",
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

/// Reads the number before the percent signs, 32 bits; errors are worded as Go words them.
fn share(text: &str) -> Result<f32, String> {
    let number = text.trim_end_matches('%');
    let failed = |why: &str| format!("strconv.ParseFloat: parsing {number:?}: {why}");
    let value: f32 = number.parse().map_err(|_| failed("invalid syntax"))?;
    let named = number.to_ascii_lowercase().contains("inf");
    if value.is_infinite() && !named {
        return Err(failed("value out of range"));
    }
    Ok(value / 100.0)
}

impl Amount {
    /// Parses the threshold of `signal`: `10%` or `100Mi`; `0%` and `100%` give `None`: they switch it off.
    ///
    /// # Errors
    /// When it is neither or out of range, in the kubelet's words.
    pub fn threshold(signal: &str, text: &str) -> Result<Option<Amount>, String> {
        if matches!(text, "0%" | "100%") {
            return Ok(None);
        }
        if text.ends_with('%') {
            let share = share(text)?;
            if share < 0.0 {
                return Err(format!(
                    "eviction percentage threshold {signal} must be >= 0%: {text}"
                ));
            }
            if share > 1.0 {
                return Err(format!(
                    "eviction percentage threshold {signal} must be <= 100%: {text}"
                ));
            }
            return Ok(Some(Amount::Share(share)));
        }
        let quantity = Quantity::parse(text).map_err(|e| e.to_string())?;
        if quantity.sign() <= 0 {
            let shown = quantity.canonical();
            return Err(format!("eviction threshold {signal} must be positive: {shown}"));
        }
        Ok(Some(Amount::Quantity(quantity)))
    }

    /// Parses how much to win back for `signal`.
    ///
    /// # Errors
    /// When it is no amount or negative, in the kubelet's words.
    pub fn reclaim(signal: &str, text: &str) -> Result<Amount, String> {
        if text.ends_with('%') {
            let share = share(text)?;
            return match share <= 0.0 {
                true => Err(format!(
                    "eviction percentage minimum reclaim {signal} must be positive: {text}"
                )),
                false => Ok(Amount::Share(share)),
            };
        }
        let quantity = Quantity::parse(text).map_err(|e| e.to_string())?;
        match quantity.sign() < 0 {
            true => Err(format!(
                "negative eviction minimum reclaim specified for {signal}"
            )),
            false => Ok(Amount::Quantity(quantity)),
        }
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

/// What is left of a signal's resource as messages show it: binary for bytes, decimal for pieces.
pub fn available_text(signal: Signal, available: i64) -> String {
    let format = match signal.resource() {
        "inodes" | "pids" | "ports" | "files" => Format::DecimalSI,
        _ => Format::BinarySI,
    };
    Quantity::new(available, format).canonical()
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

/// Where images and writable layers are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Layout {
    /// Images have a filesystem of their own.
    pub dedicated_imagefs: bool,
    /// Writable layers are not on the images' filesystem.
    pub split: bool,
}

/// Reads the thresholds of a configuration: hard ones, soft ones, then those for all pods together.
///
/// # Errors
/// When a signal, an amount or a grace is unknown or missing; in the kubelet's words.
pub fn parse(config: &KubeletConfiguration) -> Result<Vec<Threshold>, String> {
    let mut all = statements(&config.hard_thresholds())?;
    let mut soft = statements(&config.eviction_soft)?;
    let graces = graces(&config.eviction_soft_grace_period)?;
    let reclaims = reclaims(&config.eviction_minimum_reclaim)?;
    for threshold in &mut soft {
        let name = threshold.signal.name();
        let grace = graces.get(&threshold.signal).ok_or_else(|| {
            format!("grace period must be specified for the soft eviction threshold {name}")
        })?;
        threshold.grace = *grace;
    }
    all.extend(soft);
    for threshold in &mut all {
        threshold.min_reclaim = reclaims.get(&threshold.signal).cloned();
    }
    if config.enforce_node_allocatable.iter().any(|e| e == "pods") {
        let memory = all.iter().filter(|t| t.signal == Signal::Memory && t.is_hard());
        let of_pods: Vec<Threshold> = memory
            .map(|t| Threshold {
                signal: Signal::AllocatableMemory,
                ..t.clone()
            })
            .collect();
        all.extend(of_pods);
    }
    Ok(all)
}

fn signal_of(name: &str) -> Result<Signal, String> {
    Signal::named(name).ok_or_else(|| format!("unsupported eviction signal {name}"))
}

fn statements(of: &BTreeMap<String, String>) -> Result<Vec<Threshold>, String> {
    let mut all = Vec::new();
    for (name, text) in of {
        let signal = signal_of(name)?;
        all.extend(Amount::threshold(name, text)?.map(|amount| Threshold {
            signal,
            amount,
            grace: Duration::ZERO,
            min_reclaim: None,
        }));
    }
    Ok(all)
}

fn graces(of: &BTreeMap<String, String>) -> Result<BTreeMap<Signal, Duration>, String> {
    let read = |(name, text): (&String, &String)| {
        let signal = signal_of(name)?;
        let nanos = duration::nanos(text)?;
        let nanos = u64::try_from(nanos).map_err(|_| {
            format!("invalid eviction grace period specified: {text}, must be a positive value")
        })?;
        Ok((signal, Duration::from_nanos(nanos)))
    };
    of.iter().map(read).collect()
}

fn reclaims(of: &BTreeMap<String, String>) -> Result<BTreeMap<Signal, Amount>, String> {
    let read = |(name, text): (&String, &String)| Ok((signal_of(name)?, Amount::reclaim(name, text)?));
    of.iter().map(read).collect()
}

/// Adds the thresholds of the writable layers' filesystem, which follow from those of the filesystem that it is: given
/// ones are ignored, as the second value says.
pub fn with_containerfs(mut thresholds: Vec<Threshold>, layout: Layout) -> (Vec<Threshold>, Option<String>) {
    let derived = |t: &Threshold| matches!(t.signal, Signal::ContainerfsBytes | Signal::ContainerfsInodes);
    let ignored = thresholds.iter().rev().find(|t| derived(t)).map(|t| {
        let kind = if t.is_hard() { "hard" } else { "soft" };
        format!("found {} for {kind} eviction. ignoring", t.signal.name())
    });
    let (bytes, inodes) = match (layout.dedicated_imagefs, layout.split) {
        (true, false) => (Signal::ImagefsBytes, Signal::ImagefsInodes),
        (false, true) => return (thresholds, ignored),
        _ => (Signal::NodefsBytes, Signal::NodefsInodes),
    };
    thresholds.retain(|t| !derived(t));
    let renamed = |t: &Threshold| {
        let signal = match t.signal {
            s if s == bytes => Signal::ContainerfsBytes,
            s if s == inodes => Signal::ContainerfsInodes,
            _ => return None,
        };
        Some(Threshold { signal, ..t.clone() })
    };
    let more: Vec<Threshold> = thresholds.iter().filter_map(renamed).collect();
    thresholds.extend(more);
    (thresholds, ignored)
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
    fn a_configuration_with_a_soft_threshold_without_grace_is_refused() {
        let refused =
            KubeletConfiguration::parse("evictionSoft: {memory.available: 1Gi}").expect_err("no grace");
        assert_eq!(
            refused.to_string(),
            "evictionHard, evictionSoft: grace period must be specified for the soft eviction threshold memory.available"
        );
    }
}
