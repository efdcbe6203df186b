//! The container runtime behind one unix socket: a thin client of CRI v1, each call with its deadline.

mod containerd;
pub mod logs;
mod operations;
#[rustfmt::skip]
pub mod runtime_v1;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mainstay_base::clock::SharedClock;
use mainstay_base::error::{Class, Classify};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status};

pub use operations::Operations;
use runtime_v1 as v1;
use v1::image_service_client::ImageServiceClient;
use v1::runtime_service_client::RuntimeServiceClient;

/// The longest wait for an ordinary call (the kubelet's `runtimeRequestTimeout`).
pub const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// The longest wait for an image pull: large images over slow links are normal.
pub const PULL_TIMEOUT: Duration = Duration::from_secs(3600);
/// Listings of a full node with long annotations stay well below this.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A call under way.
type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a call to the container runtime failed.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// The socket cannot be reached.
    #[error("failed to connect to the container runtime at {socket}")]
    Connect {
        /// The socket's path.
        socket: String,
        /// What the transport said.
        #[source]
        source: tonic::transport::Error,
    },
    /// The runtime answered with an error.
    #[error("{call} failed: {}", status.message())]
    Call {
        /// The CRI method.
        call: &'static str,
        /// The runtime's answer.
        status: Box<Status>,
    },
    /// An answer lacks a field that the protocol promises.
    #[error("{call}: the runtime's answer has no {field}")]
    Incomplete {
        /// The CRI method.
        call: &'static str,
        /// The field.
        field: &'static str,
    },
}

impl CriError {
    /// Tells whether the object asked for does not exist (any more).
    pub fn is_not_found(&self) -> bool {
        matches!(self, CriError::Call { status, .. } if status.code() == Code::NotFound)
    }

    /// Tells whether the runtime does not offer the call.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, CriError::Call { status, .. } if status.code() == Code::Unimplemented)
    }

    /// The runtime's own words, without the name of the call.
    pub fn message(&self) -> String {
        match self {
            CriError::Call { status, .. } => status.message().to_owned(),
            other => other.to_string(),
        }
    }
}

impl Classify for CriError {
    fn class(&self) -> Class {
        match self {
            CriError::Call { status, .. } if status.code() == Code::InvalidArgument => Class::Invalid,
            _ => Class::Transient,
        }
    }
}

/// Turns a socket address as configured (`unix:///run/x.sock` or a path) into the path.
pub fn socket_path(endpoint: &str) -> PathBuf {
    PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint))
}

/// Opens a channel over a unix socket; it connects at the first call and again after a loss.
///
/// # Errors
/// Never on a missing socket: that shows at the first call.
pub fn unix_channel(path: &Path) -> Result<Channel, CriError> {
    let socket = path.display().to_string();
    let endpoint = Endpoint::try_from("http://localhost").map_err(|source| CriError::Connect {
        socket: socket.clone(),
        source,
    })?;
    let path = path.to_path_buf();
    Ok(
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
        })),
    )
}

/// A client of both CRI services. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    channel: Channel,
    operations: Option<Arc<Operations>>,
}

/// Containers and sandboxes that end, as the runtime tells of them.
#[derive(Debug)]
pub struct Ends(Told);

/// In whose words.
#[derive(Debug)]
enum Told {
    Cri(tonic::Streaming<v1::ContainerEventResponse>),
    Containerd(tonic::Streaming<containerd::Envelope>),
}

impl Ends {
    /// The id of the next container or sandbox that has ended or was removed; a listing may show it running for another
    /// moment.
    ///
    /// # Errors
    /// When the stream breaks or ends: what happens from now on is not told.
    pub async fn next(&mut self) -> Result<String, CriError> {
        loop {
            let (call, next) = match &mut self.0 {
                Told::Cri(stream) => (EVENTS, stream.message().await.map(|m| m.map(ended))),
                Told::Containerd(stream) => (SUBSCRIBE, stream.message().await.map(|m| m.map(|e| e.ended()))),
            };
            let gone = || Status::unavailable("the stream of events has ended");
            match next.and_then(|told| told.ok_or_else(gone)) {
                Ok(Some(id)) => return Ok(id),
                Ok(None) => {}
                Err(status) => return Err(Cri::call_error(call)(status)),
            }
        }
    }
}

