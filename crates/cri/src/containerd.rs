//! containerd's own event service on the socket of its CRI, for versions whose CRI tells no events (before 1.7).
//!
//! Source of names and numbers: `api/services/events/v1/events.proto` and `api/events/task.proto` of containerd.

use prost::Message;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// The ends of processes below the namespace that the CRI plug-in uses.
const FILTER: &str = r#"namespace=="k8s.io",topic=="/tasks/exit""#;
const SUBSCRIBE: &str = "/containerd.services.events.v1.Events/Subscribe";

/// Asks for events.
#[derive(Clone, PartialEq, prost::Message)]
struct SubscribeRequest {
    /// Any of them must fit.
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

/// A message of any type.
#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    /// The type.
    #[prost(string, tag = "1")]
    type_url: String,
    /// The message.
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// One event.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Envelope {
    /// What it is about.
    #[prost(string, tag = "3")]
    topic: String,
    /// The event itself.
    #[prost(message, optional, tag = "4")]
    event: Option<Any>,
}

/// A process has ended.
#[derive(Clone, PartialEq, prost::Message)]
struct TaskExit {
    /// The container or sandbox that it was in.
    #[prost(string, tag = "1")]
    container_id: String,
    /// The process: the container's own has the container's name, others are commands that were run beside it.
    #[prost(string, tag = "2")]
    id: String,
}

impl Envelope {
    /// The container or sandbox that has ended with this event.
    pub(crate) fn ended(&self) -> Option<String> {
        let exit = TaskExit::decode(self.event.as_ref()?.value.as_slice()).ok()?;
        (exit.id.is_empty() || exit.id == exit.container_id).then_some(exit.container_id)
    }
}

/// Subscribes to the ends of containers.
pub(crate) async fn subscribe(channel: Channel) -> Result<Streaming<Envelope>, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec: ProstCodec<SubscribeRequest, Envelope> = ProstCodec::default();
    let request = Request::new(SubscribeRequest {
        filters: vec![FILTER.to_owned()],
    });
    let path = PathAndQuery::from_static(SUBSCRIBE);
    Ok(client.server_streaming(request, path, codec).await?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(container_id: &str, id: &str) -> Envelope {
        let exit = TaskExit {
            container_id: container_id.to_owned(),
            id: id.to_owned(),
        };
        Envelope {
            topic: "/tasks/exit".to_owned(),
            event: Some(Any {
                type_url: "containerd.events.TaskExit".to_owned(),
                value: exit.encode_to_vec(),
            }),
        }
    }

    #[test]
    fn a_command_that_ends_beside_the_container_ends_nothing() {
        assert_eq!(exit("c1", "c1").ended().as_deref(), Some("c1"));
        assert_eq!(exit("c1", "probe-7").ended(), None);
    }
}
