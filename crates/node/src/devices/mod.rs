//! Device plug-ins: they register on a socket, list their devices, and say what a container needs to use them.

pub mod api;
pub mod podresources;
pub mod registrations;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use mainstay_base::clock::SharedClock;
use mainstay_nodepolicy::admission::Refusal;
use mainstay_nodepolicy::devices::{Book, Draft, Listed, Preferences, Question};
use mainstay_nodepolicy::numa;
use mainstay_nodepolicy::numa::allot::Giver;
use mainstay_semantics::resource_name::is_extended;
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc};
use tonic::Status;

use crate::cri::unix_channel;
use crate::node_status;
use crate::podspec;
use api::{
    AllocateRequest, ContainerAllocateResponse, Device, DeviceIds, HEALTHY, PluginClient, PreferredRequest,
    RegisterRequest, Registrar, VERSION,
};

/// Folder of the sockets below the agent's folder.
const FOLDER: &str = "device-plugins";
/// The socket where plug-ins register.
const SOCKET: &str = "kubelet.sock";
/// File of the checkpoint.
const FILE: &str = "device_assignments.json";
/// Registrations that wait to be followed.
const PENDING_LIMIT: usize = 64;
/// Longest wait for a plug-in's answer about a container.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Wait before a registration socket that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// A plug-in that is there.
#[derive(Debug, Clone)]
struct Plugin {
    client: PluginClient,
    pre_start: bool,
}

/// A device with its resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneDevice {
    /// The extended resource.
    pub resource: String,
    /// The device's id.
    pub id: String,
    /// Memory nodes near it.
    pub nodes: Vec<u32>,
}

fn listed(device: Device) -> Listed {
    let nodes = device.topology.into_iter().flat_map(|t| t.nodes);
    Listed {
        healthy: device.health == HEALTHY,
        nodes: nodes.filter_map(|n| u32::try_from(n.id).ok()).collect(),
        id: device.id,
    }
}

/// A registration to follow.
struct Registered {
    resource: String,
    generation: u64,
    client: PluginClient,
}

/// All device plug-ins of the node.
#[derive(Debug)]
pub struct DevicePlugins {
    folder: PathBuf,
    clock: SharedClock,
    book: Mutex<Book>,
    plugins: Mutex<HashMap<String, Plugin>>,
    /// What plug-ins said, by pod UID, container and resource.
    answers: Mutex<HashMap<(String, String, String), ContainerAllocateResponse>>,
    follow: mpsc::Sender<Registered>,
    to_follow: Mutex<Option<mpsc::Receiver<Registered>>>,
    changed: Notify,
}

impl DevicePlugins {
    /// Reads the checkpoint of an earlier run.
    pub fn new(root: &Path, clock: SharedClock) -> Self {
        let folder = root.join(FOLDER);
        let text = std::fs::read_to_string(folder.join(FILE)).unwrap_or_default();
        let (follow, to_follow) = mpsc::channel(PENDING_LIMIT);
        DevicePlugins {
            folder,
            clock,
            book: Mutex::new(Book::from_text(&text)),
            plugins: Mutex::default(),
            answers: Mutex::default(),
            follow,
            to_follow: Mutex::new(Some(to_follow)),
            changed: Notify::new(),
        }
    }

