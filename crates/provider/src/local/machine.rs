//! The blocking operations on one machine: install, start, stop, remove. Each can be repeated at any point.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use mainstay_base::error::chain;
use mainstay_base::ids::new_uid;
use mainstay_host::cgroup::{Group, Limits};
use mainstay_host::launch::{Target, launch};
use mainstay_host::ledger::Item;
use mainstay_host::network::{self, Bridge, Port};
use mainstay_host::process::{self, Handle, ProcessId};
use mainstay_host::{loops, preflight};

use super::facts::MachineFacts;
use super::layout::{DENIED_DEVICES, Layout};
use super::record::{Boot, Files, Machine, Record, file_error, read_json, write_json, write_private};
use super::tasks::Job;
use super::{Config, Inner};
use crate::{
    BootIdentity, Error, Hardware, HostId, HostSpec, ImageSlots, PowerOperation, ProvisionRequest, Result,
    Task, Wipe,
};

/// How long an operating system may take to stop before its power is cut.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// What must stay free on the data directory's filesystem after a machine was made: its disk is sparse.
const SPARE_BYTES: u64 = 1 << 30;

/// Turns a failure of the computer into one of the provider.
pub(super) fn host_error(operation: &'static str, host: &str) -> impl Fn(mainstay_host::Error) -> Error {
    let host = host.to_owned();
    move |error| Error::Transient {
        operation,
        host: host.clone(),
        message: chain(&error),
    }
}

