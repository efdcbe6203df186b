//! The device plug-in API `v1beta1`: its messages, a client of a plug-in, and the service where plug-ins register.
//!
//! Source of names and numbers: `pkg/apis/deviceplugin/v1beta1/api.proto` of the Go module k8s.io/kubelet.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// The version that both sides must speak.
pub const VERSION: &str = "v1beta1";
/// What a device's health reads when it may be used.
pub const HEALTHY: &str = "Healthy";

/// Nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Empty {}

/// What a plug-in wants beside `Allocate`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DevicePluginOptions {
    /// `PreStartContainer` before each start.
    #[prost(bool, tag = "1")]
    pub pre_start_required: bool,
    /// `GetPreferredAllocation` is there.
    #[prost(bool, tag = "2")]
    pub get_preferred_allocation_available: bool,
}

/// A plug-in makes itself known.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterRequest {
    /// API version.
    #[prost(string, tag = "1")]
    pub version: String,
    /// Socket's name in the folder of the registration socket.
    #[prost(string, tag = "2")]
    pub endpoint: String,
    /// The extended resource.
    #[prost(string, tag = "3")]
    pub resource_name: String,
    /// What it wants.
    #[prost(message, optional, tag = "4")]
    pub options: Option<DevicePluginOptions>,
}

/// A memory node.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NumaNode {
    /// Its number.
    #[prost(int64, tag = "1")]
    pub id: i64,
}

/// Where a device is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TopologyInfo {
    /// Memory nodes near it.
    #[prost(message, repeated, tag = "1")]
    pub nodes: Vec<NumaNode>,
}

/// One device.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Device {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// [`HEALTHY`] or not.
    #[prost(string, tag = "2")]
    pub health: String,
    /// Where it is.
    #[prost(message, optional, tag = "3")]
    pub topology: Option<TopologyInfo>,
}

/// All devices of a plug-in.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListAndWatchResponse {
    /// The devices.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<Device>,
}

/// Device ids, for one container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeviceIds {
    /// The ids.
    #[prost(string, repeated, tag = "1")]
    pub devices_ids: Vec<String>,
}

/// Asks what containers need for their devices.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AllocateRequest {
    /// One of each container.
    #[prost(message, repeated, tag = "1")]
    pub container_requests: Vec<DeviceIds>,
}

/// A file or folder of the host in the container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Mount {
    /// Path inside.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Path outside.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Whether it cannot be written.
    #[prost(bool, tag = "3")]
    pub read_only: bool,
}

/// A device file in the container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeviceSpec {
    /// Path inside.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Path outside.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Of `r`, `w`, `m`.
    #[prost(string, tag = "3")]
    pub permissions: String,
}

/// A device of the container device interface.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CdiDevice {
    /// Its full name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// What a container needs for its devices.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerAllocateResponse {
    /// Environment.
    #[prost(map = "string, string", tag = "1")]
    pub envs: HashMap<String, String>,
    /// Mounts.
    #[prost(message, repeated, tag = "2")]
    pub mounts: Vec<Mount>,
    /// Device files.
    #[prost(message, repeated, tag = "3")]
    pub devices: Vec<DeviceSpec>,
    /// Annotations for the runtime.
    #[prost(map = "string, string", tag = "4")]
    pub annotations: HashMap<String, String>,
    /// Devices by name.
    #[prost(message, repeated, tag = "5")]
    pub cdi_devices: Vec<CdiDevice>,
}

/// Answers [`AllocateRequest`], in its order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AllocateResponse {
    /// One of each container.
    #[prost(message, repeated, tag = "1")]
    pub container_responses: Vec<ContainerAllocateResponse>,
}

/// Asks which devices go well together in one container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreferredRequest {
    /// To choose from.
    #[prost(string, repeated, tag = "1")]
    pub available: Vec<String>,
    /// To be among them.
    #[prost(string, repeated, tag = "2")]
    pub must_include: Vec<String>,
    /// How many.
    #[prost(int32, tag = "3")]
    pub size: i32,
}

/// Requests of containers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreferredAllocationRequest {
    /// One of each container.
    #[prost(message, repeated, tag = "1")]
    pub container_requests: Vec<PreferredRequest>,
}

/// Answers [`PreferredAllocationRequest`], in its order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreferredAllocationResponse {
    /// One of each container.
    #[prost(message, repeated, tag = "1")]
    pub container_responses: Vec<DeviceIds>,
}

