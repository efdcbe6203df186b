//! What holds an action back: pause, breaker, budget. Asked in this order before each action.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mainstay_api::repair::{RepairPolicySpec, RepairState};

/// One machine of the fleet, as far as gates are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Host name.
    pub host: String,
    /// Pool.
    pub pool: String,
    /// Zone.
    pub zone: String,
    /// Cluster.
    pub cluster: String,
    /// It has a fault, or nothing is known of it.
    pub unhealthy: bool,
    /// State of its repair, if it has one.
    pub repair: Option<RepairState>,
    /// Its repair has given the host up, but the old machine may still run.
    pub unfenced: bool,
}

impl Member {
    /// An action on it is under way.
    pub fn in_flight(&self) -> bool {
        use RepairState::{Reprovisioning, Restarting, RestartingService};
        self.unfenced || matches!(self.repair, Some(RestartingService | Restarting | Reprovisioning))
    }

    fn group(&self, scope: &str) -> String {
        let name = match scope {
            "pool" => &self.pool,
            "zone" => &self.zone,
            _ => &self.cluster,
        };
        format!("{scope} {name}")
    }
}

/// Memory of breakers: when each group was last seen with too many unhealthy machines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Breakers {
    tripped: BTreeMap<String, Timestamp>,
}

/// Most unhealthy machines in a group of `total`: rounded up, at least one.
pub fn allowed_unhealthy(limit: &IntOrString, total: usize) -> usize {
    let number = match limit {
        IntOrString::Int(number) => usize::try_from(*number).unwrap_or(0),
        IntOrString::String(text) => match text
            .strip_suffix('%')
            .and_then(|percent| percent.parse::<usize>().ok())
        {
            Some(percent) => (total * percent).div_ceil(100),
            None => text.parse().unwrap_or(0),
        },
    };
    number.max(1)
}

impl Breakers {
    /// Looks at the fleet once and remembers which groups have too many unhealthy machines.
    pub fn observe(&mut self, policy: &RepairPolicySpec, fleet: &[Member], now: Timestamp) {
        for scope in &policy.breaker.scope {
            let mut groups: BTreeMap<String, (usize, usize)> = BTreeMap::new();
            for member in fleet {
                let (total, unhealthy) = groups.entry(member.group(scope)).or_default();
                *total += 1;
                *unhealthy += usize::from(member.unhealthy);
            }
            for (group, (total, unhealthy)) in groups {
                if unhealthy > allowed_unhealthy(&policy.breaker.max_unhealthy, total) {
                    self.tripped.insert(group, now);
                }
            }
        }
    }

    /// Closes every breaker by hand.
    pub fn reset(&mut self) {
        self.tripped.clear();
    }

    /// The group whose breaker holds this machine back, and until when at the earliest.
    fn open(
        &self,
        policy: &RepairPolicySpec,
        member: &Member,
        now: Timestamp,
    ) -> Option<(String, Timestamp)> {
        let cooldown = SignedDuration::try_from(policy.breaker.cooldown.0).unwrap_or(SignedDuration::MAX);
        policy.breaker.scope.iter().find_map(|scope| {
            let group = member.group(scope);
            let until = self
                .tripped
                .get(&group)?
                .checked_add(cooldown)
                .unwrap_or(Timestamp::MAX);
            let manual = policy.breaker.reset == "Manual";
            (until > now || manual).then_some((group, until))
        })
    }
}

/// A gate that is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// `pause`, `breaker` or `budget`.
    pub gate: &'static str,
    /// Which group or number, for people.
    pub detail: String,
    /// When to look again.
    pub next_look: Timestamp,
}

/// How soon a gate without a time of its own is asked again.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(30);

/// Asks every gate for one machine; None lets the action pass.
pub fn ask(
    policy: &RepairPolicySpec,
    breakers: &Breakers,
    fleet: &[Member],
    me: &Member,
    now: Timestamp,
) -> Option<Closed> {
    let soon = now.checked_add(LOOK_AGAIN).unwrap_or(Timestamp::MAX);
    if policy.paused {
        return Some(Closed {
            gate: "pause",
            detail: "the policy is paused".into(),
            next_look: soon,
        });
    }
    if let Some((group, until)) = breakers.open(policy, me, now) {
        let detail = format!("too many machines of {group} are unhealthy");
        return Some(Closed {
            gate: "breaker",
            detail,
            next_look: until.max(soon),
        });
    }
    let in_flight = fleet
        .iter()
        .filter(|other| other.pool == me.pool && other.host != me.host && other.in_flight())
        .count();
    let limit = usize::try_from(policy.max_in_flight).unwrap_or(usize::MAX);
    (in_flight >= limit).then(|| Closed {
        gate: "budget",
        detail: format!("{in_flight} of {limit} repairs of pool {} are under way", me.pool),
        next_look: soon,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn fleet(total: usize, unhealthy: usize) -> Vec<Member> {
        (0..total)
            .map(|n| Member {
                host: format!("h{n}"),
                pool: "a".into(),
                zone: format!("z{}", n % 2),
                cluster: "c".into(),
                unhealthy: n < unhealthy,
                repair: None,
                unfenced: false,
            })
            .collect()
    }

    fn gate(fleet: &[Member], breakers: &Breakers, now: i64) -> Option<&'static str> {
        let policy = RepairPolicySpec {
            max_in_flight: 1,
            ..Default::default()
        };
        ask(&policy, breakers, fleet, &fleet[0], at(now)).map(|closed| closed.gate)
    }

    #[test]
    fn a_fifth_of_the_pool_may_be_unhealthy_and_one_always() {
        let limit = IntOrString::String("20%".into());
        assert_eq!(
            [1, 4, 5, 6, 10, 11].map(|total| allowed_unhealthy(&limit, total)),
            [1, 1, 1, 2, 2, 3]
        );
    }

    #[test]
    fn a_breaker_stays_open_through_its_cooldown() {
        let policy = RepairPolicySpec {
            max_in_flight: 1,
            ..Default::default()
        };
        let mut breakers = Breakers::default();
        breakers.observe(&policy, &fleet(10, 3), at(0));
        assert_eq!(gate(&fleet(10, 1), &breakers, 599), Some("breaker"));
        assert_eq!(gate(&fleet(10, 1), &breakers, 600), None);
    }

    #[test]
    fn one_repair_of_a_pool_holds_the_next_one_back() {
        let mut two = fleet(10, 2);
        two[1].repair = Some(RepairState::Restarting);
        assert_eq!(gate(&two, &Breakers::default(), 0), Some("budget"));
        two[1].repair = Some(RepairState::Probation);
        assert_eq!(gate(&two, &Breakers::default(), 0), None);
    }
}
