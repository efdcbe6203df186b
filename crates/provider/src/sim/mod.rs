//! The simulated provider: hosts in memory, time from the given clock, faults injected by tests and simulations.
//!
//! Tasks end when the clock has passed their duration, whoever looks. Nothing is random: the same calls at the
//! same times give the same answers.

mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mainstay_base::clock::SharedClock;
use parking_lot::{Mutex, MutexGuard};

use crate::{
    BootIdentity, Capabilities, Error, Hardware, HostId, HostSpec, ImageSlots, MachineState, PowerOperation,
    PowerState, Provider, ProvisionRequest, RequestId, Result, Task, TaskKind, TaskState, Wipe,
};
use state::{Effect, World};

/// How long each kind of work takes on the simulated clock.
#[derive(Debug, Clone, Copy)]
pub struct Durations {
    /// Provisioning, until the machine runs.
    pub provision: Duration,
    /// Every power operation.
    pub power: Duration,
    /// Deprovisioning.
    pub deprovision: Duration,
    /// Writing the idle slot.
    pub stage_image: Duration,
}

impl Default for Durations {
    fn default() -> Self {
        Durations {
            provision: Duration::from_secs(90),
            power: Duration::from_secs(20),
            deprovision: Duration::from_secs(60),
            stage_image: Duration::from_secs(30),
        }
    }
}

/// What is wrong with a host, by what cures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The software hangs; a restart cures it.
    Hang,
    /// The installed system is damaged; only provisioning anew cures it.
    Corruption,
    /// The hardware is broken; nothing cures it, and power-on fails with evidence.
    Hardware,
    /// The management controller does not answer: power state unknown, every operation transient.
    Controller,
}

/// A provider of hosts that exist only in memory. Clones share the hosts.
#[derive(Clone)]
pub struct SimProvider {
    clock: SharedClock,
    durations: Durations,
    world: Arc<Mutex<World>>,
}

impl SimProvider {
    /// Makes a provider without any host; hosts appear when they are first named.
    pub fn new(clock: SharedClock) -> Self {
        Self::with_durations(clock, Durations::default())
    }

    /// Makes a provider whose work takes the given times.
    pub fn with_durations(clock: SharedClock, durations: Durations) -> Self {
        SimProvider {
            clock,
            durations,
            world: Arc::default(),
        }
    }

    /// Breaks a host now. A running machine stops answering at once, but keeps its power.
    pub fn inject(&self, host: &HostId, fault: Fault) {
        self.settled().host(host).fault = Some(fault);
    }

    /// Repairs whatever is wrong, as the person with the ticket does.
    pub fn heal(&self, host: &HostId) {
        self.settled().host(host).fault = None;
    }

    /// Makes the next call or task on the host fail with this error.
    pub fn fail_next(&self, host: &HostId, error: Error) {
        self.settled().host(host).failures.push_back(error);
    }

    /// Declares that this commit never comes up healthy: a trial of it falls back to the previous one.
    pub fn mark_bad_commit(&self, commit: &str) {
        self.settled().bad_commits.insert(commit.to_owned());
    }

    /// Tells whether the machine runs and answers: what a liveness probe would see.
    pub fn answers(&self, host: &HostId) -> bool {
        let mut world = self.settled();
        let host = world.host(host);
        host.boot.is_some()
            && !matches!(
                host.fault,
                Some(Fault::Hang | Fault::Corruption | Fault::Hardware)
            )
    }

    /// All hosts that hold a machine, in order.
    pub fn provisioned_hosts(&self) -> Vec<HostId> {
        let world = self.settled();
        world
            .hosts
            .iter()
            .filter(|(_, host)| host.machine.is_some())
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// The world after every task whose time has come was finished.
    fn settled(&self) -> MutexGuard<'_, World> {
        let mut world = self.world.lock();
        world.settle(self.clock.now());
        world
    }

