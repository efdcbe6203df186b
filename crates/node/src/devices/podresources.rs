//! The PodResources API (`v1`): tells monitoring agents on this node which devices and processors containers have.
//!
//! Source of names and numbers: `pkg/apis/podresources/v1/api.proto` of the Go module k8s.io/kubelet.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::context::Shared;
use crate::devices::api::{Empty, NumaNode, TopologyInfo};
use crate::pods::manager::Manager;
use crate::{plan, podspec};

/// Folder of the socket below the agent's folder.
const FOLDER: &str = "pod-resources";
/// The socket.
const SOCKET: &str = "kubelet.sock";
/// Wait before a socket that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// Devices of one resource.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerDevices {
    /// The extended resource.
    #[prost(string, tag = "1")]
    pub resource_name: String,
    /// The ids.
    #[prost(string, repeated, tag = "2")]
    pub device_ids: Vec<String>,
    /// Memory nodes near them.
    #[prost(message, optional, tag = "3")]
    pub topology: Option<TopologyInfo>,
}

/// What a container has to itself.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerResources {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Devices, each on its own.
    #[prost(message, repeated, tag = "2")]
    pub devices: Vec<ContainerDevices>,
    /// Processors; none: it shares.
    #[prost(int64, repeated, tag = "3")]
    pub cpu_ids: Vec<i64>,
}

/// What the containers of a pod have to themselves.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodResources {
    /// The pod's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The pod's namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// Sidecars and app containers.
    #[prost(message, repeated, tag = "3")]
    pub containers: Vec<ContainerResources>,
}

/// Answers `List`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListResponse {
    /// All pods that have not ended.
    #[prost(message, repeated, tag = "1")]
    pub pod_resources: Vec<PodResources>,
}

/// Answers `GetAllocatableResources`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AllocatableResponse {
    /// Healthy devices, whoever has them.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<ContainerDevices>,
    /// Processors that containers can have to themselves.
    #[prost(int64, repeated, tag = "2")]
    pub cpu_ids: Vec<i64>,
}

/// Asks for one pod.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetRequest {
    /// The pod's name.
    #[prost(string, tag = "1")]
    pub pod_name: String,
    /// The pod's namespace.
    #[prost(string, tag = "2")]
    pub pod_namespace: String,
}

/// Answers `Get`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetResponse {
    /// The pod.
    #[prost(message, optional, tag = "1")]
    pub pod_resources: Option<PodResources>,
}

fn device(resource: &str, id: &str, nodes: Vec<u32>) -> ContainerDevices {
    let nodes = nodes.into_iter().map(|id| NumaNode { id: i64::from(id) });
    let nodes: Vec<NumaNode> = nodes.collect();
    ContainerDevices {
        resource_name: resource.to_owned(),
        device_ids: vec![id.to_owned()],
        topology: (!nodes.is_empty()).then_some(TopologyInfo { nodes }),
    }
}

fn container_resources(shared: &Shared, pod: &Pod, container: &Container) -> ContainerResources {
    let uid = podspec::uid(pod);
    let devices = shared.devices.of(uid, &container.name);
    let devices = devices.into_iter().map(|d| device(&d.resource, &d.id, d.nodes));
    let cpus = shared.cpus.exclusive(uid, &container.name);
    ContainerResources {
        name: container.name.clone(),
        devices: devices.collect(),
        cpu_ids: cpus.iter().map(i64::from).collect(),
    }
}

fn pod_resources(shared: &Shared, pod: &Pod) -> PodResources {
    let spec = pod.spec.as_ref();
    let inits = spec
        .and_then(|s| s.init_containers.as_ref())
        .into_iter()
        .flatten();
    let lasting = inits.filter(|c| plan::is_sidecar(c));
    let containers = lasting.chain(spec.into_iter().flat_map(|s| &s.containers));
    PodResources {
        name: podspec::name(pod).to_owned(),
        namespace: podspec::namespace(pod).to_owned(),
        containers: containers.map(|c| container_resources(shared, pod, c)).collect(),
    }
}

