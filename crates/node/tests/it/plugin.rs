//! A device plug-in: it registers, its devices become the node's, a container gets one, it goes, and comes back to another
//! agent.

use std::convert::Infallible;
use std::path::Path;
use std::task::{Context, Poll};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, PostParams};
use mainstay_node::cri::unix_channel;
use mainstay_node::devices::api::{
    AllocateRequest, AllocateResponse, ContainerAllocateResponse, Device, DeviceIds, DevicePluginOptions,
    DeviceSpec, Empty, HEALTHY, ListAndWatchResponse, PreferredAllocationRequest,
    PreferredAllocationResponse, RegisterRequest, VERSION,
};
use mainstay_node::devices::podresources::{
    AllocatableResponse, ContainerDevices, GetRequest, GetResponse, ListResponse,
};
use mainstay_testkit::{admin, plane};
use serde_json::json;
use tokio::net::UnixListener;
use tonic::codegen::{Body, BoxFuture, Service, StdError, http};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::machine::{Agent, BUSYBOX, Machine, eventually, on_machine};
use crate::rules::{in_phase, joined, node_user};

const LIMIT: Duration = Duration::from_secs(60);
const RESOURCE: &str = "example.com/null";

/// Three devices, one of them sick; it prefers the third; a container gets /dev/null under another name.
#[derive(Clone)]
struct Plugin;

type Lists = futures::stream::BoxStream<'static, Result<ListAndWatchResponse, Status>>;

struct Listing;

impl tonic::server::ServerStreamingService<Empty> for Listing {
    type Response = ListAndWatchResponse;
    type ResponseStream = Lists;
    type Future = BoxFuture<Response<Lists>, Status>;

    fn call(&mut self, _: Request<Empty>) -> Self::Future {
        use futures::StreamExt;
        let device = |id: &str, health: &str| Device {
            id: id.into(),
            health: health.into(),
            topology: None,
        };
        let list = ListAndWatchResponse {
            devices: vec![
                device("one", HEALTHY),
                device("two", "Unhealthy"),
                device("three", HEALTHY),
            ],
        };
        let stream = futures::stream::once(async { Ok(list) }).chain(futures::stream::pending());
        Box::pin(async move { Ok(Response::new(stream.boxed())) })
    }
}

struct Allocating;

impl tonic::server::UnaryService<AllocateRequest> for Allocating {
    type Response = AllocateResponse;
    type Future = BoxFuture<Response<AllocateResponse>, Status>;

    fn call(&mut self, request: Request<AllocateRequest>) -> Self::Future {
        let ids = request.into_inner().container_requests[0].devices_ids.join(",");
        let answer = ContainerAllocateResponse {
            envs: [("DEVICE".to_owned(), ids)].into(),
            devices: vec![DeviceSpec {
                container_path: "/dev/special".into(),
                host_path: "/dev/null".into(),
                permissions: "rw".into(),
            }],
            ..Default::default()
        };
        let answer = AllocateResponse {
            container_responses: vec![answer],
        };
        Box::pin(async move { Ok(Response::new(answer)) })
    }
}

struct Preferring;

impl tonic::server::UnaryService<PreferredAllocationRequest> for Preferring {
    type Response = PreferredAllocationResponse;
    type Future = BoxFuture<Response<PreferredAllocationResponse>, Status>;

    fn call(&mut self, request: Request<PreferredAllocationRequest>) -> Self::Future {
        let wanted = request.into_inner().container_requests.remove(0);
        let mut devices_ids = wanted.available;
        devices_ids.sort_by_key(|id| id != "three");
        devices_ids.truncate(wanted.size as usize);
        let answer = PreferredAllocationResponse {
            container_responses: vec![DeviceIds { devices_ids }],
        };
        Box::pin(async move { Ok(Response::new(answer)) })
    }
}

impl tonic::server::NamedService for Plugin {
    const NAME: &'static str = "v1beta1.DevicePlugin";
}

