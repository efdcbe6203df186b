//! Machines on this computer: namespaces, a read-only image tree as root, a loop filesystem as disk, a port on a
//! bridge. They behave like hardware (power, crash, wipe) and are no security boundary.
//!
//! Machines outlive the manager. A new one finds them by control group and boot id, and goes on with unfinished
//! tasks. Whatever is made on the host is in the ledger first, so undoing the ledger leaves nothing.

mod facts;
pub mod init;
mod layout;
mod machine;
mod record;
mod tasks;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use mainstay_base::clock::SharedClock;
use mainstay_host::cgroup::Hierarchies;
use mainstay_host::ledger::{Item, Ledger};
use mainstay_host::network;
pub use mainstay_host::network::Route;
use parking_lot::Mutex;

pub use facts::{FACTS, IMAGES, MachineFacts, NODE_CONFIG};
pub use machine::crash;
use record::{Files, Record};
use tasks::{Job, Tasks};

use crate::{
    BootIdentity, Capabilities, Error, Hardware, HostId, HostSpec, ImageSlots, MachineState, PowerOperation,
    PowerState, Provider, ProvisionRequest, RequestId, Result, Task, TaskKind, Wipe,
};

/// Gives the tree of a commit, checking it out when it is not there; errors are for people.
pub type Trees = Arc<dyn Fn(&str) -> std::result::Result<PathBuf, String> + Send + Sync>;

/// Settings of a local provider.
#[derive(Clone)]
pub struct Config {
    /// Where machines are kept.
    pub folder: PathBuf,
    /// Tells apart providers on one computer: at most six lower-case letters and digits. Part of link, network
    /// namespace, control group and packet filter names.
    pub instance: String,
    /// The host's address on the machines' bridge, and the prefix length of the machines' subnet.
    pub bridge: (Ipv4Addr, u8),
    /// Whether machines reach what the host reaches (switches IP forwarding on, until the ledger is undone).
    pub uplink: bool,
    /// Name servers of the machines.
    pub dns: Vec<String>,
    /// Container image archives that every machine imports at its start.
    pub images: PathBuf,
    /// Where trees come from.
    pub trees: Trees,
    /// Where everything made is written down.
    pub ledger: Arc<Ledger>,
    /// The time.
    pub clock: SharedClock,
}

/// The local provider. Clones share everything.
#[derive(Clone)]
pub struct LocalProvider {
    inner: Arc<Inner>,
}

/// What all operations share.
struct Inner {
    config: Config,
    hierarchies: Hierarchies,
    /// One operation at a time per host.
    busy: Mutex<BTreeMap<HostId, Arc<Mutex<()>>>>,
    /// Held while an address is chosen.
    numbers: Mutex<()>,
    tasks: Tasks,
}

impl LocalProvider {
    /// Makes the bridge, adopts the machines that run, and goes on with unfinished tasks. To be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// When the bridge cannot be made, or a file of the provider is damaged.
    pub async fn open(config: Config) -> Result<LocalProvider> {
        let provider = blocking("open", "local", move || {
            // Tasks go with the machines: a request that was done before everything was undone is to be done again.
            let folder = config.folder.join("tasks");
            let item = Item::Directory { path: folder.clone() };
            config
                .ledger
                .record(item)
                .map_err(machine::host_error("open", "local"))?;
            let tasks = Tasks::open(&folder)?;
            let hierarchies = Hierarchies::detect().map_err(machine::host_error("open", "local"))?;
            let inner = Inner {
                config,
                hierarchies,
                busy: Mutex::default(),
                numbers: Mutex::default(),
                tasks,
            };
            inner.ensure_bridge()?;
            Ok(LocalProvider {
                inner: Arc::new(inner),
            })
        })
        .await?;
        for (task, job) in provider.inner.tasks.unfinished() {
            provider.spawn(task, job);
        }
        Ok(provider)
    }

    /// Ends a machine's init at once, as a power supply that burns does. Leaves everything else as it is.
    pub async fn crash(&self, host: &HostId) -> Result<()> {
        self.on_host("crash", host, |inner, record| inner.crash(record))
            .await
    }

    /// Every host that holds a machine.
    pub async fn hosts(&self) -> Result<Vec<HostId>> {
        let inner = self.inner.clone();
        blocking("list", "local", move || {
            let records = inner.records()?;
            Ok(records
                .into_iter()
                .filter(|record| record.machine.is_some())
                .map(|record| record.host)
                .collect())
        })
        .await
    }

    /// Every commit that some machine boots, will boot or may fall back to: what image retention must keep.
    pub async fn commits_in_use(&self) -> Result<std::collections::BTreeSet<String>> {
        let inner = self.inner.clone();
        blocking("list", "local", move || {
            let machines = inner.records()?.into_iter().filter_map(|record| record.machine);
            Ok(machines
                .flat_map(|machine| machine.image.commits().cloned().collect::<Vec<_>>())
                .collect())
        })
        .await
    }

