//! Starts what a plan says: the cgroup, the sandbox, containers with everything they need.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use mainstay_control::events::EventKind;

use super::images::{self, PullBackoff, Waiting};
use super::turn::Turn;
use crate::context::Shared;
use crate::cri::{CriError, runtime_v1 as v1};
use crate::devices::{self, api::DeviceSpec};
use crate::plan::{ContainerView, PodView, SandboxView};
use crate::podspec::{self, env, runtime_config, security};
use crate::probes::check::{Outcome, Target, http_get};
use crate::qos;
use crate::volumes::{self, content::Objects};

/// Longest termination message.
const HOOK_TIMEOUT: Duration = Duration::from_secs(120);

/// The limits of the pod's cgroup.
pub fn pod_limits(shared: &Shared, pod: &Pod) -> qos::PodCgroup {
    let kubelet = &shared.settings.kubelet;
    let period = kubelet.cpu_cfs_quota_period.as_micros() as i64;
    let quota = kubelet.cpu_cfs_quota && !shared.cpus.has_exclusive(podspec::uid(pod));
    let spec = pod.spec.clone().unwrap_or_default();
    let mut limits = qos::pod_cgroup(&spec, qos::class(pod), quota, period);
    limits.pids = Some(kubelet.pod_pids_limit).filter(|l| *l > 0);
    if let Some(policy) = &shared.node_side.memory_qos {
        let request = qos::pod_requests(pod).get("memory").copied().unwrap_or(0);
        limits.protected = policy.of_pod(qos::class(pod), request);
    }
    limits
}

/// Makes the pod's cgroup; returns the parent to give to the runtime.
///
/// # Errors
/// In words for the pod's event.
pub fn make_cgroup(shared: &Shared, pod: &Pod) -> Result<String, String> {
    let Some(tree) = &shared.cgroups else {
        return Ok(String::new());
    };
    let class = qos::class(pod);
    let limits = pod_limits(shared, pod);
    let make = || tree.ensure_pod(class, podspec::uid(pod), &limits);
    shared
        .tally
        .of_cgroup("create", make)
        .map_err(|e| mainstay_base::error::chain(&e))?;
    Ok(tree.runtime_parent(class, podspec::uid(pod)))
}

/// The description of the pod's sandbox as the runtime got or will get it.
pub fn sandbox_config(shared: &Shared, pod: &Pod, attempt: u32) -> v1::PodSandboxConfig {
    let parent = shared.cgroups.as_ref().map_or(String::new(), |tree| {
        tree.runtime_parent(qos::class(pod), podspec::uid(pod))
    });
    runtime_config::sandbox(pod, attempt, parent, &shared.node_side)
}

/// Makes the sandbox.
///
/// # Errors
/// In the runtime's words; an event says the same.
pub async fn make_sandbox(shared: &Shared, pod: &Pod, attempt: u32) -> Result<SandboxView, String> {
    let config = sandbox_config(shared, pod, attempt);
    if let Err(error) = std::fs::create_dir_all(&config.log_directory) {
        return Err(format!("failed to make {}: {error}", config.log_directory));
    }
    shared.tally.pods.count([]);
    let made = async {
        let request = v1::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: runtime_handler(shared, pod).await?,
        };
        let id = run_sandbox(shared, request)
            .await
            .map_err(|error| error.message())?;
        let status = shared.cri.sandbox_status(&id).await;
        status.map_err(|error| error.message())
    };
    match made.await {
        Ok(status) => Ok(super::observe::sandbox_view(status)),
        Err(why) => {
            shared.tally.pods_failed.count([]);
            shared.events.pod(
                pod,
                EventKind::Warning,
                "FailedCreatePodSandBox",
                format!("Failed to create pod sandbox: {why}"),
            );
            Err(why)
        }
    }
}

async fn run_sandbox(shared: &Shared, request: v1::RunPodSandboxRequest) -> Result<String, CriError> {
    let (tally, handler) = (&shared.tally, request.runtime_handler.clone());
    let begun = tally.now();
    let made = shared.cri.run_sandbox(request).await;
    if made.is_err() {
        tally.sandboxes_failed.count([handler.clone().into()]);
    }
    tally.sandboxes.observe([handler.into()], tally.since(begun));
    Ok(made?.pod_sandbox_id)
}

/// The runtime's handler of the pod's runtime class; empty: the usual one.
async fn runtime_handler(shared: &Shared, pod: &Pod) -> Result<String, String> {
    let class = pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref());
    let Some(class) = class.filter(|name| !name.is_empty()) else {
        return Ok(String::new());
    };
    let handler = shared.fetch.runtime_handler(class).await;
    handler.ok_or_else(|| format!("failed to get sandbox runtime: RuntimeClass {class:?} not found"))
}