const EVENTS: &str = "GetContainerEvents";
const SUBSCRIBE: &str = "Subscribe";

/// The container or sandbox that has ended with an event.
fn ended(event: v1::ContainerEventResponse) -> Option<String> {
    let kind = v1::ContainerEventType::try_from(event.container_event_type);
    let ends = matches!(
        kind,
        Ok(v1::ContainerEventType::ContainerStoppedEvent | v1::ContainerEventType::ContainerDeletedEvent)
    );
    ends.then_some(event.container_id)
}

/// One unary method of a service: name here, name there, types, deadline.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident on $service:ident: $call:literal, $method:ident($request:ident) -> $answer:ident, $timeout:expr;)*) => {
        impl Cri {
            $($(#[$doc])*
            pub async fn $name(&self, request: v1::$request) -> Result<v1::$answer, CriError> {
                let mut request = Request::new(request);
                request.set_timeout($timeout);
                let mut service = self.$service.clone();
                let answer = Box::pin(async move { service.$method(request).await });
                self.answer($call, answer).await
            })*
        }
    };
}

calls! {
    /// Calls `RunPodSandbox`.
    run_sandbox on runtime: "RunPodSandbox", run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse, CALL_TIMEOUT * 2;
    /// Calls `ListPodSandbox`.
    list_sandboxes on runtime: "ListPodSandbox", list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse, CALL_TIMEOUT;
    /// Calls `PodSandboxStatus`.
    sandbox_status_raw on runtime: "PodSandboxStatus", pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse, CALL_TIMEOUT;
    /// Calls `CreateContainer`.
    create_container on runtime: "CreateContainer", create_container(CreateContainerRequest) -> CreateContainerResponse, CALL_TIMEOUT;
    /// Calls `ListContainers`.
    list_containers on runtime: "ListContainers", list_containers(ListContainersRequest) -> ListContainersResponse, CALL_TIMEOUT;
    /// Calls `ContainerStatus`.
    container_status_raw on runtime: "ContainerStatus", container_status(ContainerStatusRequest) -> ContainerStatusResponse, CALL_TIMEOUT;
    /// Calls `UpdateContainerResources`.
    update_container on runtime: "UpdateContainerResources", update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse, CALL_TIMEOUT;
    /// Calls `ListContainerStats`.
    container_stats on runtime: "ListContainerStats", list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse, CALL_TIMEOUT;
    /// Calls `Exec`: the answer is the URL to stream to.
    exec_url on runtime: "Exec", exec(ExecRequest) -> ExecResponse, CALL_TIMEOUT;
    /// Calls `Attach`: the answer is the URL to stream to.
    attach_url on runtime: "Attach", attach(AttachRequest) -> AttachResponse, CALL_TIMEOUT;
    /// Calls `PortForward`: the answer is the URL to stream to.
    port_forward_url on runtime: "PortForward", port_forward(PortForwardRequest) -> PortForwardResponse, CALL_TIMEOUT;
    /// Calls `UpdateRuntimeConfig`: tells the runtime the node's pod CIDR.
    update_runtime_config on runtime: "UpdateRuntimeConfig", update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse, CALL_TIMEOUT;
    /// Calls `Status`.
    status on runtime: "Status", status(StatusRequest) -> StatusResponse, CALL_TIMEOUT;
    /// Calls `RuntimeConfig`; runtimes before containerd 2.0 do not offer it.
    runtime_config on runtime: "RuntimeConfig", runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse, CALL_TIMEOUT;
    /// Calls `ListImages`.
    list_images on images: "ListImages", list_images(ListImagesRequest) -> ListImagesResponse, CALL_TIMEOUT;
    /// Calls `PullImage`.
    pull_image on images: "PullImage", pull_image(PullImageRequest) -> PullImageResponse, PULL_TIMEOUT;
    /// Calls `ImageFsInfo`.
    image_fs_info on images: "ImageFsInfo", image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse, CALL_TIMEOUT;
}

impl Cri {
    /// Makes a client of the runtime at `endpoint`; nothing is connected yet.
    ///
    /// # Errors
    /// Never on a missing socket: that shows at the first call.
    pub fn new(endpoint: &str) -> Result<Self, CriError> {
        let channel = unix_channel(&socket_path(endpoint))?;
        Ok(Cri {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            channel,
            operations: None,
        })
    }

