//! The simulated hosts and the rules by which finished tasks change them.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{
    BTreeMap, BootIdentity, Error, Fault, HostId, ImageSlots, MachineState, PowerOperation, ProvisionRequest,
    RequestId, Result, Task, TaskState, VecDeque,
};

/// Lines of console kept per host.
const CONSOLE_LINES: usize = 200;

/// Everything that exists.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) hosts: BTreeMap<HostId, Host>,
    pub(super) tasks: BTreeMap<RequestId, Pending>,
    pub(super) bad_commits: BTreeSet<String>,
    /// Requests whose task still runs, in the order in which they end.
    running: BTreeSet<(Timestamp, RequestId)>,
    boots: u64,
}

/// One host.
#[derive(Debug, Default)]
pub(super) struct Host {
    pub(super) powered: bool,
    pub(super) boot: Option<BootIdentity>,
    pub(super) machine: Option<MachineState>,
    pub(super) fault: Option<Fault>,
    pub(super) failures: VecDeque<Error>,
    pub(super) console: Vec<String>,
    highest_incarnation: u64,
}

/// A task and what it does when its time has come.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) task: Task,
    effect: Option<Effect>,
}

/// What a task changes at its end.
#[derive(Debug)]
pub(super) enum Effect {
    Provision(Box<ProvisionRequest>),
    Power(PowerOperation),
    Deprovision,
    StageImage(String),
}

impl World {
    pub(super) fn host(&mut self, id: &HostId) -> &mut Host {
        self.hosts.entry(id.clone()).or_default()
    }

    pub(super) fn machine(&mut self, id: &HostId) -> Result<&mut MachineState> {
        self.host(id).machine.as_mut().ok_or_else(|| Error::Invalid {
            field: "host",
            message: format!("host {id} holds no machine"),
        })
    }

