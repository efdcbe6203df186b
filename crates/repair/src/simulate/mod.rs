//! Seeded simulation: random faults on a simulated fleet, repaired by the same pure functions that production
//! calls, with a controller that loses its memory and its unwritten status at random. Checks the invariants.

mod world;

use std::fmt;

use fastrand::Rng;

/// What a simulation found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The seed: the same seed gives the same report.
    pub seed: u64,
    /// Schedules that were run.
    pub schedules: u32,
    /// Machines over all schedules.
    pub machines: u64,
    /// Faults that were injected.
    pub faults: u64,
    /// Repairs that ended healthy.
    pub healthy: u64,
    /// Repairs that ended with a ticket.
    pub ticketed: u64,
    /// Actions that were carried out.
    pub actions: u64,
    /// Crashes of the controller.
    pub crashes: u64,
    /// Schedules in which a person had to look: breakers reset, then all machines may be repaired at once. No
    /// schedule comes to rest without that when its breakers stay open.
    pub operator_steps: u64,
    /// From which look on that happens.
    pub operator_from_tick: u32,
    /// Most repairs of one pool at once.
    pub most_in_flight: usize,
    /// Virtual time over all schedules, in seconds.
    pub virtual_seconds: u64,
    /// Broken invariants, each with its schedule.
    pub violations: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "seed {}: {} schedules, {} machines",
            self.seed, self.schedules, self.machines
        )?;
        writeln!(
            out,
            "{} faults: {} healthy again, {} ticketed",
            self.faults, self.healthy, self.ticketed
        )?;
        writeln!(
            out,
            "{} actions, {} controller crashes, at most {} repairs of a pool at once, {} virtual hours",
            self.actions,
            self.crashes,
            self.most_in_flight,
            self.virtual_seconds / 3600
        )?;
        writeln!(
            out,
            "an operator stepped in in {} schedules (from look {} on: breakers reset, no limit of unhealthy machines)",
            self.operator_steps, self.operator_from_tick
        )?;
        writeln!(out, "{} broken invariants", self.violations.len())?;
        for violation in self.violations.iter().take(20) {
            writeln!(out, "  {violation}")?;
        }
        Ok(())
    }
}

/// Runs `schedules` random schedules. Equal arguments give equal reports.
pub fn simulate(seed: u64, schedules: u32) -> Report {
    let mut report = Report {
        seed,
        schedules,
        operator_from_tick: world::OPERATOR_TICK,
        ..Default::default()
    };
    for schedule in 0..schedules {
        let mut rng = Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(u64::from(schedule)));
        world::World::new(&mut rng).run(schedule, &mut rng, &mut report);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_schedule_breaks_an_invariant_and_every_fault_ends() {
        let report = simulate(7, 12);
        assert!(report.violations.is_empty(), "{report}");
        assert!(
            report.faults > 50 && report.healthy > 0 && report.ticketed > 0,
            "{report}"
        );
        assert!(report.crashes > 0, "{report}");
    }

    #[test]
    fn the_same_seed_gives_the_same_report() {
        assert_eq!(simulate(3, 2), simulate(3, 2));
    }
}