    /// The routes over the machines' bridge to ranges behind machines.
    pub async fn routes(&self) -> Result<Vec<Route>> {
        self.on_bridge("list routes", network::routes).await
    }

    /// Leads a range of addresses to the machine that has it. The route goes with the bridge, which the ledger knows.
    ///
    /// # Errors
    /// Also when this computer has a route to the very range already, for example of another installation.
    pub async fn add_route(&self, route: Route) -> Result<()> {
        self.on_bridge("add a route", move |bridge| network::add_route(bridge, &route))
            .await
    }

    /// Removes such a route; a missing one is no error.
    pub async fn remove_route(&self, route: Route) -> Result<()> {
        self.on_bridge("remove a route", move |bridge| {
            network::remove_route(bridge, &route)
        })
        .await
    }

    async fn on_bridge<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&str) -> mainstay_host::Result<T> + Send + 'static,
    ) -> Result<T> {
        let bridge = self.inner.config.bridge_name();
        blocking(operation, "local", move || {
            work(&bridge).map_err(machine::host_error(operation, "this computer"))
        })
        .await
    }

    /// The machine's own kernel log: lines appended here are read by its problem detection.
    pub fn kmsg_path(&self, host: &HostId) -> PathBuf {
        self.inner.files(host).path("kmsg")
    }

    /// Memory that the machine's processes use, in bytes.
    pub async fn memory_bytes(&self, host: &HostId) -> Result<u64> {
        self.on_host("measure", host, |inner, record| inner.memory_bytes(record))
            .await
    }

    /// Runs something with the host's record on a blocking thread.
    async fn on_host<T: Send + 'static>(
        &self,
        operation: &'static str,
        host: &HostId,
        work: impl FnOnce(&Inner, &Record) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (inner, id) = (self.inner.clone(), host.clone());
        blocking(operation, &host.0, move || {
            let record = inner.files(&id).load()?.ok_or_else(|| record::no_machine(&id))?;
            work(&inner, &record)
        })
        .await
    }

    /// Changes the slots of a host under its lock.
    async fn change_slots(
        &self,
        operation: &'static str,
        host: &HostId,
        change: impl FnOnce(&mut ImageSlots) -> Result<()> + Send + 'static,
    ) -> Result<ImageSlots> {
        let (inner, id) = (self.inner.clone(), host.clone());
        blocking(operation, &host.0, move || {
            inner.with_record(&id, |record| {
                let image = &mut record.machine_mut()?.image;
                change(image)?;
                Ok(image.clone())
            })
        })
        .await
    }

    /// Starts a task, or answers with the one that the same request started before.
    async fn begin(&self, request: &RequestId, host: &HostId, kind: TaskKind, job: Job) -> Result<Task> {
        let (inner, id, host) = (self.inner.clone(), request.clone(), host.clone());
        let now = self.inner.config.clock.now();
        let (task, is_new) = blocking("start a task", &host.0.clone(), move || {
            if let Job::Provision(request) = &job {
                inner.check_incarnation(request)?;
            }
            inner
                .tasks
                .begin(&id, &host, kind, &job, now)
                .map(|(task, is_new)| ((task, job), is_new))
        })
        .await?;
        let (task, job) = task;
        if is_new {
            self.spawn(task.clone(), job);
        }
        Ok(task)
    }

    /// Works on a task on a blocking thread; its end is in the task's file.
    fn spawn(&self, task: Task, job: Job) {
        let inner = self.inner.clone();
        drop(tokio::task::spawn_blocking(move || {
            let result = inner.in_turn(&task.host, || inner.run(&task, &job));
            if let Err(error) = inner.tasks.finish(&task.id, result) {
                tracing::error!(task = %task.id, error = %error, "the end of a task could not be written");
            }
        }));
    }
}

/// Runs blocking work for an async caller.
async fn blocking<T: Send + 'static>(
    operation: &'static str,
    host: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Transient {
            operation,
            host: host.to_owned(),
            message: error.to_string(),
        }),
    }
}

