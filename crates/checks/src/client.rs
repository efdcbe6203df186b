//! A control plane from outside: a bare server over TLS in a folder of its own, and the smallest client for it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use mainstay_base::clock::SystemClock;
use mainstay_controlplane::ControlPlane;
use mainstay_controlplane::server::{self, ServerArgs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A running bare server.
pub struct Plane {
    plane: ControlPlane,
    _folder: tempfile::TempDir,
}

impl Plane {
    /// Starts a server on a free loopback port, with these static tokens.
    pub async fn start(tokens: Option<&str>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let token_auth_file = match tokens {
            None => None,
            Some(text) => {
                let path = folder.path().join("tokens.csv");
                std::fs::write(&path, text)?;
                Some(path)
            }
        };
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let args = ServerArgs {
            token_auth_file,
            disable_admission_plugins: vec!["ServiceAccount".into()],
            ..ServerArgs::new(&folder.path().join("data"), listen)
        };
        let plane = server::start(&args, SystemClock::shared())
            .await
            .context("the server did not start")?;
        Ok(Plane {
            plane,
            _folder: folder,
        })
    }

    /// A client that trusts the server and shows nothing of itself.
    pub fn client(&self) -> Https {
        let address = self.plane.address().expect("a bare server listens");
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.plane.ca_pem().as_bytes()).flatten() {
            // The server's own CA: it has just been made by the same library.
            let _ = roots.add(certificate);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Https {
            address,
            tls: TlsConnector::from(Arc::new(tls)),
        }
    }
}

/// Sends each request on a connection of its own.
pub struct Https {
    address: SocketAddr,
    tls: TlsConnector,
}

impl Https {
    /// Sends one request.
    pub async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost")?;
        let stream = self.tls.connect(name, stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        request.headers_mut().insert("host", "localhost".parse()?);
        Ok(sender.send_request(request).await?)
    }
}