impl<B> Service<http::Request<B>> for Plugin
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
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/v1beta1.DevicePlugin/ListAndWatch" => {
                    let codec: ProstCodec<ListAndWatchResponse, Empty> = ProstCodec::default();
                    tonic::server::Grpc::new(codec)
                        .server_streaming(Listing, request)
                        .await
                }
                "/v1beta1.DevicePlugin/GetPreferredAllocation" => {
                    let codec: ProstCodec<PreferredAllocationResponse, PreferredAllocationRequest> =
                        ProstCodec::default();
                    tonic::server::Grpc::new(codec).unary(Preferring, request).await
                }
                _ => {
                    let codec: ProstCodec<AllocateResponse, AllocateRequest> = ProstCodec::default();
                    tonic::server::Grpc::new(codec).unary(Allocating, request).await
                }
            })
        })
    }
}

/// Serves on a runtime of its own: when that goes, so do the connections, as with a process that dies.
fn serve(socket: &Path) -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let listener = {
        let _inside = runtime.enter();
        UnixListener::bind(socket).expect("a socket")
    };
    let incoming = futures::stream::unfold(listener, async |listener| {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    runtime.spawn(async move {
        let server = tonic::transport::Server::builder().add_service(Plugin);
        server.serve_with_incoming(incoming).await.expect("served");
    });
    runtime
}

async fn register(socket: &Path) -> Result<(), Status> {
    let channel = unix_channel(socket).map_err(|e| Status::unavailable(e.to_string()))?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready()
        .await
        .map_err(|e| Status::unavailable(e.to_string()))?;
    let request = RegisterRequest {
        version: VERSION.into(),
        endpoint: "null.sock".into(),
        resource_name: RESOURCE.into(),
        options: Some(DevicePluginOptions {
            get_preferred_allocation_available: true,
            ..Default::default()
        }),
    };
    let path = http::uri::PathAndQuery::from_static("/v1beta1.Registration/Register");
    let codec: ProstCodec<RegisterRequest, Empty> = ProstCodec::default();
    grpc.unary(Request::new(request), path, codec).await.map(drop)
}

/// Asks the PodResources API.
async fn ask<Q, A>(machine: &Machine, method: &'static str, request: Q) -> Result<A, Status>
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    let socket = machine.path("kubelet/pod-resources/kubelet.sock");
    let channel = unix_channel(&socket).map_err(|e| Status::unavailable(e.to_string()))?;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready()
        .await
        .map_err(|e| Status::unavailable(e.to_string()))?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    let answer = grpc
        .unary(
            Request::new(request),
            http::uri::PathAndQuery::from_static(method),
            codec,
        )
        .await?;
    Ok(answer.into_inner())
}

fn ids(devices: &[ContainerDevices]) -> Vec<String> {
    devices
        .iter()
        .map(|d| format!("{} {}", d.resource_name, d.device_ids.join(",")))
        .collect()
}

/// The devices of a pod's only container, as monitoring agents see them.
async fn held(machine: &Machine, pod: &str) -> Option<Vec<String>> {
    let request = GetRequest {
        pod_name: pod.into(),
        pod_namespace: "default".into(),
    };
    let answer: Result<GetResponse, Status> = ask(machine, "/v1.PodResourcesLister/Get", request).await;
    let resources = answer.ok()?.pod_resources?;
    Some(ids(&resources.containers.first()?.devices))
}

/// What monitoring agents see: who has the preferred device, what there is, who is unknown.
async fn check_pod_resources(machine: &Machine) {
    let list: ListResponse = ask(machine, "/v1.PodResourcesLister/List", Empty {})
        .await
        .expect("listed");
    let container = &list.pod_resources[0].containers[0];
    assert_eq!(
        (list.pod_resources[0].name.as_str(), ids(&container.devices)),
        ("first", vec![format!("{RESOURCE} three")])
    );
    let all: AllocatableResponse = ask(
        machine,
        "/v1.PodResourcesLister/GetAllocatableResources",
        Empty {},
    )
    .await
    .expect("told");
    assert_eq!(
        ids(&all.devices),
        [format!("{RESOURCE} one"), format!("{RESOURCE} three")]
    );
    let get = |name: &str| GetRequest {
        pod_name: name.into(),
        pod_namespace: "default".into(),
    };
    let one: GetResponse = ask(machine, "/v1.PodResourcesLister/Get", get("first"))
        .await
        .expect("known");
    assert_eq!(one.pod_resources.as_ref(), list.pod_resources.first());
    let unknown: Result<GetResponse, Status> =
        ask(machine, "/v1.PodResourcesLister/Get", get("nobody")).await;
    let said = unknown.expect_err("there is none");
    assert_eq!(said.message(), "pod nobody in namespace default not found");
}

/// Capacity and allocatable of the plug-in's resource.
async fn counted(nodes: &Api<Node>) -> Option<(String, String)> {
    let status = nodes.get("n1").await.ok()?.status?;
    let capacity = status.capacity?.get(RESOURCE)?.0.clone();
    Some((capacity, status.allocatable?.get(RESOURCE)?.0.clone()))
}

#[test]
fn a_plug_in_offers_devices_a_container_gets_one_and_the_offer_ends_with_the_plug_in() {
    on_machine(async |machine| {
        let plane = plane().await;
        let pods: Api<Pod> = Api::namespaced(admin(&plane), "default");
        let nodes: Api<Node> = Api::all(admin(&plane));
        let settings = joined(machine, plane.ca_pem(), plane.client(node_user()));
        let agent = Agent::start(settings.clone());
        let folder = machine.path("kubelet/device-plugins");
        eventually("plug-ins may register", LIMIT, async || {
            folder.join("kubelet.sock").exists().then_some(())
        })
        .await;
        let plugin = serve(&folder.join("null.sock"));
        register(&folder.join("kubelet.sock")).await.expect("registered");
        let both = |capacity: &str, allocatable: &str| (capacity.to_owned(), allocatable.to_owned());
        eventually("the devices are the node's", LIMIT, async || {
            (counted(&nodes).await? == both("3", "2")).then_some(())
        })
        .await;

        let with_device = |name: &str, id: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"nodeName": "n1",
                "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [{"name": "a", "image": BUSYBOX,
                "command": ["sh", "-c", format!("echo for nobody > /dev/special && [ \"$DEVICE\" = {id} ] && sleep 1000")],
                "resources": {"requests": {RESOURCE: "1"}, "limits": {RESOURCE: "1"}}}]}}))
            .expect("a pod")
        };
        pods.create(&PostParams::default(), &with_device("first", "three"))
            .await
            .expect("created");
        in_phase(&pods, "first", "Running").await;
        check_pod_resources(machine).await;
        pods.create(&PostParams::default(), &with_device("last", "one"))
            .await
            .expect("created");
        in_phase(&pods, "last", "Running").await;
        pods.create(&PostParams::default(), &with_device("second", "none"))
            .await
            .expect("created");
        let refused = in_phase(&pods, "second", "Failed").await;
        let status = refused.status.expect("a status");
        assert_eq!(status.reason.as_deref(), Some("UnexpectedAdmissionError"));
        let message = status.message.unwrap_or_default();
        assert!(
            message.contains(
                "requested number of devices unavailable for example.com/null. Requested: 1, Available: 0"
            ),
            "{message}"
        );

        plugin.shutdown_background();
        eventually("nothing can be had any more", LIMIT, async || {
            (counted(&nodes).await? == both("3", "0")).then_some(())
        })
        .await;
        agent.stop().await;

        let agent = Agent::start(settings);
        std::fs::remove_file(folder.join("null.sock")).expect("it was left behind");
        let plugin = serve(&folder.join("null.sock"));
        eventually(
            "the new agent takes the plug-in that came back",
            LIMIT,
            async || register(&folder.join("kubelet.sock")).await.ok(),
        )
        .await;
        eventually("the devices are the node's again", LIMIT, async || {
            (counted(&nodes).await? == both("3", "2")).then_some(())
        })
        .await;
        eventually("each pod still has its own", LIMIT, async || {
            let held = [held(machine, "first").await?, held(machine, "last").await?];
            (held == ["three", "one"].map(|id| vec![format!("{RESOURCE} {id}")])).then_some(())
        })
        .await;
        pods.create(&PostParams::default(), &with_device("third", "none"))
            .await
            .expect("created");
        let refused = in_phase(&pods, "third", "Failed").await.status.expect("a status");
        let message = refused.message.unwrap_or_default();
        assert!(message.contains("Requested: 1, Available: 0"), "{message}");
        for name in ["first", "last"] {
            crate::defence::is_unharmed(&pods, name).await;
        }
        agent.stop().await;
        plugin.shutdown_background();
        plane.stop().await;
    });
}