#[async_trait]
impl Provider for LocalProvider {
    fn name(&self) -> &'static str {
        "local"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            power_fencing: true,
            in_place_update: true,
            console: true,
            parallel_provisionings: 4,
        }
    }

    async fn inventory(&self, host: &HostSpec) -> Result<Hardware> {
        let (inner, host) = (self.inner.clone(), host.clone());
        blocking("inspect", &host.id.0.clone(), move || inner.inventory(&host)).await
    }

    async fn provision(&self, request: ProvisionRequest) -> Result<Task> {
        let (id, host) = (request.request.clone(), request.host.id.clone());
        self.begin(&id, &host, TaskKind::Provision, Job::Provision(Box::new(request)))
            .await
    }

    async fn power(&self, host: &HostId, operation: PowerOperation, request: &RequestId) -> Result<Task> {
        self.begin(request, host, TaskKind::Power(operation), Job::Power(operation))
            .await
    }

    async fn power_state(&self, host: &HostId) -> Result<PowerState> {
        let (inner, id) = (self.inner.clone(), host.clone());
        blocking("read the power state", &host.0, move || {
            let record = inner.files(&id).load()?;
            let running = record.is_some_and(|record| inner.init_process(&record).is_some());
            Ok(if running { PowerState::On } else { PowerState::Off })
        })
        .await
    }

    async fn boot_identity(&self, host: &HostId) -> Result<Option<BootIdentity>> {
        let (inner, id) = (self.inner.clone(), host.clone());
        blocking("read the boot identity", &host.0, move || {
            let Some(record) = inner.files(&id).load()? else {
                return Ok(None);
            };
            if inner.init_process(&record).is_none() {
                return Ok(None);
            }
            Ok(record
                .machine
                .and_then(|machine| machine.boot)
                .map(|boot| boot.identity))
        })
        .await
    }

    async fn deprovision(&self, host: &HostId, wipe: Wipe, request: &RequestId) -> Result<Task> {
        self.begin(request, host, TaskKind::Deprovision, Job::Deprovision(wipe))
            .await
    }

    async fn console(&self, host: &HostId, limit_bytes: usize) -> Result<String> {
        let path = self.inner.files(host).path("console.log");
        blocking("read the console", &host.0, move || {
            machine::tail(&path, limit_bytes)
        })
        .await
    }

    async fn task(&self, request: &RequestId) -> Result<Task> {
        self.inner.tasks.get(request, self.inner.config.clock.now())
    }

    async fn machine(&self, host: &HostId) -> Result<Option<MachineState>> {
        let (inner, id) = (self.inner.clone(), host.clone());
        blocking("read the machine", &host.0, move || {
            let Some(record) = inner.files(&id).load()? else {
                return Ok(None);
            };
            Ok(record.machine.as_ref().map(|machine| MachineState {
                machine_name: machine.name.clone(),
                incarnation: record.incarnation,
                addresses: vec![inner.config.address(record.number).to_string()],
                image: machine.image.clone(),
            }))
        })
        .await
    }

    async fn stage_image(&self, host: &HostId, commit: &str, request: &RequestId) -> Result<Task> {
        self.begin(
            request,
            host,
            TaskKind::StageImage,
            Job::StageImage(commit.to_owned()),
        )
        .await
    }

    async fn confirm_image(&self, host: &HostId) -> Result<ImageSlots> {
        self.change_slots("confirm the image", host, |image| {
            image.confirm();
            Ok(())
        })
        .await
    }

    async fn rollback_image(&self, host: &HostId) -> Result<ImageSlots> {
        self.change_slots("roll the image back", host, ImageSlots::roll_back)
            .await
    }
}

impl Config {
    /// The address of the machine with this number (0 is the subnet itself).
    fn address(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network()) + number)
    }

    fn network(&self) -> Ipv4Addr {
        let (address, prefix) = self.bridge;
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        Ipv4Addr::from(u32::from(address) & mask)
    }

    /// How many addresses the subnet has.
    fn size(&self) -> u32 {
        1u32.checked_shl(32 - u32::from(self.bridge.1))
            .unwrap_or(u32::MAX)
    }

    /// Name of the bridge.
    pub fn bridge_name(&self) -> String {
        format!("ms-{}", self.instance)
    }

    /// Name of the packet filter table.
    pub fn table_name(&self) -> String {
        format!("mainstay_{}", self.instance)
    }

    fn netns_name(&self, number: u32) -> String {
        format!("mainstay-{}-{number}", self.instance)
    }

    fn port_name(&self, number: u32) -> String {
        format!("v{}-{number}", self.instance)
    }

    fn group_path(&self, number: u32) -> String {
        format!("mainstay/{}/m{number}", self.instance)
    }
}

impl Inner {
    fn files(&self, host: &HostId) -> Files {
        Files::new(&self.config.folder.join("hosts"), host)
    }

    /// Works on a host while nobody else does.
    fn in_turn<T>(&self, host: &HostId, work: impl FnOnce() -> T) -> T {
        let lock = self.busy.lock().entry(host.clone()).or_default().clone();
        let _turn = lock.lock();
        work()
    }

    /// Changes a host's record while nobody else does.
    fn with_record<T>(&self, host: &HostId, change: impl FnOnce(&mut Record) -> Result<T>) -> Result<T> {
        self.in_turn(host, || {
            let files = self.files(host);
            let mut record = files.load()?.ok_or_else(|| record::no_machine(host))?;
            let answer = change(&mut record)?;
            files.save(&record)?;
            Ok(answer)
        })
    }
}