fn hosts_file(shared: &Shared, pod: &Pod, ip: &str) -> std::io::Result<PathBuf> {
    let path = volumes::pod_dir(&shared.settings.dirs.root, podspec::uid(pod)).join("etc-hosts");
    let spec = pod.spec.as_ref();
    let mut text = match podspec::host_network(pod) {
        true => std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
        false => {
            let name = runtime_config::hostname(pod);
            let full = spec
                .and_then(|s| s.subdomain.as_deref())
                .filter(|d| !d.is_empty());
            let full = full.map_or(String::new(), |sub| {
                let domain = &shared.node_side.cluster_domain;
                format!("{name}.{sub}.{}.svc.{domain}\t", podspec::namespace(pod))
            });
            format!(
                "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                 fe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n{ip}\t{full}{name}\n"
            )
        }
    };
    for alias in spec.and_then(|s| s.host_aliases.as_ref()).into_iter().flatten() {
        let names = alias.hostnames.clone().unwrap_or_default().join("\t");
        text.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    std::fs::write(&path, text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
    Ok(path)
}

fn message_file(shared: &Shared, pod: &Pod, container: &Container, attempt: u32) -> std::io::Result<PathBuf> {
    let dir = volumes::pod_dir(&shared.settings.dirs.root, podspec::uid(pod))
        .join("containers")
        .join(&container.name);
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(attempt.to_string());
    std::fs::write(&path, "")?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
    Ok(path)
}

fn bind(container_path: &str, host_path: &Path) -> v1::Mount {
    v1::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.display().to_string(),
        ..Default::default()
    }
}

fn device_file(device: DeviceSpec) -> v1::Device {
    v1::Device {
        container_path: device.container_path,
        host_path: device.host_path,
        permissions: device.permissions,
    }
}

/// Mounts: the volumes', then the hosts file and the termination message.
fn all_mounts(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    attempt: u32,
    ip: &str,
    env: &[(String, String)],
) -> Result<Vec<v1::Mount>, String> {
    let value = |name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
    let mut mounts = volumes::mounts(&shared.settings.dirs.root, pod, container, value)
        .map_err(|e| mainstay_base::error::chain(&e))?;
    if !mounts.iter().any(|m| m.container_path == "/etc/hosts") {
        let file = hosts_file(shared, pod, ip).map_err(|e| format!("hosts file: {e}"))?;
        mounts.push(bind("/etc/hosts", &file));
    }
    let path = container
        .termination_message_path
        .as_deref()
        .unwrap_or("/dev/termination-log");
    if !path.is_empty() {
        let file =
            message_file(shared, pod, container, attempt).map_err(|e| format!("termination log: {e}"))?;
        mounts.push(bind(path, &file));
    }
    Ok(mounts)
}

/// Everything a start needs to know about the pod.
pub struct StartContext<'a> {
    /// Shared parts.
    pub shared: &'a Arc<Shared>,
    /// The pod.
    pub pod: &'a Pod,
    /// Its sandbox.
    pub sandbox: &'a SandboxView,
    /// What it refers to.
    pub objects: &'a Objects,
    /// Pull back-off.
    pub pulls: &'a PullBackoff,
    /// What the runtime has of it.
    pub view: &'a PodView,
}

