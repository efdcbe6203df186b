//! The server under measurement: a child process on the embedded store, and what `/proc` tells about it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mainstay_base::clock::{Clock, SystemClock};

use super::bare::KUBECONFIG;
use super::client::Client;

/// How long a start may take.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often a starting server is asked.
const POLL: Duration = Duration::from_millis(1);
/// Clock ticks per second in `/proc/PID/stat`.
const TICKS: f64 = 100.0;

/// A running `mainstay server`; killed when dropped.
pub struct Server {
    process: Child,
    kubeconfig: PathBuf,
}

/// Memory of the process, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Everything resident.
    pub rss: f64,
    /// Of it what is no file's.
    pub anonymous: f64,
}

impl Server {
    /// Starts a server on `folder`, and tells how long it took until `/readyz` said ok.
    pub async fn start(folder: &Path) -> Result<(Server, Duration)> {
        Server::start_with(folder, &[]).await
    }

    /// The same with more flags.
    pub async fn start_with(folder: &Path, flags: &[String]) -> Result<(Server, Duration)> {
        Server::wait(folder, |port| spawn(folder, port, flags)).await
    }

    /// The server without content: see [`super::bare`].
    pub async fn start_bare(folder: &Path) -> Result<Server> {
        let started = Server::wait(folder, |port| spawn_bare(folder, port)).await;
        started.map(|(server, _)| server)
    }

    async fn wait(folder: &Path, spawn: impl FnOnce(u16) -> Result<Child>) -> Result<(Server, Duration)> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let kubeconfig = folder.join(KUBECONFIG);
        if kubeconfig.exists() {
            std::fs::remove_file(&kubeconfig)?;
        }
        let clock = SystemClock::new();
        let begin = clock.monotonic();
        let server = Server {
            process: spawn(port)?,
            kubeconfig,
        };
        while clock.monotonic() - begin < START_LIMIT {
            if server.is_ready().await {
                return Ok((server, clock.monotonic() - begin));
            }
            tokio::time::sleep(POLL).await;
        }
        bail!("the server was not ready after {START_LIMIT:?}")
    }

    async fn is_ready(&self) -> bool {
        // Written when the server is ready; half written it does not parse, and is read again.
        let Ok(client) = self.client(1).await else {
            return false;
        };
        client.get("/readyz").await.is_ok_and(|body| &body[..] == b"ok")
    }

    /// A client of the administrator with so many connections.
    pub async fn client(&self, connections: usize) -> Result<Client> {
        Client::connect(&self.kubeconfig, connections).await
    }

    /// Its administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// CPU seconds so far, user and system.
    pub fn cpu(&self) -> Result<f64> {
        let stat = self.proc("stat")?;
        let after_name = stat.rsplit_once(')').context("a malformed stat file")?.1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / TICKS)
    }

    /// Memory now.
    pub fn memory(&self) -> Result<Memory> {
        let status = self.proc("status")?;
        let bytes = |key: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let number = line.and_then(|line| line.split_whitespace().next());
            Ok(number.context("no memory in the status file")?.parse::<f64>()? * 1024.0)
        };
        Ok(Memory {
            rss: bytes("VmRSS:")?,
            anonymous: bytes("RssAnon:")?,
        })
    }

    fn proc(&self, file: &str) -> Result<String> {
        Ok(std::fs::read_to_string(format!(
            "/proc/{}/{file}",
            self.process.id()
        ))?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGKILL: nothing is written on the way out. The process may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(folder: &Path, port: u16, flags: &[String]) -> Result<Child> {
    let binary = std::env::current_exe()?.with_file_name("mainstay");
    Command::new(&binary)
        .args(["server", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
        .arg(folder)
        .args(flags)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("failed to start {}", binary.display()))
}

fn spawn_bare(folder: &Path, port: u16) -> Result<Child> {
    let started = Command::new(std::env::current_exe()?)
        .arg("bare-server")
        .arg(folder)
        .arg(port.to_string())
        .stdin(Stdio::null())
        .spawn();
    started.context("failed to start the bare server")
}
