//! Limits in the words of systemd: properties of slices. The numbers that the files get afterwards are the exact ones;
//! systemd keeps these and writes them again whenever it is reloaded.
//!
//! Source: systemd.resource-control(5).

use mainstay_host::systemd::{Property, Value};
use mainstay_nodepolicy::memory_qos::Protected;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::node_cgroups::GroupLimits;
use crate::qos::{PodCgroup, weight};

/// systemd counts quotas in hundredths of a processor.
const QUOTA_STEP_US: u64 = 10_000;
const SECOND_US: u64 = 1_000_000;
/// "infinity".
const UNLIMITED: u64 = u64::MAX;

/// The unit of a cgroup: the last part of its path.
pub fn unit(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Runs what waits for systemd without holding up the other tasks of the agent.
pub fn patiently<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// What makes systemd give a slice its controllers.
pub fn accounting(v2: bool) -> Vec<Property> {
    let disk = if v2 { "IOAccounting" } else { "BlockIOAccounting" };
    let all = ["CPUAccounting", "MemoryAccounting", "TasksAccounting", disk];
    all.map(|name| (name, Value::Bool(true))).into()
}

fn number(value: i64) -> Value {
    Value::Number(u64::try_from(value).unwrap_or(0))
}

fn limits(shares: Option<i64>, memory: Option<i64>, pids: Option<i64>, v2: bool) -> Vec<Property> {
    let (cpu_name, memory_name) = match v2 {
        true => ("CPUWeight", "MemoryMax"),
        false => ("CPUShares", "MemoryLimit"),
    };
    let cpu = shares.map(|shares| if v2 { weight(shares) } else { shares });
    let all = [(cpu_name, cpu), (memory_name, memory), ("TasksMax", pids)];
    all.into_iter()
        .filter_map(|(name, value)| Some((name, number(value?))))
        .collect()
}

/// Memory that the kernel leaves alone, which only v2 knows.
fn protected(of: Protected, v2: bool) -> impl Iterator<Item = Property> {
    let all = [("MemoryMin", of.min), ("MemoryLow", of.low)];
    let all = all.into_iter().filter(move |_| v2);
    all.filter_map(|(name, bytes)| Some((name, number(bytes?))))
}

/// The properties of a class or of a daemon's cgroup.
pub fn of_group(of: &GroupLimits, v2: bool) -> Vec<Property> {
    let mut all = limits(of.shares, of.memory, of.pids, v2);
    all.extend(protected(of.protected, v2));
    all
}

/// The properties of a pod's cgroup.
pub fn of_pod(of: &PodCgroup, v2: bool) -> Vec<Property> {
    let mut all = accounting(v2);
    all.extend(limits(Some(of.shares), of.memory, of.pids, v2));
    all.extend(protected(of.protected, v2));
    all.push(("CPUQuotaPerSecUSec", Value::Number(quota_per_second(of))));
    if let Ok(period @ 1..) = u64::try_from(of.period_us) {
        all.push(("CPUQuotaPeriodUSec", Value::Number(period)));
    }
    all
}

fn quota_per_second(of: &PodCgroup) -> u64 {
    let quota = of.quota_us.and_then(|quota| u64::try_from(quota).ok());
    match (quota, u64::try_from(of.period_us)) {
        (Some(quota), Ok(period @ 1..)) => {
            let quota = quota.saturating_mul(SECOND_US) / period;
            quota.checked_next_multiple_of(QUOTA_STEP_US).unwrap_or(UNLIMITED)
        }
        _ => UNLIMITED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_properties() {
        let limits = PodCgroup {
            shares: 102,
            quota_us: Some(12_345),
            period_us: 100_000,
            memory: Some(1 << 20),
            ..Default::default()
        };
        let said = |v2| {
            let all = of_pod(&limits, v2).into_iter();
            let numbers = all.filter_map(|(name, value)| match value {
                Value::Number(number) => Some(format!("{name}={number}")),
                _ => None,
            });
            numbers.collect::<Vec<_>>().join(" ")
        };
        let quota = "CPUQuotaPerSecUSec=130000 CPUQuotaPeriodUSec=100000";
        assert_eq!(said(true), format!("CPUWeight=17 MemoryMax=1048576 {quota}"));
        assert_eq!(said(false), format!("CPUShares=102 MemoryLimit=1048576 {quota}"));
    }

    #[test]
    fn no_quota_is_said_so_that_an_older_one_goes() {
        let limits = PodCgroup {
            shares: 2,
            period_us: 100_000,
            ..Default::default()
        };
        assert_eq!(quota_per_second(&limits), UNLIMITED);
    }
}