    /// Answers with an injected failure, or with the one that an unreachable controller gives.
    pub(super) fn guard(&mut self, id: &HostId, operation: &'static str) -> Result<()> {
        let host = self.host(id);
        if let Some(error) = host.failures.pop_front() {
            return Err(error);
        }
        match host.fault {
            Some(Fault::Controller) => Err(Error::Transient {
                operation,
                host: id.to_string(),
                message: "the management controller does not answer".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Refuses an incarnation older than one the host has seen; a repeated request passes.
    pub(super) fn check_incarnation(&mut self, request: &ProvisionRequest) -> Result<()> {
        if self.tasks.contains_key(&request.request) {
            return Ok(());
        }
        let seen = self.host(&request.host.id).highest_incarnation;
        if request.incarnation < seen {
            return Err(Error::Conflict {
                operation: "provision",
                host: request.host.id.to_string(),
                message: format!("incarnation {} is older than {seen}", request.incarnation),
            });
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, task: Task, ends: Timestamp, effect: Effect) {
        if let Effect::Provision(request) = &effect {
            let host = self.host(&task.host);
            host.highest_incarnation = request.incarnation;
            host.stop();
        }
        let id = task.id.clone();
        self.running.insert((ends, id.clone()));
        self.tasks.insert(
            id,
            Pending {
                task,
                effect: Some(effect),
            },
        );
    }

    /// Finishes every task whose end has come, oldest end first.
    pub(super) fn settle(&mut self, now: Timestamp) {
        while let Some((ends, id)) = self.running.first().cloned().filter(|(ends, _)| *ends <= now) {
            self.running.remove(&(ends, id.clone()));
            let Some(pending) = self.tasks.get_mut(&id) else {
                continue;
            };
            let (host, effect) = (pending.task.host.clone(), pending.effect.take());
            let Some(effect) = effect else { continue };
            let state = match self.finish(&host, effect, ends) {
                Ok(()) => TaskState::Done,
                Err(error) => TaskState::Failed {
                    evidence: error.evidence().map(str::to_owned),
                    message: error.to_string(),
                },
            };
            if let Some(pending) = self.tasks.get_mut(&id) {
                pending.task.state = state;
            }
        }
    }

    fn finish(&mut self, id: &HostId, effect: Effect, at: Timestamp) -> Result<()> {
        match effect {
            Effect::Provision(request) => self.install(id, &request, at),
            Effect::Power(operation) => self.switch(id, operation, at),
            Effect::Deprovision => {
                let host = self.host(id);
                host.stop();
                host.machine = None;
                if host.fault < Some(Fault::Hardware) {
                    host.fault = None;
                }
                Ok(())
            }
            Effect::StageImage(commit) => {
                self.machine(id)?.image.stage(&commit);
                Ok(())
            }
        }
    }

    fn install(&mut self, id: &HostId, request: &ProvisionRequest, at: Timestamp) -> Result<()> {
        let address = self.address(id);
        let host = self.host(id);
        host.check_hardware(id)?;
        host.fault = host.fault.filter(|fault| *fault == Fault::Controller);
        host.machine = Some(MachineState {
            machine_name: request.machine_name.clone(),
            incarnation: request.incarnation,
            addresses: vec![address],
            image: ImageSlots::provisioned(&request.commit),
        });
        self.boot(id, at)
    }

    fn switch(&mut self, id: &HostId, operation: PowerOperation, at: Timestamp) -> Result<()> {
        let host = self.host(id);
        match operation {
            PowerOperation::On if host.powered => Ok(()),
            PowerOperation::On => self.boot(id, at),
            PowerOperation::Off => {
                host.stop();
                Ok(())
            }
            PowerOperation::Cycle | PowerOperation::Reset => {
                host.stop();
                self.boot(id, at)
            }
        }
    }

    /// Starts the machine: takes the staged commit, or falls back from one that never comes up.
    fn boot(&mut self, id: &HostId, at: Timestamp) -> Result<()> {
        self.boots += 1;
        let boot_id = format!("00000000-0000-4000-8000-{:012x}", self.boots);
        let bad_commits = self.bad_commits.clone();
        let host = self.host(id);
        host.check_hardware(id)?;
        host.powered = true;
        host.fault = host.fault.filter(|fault| *fault != Fault::Hang);
        let Some(machine) = host.machine.as_mut() else {
            return Ok(());
        };
        machine.image.begin_start();
        // A commit that never comes up uses all its tries up at once.
        while machine.image.tries_left > 0 && bad_commits.contains(&machine.image.booted) {
            machine.image.begin_start();
        }
        let boot = BootIdentity {
            boot_id,
            incarnation: machine.incarnation,
            commit: machine.image.booted.clone(),
            started_at: at,
        };
        host.log(format!("{at} booted {} ({})", boot.commit, boot.boot_id));
        host.boot = Some(boot);
        Ok(())
    }

    /// A stable address per host, by its place in the order of appearance.
    fn address(&mut self, id: &HostId) -> String {
        if let Some(address) = self
            .host(id)
            .machine
            .as_ref()
            .and_then(|machine| machine.addresses.first())
        {
            return address.clone();
        }
        let used: BTreeSet<&String> = self
            .hosts
            .values()
            .filter_map(|host| host.machine.as_ref()?.addresses.first())
            .collect();
        (0u32..1 << 24)
            .map(|n| format!("10.{}.{}.{}", n / 64_516 + 1, n / 254 % 254, n % 254 + 1))
            .find(|address| !used.contains(address))
            .unwrap_or_default()
    }
}

impl Host {
    fn stop(&mut self) {
        self.powered = false;
        self.boot = None;
    }

    fn check_hardware(&self, id: &HostId) -> Result<()> {
        match self.fault {
            Some(Fault::Hardware) => Err(Error::Broken {
                host: id.to_string(),
                evidence: "power-on self test failed: memory module A1".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn log(&mut self, line: String) {
        self.console.push(line);
        if self.console.len() > CONSOLE_LINES {
            self.console.remove(0);
        }
    }
}