    fn book(&self) -> parking_lot::MutexGuard<'_, Book> {
        self.book.lock()
    }

    fn save(&self, book: &Book) {
        let file = self.folder.join(FILE);
        let temporary = file.with_extension("new");
        let written = std::fs::create_dir_all(&self.folder)
            .and_then(|()| std::fs::write(&temporary, book.to_text()))
            .and_then(|()| std::fs::rename(&temporary, &file));
        if let Err(error) = written {
            tracing::error!(%error, file = %file.display(), "could not save the assignments of devices");
        }
    }

    /// What the node's status says of devices.
    pub fn status(&self) -> node_status::Devices {
        self.book().status(self.clock.monotonic())
    }

    /// Runs `give` on a draft and keeps what that gave, also on disk, unless it refused.
    ///
    /// # Errors
    /// What `give` said.
    pub fn giving(&self, give: impl FnOnce(&mut dyn Giver) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let mut book = self.book();
        let mut draft = Draft::new(&book);
        give(&mut draft)?;
        if draft.book.has_other_assignments(&book) {
            *book = draft.book;
            self.save(&book);
        }
        Ok(())
    }

    /// Gives a pod its devices, wherever these are.
    ///
    /// # Errors
    /// The refusal of the pod.
    pub fn admit(&self, pod: &Pod) -> Result<(), Refusal> {
        self.giving(|devices| numa::Manager::default().allot(pod, &mut [devices]))
    }

    /// Asks plug-ins which devices go well together, before anything of the pod starts.
    async fn ask_preferences(&self, pod: &Pod) {
        let uid = podspec::uid(pod);
        let mut said = Preferences::new();
        loop {
            let asked = {
                let mut book = self.book();
                if !book.has_preference(uid) {
                    return;
                }
                let Ok((found, questions)) = book.reconsidered(pod, &said) else {
                    return;
                };
                if questions.is_empty() {
                    book.take(uid, &found);
                    self.save(&book);
                    return;
                }
                questions
            };
            // Later questions depend on the answers to earlier ones.
            let Some(question) = asked.into_iter().next() else {
                return;
            };
            let answer = self.preferred(&question).await;
            said.insert((question.container, question.resource), answer);
        }
    }

    /// What a plug-in prefers; nothing when it does not say.
    async fn preferred(&self, question: &Question) -> BTreeSet<String> {
        let Some(mut plugin) = self.plugin(&question.resource) else {
            return BTreeSet::new();
        };
        let request = PreferredRequest {
            available: question.available.iter().cloned().collect(),
            must_include: question.included.iter().cloned().collect(),
            size: i32::try_from(question.count).unwrap_or(i32::MAX),
        };
        let answer = tokio::time::timeout(ANSWER_LIMIT, plugin.client.preferred(request)).await;
        match answer {
            Ok(Ok(ids)) => ids.devices_ids.into_iter().collect(),
            failed => {
                tracing::warn!(
                    resource = question.resource,
                    ?failed,
                    "a device plug-in did not say what it prefers"
                );
                BTreeSet::new()
            }
        }
    }

    /// The devices of a container.
    pub fn of(&self, uid: &str, container: &str) -> Vec<OneDevice> {
        let book = self.book();
        let each = |resource: String, ids: BTreeSet<String>| {
            let book = &book;
            let devices = ids.into_iter().map(move |id| OneDevice {
                nodes: book.nodes_of(&resource, &id),
                resource: resource.clone(),
                id,
            });
            devices.collect::<Vec<OneDevice>>()
        };
        let assigned = book.of(uid, container).into_iter();
        assigned.flat_map(|(resource, ids)| each(resource, ids)).collect()
    }

    /// All devices that may be used, whoever has them.
    pub fn usable(&self) -> Vec<OneDevice> {
        let book = self.book();
        let each = book.usable().flat_map(|(resource, devices)| {
            devices.into_iter().map(|device| OneDevice {
                resource: resource.clone(),
                id: device.id.clone(),
                nodes: device.nodes.clone(),
            })
        });
        each.collect()
    }

    /// Takes a pod's devices back.
    pub fn release(&self, uid: &str) {
        let mut book = self.book();
        if book.release(uid) {
            self.save(&book);
        }
        drop(book);
        let mut answers = self.answers.lock();
        answers.retain(|(of, _, _), _| of != uid);
    }

    /// Takes back what pods have that are not known any more.
    fn release_all_but(&self, known: &HashSet<String>) {
        let pods = self.book().pods();
        for uid in pods.iter().filter(|uid| !known.contains(*uid)) {
            self.release(uid);
        }
    }

    fn plugin(&self, resource: &str) -> Option<Plugin> {
        self.plugins.lock().get(resource).cloned()
    }

    /// Asks the plug-ins what a container needs for its devices, and lets them prepare.
    ///
    /// # Errors
    /// In words for the container's waiting state.
    pub async fn prepare(&self, pod: &Pod, container: &str) -> Result<ContainerAllocateResponse, String> {
        let uid = podspec::uid(pod);
        if !self.has_answers(uid) {
            self.ask_preferences(pod).await;
        }
        let assigned = self.book().of(uid, container);
        let mut all = ContainerAllocateResponse::default();
        for (resource, ids) in assigned {
            let ids = DeviceIds {
                devices_ids: ids.into_iter().collect(),
            };
            let answer = self.ask(uid, container, &resource, ids);
            let answer = tokio::time::timeout(ANSWER_LIMIT, answer).await;
            let answer =
                answer.map_err(|_| format!("the device plug-in of {resource} does not answer"))??;
            all.envs.extend(answer.envs);
            all.mounts.extend(answer.mounts);
            all.devices.extend(answer.devices);
            all.annotations.extend(answer.annotations);
            all.cdi_devices.extend(answer.cdi_devices);
        }
        Ok(all)
    }

    /// Whether a plug-in has prepared anything for the pod: its devices cannot be others any more.
    fn has_answers(&self, uid: &str) -> bool {
        self.answers.lock().keys().any(|(of, _, _)| of == uid)
    }

    async fn ask(
        &self,
        uid: &str,
        container: &str,
        resource: &str,
        ids: DeviceIds,
    ) -> Result<ContainerAllocateResponse, String> {
        let failed = |status: Status| format!("the device plug-in of {resource}: {}", status.message());
        let mut plugin = self
            .plugin(resource)
            .ok_or_else(|| format!("the device plug-in of {resource} is not there"))?;
        let key = (uid.to_owned(), container.to_owned(), resource.to_owned());
        let known = self.answers.lock().get(&key).cloned();
        let answer = match known {
            Some(answer) => answer,
            None => {
                let request = AllocateRequest {
                    container_requests: vec![ids.clone()],
                };
                let said = plugin.client.allocate(request).await.map_err(failed)?;
                let answer = said.container_responses.into_iter().next().unwrap_or_default();
                self.answers.lock().insert(key, answer.clone());
                answer
            }
        };
        if plugin.pre_start {
            plugin.client.pre_start(ids).await.map_err(failed)?;
        }
        Ok(answer)
    }

    /// Follows one plug-in's devices until its connection ends.
    async fn follow(&self, mut registered: Registered) {
        let (resource, generation) = (registered.resource, registered.generation);
        match registered.client.list_and_watch().await {
            Ok(mut stream) => {
                while let Ok(Some(list)) = stream.message().await {
                    let mut book = self.book();
                    book.listed(
                        &resource,
                        generation,
                        list.devices.into_iter().map(listed).collect(),
                    );
                    self.save(&book);
                    self.changed.notify_one();
                }
            }
            Err(status) => tracing::warn!(
                resource,
                error = status.message(),
                "a device plug-in lists no devices"
            ),
        }
        tracing::info!(resource, "a device plug-in has gone");
        self.book().lost(&resource, generation, self.clock.monotonic());
        self.changed.notify_one();
    }
}

