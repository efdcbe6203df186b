//! Control planes on machines: where a member goes, which goes first, what is repaired first, and when etcd
//! stays safe.

use std::collections::BTreeMap;

/// What the choice of members depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Machine name.
    pub name: String,
    /// Failure domain.
    pub domain: String,
    /// Age; older members go first.
    pub age_hours: i64,
    /// Is not up to date.
    pub outdated: bool,
    /// Carries the delete-machine annotation.
    pub annotated: bool,
    /// A control-plane component or its etcd member is unhealthy.
    pub unhealthy: bool,
    /// Is being deleted.
    pub deleting: bool,
}

/// Chooses the domain for a new member: fewest up-to-date members, then fewest members, then by name.
pub fn domain_for_new(domains: &[String], members: &[Member]) -> Option<String> {
    let count = |domain: &str, all: bool| {
        members
            .iter()
            .filter(|m| m.domain == domain && (all || !(m.outdated || m.deleting)))
            .count()
    };
    domains
        .iter()
        .min_by_key(|domain| (count(domain, false), count(domain, true), (*domain).clone()))
        .cloned()
}

/// Chooses the member that goes first: the most urgent group that is not empty, in it the domain with most
/// of them (vanished domains first), in that the oldest.
pub fn member_to_delete<'a>(domains: &[String], members: &'a [Member]) -> Option<&'a Member> {
    let groups: [fn(&Member) -> bool; 5] = [
        |m| m.outdated && m.annotated,
        |m| m.annotated,
        |m| m.outdated && m.unhealthy,
        |m| m.outdated,
        |_| true,
    ];
    let eligible: Vec<&Member> = groups
        .iter()
        .map(|is| members.iter().filter(|m| is(m)).collect())
        .find(|g: &Vec<_>| !g.is_empty())?;
    let vanished: Vec<&Member> = eligible
        .iter()
        .copied()
        .filter(|m| !domains.contains(&m.domain))
        .collect();
    let candidates = if vanished.is_empty() {
        in_fullest_domain(&eligible, members)
    } else {
        vanished
    };
    candidates
        .into_iter()
        .min_by_key(|m| (-m.age_hours, m.name.clone()))
}

fn in_fullest_domain<'a>(eligible: &[&'a Member], all: &[Member]) -> Vec<&'a Member> {
    let mut per_domain: BTreeMap<&str, usize> = BTreeMap::new();
    for member in eligible {
        *per_domain.entry(&member.domain).or_default() += 1;
    }
    let total = |domain: &str| all.iter().filter(|m| m.domain == domain).count();
    let fullest = per_domain
        .iter()
        .max_by_key(|(domain, count)| (**count, total(domain)))
        .map(|(d, _)| *d);
    eligible
        .iter()
        .copied()
        .filter(|m| Some(m.domain.as_str()) == fullest)
        .collect()
}

/// What is wrong with a member, worst first: the order in which members are repaired.
pub const ISSUES: [&str; 8] = [
    "remediate-machine-annotation",
    "no-nodeRef",
    "EtcdMemberHealthy",
    "EtcdPodHealthy",
    "APIServerPodHealthy",
    "ControllerManagerPodHealthy",
    "SchedulerPodHealthy",
    "NodeKubeadmLabelsAndTaintsSet",
];

/// A member that must be repaired, with its issues as in [`ISSUES`] followed by `=False` or `=Unknown`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faulty {
    /// Machine name.
    pub name: String,
    /// Age; of equal members the oldest comes first.
    pub age_hours: i64,
    /// Issues.
    pub issues: Vec<String>,
}

/// Rank of a member's issues, compared issue by issue from the worst down; Unknown counts like False.
fn severity(member: &Faulty, stacked_etcd: bool) -> Vec<bool> {
    let has = |issue: &str| {
        member
            .issues
            .iter()
            .any(|seen| seen.split('=').next() == Some(issue))
    };
    ISSUES
        .iter()
        .filter(|issue| stacked_etcd || !issue.starts_with("Etcd"))
        .map(|issue| !has(issue))
        .collect()
}

/// Chooses the member that is repaired first.
pub fn first_to_repair(members: &[Faulty], stacked_etcd: bool) -> Option<&Faulty> {
    members
        .iter()
        .min_by_key(|m| (severity(m, stacked_etcd), -m.age_hours, m.name.clone()))
}

/// A change of the etcd membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtcdChange {
    /// A member joins.
    Add,
    /// A healthy member leaves.
    RemoveHealthy,
    /// An unhealthy member leaves.
    RemoveUnhealthy,
}

/// Tells whether etcd keeps its quorum through the change. A new member is assumed to be broken, unless there
/// is at most one now; a learner makes every change unsafe.
pub fn etcd_change_is_safe(members: i32, unhealthy: i32, learners: i32, change: EtcdChange) -> bool {
    if learners > 0 {
        return false;
    }
    let (after, broken) = match change {
        EtcdChange::Add => (members + 1, unhealthy + i32::from(members > 1)),
        EtcdChange::RemoveHealthy => (members - 1, unhealthy),
        EtcdChange::RemoveUnhealthy => (members - 1, unhealthy - 1),
    };
    after > 0 && after - broken > after / 2
}

/// Limits of repeated remediation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryLimits {
    /// Most retries of one chain; None is unlimited.
    pub max_retry: Option<i32>,
    /// Shortest time between retries.
    pub retry_period_seconds: i64,
    /// A remediation after this long begins a new chain; default 3600.
    pub min_healthy_period_seconds: Option<i64>,
}

/// Decides on a remediation: allowed, and the retry count to record.
pub fn retry(limits: RetryLimits, since_last_seconds: Option<i64>, last_count: i32) -> (bool, i32) {
    let Some(since) = since_last_seconds else {
        return (true, 0);
    };
    if since >= limits.min_healthy_period_seconds.unwrap_or(3600) {
        return (true, 0);
    }
    let exhausted = limits.max_retry.is_some_and(|max| last_count >= max);
    if since < limits.retry_period_seconds || exhausted {
        return (false, last_count);
    }
    (true, last_count + 1)
}

/// Tells whether a member is replaced because its certificates end within `days_before` days (0: never).
pub fn certificate_rollout_needed(days_before: i64, days_until_expiry: Option<i64>) -> bool {
    days_before > 0 && days_until_expiry.is_some_and(|days| days < days_before)
}