    fn start(&self, host: &HostId, request: &RequestId, kind: TaskKind, effect: Effect) -> Result<Task> {
        let mut world = self.settled();
        if let Some(task) = world.tasks.get(request) {
            return Ok(task.task.clone());
        }
        world.guard(host, operation_name(kind))?;
        let duration = match kind {
            TaskKind::Provision => self.durations.provision,
            TaskKind::Power(_) => self.durations.power,
            TaskKind::Deprovision => self.durations.deprovision,
            TaskKind::StageImage => self.durations.stage_image,
        };
        let now = self.clock.now();
        let task = Task {
            id: request.clone(),
            host: host.clone(),
            kind,
            state: TaskState::Running {
                step: operation_name(kind).to_owned(),
            },
            started_at: now,
            deadline: now + duration * 10,
        };
        world.begin(task.clone(), now + duration, effect);
        world.settle(now);
        Ok(world.tasks[request].task.clone())
    }
}

/// The operation as it stands in errors and steps.
fn operation_name(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::Provision => "provision",
        TaskKind::Power(PowerOperation::On) => "power on",
        TaskKind::Power(PowerOperation::Off) => "power off",
        TaskKind::Power(PowerOperation::Cycle) => "power cycle",
        TaskKind::Power(PowerOperation::Reset) => "reset",
        TaskKind::Deprovision => "deprovision",
        TaskKind::StageImage => "stage an image",
    }
}

#[async_trait]
impl Provider for SimProvider {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            power_fencing: true,
            in_place_update: true,
            console: true,
            parallel_provisionings: 100,
        }
    }

    async fn inventory(&self, host: &HostSpec) -> Result<Hardware> {
        self.settled().guard(&host.id, "inspect")?;
        Ok(Hardware {
            cpu_millis: host.sku.cpu_millis,
            memory_bytes: host.sku.memory_bytes,
            disk_bytes: host.sku.disk_bytes,
            numa_nodes: 1,
            macs: Vec::new(),
            serial: format!("SIM-{}", host.id),
        })
    }

    async fn provision(&self, request: ProvisionRequest) -> Result<Task> {
        self.settled().check_incarnation(&request)?;
        let (host, id) = (request.host.id.clone(), request.request.clone());
        self.start(
            &host,
            &id,
            TaskKind::Provision,
            Effect::Provision(Box::new(request)),
        )
    }

    async fn power(&self, host: &HostId, operation: PowerOperation, request: &RequestId) -> Result<Task> {
        self.start(
            host,
            request,
            TaskKind::Power(operation),
            Effect::Power(operation),
        )
    }

    async fn power_state(&self, host: &HostId) -> Result<PowerState> {
        let mut world = self.settled();
        let host = world.host(host);
        Ok(match (host.fault, host.powered) {
            (Some(Fault::Controller), _) => PowerState::Unknown,
            (_, true) => PowerState::On,
            (_, false) => PowerState::Off,
        })
    }

    async fn boot_identity(&self, host: &HostId) -> Result<Option<BootIdentity>> {
        Ok(self.settled().host(host).boot.clone())
    }

    async fn deprovision(&self, host: &HostId, _wipe: Wipe, request: &RequestId) -> Result<Task> {
        self.start(host, request, TaskKind::Deprovision, Effect::Deprovision)
    }

    async fn console(&self, host: &HostId, limit_bytes: usize) -> Result<String> {
        let text = self.settled().host(host).console.join("\n");
        let start = text.len().saturating_sub(limit_bytes);
        Ok(text.get(start..).unwrap_or_default().to_owned())
    }

    async fn task(&self, request: &RequestId) -> Result<Task> {
        let world = self.settled();
        world
            .tasks
            .get(request)
            .map(|task| task.task.clone())
            .ok_or_else(|| Error::Invalid {
                field: "request",
                message: format!("no task has the id {request}"),
            })
    }

    async fn machine(&self, host: &HostId) -> Result<Option<MachineState>> {
        Ok(self.settled().host(host).machine.clone())
    }

    async fn stage_image(&self, host: &HostId, commit: &str, request: &RequestId) -> Result<Task> {
        self.settled().machine(host)?;
        self.start(
            host,
            request,
            TaskKind::StageImage,
            Effect::StageImage(commit.to_owned()),
        )
    }

    async fn confirm_image(&self, host: &HostId) -> Result<ImageSlots> {
        let mut world = self.settled();
        let image = &mut world.machine(host)?.image;
        image.confirm();
        Ok(image.clone())
    }

    async fn rollback_image(&self, host: &HostId) -> Result<ImageSlots> {
        let mut world = self.settled();
        let image = &mut world.machine(host)?.image;
        image.roll_back()?;
        Ok(image.clone())
    }
}