impl Registrar for DevicePlugins {
    fn register(&self, request: RegisterRequest) -> Result<(), Status> {
        let (resource, version) = (request.resource_name, request.version);
        if version != VERSION {
            return Err(Status::invalid_argument(format!(
                "requested API version {version:?} is not supported; the supported version is {VERSION}"
            )));
        }
        if !is_extended(&resource) || request.endpoint.is_empty() || request.endpoint.contains('/') {
            return Err(Status::invalid_argument(format!(
                "the resource name {resource:?} or the endpoint {:?} is invalid",
                request.endpoint
            )));
        }
        let channel = unix_channel(&self.folder.join(&request.endpoint))
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let client = PluginClient::new(channel);
        let options = request.options.unwrap_or_default();
        let plugin = Plugin {
            client: client.clone(),
            pre_start: options.pre_start_required,
        };
        self.plugins.lock().insert(resource.clone(), plugin);
        let generation = self
            .book()
            .registered(&resource, options.get_preferred_allocation_available);
        tracing::info!(
            resource,
            endpoint = request.endpoint,
            "a device plug-in has registered"
        );
        let registered = Registered {
            resource,
            generation,
            client,
        };
        let sent = self.follow.try_send(registered);
        sent.map_err(|_| Status::resource_exhausted("too many device plug-ins register at once"))
    }
}

/// Opens a socket anew: whoever watches it, such as plug-ins the registration's, sees that and comes again.
fn open(folder: &Path, name: &str) -> std::io::Result<UnixListener> {
    std::fs::create_dir_all(folder)?;
    let socket = folder.join(name);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(socket)
}

/// The environment of a container with that of its devices, which the container's own overrides.
pub fn with_device_env(
    own: Vec<(String, String)>,
    devices: &HashMap<String, String>,
) -> Vec<(String, String)> {
    let sorted: BTreeMap<&String, &String> = devices.iter().collect();
    let more = sorted
        .into_iter()
        .filter(|(name, _)| own.iter().all(|(known, _)| known != *name));
    let mut all: Vec<(String, String)> = more.map(|(k, v)| (k.clone(), v.clone())).collect();
    all.extend(own);
    all
}