    /// Counts and times every call from now on; clones made afterwards count together.
    pub fn counted(self, clock: SharedClock) -> Self {
        Cri {
            operations: Some(Arc::new(Operations::new(clock))),
            ..self
        }
    }

    /// What was counted, if anything is.
    pub fn operations(&self) -> Option<&Operations> {
        self.operations.as_deref()
    }

    /// Waits for the answer of a call. Boxed, since a call takes kilobytes while it is under way: what may call keeps no room
    /// for it when it does not.
    async fn answer<T>(
        &self,
        call: &'static str,
        answer: BoxFuture<'_, Result<Response<T>, Status>>,
    ) -> Result<T, CriError> {
        let answer = match &self.operations {
            Some(operations) => operations.count(call, answer).await,
            None => answer.await,
        };
        answer.map(Response::into_inner).map_err(Self::call_error(call))
    }

    fn call_error(call: &'static str) -> impl Fn(Status) -> CriError {
        move |status| CriError::Call {
            call,
            status: Box::new(status),
        }
    }

    /// Asks for name and version of the runtime. Short deadline: it doubles as the liveness check.
    pub async fn version(&self) -> Result<v1::VersionResponse, CriError> {
        let mut request = Request::new(v1::VersionRequest {
            version: "v1".to_owned(),
        });
        request.set_timeout(Duration::from_secs(10));
        let mut service = self.runtime.clone();
        let answer = Box::pin(async move { service.version(request).await });
        self.answer("Version", answer).await
    }

    /// Reads a sandbox's status.
    pub async fn sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, CriError> {
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        let answer = self.sandbox_status_raw(request).await?;
        answer.status.ok_or(CriError::Incomplete {
            call: "PodSandboxStatus",
            field: "status",
        })
    }

    /// Reads a container's status.
    pub async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, CriError> {
        let request = v1::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let answer = self.container_status_raw(request).await?;
        answer.status.ok_or(CriError::Incomplete {
            call: "ContainerStatus",
            field: "status",
        })
    }