/// The last bytes of a text file; a missing one is empty.
pub(super) fn tail(path: &Path, limit_bytes: usize) -> Result<String> {
    let Ok(mut file) = fs::File::open(path) else {
        return Ok(String::new());
    };
    let read = || -> std::io::Result<Vec<u8>> {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(limit_bytes as u64)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = { read }().map_err(|error| file_error("read", path, &error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Config {
    fn dns(&self) -> Vec<String> {
        if self.dns.is_empty() {
            vec![self.bridge.0.to_string()]
        } else {
            self.dns.clone()
        }
    }

    fn port(&self, number: u32) -> Port {
        let address = self.address(number);
        let [a, b, c, d] = address.octets();
        Port {
            host_link: self.port_name(number),
            netns: self.netns_name(number),
            // Locally administered, and as unique as the address.
            mac: format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}"),
            address: format!("{address}/{}", self.bridge.1),
            gateway: self.bridge.0.to_string(),
        }
    }
}

impl Inner {
    /// Makes what all machines share.
    pub(super) fn ensure_bridge(&self) -> Result<()> {
        let failed = host_error("make the bridge", "of this computer");
        let config = &self.config;
        let (name, (address, prefix)) = (config.bridge_name(), config.bridge);
        // All machines' groups are below this one, so undoing it last leaves none.
        let groups = format!("mainstay/{}", config.instance);
        config
            .ledger
            .record(Item::Cgroup { path: groups })
            .map_err(&failed)?;
        config
            .ledger
            .record(Item::Link { name: name.clone() })
            .map_err(&failed)?;
        let bridge = Bridge {
            name: name.clone(),
            address: format!("{address}/{prefix}"),
        };
        network::ensure_bridge(&bridge).map_err(&failed)?;
        if !config.uplink {
            return Ok(());
        }
        let setting = "net.ipv4.ip_forward";
        let previous = network::sysctl(setting).map_err(&failed)?;
        if previous != "1" {
            config
                .ledger
                .record(Item::Sysctl {
                    name: setting.to_owned(),
                    previous,
                })
                .map_err(&failed)?;
            network::set_sysctl(setting, "1").map_err(&failed)?;
        }
        let table = config.table_name();
        config
            .ledger
            .record(Item::NftTable { name: table.clone() })
            .map_err(&failed)?;
        let subnet = format!("{}/{prefix}", config.network());
        network::masquerade(&table, &name, &subnet).map_err(&failed)
    }

    /// Does a task. Repeating one that was interrupted, or is done, ends in the same state.
    pub(super) fn run(&self, task: &Task, job: &Job) -> Result<()> {
        let step = |text: &str| self.tasks.step(&task.id, text);
        match job {
            Job::Provision(request) => self.provision(request, &step),
            Job::Power(operation) => self.power(&task.host, *operation, &step),
            Job::Deprovision(wipe) => self.deprovision(&task.host, *wipe),
            Job::StageImage(commit) => self.stage(&task.host, commit),
        }
    }

    pub(super) fn inventory(&self, host: &HostSpec) -> Result<Hardware> {
        let record = self.record_of(&host.id)?;
        Ok(Hardware {
            cpu_millis: host.sku.cpu_millis,
            memory_bytes: host.sku.memory_bytes,
            disk_bytes: host.sku.disk_bytes,
            numa_nodes: 1,
            macs: vec![self.config.port(record.number).mac],
            serial: record.system_uuid,
        })
    }

    /// The host's record, made on first sight. Keeps its address for good.
    fn record_of(&self, host: &HostId) -> Result<Record> {
        let files = self.files(host);
        let _choosing = self.numbers.lock();
        if let Some(record) = files.load()? {
            return Ok(record);
        }
        let used: Vec<u32> = self.records()?.into_iter().map(|record| record.number).collect();
        let own = |number: u32| self.config.address(number) == self.config.bridge.0;
        let free =
            (2..self.config.size().saturating_sub(1)).find(|number| !used.contains(number) && !own(*number));
        let number = free.ok_or_else(|| Error::Invalid {
            field: "bridge",
            message: "the machines' subnet has no free address".to_owned(),
        })?;
        let record = Record {
            host: host.clone(),
            number,
            incarnation: 0,
            system_uuid: new_uid(),
            machine: None,
        };
        let folder = Item::Directory {
            path: files.folder.clone(),
        };
        self.config
            .ledger
            .record(folder)
            .map_err(host_error("prepare", &host.0))?;
        files.save(&record)?;
        Ok(record)
    }

    /// All records.
    pub(super) fn records(&self) -> Result<Vec<Record>> {
        let hosts = self.config.folder.join("hosts");
        let folders = match fs::read_dir(&hosts) {
            Ok(folders) => folders,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(file_error("read", &hosts, &error)),
        };
        let records = folders
            .flatten()
            .map(|folder| read_json(&folder.path().join("record.json")));
        records.filter_map(Result::transpose).collect()
    }

    /// Refuses an incarnation older than one the host has seen; a repeated request passes.
    pub(super) fn check_incarnation(&self, request: &ProvisionRequest) -> Result<()> {
        let seen = self
            .files(&request.host.id)
            .load()?
            .map_or(0, |record| record.incarnation);
        if request.incarnation >= seen || self.tasks.get(&request.request, self.config.clock.now()).is_ok() {
            return Ok(());
        }
        Err(Error::Conflict {
            operation: "provision",
            host: request.host.id.to_string(),
            message: format!("incarnation {} is older than {seen}", request.incarnation),
        })
    }

    fn provision(&self, request: &ProvisionRequest, step: &dyn Fn(&str)) -> Result<()> {
        let host = &request.host.id;
        let mut record = self.record_of(host)?;
        let files = self.files(host);
        step("stopping what ran before");
        self.stop(&record)?;
        step("checking the image out");
        self.tree(host, &request.commit)?;
        step("making the disk");
        self.make_disk(&files, request)?;
        write_private(&files.path("config/node-config"), request.machine_data.as_bytes())?;
        record.incarnation = request.incarnation;
        record.machine = Some(Machine {
            name: request.machine_name.clone(),
            sku: request.host.sku,
            image: ImageSlots::provisioned(&request.commit),
            boot: None,
        });
        files.save(&record)?;
        step("starting");
        self.start(&mut record)
    }

    /// Makes the machine's disk anew: whatever an earlier machine wrote is gone.
    fn make_disk(&self, files: &Files, request: &ProvisionRequest) -> Result<()> {
        let failed = host_error("make the disk", &request.host.id.0);
        let free = preflight::free_bytes(&files.folder).map_err(&failed)?;
        if free < SPARE_BYTES {
            let message = format!("only {} MiB are free on {}", free >> 20, files.folder.display());
            return Err(Error::Invalid {
                field: "sku.diskBytes",
                message,
            });
        }
        loops::make_ext4(&files.path("var.img"), request.host.sku.disk_bytes, "var").map_err(&failed)
    }

    fn tree(&self, host: &HostId, commit: &str) -> Result<std::path::PathBuf> {
        let failed = |message| Error::Transient {
            operation: "check out the image",
            host: host.to_string(),
            message,
        };
        (self.config.trees)(commit).map_err(failed)
    }

    fn power(&self, host: &HostId, operation: PowerOperation, step: &dyn Fn(&str)) -> Result<()> {
        let mut record = self
            .files(host)
            .load()?
            .ok_or_else(|| super::record::no_machine(host))?;
        record.machine()?;
        match operation {
            PowerOperation::On if self.init_process(&record).is_some() => Ok(()),
            PowerOperation::On => self.start(&mut record),
            PowerOperation::Off => self.stop(&record),
            PowerOperation::Cycle | PowerOperation::Reset => {
                if operation == PowerOperation::Cycle {
                    step("asking the operating system to stop");
                    self.ask_to_stop(&record)?;
                }
                step("starting");
                self.stop(&record)?;
                self.start(&mut record)
            }
        }
    }

    fn ask_to_stop(&self, record: &Record) -> Result<()> {
        let Some(init) = self.init_process(record) else {
            return Ok(());
        };
        init.terminate().map_err(host_error("stop", &record.host.0))?;
        init.wait(STOP_LIMIT);
        Ok(())
    }

    fn deprovision(&self, host: &HostId, wipe: Wipe) -> Result<()> {
        let files = self.files(host);
        let Some(mut record) = files.load()? else {
            return Ok(());
        };
        let failed = host_error("deprovision", &host.0);
        self.stop(&record)?;
        let (port, ledger) = (self.config.port(record.number), &self.config.ledger);
        ledger
            .remove(&Item::Link { name: port.host_link })
            .map_err(&failed)?;
        ledger
            .remove(&Item::Netns { name: port.netns })
            .map_err(&failed)?;
        record.machine = None;
        files.save(&record)?;
        let kept = ["record.json", "var.img"];
        let entries =
            fs::read_dir(&files.folder).map_err(|error| file_error("read", &files.folder, &error))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name == kept[0] || (name == kept[1] && wipe == Wipe::Keep) {
                continue;
            }
            let path = entry.path();
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(|error| file_error("remove", &path, &error))?;
        }
        Ok(())
    }

    fn stage(&self, host: &HostId, commit: &str) -> Result<()> {
        let files = self.files(host);
        let mut record = files.load()?.ok_or_else(|| super::record::no_machine(host))?;
        record.machine()?;
        self.tree(host, commit)?;
        record.machine_mut()?.image.stage(commit);
        files.save(&record)
    }

    /// Starts the machine: chooses the image, saves what is about to be, then launches init.
    fn start(&self, record: &mut Record) -> Result<()> {
        let files = self.files(&record.host);
        // After a crash the old control groups are still there.
        self.stop(record)?;
        let (incarnation, now) = (record.incarnation, self.config.clock.now());
        let machine = record.machine_mut()?;
        machine.image.begin_start();
        let commit = machine.image.booted.clone();
        let identity = BootIdentity {
            boot_id: new_uid(),
            incarnation,
            commit: commit.clone(),
            started_at: now,
        };
        machine.boot = Some(Boot {
            identity: identity.clone(),
            process: None,
        });
        files.save(record)?;

        let tree = self.tree(&record.host, &commit)?;
        self.write_facts(&files, record, &identity)?;
        let port = self.ensure_network(record)?;
        let group = self.ensure_group(record)?;
        let process = self.launch(&files, record, &tree, &port, &group, &identity)?;
        if let Some(boot) = record.machine_mut()?.boot.as_mut() {
            boot.process = Some(process);
        }
        files.save(record)
    }

    fn write_facts(&self, files: &Files, record: &Record, identity: &BootIdentity) -> Result<()> {
        let machine = record.machine()?;
        let facts = MachineFacts {
            host: record.host.to_string(),
            machine_name: machine.name.clone(),
            sku: machine.sku,
            // systemd derives it from the product UUID in the same way on virtual machines.
            machine_id: record.system_uuid.replace('-', ""),
            system_uuid: record.system_uuid.clone(),
            boot_id: identity.boot_id.clone(),
            incarnation: record.incarnation,
            commit: identity.commit.clone(),
            trial: machine.image.tries_left > 0,
            address: self.config.port(record.number).address,
            gateway: self.config.bridge.0.to_string(),
            dns: self.config.dns(),
        };
        write_json(&files.path("config/machine.json"), &facts)?;
        write_private(
            &files.path("boot_id"),
            format!("{}\n", identity.boot_id).as_bytes(),
        )?;
        let made = || -> std::io::Result<()> {
            fs::create_dir_all(files.path("root"))?;
            fs::create_dir_all(&self.config.images)?;
            // A kernel's log begins with its start; the last one is kept as evidence.
            match fs::rename(files.path("kmsg"), files.path("kmsg.previous")) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::File::create(files.path("kmsg")).map(drop)
        };
        made().map_err(|error| file_error("prepare", &files.folder, &error))
    }

    fn ensure_network(&self, record: &Record) -> Result<Port> {
        let failed = host_error("connect", &record.host.0);
        let (port, ledger) = (self.config.port(record.number), &self.config.ledger);
        ledger
            .record(Item::Netns {
                name: port.netns.clone(),
            })
            .map_err(&failed)?;
        ledger
            .record(Item::Link {
                name: port.host_link.clone(),
            })
            .map_err(&failed)?;
        network::ensure_port(&self.config.bridge_name(), &port).map_err(&failed)?;
        Ok(port)
    }

    fn group(&self, record: &Record) -> Group {
        Group::new(self.hierarchies.clone(), &self.config.group_path(record.number))
    }

    fn ensure_group(&self, record: &Record) -> Result<Group> {
        let failed = host_error("limit", &record.host.0);
        let (group, sku) = (self.group(record), record.machine()?.sku);
        self.config
            .ledger
            .record(Item::Cgroup {
                path: group.path().to_owned(),
            })
            .map_err(&failed)?;
        group.create().map_err(&failed)?;
        let limits = Limits {
            cpu_millis: sku.cpu_millis,
            memory_bytes: sku.memory_bytes,
            max_pids: sku.max_pids,
        };
        group.limit(&limits).map_err(&failed)?;
        group.deny_devices(DENIED_DEVICES).map_err(&failed)?;
        Ok(group)
    }

    fn launch(
        &self,
        files: &Files,
        record: &Record,
        tree: &Path,
        port: &Port,
        group: &Group,
        identity: &BootIdentity,
    ) -> Result<ProcessId> {
        let failed = host_error("start", &record.host.0);
        let disk = loops::attach(&files.path("var.img")).map_err(&failed)?;
        let layout = Layout {
            tree,
            root: &files.path("root"),
            var: disk.path(),
            config: &files.path("config"),
            images: &self.config.images,
            kmsg: &files.path("kmsg"),
            boot_id: &files.path("boot_id"),
            netns: &network::netns_path(&port.netns),
            join: &group.join_files(),
            hierarchies: &self.hierarchies,
            name: &record.machine()?.name,
        };
        let target = Target {
            program: "/usr/bin/mainstay".into(),
            arguments: vec![
                "init".to_owned(),
                "--boot-id".to_owned(),
                identity.boot_id.clone(),
            ],
            environment: vec![
                ("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
                ("HOME".to_owned(), "/root".to_owned()),
                ("container".to_owned(), "mainstay".to_owned()),
            ],
            console: files.path("console.log"),
        };
        launch(&layout.steps(), &target).map_err(&failed)
    }

    /// Stops everything of the machine at once and removes its control groups. A stopped machine is fine.
    fn stop(&self, record: &Record) -> Result<()> {
        let failed = host_error("stop", &record.host.0);
        if let Some(init) = self.init_process(record) {
            // The kernel ends every process of its pid namespace with it.
            init.kill_and_wait().map_err(&failed)?;
        }
        let item = Item::Cgroup {
            path: self.group(record).path().to_owned(),
        };
        self.config.ledger.remove(&item).map_err(&failed)
    }

    pub(super) fn crash(&self, record: &Record) -> Result<()> {
        let Some(init) = self.init_process(record) else {
            return Ok(());
        };
        init.kill_and_wait().map_err(host_error("crash", &record.host.0))
    }

    pub(super) fn memory_bytes(&self, record: &Record) -> Result<u64> {
        self.group(record)
            .memory_bytes()
            .map_err(host_error("measure", &record.host.0))
    }

    /// The machine's init: a process of its control group that was started with its boot id.
    pub(super) fn init_process(&self, record: &Record) -> Option<Handle> {
        let boot = record.machine.as_ref()?.boot.as_ref()?;
        let is_init = |process: &ProcessId| is_init(process, &boot.identity.boot_id);
        let hint = boot.process.filter(|process| process.alive() && is_init(process));
        hint.or_else(|| self.group(record).processes().into_iter().find(is_init))?
            .open()
    }
}

/// The process is the first one of a machine that was started with this boot id.
fn is_init(process: &ProcessId, boot_id: &str) -> bool {
    let line = process::command_line(process.pid);
    let named = line
        .windows(2)
        .any(|pair| pair[0] == "--boot-id" && pair[1] == boot_id);
    named && process::innermost_pid(process.pid) == Some(1)
}

/// Ends a machine at once from outside the manager, as a power supply that burns does; tells whether it ran. `folder`
/// is the provider's.
///
/// # Errors
/// When the host has no machine, or its process cannot be ended.
pub fn crash(folder: &Path, host: &HostId) -> Result<bool> {
    let files = Files::new(&folder.join("hosts"), host);
    let record = files.load()?.ok_or_else(|| super::record::no_machine(host))?;
    let boot = record.machine()?.boot.clone();
    let init = boot.and_then(|boot| {
        let process = boot
            .process
            .filter(|process| is_init(process, &boot.identity.boot_id));
        process?.open()
    });
    match init {
        Some(init) => init
            .kill_and_wait()
            .map(|()| true)
            .map_err(host_error("crash", &host.0)),
        None => Ok(false),
    }
}
