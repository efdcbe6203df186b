//! The honest users: writers at a steady pace, and watchers who count every event. Each writer numbers its steps, so that
//! a watcher sees whether one is missing or comes twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::body::Incoming;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Run, site};
use crate::bench::apiserver::child::Server;
use crate::bench::apiserver::client::{Client, STREAM_WINDOW};

/// Teams, writers of all teams together, watchers of all teams together.
pub const TEAMS: usize = 16;
pub const WRITERS: usize = 64;
pub const WATCHERS: usize = 1_000;
/// Objects per writer.
const NAMES: u64 = 8;
/// The pace of one writer.
const PAUSE: Duration = Duration::from_millis(250);
const WATCHERS_PER_CONNECTION: usize = 10;
/// How long watchers may take for the last events.
const SETTLE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Acknowledged steps by namespace and name.
type Ledger = Mutex<BTreeMap<(String, String), u64>>;

/// What all watchers saw.
#[derive(Default)]
struct Seen {
    events: AtomicUsize,
    wrong: AtomicUsize,
    first_wrong: Mutex<String>,
    /// The last step of each writer, by watcher.
    last: Mutex<Vec<BTreeMap<usize, u64>>>,
}

/// Writers and watchers.
pub struct Teams {
    writers: Vec<Arc<Client>>,
    run: Arc<Run>,
    seen: Arc<Seen>,
    ledger: Arc<Ledger>,
    watches: JoinSet<()>,
}

/// What there is to tell afterwards.
pub struct Told {
    pub writes: u64,
    pub events: usize,
    pub wrong: usize,
    pub first_wrong: String,
    ledger: Arc<Ledger>,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

impl Teams {
    /// Connects everybody and opens the watches.
    pub async fn open(server: &Server, run: Arc<Run>) -> Result<Teams> {
        let connect = |connections| {
            let kubeconfig = server.kubeconfig();
            async move { Client::connect_as(kubeconfig, connections, STREAM_WINDOW, "").await }
        };
        let writing = connect(TEAMS).await?;
        let watching = connect(WATCHERS / WATCHERS_PER_CONNECTION).await?;
        let seen = Arc::new(Seen::default());
        seen.last.lock().resize_with(WATCHERS, BTreeMap::new);
        let mut watches = JoinSet::new();
        for watcher in 0..WATCHERS {
            let client = watching.speaking_for(&site::team(watcher % TEAMS));
            let path = maps(watcher % TEAMS);
            let list: Value = serde_json::from_slice(&client.get(&path).await?)?;
            let revision = list["metadata"]["resourceVersion"]
                .as_str()
                .context("no revision")?;
            let follower = Follower {
                path,
                watcher,
                revision: revision.to_owned(),
                seen: seen.clone(),
                run: run.clone(),
            };
            let body = follower.watch(&client).await?;
            watches.spawn(follower.follow(client, body));
        }
        let writers = (0..WRITERS)
            .map(|writer| Arc::new(writing.speaking_for(&site::team(writer % TEAMS))))
            .collect();
        Ok(Teams {
            writers,
            run,
            seen,
            ledger: Arc::default(),
            watches,
        })
    }

    /// Starts the writers; each gives back how many steps were acknowledged.
    pub fn write(&self) -> JoinSet<(usize, u64)> {
        let mut running = JoinSet::new();
        for (writer, client) in self.writers.iter().cloned().enumerate() {
            let (run, ledger) = (self.run.clone(), self.ledger.clone());
            running.spawn(async move { (writer, write(&client, writer, &run, &ledger).await) });
        }
        running
    }