/// The service.
#[derive(Clone)]
pub struct Lister(Arc<Manager>);

impl Lister {
    fn active(&self) -> Vec<Arc<Pod>> {
        let mut pods = self.0.pods();
        pods.retain(|p| !podspec::is_over(p));
        pods.sort_by_key(|p| (podspec::namespace(p).to_owned(), podspec::name(p).to_owned()));
        pods
    }

    fn list(&self) -> ListResponse {
        let pods = self.active();
        ListResponse {
            pod_resources: pods.iter().map(|p| pod_resources(self.0.shared(), p)).collect(),
        }
    }

    fn allocatable(&self) -> AllocatableResponse {
        let shared = self.0.shared();
        let devices = shared.devices.usable().into_iter();
        AllocatableResponse {
            devices: devices.map(|d| device(&d.resource, &d.id, d.nodes)).collect(),
            cpu_ids: shared.cpus.allocatable().iter().map(i64::from).collect(),
        }
    }

    fn get(&self, request: &GetRequest) -> Result<GetResponse, Status> {
        let found = self.0.find(&request.pod_namespace, &request.pod_name);
        let pod = found.ok_or_else(|| {
            let (name, namespace) = (&request.pod_name, &request.pod_namespace);
            Status::unknown(format!("pod {name} in namespace {namespace} not found"))
        })?;
        Ok(GetResponse {
            pod_resources: Some(pod_resources(self.0.shared(), &pod)),
        })
    }
}

impl tonic::server::NamedService for Lister {
    const NAME: &'static str = "v1.PodResourcesLister";
}

/// A method as a function.
struct Method<F>(F);

impl<Q, A, F> tonic::server::UnaryService<Q> for Method<F>
where
    A: Send + 'static,
    F: FnMut(Q) -> Result<A, Status>,
{
    type Response = A;
    type Future = BoxFuture<Response<A>, Status>;

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let answer = (self.0)(request.into_inner());
        Box::pin(async move { answer.map(Response::new) })
    }
}

async fn unary<Q, A, B, F>(request: http::Request<B>, method: F) -> http::Response<tonic::body::Body>
where
    Q: prost::Message + Default + Send + 'static,
    A: prost::Message + Default + Send + 'static,
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
    F: FnMut(Q) -> Result<A, Status>,
{
    let codec: ProstCodec<A, Q> = ProstCodec::default();
    tonic::server::Grpc::new(codec)
        .unary(Method(method), request)
        .await
}

impl<B> Service<http::Request<B>> for Lister
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let lister = self.clone();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default();
            Ok(match method {
                "List" => unary(request, move |_: Empty| Ok(lister.list())).await,
                "GetAllocatableResources" => unary(request, move |_: Empty| Ok(lister.allocatable())).await,
                "Get" => unary(request, move |wanted: GetRequest| lister.get(&wanted)).await,
                _ => Status::new(Code::Unimplemented, "no such method").into_http(),
            })
        })
    }
}

/// Serves for as long as the agent runs.
pub async fn keep(manager: Arc<Manager>) {
    let folder = manager.shared().settings.dirs.root.join(FOLDER);
    loop {
        match super::open(&folder, SOCKET) {
            Ok(listener) => {
                let incoming = futures::stream::unfold(listener, async |listener| {
                    let accepted = listener.accept().await.map(|(stream, _)| stream);
                    Some((accepted, listener))
                });
                let service = Lister(manager.clone());
                let server = tonic::transport::Server::builder().add_service(service);
                if let Err(error) = server.serve_with_incoming(incoming).await {
                    let error = mainstay_base::error::chain(&error);
                    tracing::error!(error, "resources of pods are not served any more");
                }
            }
            Err(error) => tracing::error!(%error, "could not open the socket of pod resources"),
        }
        tokio::time::sleep(RETRY).await;
    }
}
