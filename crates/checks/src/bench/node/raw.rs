//! Pods by calls to the runtime alone: what starting one costs without any agent. The calls are those that an agent has
//! to make, or the least that runs.

use std::path::PathBuf;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use mainstay_base::clock::{Clock, SystemClock};
use mainstay_cri::{Cri, runtime_v1 as v1};
use mainstay_nodepolicy::podspec::runtime_config::{self, NodeSide, Prepared, Resolver};
use mainstay_nodepolicy::podspec::security::Defaults;
use serde_json::json;

use super::load::pod;
use crate::site::world::{IMAGE, World, cgroup};

/// Pods under way at once: more make two processors no faster.
pub const AT_ONCE: usize = 8;
/// Of pods that the API does not know.
const NAMESPACE: &str = "raw";
/// Mounted into every container by an agent: the account's token, names of hosts, the last words.
const MOUNTS: [(&str, &str); 3] = [
    ("token", "/var/run/secrets/kubernetes.io/serviceaccount"),
    ("hosts", "/etc/hosts"),
    ("termination", "/dev/termination-log"),
];

/// How a pod is described to the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Described {
    /// As an agent has to: with a seccomp profile for the sandbox, masked paths, mounts, processes of its own.
    Fully,
    /// With the least that runs.
    Barely,
}

/// What the runtime is asked for.
struct Wanted {
    sandbox: v1::PodSandboxConfig,
    container: v1::ContainerConfig,
}

/// Starts pods by calls to the runtime.
pub struct Raw {
    cri: Cri,
    folder: PathBuf,
    group: String,
    node: NodeSide,
}

impl Raw {
    /// Speaks to this world's containerd.
    pub fn new(world: &World) -> Result<Raw> {
        let folder = world.folder().join("raw");
        Ok(Raw {
            cri: world.cri()?,
            group: cgroup(world.folder()),
            node: NodeSide {
                logs: folder.join("logs").display().to_string(),
                resolver: Resolver::default(),
                cluster_dns: Vec::new(),
                cluster_domain: String::new(),
                security: Defaults {
                    seccomp: false,
                    seccomp_profiles: String::new(),
                },
                memory_bytes: 1 << 30,
                oom_group: false,
                memory_qos: None,
                quota_period_us: None,
                hugepage_sizes: Vec::new(),
            },
            folder,
        })
    }

    fn pod(name: &str) -> Result<Pod> {
        let mut pod = pod(name, &["sleep", "100000"], json!({}))?;
        pod.metadata.namespace = Some(NAMESPACE.to_owned());
        pod.metadata.uid = Some(name.to_owned());
        Ok(pod)
    }

    /// Makes what is to be mounted.
    fn mounts(&self, name: &str) -> Result<Vec<v1::Mount>> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(folder.join("token"))?;
        let mount = |(file, container_path): (&str, &str)| {
            let host_path = folder.join(file);
            if !host_path.exists() {
                std::fs::write(&host_path, "")?;
            }
            Ok(v1::Mount {
                container_path: container_path.to_owned(),
                host_path: host_path.display().to_string(),
                readonly: file == "token",
                ..Default::default()
            })
        };
        MOUNTS.into_iter().map(mount).collect()
    }

    fn wanted(&self, name: &str, described: Described) -> Result<Wanted> {
        let pod = Self::pod(name)?;
        let only = pod.spec.iter().flat_map(|spec| &spec.containers).next();
        let prepared = Prepared {
            image_ref: IMAGE.to_owned(),
            mounts: self.mounts(name)?,
            ..Default::default()
        };
        let parent = format!("/{}/raw/{name}", self.group);
        let mut sandbox = runtime_config::sandbox(&pod, 0, parent, &self.node);
        let mut container =
            runtime_config::container(&pod, only.context("a container")?, 0, prepared, &self.node);
        std::fs::create_dir_all(PathBuf::from(&sandbox.log_directory).join("a"))?;
        // By its labels the agent would find a pod that nobody wants.
        sandbox.labels.clear();
        container.labels.clear();
        if described == Described::Barely {
            let linux = sandbox.linux.get_or_insert_default();
            linux.security_context = Some(v1::LinuxSandboxSecurityContext::default());
            container.mounts.clear();
            container.linux = Some(v1::LinuxContainerConfig::default());
        }
        Ok(Wanted { sandbox, container })
    }

    /// The three calls that make a pod of one container run; its sandbox.
    async fn start(&self, wanted: Wanted) -> Result<String> {
        let request = v1::RunPodSandboxRequest {
            config: Some(wanted.sandbox.clone()),
            ..Default::default()
        };
        let id = self.cri.run_sandbox(request).await?.pod_sandbox_id;
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(wanted.container),
            sandbox_config: Some(wanted.sandbox),
        };
        let container = self.cri.create_container(request).await?.container_id;
        self.cri.start_container(&container).await?;
        Ok(id)
    }

    async fn remove(&self, id: &str) -> Result<()> {
        self.cri.stop_sandbox(id).await?;
        self.cri.remove_sandbox(id).await?;
        Ok(())
    }

    /// Starts one pod and removes it; milliseconds of its start.
    pub async fn single(&self, number: usize, described: Described) -> Result<f64> {
        let wanted = self.wanted(&format!("{described:?}-{number}").to_lowercase(), described)?;
        let clock = SystemClock::new();
        let id = self.start(wanted).await?;
        let took = clock.monotonic().as_secs_f64() * 1000.0;
        self.remove(&id).await?;
        Ok(took)
    }

    /// Starts so many pods, as fast as the runtime allows; seconds.
    pub async fn many(&self, count: usize) -> Result<f64> {
        let wanted = (0..count).map(|number| self.wanted(&format!("many-{number}"), Described::Fully));
        let wanted = wanted.collect::<Result<Vec<Wanted>>>()?;
        let clock = SystemClock::new();
        futures::stream::iter(wanted)
            .map(|wanted| self.start(wanted))
            .buffer_unordered(AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        Ok(clock.monotonic().as_secs_f64())
    }

    /// Removes the pods of [`Raw::many`].
    pub async fn remove_many(&self) -> Result<()> {
        let request = v1::ListPodSandboxRequest { filter: None };
        let listed = self.cri.list_sandboxes(request).await?.items;
        let ours = listed.into_iter().filter(|sandbox| {
            sandbox
                .metadata
                .as_ref()
                .is_some_and(|m| m.namespace == NAMESPACE)
        });
        futures::stream::iter(ours)
            .map(|sandbox| async move { self.remove(&sandbox.id).await })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|()| async { Ok(()) })
            .await
    }
}
