//! One simulated fleet: hosts at the simulated provider, the repairs, and the executor between them.

use std::{sync::Arc, time::Duration};

use fastrand::Rng;
use futures::executor::block_on;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::{apis::meta::v1::Time, util::intstr::IntOrString};
use mainstay_api::{
    GoDuration,
    repair::{
        Action, FaultClass, FencingProof, RepairPolicySpec, RepairSpec, RepairState, RepairStatus, Source,
        Trigger, default_ladder,
    },
};
use mainstay_base::clock::{Clock, FakeClock};
use mainstay_provider::{
    HostId, HostSpec, PowerOperation, PowerState, Provider, ProvisionRequest, RequestId, Sku, TaskState,
    Wipe,
    sim::{Fault, SimProvider},
};

use super::Report;
use crate::{
    gates::{Breakers, Member, ask},
    ladder::{Ask, MachineView, Pass, advance, begin},
    trigger::{Health, Observation, judge},
};

/// Time between two looks at the fleet.
const TICK: Duration = Duration::from_secs(15);
/// Faults are injected during this many ticks.
const FAULT_TICKS: u32 = 400;
/// A schedule that has not come to rest after this many ticks is a violation.
const LAST_TICK: u32 = 4_000;
/// By then a person has looked at whatever a breaker holds back, and lets the repairs go on.
pub(super) const OPERATOR_TICK: u32 = 800;
/// One pass in so many loses what it wanted to write.
const CRASH_EVERY: u32 = 40;

/// A simulated machine with what the API would hold about it.
struct Machine {
    host: HostId,
    pool: String,
    zone: String,
    incarnation: i64,
    restarted: String,
    exists: bool,
    /// The task under way, and what it completes: a restart id or an incarnation.
    task: Option<(RequestId, Ask)>,
    failed: Option<String>,
    fault_since: Option<Timestamp>,
    ticket: bool,
    repair: Option<Repair>,
}

struct Repair {
    spec: RepairSpec,
    status: RepairStatus,
    name: String,
}

/// One fleet.
pub(super) struct World {
    clock: Arc<FakeClock>,
    provider: SimProvider,
    policy: RepairPolicySpec,
    machines: Vec<Machine>,
    breakers: Breakers,
    repairs: u64,
    broken: Vec<String>,
}

fn policy(rng: &mut Rng) -> RepairPolicySpec {
    let trigger = Trigger {
        source: Source::Probe,
        lasting: GoDuration::seconds(30),
        ..Default::default()
    };
    RepairPolicySpec {
        triggers: vec![trigger],
        ladder: default_ladder(),
        max_in_flight: rng.u32(1..=3),
        probation: GoDuration::seconds(1800),
        ..Default::default()
    }
}