    /// Waits for the writers, then until every watcher has seen their last steps.
    pub async fn settle(mut self, mut writers: JoinSet<(usize, u64)>) -> Result<Told> {
        let mut steps = BTreeMap::new();
        while let Some(done) = writers.join_next().await {
            let (writer, last) = done?;
            steps.insert(writer, last);
        }
        let caught_up = async {
            while !self.seen.has_all(&steps) {
                tokio::time::sleep(POLL).await;
            }
        };
        if tokio::time::timeout(SETTLE, caught_up).await.is_err() {
            self.seen
                .wrong(&format!("a watcher did not see the last steps in {SETTLE:?}"));
        }
        self.watches.abort_all();
        Ok(Told {
            writes: steps.values().sum(),
            events: self.seen.events.load(Ordering::Relaxed),
            wrong: self.seen.wrong.load(Ordering::Relaxed),
            first_wrong: self.seen.first_wrong.lock().clone(),
            ledger: self.ledger,
        })
    }
}

impl Told {
    /// How many objects are not as they were acknowledged.
    pub async fn lost(&self, server: &Server) -> Result<usize> {
        let client = server.client(1).await?;
        let mut found = BTreeMap::new();
        for team in 0..TEAMS {
            let list: Value = serde_json::from_slice(&client.get(&maps(team)).await?)?;
            for item in list["items"].as_array().into_iter().flatten() {
                let name = item["metadata"]["name"].as_str().unwrap_or_default();
                found.insert(
                    (site::space(team), name.to_owned()),
                    step_of(item).map(|(_, step)| step),
                );
            }
        }
        let ledger = self.ledger.lock();
        let is_lost = |(key, step): &(&(String, String), &u64)| found.get(*key) != Some(&Some(**step));
        Ok(ledger.iter().filter(is_lost).count())
    }
}

fn maps(team: usize) -> String {
    format!("/api/v1/namespaces/{}/configmaps", site::space(team))
}

/// Creates and changes objects; gives back the last acknowledged step. A failure ends the writer: what an unanswered
/// write left is unknown.
async fn write(client: &Client, writer: usize, run: &Run, ledger: &Ledger) -> u64 {
    let path = maps(writer % TEAMS);
    let mut step = 0;
    while !run.is_over() {
        let next = step + 1;
        let name = format!("w{writer}-{}", next % NAMES);
        let data = json!({"writer": writer.to_string(), "step": next.to_string()});
        let done = match next <= NAMES {
            true => {
                let object = json!({"metadata": {"name": name}, "data": data}).to_string();
                client.create(&path, object).await
            }
            false => {
                let change = json!({"data": data}).to_string();
                let path = format!("{path}/{name}");
                client
                    .send(Method::PATCH, &path, "application/merge-patch+json", change)
                    .await
            }
        };
        if let Err(error) = done {
            run.failed(error);
            break;
        }
        step = next;
        let space = site::space(writer % TEAMS);
        ledger.lock().insert((space, name), step);
        tokio::time::sleep(PAUSE).await;
    }
    step
}

/// Which step of which writer an object shows.
fn step_of(object: &Value) -> Option<(usize, u64)> {
    let number = |key: &str| object["data"][key].as_str();
    Some((number("writer")?.parse().ok()?, number("step")?.parse().ok()?))
}

/// One watcher over all its watches.
struct Follower {
    path: String,
    watcher: usize,
    revision: String,
    seen: Arc<Seen>,
    run: Arc<Run>,
}

impl Follower {
    async fn watch(&self, client: &Client) -> Result<Incoming> {
        let path = format!("{}?watch=1&resourceVersion={}", self.path, self.revision);
        let response = client
            .open(Method::GET, &path, "application/json", Bytes::new())
            .await?;
        anyhow::ensure!(response.status().is_success(), "{path}: {}", response.status());
        Ok(response.into_body())
    }

    /// Reads for ever; a watch that ends is resumed.
    async fn follow(mut self, client: Client, mut body: Incoming) {
        loop {
            self.read(&mut body).await;
            match self.watch(&client).await {
                Ok(next) => body = next,
                Err(error) => return self.run.failed(error),
            }
        }
    }

    async fn read(&mut self, body: &mut Incoming) {
        let mut rest = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            let Some(data) = frame.data_ref() else { continue };
            rest.extend_from_slice(data);
            let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else {
                continue;
            };
            let lines: Vec<u8> = rest.drain(..=end).collect();
            lines
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .for_each(|line| self.take(line));
        }
    }

    fn take(&mut self, line: &[u8]) {
        let parsed: Option<Line> = serde_json::from_slice(line).ok();
        let known = parsed.as_ref().and_then(|line| step_of(&line.object));
        let (Some(line), Some((writer, step))) = (parsed, known) else {
            // Not every ConfigMap is a writer's.
            return self.note_other(line);
        };
        if let Some(revision) = line.object["metadata"]["resourceVersion"].as_str() {
            self.revision = revision.to_owned();
        }
        self.seen.events.fetch_add(1, Ordering::Relaxed);
        let before = self.seen.last.lock()[self.watcher].insert(writer, step);
        let before = before.unwrap_or_default();
        if step != before + 1 {
            let (watcher, kind) = (self.watcher, line.kind);
            self.seen.wrong(&format!(
                "watcher {watcher}: {kind} {step} of writer {writer} came after {before}"
            ));
        }
    }

    fn note_other(&self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        if text.contains("\"ERROR\"") {
            self.run.failed(text);
        }
    }
}

impl Seen {
    fn wrong(&self, what: &str) {
        self.wrong.fetch_add(1, Ordering::Relaxed);
        let mut first = self.first_wrong.lock();
        if first.is_empty() {
            *first = what.to_owned();
        }
    }

    fn has_all(&self, steps: &BTreeMap<usize, u64>) -> bool {
        let last = self.last.lock();
        last.iter().enumerate().all(|(watcher, seen)| {
            steps
                .iter()
                .filter(|(writer, _)| *writer % TEAMS == watcher % TEAMS)
                .all(|(writer, step)| seen.get(writer).copied().unwrap_or_default() >= *step)
        })
    }
}
