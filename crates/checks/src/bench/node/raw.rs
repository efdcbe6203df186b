//! Pods by bare calls to the runtime: what starting one costs without any agent.

use anyhow::Result;
use futures::{StreamExt, TryStreamExt};
use mainstay_base::clock::{Clock, SystemClock};
use mainstay_cri::{Cri, runtime_v1 as v1};

use crate::site::world::{IMAGE, World, cgroup};

/// Pods under way at once: more make two processors no faster.
pub const AT_ONCE: usize = 8;

/// Starts pods by bare calls.
pub struct Raw {
    cri: Cri,
    logs: String,
    group: String,
}

impl Raw {
    /// Speaks to this world's containerd.
    pub fn new(world: &World) -> Result<Raw> {
        let logs = world.folder().join("raw-logs").display().to_string();
        Ok(Raw {
            cri: world.cri()?,
            logs,
            group: cgroup(world.folder()),
        })
    }

    fn sandbox(&self, name: &str) -> Result<v1::PodSandboxConfig> {
        let log_directory = format!("{}/{name}", self.logs);
        std::fs::create_dir_all(&log_directory)?;
        let metadata = v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: name.to_owned(),
            namespace: "raw".to_owned(),
            attempt: 0,
        };
        let linux = v1::LinuxPodSandboxConfig {
            cgroup_parent: format!("/{}/raw/{name}", self.group),
            security_context: Some(v1::LinuxSandboxSecurityContext::default()),
            ..Default::default()
        };
        Ok(v1::PodSandboxConfig {
            metadata: Some(metadata),
            hostname: name.to_owned(),
            log_directory,
            linux: Some(linux),
            ..Default::default()
        })
    }

    /// The three calls that make a pod of one container run; its sandbox.
    async fn start(&self, name: &str) -> Result<String> {
        let sandbox = self.sandbox(name)?;
        let request = v1::RunPodSandboxRequest {
            config: Some(sandbox.clone()),
            ..Default::default()
        };
        let id = self.cri.run_sandbox(request).await?.pod_sandbox_id;
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: "a".to_owned(),
                attempt: 0,
            }),
            image: Some(mainstay_cri::image_spec(IMAGE)),
            command: ["sleep", "100000"].map(str::to_owned).into(),
            log_path: "a.log".to_owned(),
            linux: Some(v1::LinuxContainerConfig::default()),
            ..Default::default()
        };
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox),
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

    /// Starts one pod; milliseconds.
    pub async fn single(&self, number: usize) -> Result<f64> {
        let clock = SystemClock::new();
        let id = self.start(&format!("single-{number}")).await?;
        let took = clock.monotonic().as_secs_f64() * 1000.0;
        self.remove(&id).await?;
        Ok(took)
    }

    /// Starts so many pods, as fast as the runtime allows; seconds.
    pub async fn many(&self, count: usize) -> Result<f64> {
        let clock = SystemClock::new();
        futures::stream::iter(0..count)
            .map(|number| async move { self.start(&format!("many-{number}")).await })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        Ok(clock.monotonic().as_secs_f64())
    }

    /// Removes every pod.
    pub async fn remove_all(&self) -> Result<()> {
        let request = v1::ListPodSandboxRequest { filter: None };
        let listed = self.cri.list_sandboxes(request).await?.items;
        futures::stream::iter(listed)
            .map(|sandbox| async move { self.remove(&sandbox.id).await })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|()| async { Ok(()) })
            .await
    }
}