/// A client of one plug-in; cheap to clone.
#[derive(Debug, Clone)]
pub struct PluginClient(tonic::client::Grpc<Channel>);

impl PluginClient {
    /// A client over a channel.
    pub fn new(channel: Channel) -> Self {
        PluginClient(tonic::client::Grpc::new(channel))
    }

    async fn ready(&mut self) -> Result<(), Status> {
        let ready = self.0.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))
    }

    /// Follows the plug-in's devices.
    ///
    /// # Errors
    /// What the plug-in or the transport said.
    pub async fn list_and_watch(&mut self) -> Result<Streaming<ListAndWatchResponse>, Status> {
        self.ready().await?;
        let path = http::uri::PathAndQuery::from_static("/v1beta1.DevicePlugin/ListAndWatch");
        let codec: ProstCodec<Empty, ListAndWatchResponse> = ProstCodec::default();
        let answer = self
            .0
            .server_streaming(Request::new(Empty {}), path, codec)
            .await?;
        Ok(answer.into_inner())
    }

    /// Asks what a container needs for devices.
    ///
    /// # Errors
    /// What the plug-in or the transport said.
    pub async fn allocate(&mut self, request: AllocateRequest) -> Result<AllocateResponse, Status> {
        self.ready().await?;
        let path = http::uri::PathAndQuery::from_static("/v1beta1.DevicePlugin/Allocate");
        let codec: ProstCodec<AllocateRequest, AllocateResponse> = ProstCodec::default();
        Ok(self
            .0
            .unary(Request::new(request), path, codec)
            .await?
            .into_inner())
    }

    /// Asks which devices go well together in a container.
    ///
    /// # Errors
    /// What the plug-in or the transport said.
    pub async fn preferred(&mut self, request: PreferredRequest) -> Result<DeviceIds, Status> {
        self.ready().await?;
        let path = http::uri::PathAndQuery::from_static("/v1beta1.DevicePlugin/GetPreferredAllocation");
        let codec: ProstCodec<PreferredAllocationRequest, PreferredAllocationResponse> =
            ProstCodec::default();
        let request = PreferredAllocationRequest {
            container_requests: vec![request],
        };
        let answer = self
            .0
            .unary(Request::new(request), path, codec)
            .await?
            .into_inner();
        Ok(answer.container_responses.into_iter().next().unwrap_or_default())
    }

    /// Lets the plug-in prepare devices right before a container starts.
    ///
    /// # Errors
    /// What the plug-in or the transport said.
    pub async fn pre_start(&mut self, devices: DeviceIds) -> Result<(), Status> {
        self.ready().await?;
        let path = http::uri::PathAndQuery::from_static("/v1beta1.DevicePlugin/PreStartContainer");
        let codec: ProstCodec<DeviceIds, Empty> = ProstCodec::default();
        self.0.unary(Request::new(devices), path, codec).await.map(drop)
    }
}

/// Takes registrations.
pub trait Registrar: Send + Sync + 'static {
    /// A plug-in registers.
    ///
    /// # Errors
    /// When it cannot be used.
    fn register(&self, request: RegisterRequest) -> Result<(), Status>;
}

/// The service where plug-ins register.
pub struct RegistrationService<R>(pub Arc<R>);

impl<R> Clone for RegistrationService<R> {
    fn clone(&self) -> Self {
        RegistrationService(self.0.clone())
    }
}

impl<R> tonic::server::NamedService for RegistrationService<R> {
    const NAME: &'static str = "v1beta1.Registration";
}

struct Register<R>(Arc<R>);

impl<R: Registrar> tonic::server::UnaryService<RegisterRequest> for Register<R> {
    type Response = Empty;
    type Future = BoxFuture<Response<Empty>, Status>;

    fn call(&mut self, request: Request<RegisterRequest>) -> Self::Future {
        let answer = self.0.register(request.into_inner());
        Box::pin(async move { answer.map(|()| Response::new(Empty {})) })
    }
}

impl<R, B> Service<http::Request<B>> for RegistrationService<R>
where
    R: Registrar,
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
        let registrar = self.0.clone();
        Box::pin(async move {
            if request.uri().path() != "/v1beta1.Registration/Register" {
                return Ok(Status::new(Code::Unimplemented, "no such method").into_http());
            }
            let codec: ProstCodec<Empty, RegisterRequest> = ProstCodec::default();
            Ok(tonic::server::Grpc::new(codec)
                .unary(Register(registrar), request)
                .await)
        })
    }
}
