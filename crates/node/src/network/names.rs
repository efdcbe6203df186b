//! Answers DNS at the cluster's DNS address, on this node for this node's pods: the address is one of the loopback's, so
//! that queries never leave the machine and names are there while the control plane is not. Names of others are asked of
//! the node's own servers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mainstay_base::error::chain;
use mainstay_control::EventKind;
use mainstay_services::dns::{self, Query, Reply, Transport, Zone};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::services::is_own_server;
use crate::config::ClusterNetwork;
use crate::context::Shared;

const PORT: u16 = 53;
/// Wait before the address is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long one server of others' names may take.
const SERVER_PATIENCE: Duration = Duration::from_secs(2);
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// Most queries on their way to other servers, and most connections, at a time: more are not answered.
const LIMIT: usize = 512;
/// The largest packet.
const PACKET_BYTES: usize = 4096;

/// Why names are not answered.
#[derive(Debug, thiserror::Error)]
enum NamesError {
    /// The address is none.
    #[error("network.clusterDNS: {0:?} is no address")]
    Address(String),
    /// The loopback did not take the address.
    #[error("failed to add the cluster's DNS address to the loopback")]
    Loopback(#[source] mainstay_host::Error),
    /// The port is taken or forbidden.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The kernel took the socket away.
    #[error("failed to receive on {address}")]
    Receive {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What every answer needs.
struct Responder {
    zone: watch::Receiver<Option<Arc<Zone>>>,
    /// Servers of others' names.
    servers: Vec<SocketAddr>,
    asking: Semaphore,
}

/// Answers for as long as the agent runs.
pub async fn keep(shared: &Shared, network: &ClusterNetwork, zone: watch::Receiver<Option<Arc<Zone>>>) {
    let responder = Arc::new(Responder {
        zone,
        servers: servers(shared, network),
        asking: Semaphore::new(LIMIT),
    });
    let mut told = false;
    loop {
        let Err(error) = serve(&responder, &network.cluster_dns).await;
        let message = chain(&error);
        tracing::error!(
            error = message,
            "names of the cluster are not answered on this node"
        );
        if !told {
            let node = shared.settings.node_name();
            shared
                .events
                .node(node, EventKind::Warning, "ClusterDNSFailed", message);
        }
        told = true;
        tokio::time::sleep(RETRY).await;
    }
}

/// The node's servers, without ourselves.
fn servers(shared: &Shared, network: &ClusterNetwork) -> Vec<SocketAddr> {
    let texts = shared.node_side.resolver.servers.iter();
    texts
        .filter_map(|text| text.parse::<IpAddr>().ok())
        .filter(|address| !is_own_server(network, *address))
        .map(|address| SocketAddr::new(address, PORT))
        .collect()
}

async fn serve(responder: &Arc<Responder>, address: &str) -> Result<std::convert::Infallible, NamesError> {
    let ip: IpAddr = address
        .parse()
        .map_err(|_| NamesError::Address(address.to_owned()))?;
    let line = format!(
        "address replace {ip}/{} dev lo",
        if ip.is_ipv4() { 32 } else { 128 }
    );
    let added = tokio::task::spawn_blocking(move || mainstay_host::network::batch(None, &[line])).await;
    if let Ok(Err(error)) = added {
        return Err(NamesError::Loopback(error));
    }
    let address = SocketAddr::new(ip, PORT);
    let listen = |source| NamesError::Listen { address, source };
    let socket = Arc::new(UdpSocket::bind(address).await.map_err(listen)?);
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    tracing::info!(%address, "names of the cluster are answered");
    let failed = tokio::select! {
        error = packets(responder, &socket) => error,
        error = connections(responder, &listener) => error,
    };
    Err(NamesError::Receive {
        address,
        source: failed,
    })
}

async fn packets(responder: &Arc<Responder>, socket: &Arc<UdpSocket>) -> std::io::Error {
    let mut work = JoinSet::new();
    let mut packet = vec![0; PACKET_BYTES];
    loop {
        let (length, asker) = match socket.recv_from(&mut packet).await {
            Ok(received) => received,
            // An asker that is gone by the time of its answer is told to the sender of it, which is us.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return error,
        };
        while work.try_join_next().is_some() {}
        match responder.reply(&packet[..length], Transport::Udp) {
            Reply::Ignore => {}
            Reply::Send(bytes) => {
                // An asker that cannot be reached asks again.
                let _ = socket.send_to(&bytes, asker).await;
            }
            further => {
                let (responder, socket, packet) =
                    (responder.clone(), socket.clone(), packet[..length].to_vec());
                work.spawn(async move {
                    if let Some(bytes) = responder.ask_others(further, &packet, Transport::Udp).await {
                        let _ = socket.send_to(&bytes, asker).await;
                    }
                });
            }
        }
    }
}

async fn connections(responder: &Arc<Responder>, listener: &TcpListener) -> std::io::Error {
    let mut work = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return error,
        };
        while work.try_join_next().is_some() {}
        if work.len() < LIMIT {
            let responder = responder.clone();
            work.spawn(async move {
                // A connection that breaks is the asker's loss.
                let _ = connection(&responder, stream).await;
            });
        }
    }
}

/// Answers the queries of one connection, each with its length before it.
async fn connection(responder: &Responder, mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let Ok(length) = tokio::time::timeout(IDLE, stream.read_u16()).await else {
            return Ok(());
        };
        let mut packet = vec![0; usize::from(length?)];
        match tokio::time::timeout(IDLE, stream.read_exact(&mut packet)).await {
            Ok(read) => read?,
            Err(_) => return Ok(()),
        };
        let bytes = match responder.reply(&packet, Transport::Tcp) {
            Reply::Ignore => return Ok(()),
            Reply::Send(bytes) => Some(bytes),
            further => responder.ask_others(further, &packet, Transport::Tcp).await,
        };
        let Some(bytes) = bytes else { return Ok(()) };
        stream.write_all(&framed(&bytes)).await?;
    }
}