    /// Stops a sandbox and everything in it at once; one that is gone is fine.
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), CriError> {
        let mut request = Request::new(v1::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        });
        request.set_timeout(CALL_TIMEOUT);
        let mut service = self.runtime.clone();
        let answer = Box::pin(async move { service.stop_pod_sandbox(request).await });
        gone_is_fine(self.answer("StopPodSandbox", answer).await.map(drop))
    }

    /// Removes a sandbox with its containers; one that is gone is fine.
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), CriError> {
        let mut request = Request::new(v1::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        });
        request.set_timeout(CALL_TIMEOUT);
        let mut service = self.runtime.clone();
        let answer = Box::pin(async move { service.remove_pod_sandbox(request).await });
        gone_is_fine(self.answer("RemovePodSandbox", answer).await.map(drop))
    }

    /// Starts a created container.
    pub async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let mut request = Request::new(v1::StartContainerRequest {
            container_id: id.to_owned(),
        });
        request.set_timeout(CALL_TIMEOUT);
        let mut service = self.runtime.clone();
        let answer = Box::pin(async move { service.start_container(request).await });
        self.answer("StartContainer", answer).await.map(drop)
    }

    /// Sends the stop signal and, after `grace`, SIGKILL; one that is gone is fine.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), CriError> {
        let mut request = Request::new(v1::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: grace.as_secs() as i64,
        });
        request.set_timeout(grace + CALL_TIMEOUT);
        let mut service = self.runtime.clone();
        let answer = Box::pin(async move { service.stop_container(request).await });
        gone_is_fine(self.answer("StopContainer", answer).await.map(drop))
    }

    /// Moves a running container to these processors.
    pub async fn set_cpus(&self, id: &str, list: &str) -> Result<(), CriError> {
        let linux = v1::LinuxContainerResources {
            cpuset_cpus: list.to_owned(),
            ..Default::default()
        };
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        self.update_container(request).await.map(drop)
    }

    /// Writes a running container's state into a file.
    ///
    /// # Errors
    /// [`CriError::is_unimplemented`] on runtimes that cannot (containerd before 2.0).
    pub async fn checkpoint(
        &self,
        request: v1::CheckpointContainerRequest,
        timeout: Duration,
    ) -> Result<(), CriError> {
        let mut request = Request::new(request);
        request.set_timeout(timeout + CALL_TIMEOUT);
        let mut service = self.runtime.clone();
        let answer = Box::pin(async move { service.checkpoint_container(request).await });
        self.answer("CheckpointContainer", answer).await.map(drop)
    }

    /// Removes a container; one that is gone is fine.
    pub async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        let mut request = Request::new(v1::RemoveContainerRequest {
            container_id: id.to_owned(),
        });
        request.set_timeout(CALL_TIMEOUT);
        let mut service = self.runtime.clone();
        let answer = Box::pin(async move { service.remove_container(request).await });
        gone_is_fine(self.answer("RemoveContainer", answer).await.map(drop))
    }

    /// Makes the runtime open the container's log file anew (after a rotation).
    pub async fn reopen_log(&self, id: &str) -> Result<(), CriError> {
        let mut request = Request::new(v1::ReopenContainerLogRequest {
            container_id: id.to_owned(),
        });
        request.set_timeout(CALL_TIMEOUT);
        let mut service = self.runtime.clone();
        let answer = Box::pin(async move { service.reopen_container_log(request).await });
        self.answer("ReopenContainerLog", answer).await.map(drop)
    }

    /// Runs a command in a container and waits for it, at most `timeout`.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<v1::ExecSyncResponse, CriError> {
        let mut request = Request::new(v1::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: timeout.as_secs().max(1) as i64,
        });
        request.set_timeout(timeout + Duration::from_secs(5));
        let mut service = self.runtime.clone();
        let answer = Box::pin(async move { service.exec_sync(request).await });
        self.answer("ExecSync", answer).await
    }

    /// Subscribes to the ends of containers and sandboxes: by the CRI's events, else by containerd's own. A runtime that
    /// has either may answer only with the first event.
    ///
    /// # Errors
    /// [`CriError::is_unimplemented`] on runtimes that have neither: list periodically instead.
    pub async fn ends(&self) -> Result<Ends, CriError> {
        let events = self
            .runtime
            .clone()
            .get_container_events(v1::GetEventsRequest {})
            .await;
        match events {
            Ok(stream) => return Ok(Ends(Told::Cri(stream.into_inner()))),
            Err(status) if status.code() == Code::Unimplemented => {}
            Err(status) => return Err(Self::call_error(EVENTS)(status)),
        }
        let stream = containerd::subscribe(self.channel.clone()).await;
        let stream = stream.map_err(Self::call_error(SUBSCRIBE))?;
        Ok(Ends(Told::Containerd(stream)))
    }

    /// Looks up a local image; `None` when it is not there.
    pub async fn image(&self, reference: &str) -> Result<Option<v1::Image>, CriError> {
        let mut request = Request::new(v1::ImageStatusRequest {
            image: Some(image_spec(reference)),
            verbose: false,
        });
        request.set_timeout(CALL_TIMEOUT);
        let mut service = self.images.clone();
        let answer = Box::pin(async move { service.image_status(request).await });
        Ok(self.answer("ImageStatus", answer).await?.image)
    }

    /// Removes an image; one that is gone is fine.
    pub async fn remove_image(&self, reference: &str) -> Result<(), CriError> {
        let mut request = Request::new(v1::RemoveImageRequest {
            image: Some(image_spec(reference)),
        });
        request.set_timeout(CALL_TIMEOUT);
        let mut service = self.images.clone();
        let answer = Box::pin(async move { service.remove_image(request).await });
        gone_is_fine(self.answer("RemoveImage", answer).await.map(drop))
    }
}

/// The plain form of an image reference.
pub fn image_spec(reference: &str) -> v1::ImageSpec {
    v1::ImageSpec {
        image: reference.to_owned(),
        ..Default::default()
    }
}

fn gone_is_fine(result: Result<(), CriError>) -> Result<(), CriError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_socket_name_the_same_path() {
        assert_eq!(socket_path("unix:///run/c.sock"), socket_path("/run/c.sock"));
    }
}