impl World {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let clock = FakeClock::new();
        let provider = SimProvider::new(clock.clone());
        let (pools, total) = (rng.usize(1..=3), rng.usize(8..=30));
        let machines = (0..total)
            .map(|n| Machine {
                host: HostId::new("sim", &format!("h{n}")),
                pool: format!("p{}", n % pools),
                zone: format!("z{}", n % 3),
                incarnation: 1,
                restarted: String::new(),
                exists: true,
                task: None,
                failed: None,
                fault_since: None,
                ticket: false,
                repair: None,
            })
            .collect();
        let policy = policy(rng);
        let mut world = World {
            clock,
            provider,
            policy,
            machines,
            breakers: Breakers::default(),
            repairs: 0,
            broken: Vec::new(),
        };
        world.install_all();
        world
    }

    fn install_all(&mut self) {
        for machine in &self.machines {
            let task = block_on(self.provider.provision(provision(&machine.host, 1, "first")));
            if let Err(error) = task {
                self.broken.push(format!("first installation: {error}"));
            }
        }
        self.clock.advance(Duration::from_secs(600));
    }

    pub(super) fn run(mut self, schedule: u32, rng: &mut Rng, report: &mut Report) {
        report.machines += self.machines.len() as u64;
        let start = self.clock.now();
        let mut tick = 0;
        loop {
            tick += 1;
            // Once no new faults come, only waits are left: look less often.
            self.clock
                .advance(if tick < FAULT_TICKS { TICK } else { TICK * 4 });
            if tick == OPERATOR_TICK {
                self.operator_looks();
                report.operator_steps += 1;
            }
            if tick < FAULT_TICKS && rng.u32(0..25) == 0 {
                self.inject(rng, report);
            }
            self.finish_tasks();
            self.pass(rng, report);
            let resting = tick >= FAULT_TICKS && self.machines.iter().all(|machine| self.at_rest(machine));
            if resting || tick >= LAST_TICK {
                break;
            }
        }
        if tick >= LAST_TICK {
            self.broken.push("the fleet did not come to rest".to_string());
        }
        self.check_end(report);
        report.virtual_seconds += self.clock.now().duration_since(start).unsigned_abs().as_secs();
        report.violations.extend(
            self.broken
                .iter()
                .map(|what| format!("schedule {schedule}: {what}")),
        );
    }

    fn operator_looks(&mut self) {
        self.breakers.reset();
        self.policy.breaker.max_unhealthy = IntOrString::String("100%".to_string());
    }

    fn at_rest(&self, machine: &Machine) -> bool {
        match machine.repair.as_ref().map(|repair| repair.status.state) {
            Some(RepairState::Ticketed) => !machine.exists,
            Some(RepairState::Healthy | RepairState::Cancelled) | None => machine.fault_since.is_none(),
            Some(_) => false,
        }
    }

    fn inject(&mut self, rng: &mut Rng, report: &mut Report) {
        let free: Vec<usize> = (0..self.machines.len())
            .filter(|n| self.machines[*n].exists && self.provider.answers(&self.machines[*n].host))
            .collect();
        let Some(n) = rng.choice(&free) else { return };
        let fault = match rng.u32(0..10) {
            0..=5 => Fault::Hang,
            6..=8 => Fault::Corruption,
            _ => Fault::Hardware,
        };
        self.provider.inject(&self.machines[*n].host, fault);
        report.faults += 1;
    }

    /// Learns how tasks ended, as the ComputeNode controller would.
    fn finish_tasks(&mut self) {
        for machine in &mut self.machines {
            let Some((id, ask)) = machine.task.clone() else {
                continue;
            };
            let Ok(task) = block_on(self.provider.task(&id)) else {
                continue;
            };
            match task.state {
                TaskState::Running { .. } => continue,
                TaskState::Done => match ask {
                    Ask::Restart { id } => machine.restarted = id,
                    Ask::Reprovision { incarnation } => machine.incarnation = incarnation,
                    _ => {}
                },
                TaskState::Failed { message, evidence } => machine.failed = Some(evidence.unwrap_or(message)),
            }
            machine.task = None;
        }
        let now = self.clock.now();
        for machine in &mut self.machines {
            let silent = machine.exists && !self.provider.answers(&machine.host);
            machine.fault_since = match (silent, machine.fault_since) {
                (false, _) => None,
                (true, since) => Some(since.unwrap_or(now)),
            };
        }
    }

    fn members(&self) -> Vec<Member> {
        let existing = self.machines.iter().filter(|machine| machine.exists);
        existing.map(member).collect()
    }

    fn pass(&mut self, rng: &mut Rng, report: &mut Report) {
        if rng.u32(0..200) == 0 {
            // The process restarts: what it only remembered is gone.
            self.breakers = Breakers::default();
            report.crashes += 1;
        }
        let now = self.clock.now();
        self.breakers.observe(&self.policy, &self.members(), now);
        for n in 0..self.machines.len() {
            self.begin_repair(n, now);
            if self.at_rest(&self.machines[n]) {
                continue;
            }
            let Some(next) = self.next(n, now) else { continue };
            for ask in &next.asks {
                self.carry_out(n, ask, now, report);
            }
            if rng.u32(0..CRASH_EVERY) == 0 && !next.asks.is_empty() {
                report.crashes += 1;
                continue;
            }
            let machine = &mut self.machines[n];
            let repair = machine.repair.as_mut().expect("next() found one");
            check_history(&repair.status, &next.status, &mut self.broken);
            if repair.status.state != next.status.state {
                machine.failed = None;
            }
            repair.status = next.status;
        }
        self.check_budget(report);
    }

    fn begin_repair(&mut self, n: usize, now: Timestamp) {
        let machine = &self.machines[n];
        let ended = machine.repair.as_ref().is_none_or(|repair| {
            matches!(repair.status.state, RepairState::Healthy | RepairState::Cancelled)
        });
        if !ended || !machine.exists {
            return;
        }
        if let Health::Faulty(fault, trigger) = self.health(machine, now) {
            self.repairs += 1;
            let status = begin(&self.policy, FaultClass::AutoRepairable, trigger.start_at, now);
            let spec = RepairSpec {
                fault: *fault,
                ..Default::default()
            };
            self.machines[n].repair = Some(Repair {
                spec,
                status,
                name: format!("r{}", self.repairs),
            });
            self.machines[n].failed = None;
        }
    }

    fn health(&self, machine: &Machine, now: Timestamp) -> Health {
        let (status, since) = match machine.fault_since {
            Some(since) => ("False", since),
            None => ("True", now),
        };
        let seen = Observation {
            source: Source::Probe,
            kind: String::new(),
            status: status.into(),
            reason: "ProbeFailed".into(),
            message: "no answer".into(),
            since,
        };
        judge(&self.policy, &[seen], now)
    }

    fn next(&self, n: usize, now: Timestamp) -> Option<crate::ladder::Next> {
        let machine = &self.machines[n];
        let repair = machine.repair.as_ref()?;
        let faulty = match (machine.task.is_some(), self.health(machine, now)) {
            // While the provider works on it, its silence means nothing.
            (true, _) | (_, Health::Unknown | Health::Suspect(_)) => None,
            (false, Health::Healthy) => Some(false),
            (false, Health::Faulty(..)) => Some(true),
        };
        let view = MachineView {
            faulty,
            exists: machine.exists,
            restarted: machine.restarted.clone(),
            incarnation: machine.incarnation,
            action_failed: machine.failed.clone(),
            proof: self.proof(machine, now),
            ..Default::default()
        };
        let members = self.members();
        let closed = ask(&self.policy, &self.breakers, &members, &member(machine), now);
        let pass = Pass {
            name: &repair.name,
            spec: &repair.spec,
            policy: &self.policy,
            machine: &view,
            closed: closed.as_ref(),
            now,
        };
        Some(advance(pass, &repair.status))
    }

    fn proof(&self, machine: &Machine, now: Timestamp) -> Option<FencingProof> {
        let off = machine.ticket && block_on(self.provider.power_state(&machine.host)) == Ok(PowerState::Off);
        off.then(|| FencingProof {
            kind: "PowerOff".into(),
            at: Some(Time(now)),
        })
    }

    fn carry_out(&mut self, n: usize, ask: &Ask, now: Timestamp, report: &mut Report) {
        let machine = &mut self.machines[n];
        let host = machine.host.clone();
        let (id, started) = match ask {
            Ask::RestartService { .. } => return,
            Ask::Restart { id } => {
                let id = RequestId(id.clone());
                (
                    id.clone(),
                    block_on(self.provider.power(&host, PowerOperation::Reset, &id)),
                )
            }
            Ask::Reprovision { incarnation } => {
                let request = provision(&host, *incarnation, "again");
                (
                    request.request.clone(),
                    block_on(self.provider.provision(request)),
                )
            }
            Ask::OpenTicket => {
                machine.ticket = true;
                let id = RequestId(format!("off-{host}-{}", now.as_second()));
                if machine.task.is_some() {
                    return;
                }
                (
                    id.clone(),
                    block_on(self.provider.power(&host, PowerOperation::Off, &id)),
                )
            }
            Ask::Replace => return self.replace(n, now),
        };
        match &machine.task {
            Some((running, _)) if *running == id => return,
            Some((running, _)) => self
                .broken
                .push(format!("{id} began on {host} while {running} ran")),
            None => {}
        }
        report.actions += 1;
        match started {
            Ok(_) => machine.task = Some((id, ask.clone())),
            Err(error) => machine.failed = Some(error.to_string()),
        }
    }

    /// Another machine takes the place: only with proof, and only of a host that is really off.
    fn replace(&mut self, n: usize, now: Timestamp) {
        let machine = &mut self.machines[n];
        let proven = machine
            .repair
            .as_ref()
            .is_some_and(|repair| repair.status.fencing_proof.is_some());
        let off = block_on(self.provider.power_state(&machine.host)) == Ok(PowerState::Off);
        if !proven || !off {
            self.broken.push(format!(
                "{} was replaced without proof (off: {off})",
                machine.host
            ));
        }
        let id = RequestId(format!("wipe-{}-{}", machine.host, now.as_second()));
        if let Err(error) = block_on(self.provider.deprovision(&machine.host, Wipe::Quick, &id)) {
            self.broken.push(format!("wipe of {}: {error}", machine.host));
        }
        machine.exists = false;
    }

    fn check_budget(&mut self, report: &mut Report) {
        let members = self.members();
        for pool in ["p0", "p1", "p2"] {
            let in_flight = members
                .iter()
                .filter(|member| member.pool == pool && member.in_flight())
                .count();
            report.most_in_flight = report.most_in_flight.max(in_flight);
            if in_flight > self.policy.max_in_flight as usize {
                self.broken.push(format!(
                    "{in_flight} repairs of {pool} at once, {} allowed",
                    self.policy.max_in_flight
                ));
            }
        }
    }

    fn check_end(&mut self, report: &mut Report) {
        for machine in &self.machines {
            let Some(repair) = &machine.repair else { continue };
            match repair.status.state {
                RepairState::Healthy => report.healthy += 1,
                RepairState::Ticketed => report.ticketed += 1,
                state => self
                    .broken
                    .push(format!("repair of {} ended {state:?}", machine.host)),
            }
            let open = repair
                .status
                .steps
                .iter()
                .any(|step| step.ended_at.is_none() || step.result.is_empty());
            if open {
                self.broken.push(format!(
                    "history of {} has an open step: {:?}",
                    machine.host, repair.status.steps
                ));
            }
        }
    }
}