/// A message with its length before it.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend(&bytes[..usize::from(length)]);
    framed
}

impl Responder {
    fn reply(&self, packet: &[u8], transport: Transport) -> Reply {
        let zone = self.zone.borrow().clone();
        match (zone, Query::parse(packet)) {
            (Some(zone), _) => dns::reply(&zone, packet, transport),
            // Nothing is known yet, which is not the same as that there is nothing.
            (None, Some(query)) => Reply::Send(dns::failure(&query, transport)),
            (None, None) => Reply::Ignore,
        }
    }

    /// The answer that needs other servers; none when too many wait for such.
    async fn ask_others(&self, reply: Reply, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let _one_of_many = self.asking.try_acquire().ok()?;
        match reply {
            Reply::Forward(query) => {
                let answer = self.ask(packet, transport).await;
                Some(answer.unwrap_or_else(|| dns::failure(&query, transport)))
            }
            Reply::Follow { ask, query, found } => {
                let answer = self.ask(&ask.bytes(), Transport::Tcp).await;
                Some(dns::alias(&query, found, answer.as_deref(), transport))
            }
            Reply::Send(bytes) => Some(bytes),
            Reply::Ignore => None,
        }
    }

    /// Asks one server after the other.
    async fn ask(&self, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
        for server in &self.servers {
            let answer = async {
                match transport {
                    Transport::Udp => ask_by_packet(*server, packet).await,
                    Transport::Tcp => ask_by_stream(*server, packet).await,
                }
            };
            match tokio::time::timeout(SERVER_PATIENCE, answer).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "a name server could not be asked"),
                Err(_) => tracing::debug!(%server, "a name server did not answer in time"),
            }
        }
        None
    }
}

async fn ask_by_packet(server: SocketAddr, packet: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() {
        IpAddr::from([0, 0, 0, 0])
    } else {
        IpAddr::from([0_u16; 8])
    };
    // A port of its own per query: an answer to another query cannot be taken for this one's.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(packet).await?;
    let mut answer = vec![0; PACKET_BYTES];
    loop {
        let length = socket.recv(&mut answer).await?;
        if length >= 2 && answer[..2] == packet[..2] {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn ask_by_stream(server: SocketAddr, packet: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(&framed(packet)).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