impl StartContext<'_> {
    fn pod_ips(&self) -> Vec<String> {
        match podspec::host_network(self.pod) {
            true => self.shared.host_ips.clone(),
            false => self.sandbox.ips.clone(),
        }
    }

    fn sources(&self) -> env::Sources {
        env::Sources {
            node_name: self.shared.settings.node_name().to_owned(),
            host_ips: self.shared.host_ips.clone(),
            pod_ips: self.pod_ips(),
            allocatable: [
                ("cpu".to_owned(), self.shared.facts.cpus * 1000),
                ("memory".to_owned(), self.shared.facts.memory_bytes),
            ]
            .into(),
            ..self.objects.sources.clone()
        }
    }

    /// The id of the container whose processes an ephemeral one is to see, if it names one.
    fn target_of(&self, container: &Container) -> Result<Option<String>, String> {
        let spec = self.pod.spec.iter();
        let mut ephemeral = spec.flat_map(|s| s.ephemeral_containers.iter().flatten());
        let own = ephemeral.find(|e| e.name == container.name);
        let named = own.and_then(|e| e.target_container_name.as_deref());
        let Some(name) = named.filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let seen = self.view.latest(name).map(|seen| Some(seen.id.clone()));
        seen.ok_or_else(|| format!("unable to find target container {name}"))
    }

    async fn describe(
        &self,
        container: &Container,
        attempt: u32,
        image: v1::Image,
    ) -> Result<v1::ContainerConfig, String> {
        security::verify_non_root(self.pod, container, &image)?;
        let uid = podspec::uid(self.pod);
        let given = self.shared.devices.prepare(self.pod, &container.name).await?;
        let env = env::environment(self.pod, container, &self.sources())?;
        let env = devices::with_device_env(env, &given.envs);
        let ip = self.pod_ips().into_iter().next().unwrap_or_default();
        let mut mounts = all_mounts(self.shared, self.pod, container, attempt, &ip, &env)?;
        mounts.extend(given.mounts.into_iter().map(|m| v1::Mount {
            readonly: m.read_only,
            ..bind(&m.container_path, Path::new(&m.host_path))
        }));
        let prepared = runtime_config::Prepared {
            image_ref: image.id.clone(),
            image,
            env,
            mounts,
            devices: given.devices.into_iter().map(device_file).collect(),
            annotations: given.annotations,
            cdi_devices: given.cdi_devices.into_iter().map(|d| d.name).collect(),
            cpus: self.shared.cpus.share(uid, &container.name),
        };
        let node_side = &self.shared.node_side;
        let mut config = runtime_config::container(self.pod, container, attempt, prepared, node_side);
        if let Some(target) = self.target_of(container)? {
            share_processes(&mut config, target);
        }
        Ok(config)
    }

    /// Makes and starts one container; its id.
    ///
    /// # Errors
    /// Why the container waits; events say the same.
    pub async fn start(
        &self,
        container: &Container,
        attempt: u32,
        turn: &mut Turn<'_>,
    ) -> Result<String, Waiting> {
        let (shared, pod) = (self.shared, self.pod);
        let sandbox_config = sandbox_config(shared, pod, self.sandbox.attempt);
        let image = images::ensure(shared, pod, container, &sandbox_config, self.pulls, turn).await?;
        let failed = |reason: &'static str, message: String| {
            shared.events.container(
                pod,
                &container.name,
                EventKind::Warning,
                "Failed",
                format!("Error: {message}"),
            );
            Waiting::new(reason, message)
        };
        let config = self
            .describe(container, attempt, image)
            .await
            .map_err(|why| failed("CreateContainerConfigError", why))?;
        let log_path = Path::new(&sandbox_config.log_directory).join(&config.log_path);
        if let Some(dir) = log_path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| failed("CreateContainerError", e.to_string()))?;
        }
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: self.sandbox.id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let made = shared.cri.create_container(request).await;
        let id = made
            .map_err(|e| failed("CreateContainerError", e.message()))?
            .container_id;
        shared
            .allocations
            .told(podspec::uid(pod), &container.name, container.resources.as_ref());
        let event = |reason: &str, verb: &str| {
            shared.events.container(
                pod,
                &container.name,
                EventKind::Normal,
                reason,
                format!("{verb} container {}", container.name),
            );
        };
        event("Created", "Created");
        shared
            .cri
            .start_container(&id)
            .await
            .map_err(|e| failed("RunContainerError", e.message()))?;
        event("Started", "Started");
        self.link_log(container, &id, &log_path);
        turn.pause();
        self.post_start(container, &id).await?;
        Ok(id)
    }

    /// Makes the link by which log collectors find the log.
    fn link_log(&self, container: &Container, id: &str, log: &Path) {
        let dir = &self.shared.settings.dirs.container_links;
        let name = format!(
            "{}_{}_{}-{id}.log",
            podspec::name(self.pod),
            podspec::namespace(self.pod),
            container.name
        );
        let link =
            std::fs::create_dir_all(dir).and_then(|()| std::os::unix::fs::symlink(log, dir.join(name)));
        if let Err(error) = link {
            tracing::debug!(%error, "could not link a container's log");
        }
    }

    async fn post_start(&self, container: &Container, id: &str) -> Result<(), Waiting> {
        let hook = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref());
        let Some(hook) = hook else { return Ok(()) };
        let ip = self.pod_ips().into_iter().next().unwrap_or_default();
        if let Err(why) = run_hook(self.shared, container, id, &ip, hook).await {
            self.shared.events.container(
                self.pod,
                &container.name,
                EventKind::Warning,
                "FailedPostStartHook",
                "PostStartHook failed",
            );
            let _ = self.shared.cri.stop_container(id, Duration::from_secs(2)).await;
            return Err(Waiting::new("PostStartHookError", why));
        }
        Ok(())
    }
}

/// Lets a container that would have processes of its own see those of another one.
fn share_processes(config: &mut v1::ContainerConfig, target_id: String) {
    let security = config.linux.as_mut().and_then(|l| l.security_context.as_mut());
    let Some(namespaces) = security.and_then(|s| s.namespace_options.as_mut()) else {
        return;
    };
    if namespaces.pid == v1::NamespaceMode::Container as i32 {
        namespaces.pid = v1::NamespaceMode::Target as i32;
        namespaces.target_id = target_id;
    }
}

/// Runs a life-cycle hook.
///
/// # Errors
/// In words for an event.
pub async fn run_hook(
    shared: &Shared,
    container: &Container,
    id: &str,
    pod_ip: &str,
    hook: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let answer = shared
            .cri
            .exec_sync(id, &command, HOOK_TIMEOUT)
            .await
            .map_err(|e| e.message())?;
        return match answer.exit_code {
            0 => Ok(()),
            code => Err(format!("command exited with {code}")),
        };
    }
    if let Some(get) = &hook.http_get {
        let target = Target {
            cri: &shared.cri,
            container_id: id,
            container,
            pod_ip,
        };
        return match http_get(&target, get).await {
            Outcome::Success => Ok(()),
            Outcome::Failure(text) | Outcome::Error(text) => Err(text),
        };
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0) as u64)).await;
    }
    Ok(())
}

/// The next attempt number of a container.
pub fn next_attempt(latest: Option<&ContainerView>) -> u32 {
    latest.map_or(0, |c| c.attempt + 1)
}