/// A history only grows; a closed step never changes; actions of one repair never go down the ladder.
fn check_history(old: &RepairStatus, new: &RepairStatus, broken: &mut Vec<String>) {
    let kept = old
        .steps
        .iter()
        .zip(&new.steps)
        .all(|(a, b)| a == b || (a.ended_at.is_none() && a.action == b.action));
    if new.steps.len() < old.steps.len() || !kept {
        broken.push(format!("history changed: {:?} -> {:?}", old.steps, new.steps));
    }
    let actions: Vec<Action> = new.steps.iter().map(|step| step.action).collect();
    if !actions.is_sorted() {
        broken.push(format!("the ladder went down: {actions:?}"));
    }
}

fn member(machine: &Machine) -> Member {
    let state = machine.repair.as_ref().map(|repair| repair.status.state);
    let proven = machine
        .repair
        .as_ref()
        .is_some_and(|repair| repair.status.fencing_proof.is_some());
    Member {
        host: machine.host.to_string(),
        pool: machine.pool.clone(),
        zone: machine.zone.clone(),
        cluster: "c".into(),
        unhealthy: machine.fault_since.is_some(),
        repair: state,
        unfenced: state == Some(RepairState::Ticketed) && !proven,
    }
}

fn provision(host: &HostId, incarnation: i64, turn: &str) -> ProvisionRequest {
    ProvisionRequest {
        request: RequestId(format!("install-{host}-{incarnation}-{turn}")),
        host: HostSpec {
            id: host.clone(),
            sku: Sku::default(),
            settings: Default::default(),
        },
        machine_name: host.to_string(),
        commit: "c1".into(),
        machine_data: String::new(),
        incarnation: u64::try_from(incarnation).unwrap_or(1),
    }
}
