//! The tenant who means harm: fills its quota with large objects and rewrites them, lists them without end, creates
//! beyond its quota, opens watches in storms, sends bodies that are too large or nothing but brackets, and reads slowly
//! what it asked for. On threads of its own.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Method, Response};
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinSet;

use super::Run;
use super::site::{NOISY, QUOTA, TENANT};
use crate::bench::apiserver::child::Server;
use crate::bench::apiserver::client::{Client, STREAM_WINDOW};

/// One object of the tenant: 200 of them are 20 MB.
const OBJECT_BYTES: usize = 100_000;
const BIG_BODY: usize = 4 << 20;
/// As much as is taken: brackets cost a parser most.
const DEEP_BODY: usize = 2_900_000;
const LISTERS: usize = 16;
const CREATORS: usize = 16;
const STORMERS: usize = 32;
const SENDERS: usize = 8;
const REWRITERS: usize = 4;
const CONNECTIONS: usize = 8;
/// Streams that are opened and not read, at once; the oldest goes for a new one.
const HELD: usize = 400;
const SLOW_CONNECTIONS: usize = 8;
/// What a slow reader's connection takes of each answer.
const SLOW_WINDOW: u32 = 64 << 10;
const BETWEEN_SLOW: Duration = Duration::from_millis(50);
/// After a refusal even this tenant waits a moment: its client shares the server's processors.
const BREATH: Duration = Duration::from_millis(20);
/// How often it tries once more when the load is over.
const LAST_TRIES: usize = 100;

/// How its requests were answered.
#[derive(Default)]
pub struct Answers {
    codes: Mutex<BTreeMap<(&'static str, u16), usize>>,
    held: Mutex<usize>,
}

impl Answers {
    fn note(&self, what: &'static str, code: u16) {
        *self.codes.lock().entry((what, code)).or_default() += 1;
    }

    /// How many requests got this code.
    pub fn count(&self, code: u16) -> usize {
        let codes = self.codes.lock();
        codes
            .iter()
            .filter(|(key, _)| key.1 == code)
            .map(|(_, count)| count)
            .sum()
    }

    /// Which requests got this code.
    pub fn of(&self, code: u16) -> String {
        let codes = self.codes.lock();
        let texts = codes
            .iter()
            .filter(|(key, _)| key.1 == code)
            .map(|((what, _), count)| format!("{what} {count}"));
        texts.collect::<Vec<_>>().join(", ")
    }

    /// Which requests got other codes; 0 is no answer.
    pub fn others(&self) -> String {
        let codes = self.codes.lock();
        let texts = codes
            .iter()
            .filter(|(key, _)| ![200, 403, 413, 429].contains(&key.1))
            .map(|((what, code), count)| format!("{what} {code}: {count}"));
        texts.collect::<Vec<_>>().join(", ")
    }

    /// How many slow streams there were at the end.
    pub fn held(&self) -> usize {
        *self.held.lock()
    }
}

/// Starts the abuse.
pub fn rage(kubeconfig: &Path, run: Arc<Run>) -> JoinHandle<Result<Arc<Answers>>> {
    let kubeconfig: PathBuf = kubeconfig.into();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        runtime.block_on(everything(&kubeconfig, run))
    })
}

/// What every part of the abuse needs.
#[derive(Clone)]
struct Abuse {
    client: Arc<Client>,
    answers: Arc<Answers>,
    run: Arc<Run>,
}

async fn everything(kubeconfig: &Path, run: Arc<Run>) -> Result<Arc<Answers>> {
    let client = Client::connect_as(kubeconfig, CONNECTIONS, STREAM_WINDOW, TENANT).await?;
    let slow = Client::connect_as(kubeconfig, SLOW_CONNECTIONS, SLOW_WINDOW, TENANT).await?;
    let abuse = Abuse {
        client: Arc::new(client),
        answers: Arc::default(),
        run,
    };
    let mut parts = JoinSet::new();
    for _ in 0..LISTERS {
        parts.spawn(abuse.clone().list());
    }
    for creator in 0..CREATORS {
        parts.spawn(abuse.clone().create(creator));
    }
    for _ in 0..STORMERS {
        parts.spawn(abuse.clone().storm());
    }
    for sender in 0..SENDERS {
        parts.spawn(abuse.clone().send(sender % 2 == 0));
    }
    for rewriter in 0..REWRITERS {
        parts.spawn(abuse.clone().rewrite(rewriter));
    }
    parts.spawn(abuse.clone().hold(slow));
    while let Some(done) = parts.join_next().await {
        done?;
    }
    abuse.sends_once_more().await;
    Ok(abuse.answers)
}

/// Fills the tenant's quota before the load begins.
pub async fn fill(server: &Server) -> Result<()> {
    let client = server.client(2).await?;
    let (client, path) = (&client, &maps());
    let created =
        (0..QUOTA).map(async |number| client.create(path, large(&format!("big-{number}"), 0)).await);
    let mut created = futures::stream::iter(created).buffer_unordered(CREATORS);
    while let Some(one) = created.next().await {
        one?;
    }
    Ok(())
}

fn maps() -> String {
    format!("/api/v1/namespaces/{NOISY}/configmaps")
}

fn large(name: &str, round: usize) -> String {
    json!({"metadata": {"name": name}, "data": {"round": round.to_string(), "x": "x".repeat(OBJECT_BYTES)}})
        .to_string()
}

impl Abuse {
    /// Sends a request; the answer is read elsewhere.
    async fn ask(
        &self,
        what: &'static str,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Option<Response<Incoming>> {
        let asked = self.client.open(method, path, "application/json", body).await;
        let code = asked.as_ref().map_or(0, |response| response.status().as_u16());
        let good = (200..300).contains(&code);
        self.answers.note(what, if good { 200 } else { code });
        if !good {
            tokio::time::sleep(BREATH).await;
        }
        asked.ok()
    }

    async fn read(&self, what: &'static str, method: Method, path: &str, body: impl Into<Bytes>) {
        if let Some(response) = self.ask(what, method, path, body).await {
            let mut body = response.into_body();
            while let Some(Ok(_)) = body.frame().await {}
        }
    }

    async fn list(self) {
        while !self.run.is_over() {
            self.read("list", Method::GET, &maps(), "").await;
        }
    }

    async fn create(self, creator: usize) {
        let mut number = 0;
        while !self.run.is_over() {
            number += 1;
            let object = json!({"metadata": {"name": format!("more-{creator}-{number}")}}).to_string();
            self.read("create", Method::POST, &maps(), object).await;
        }
    }

    async fn storm(self) {
        let path = format!("{}?watch=1&resourceVersion=0", maps());
        while !self.run.is_over() {
            if let Some(response) = self.ask("watch", Method::GET, &path, "").await {
                // One look, and away.
                let _ = response.into_body().frame().await;
            }
        }
    }

    async fn send(self, too_large: bool) {
        let deep = format!("{{\"data\":{}", "[".repeat(DEEP_BODY));
        let flat = format!("{{\"data\":[{}1]}}", "{},".repeat(DEEP_BODY / 3));
        let bodies = match too_large {
            true => ["x".repeat(BIG_BODY), large("huge", BIG_BODY)],
            false => [deep, flat],
        };
        let bodies = bodies.map(Bytes::from);
        let mut turn = 0;
        while !self.run.is_over() {
            turn += 1;
            let body = bodies[turn % bodies.len()].clone();
            self.read("send", Method::POST, &maps(), body).await;
        }
    }

    /// While others have all the room it may only be told to come back; afterwards it hears that its body is too large.
    async fn sends_once_more(&self) {
        let body = Bytes::from("x".repeat(BIG_BODY));
        for _ in 0..LAST_TRIES {
            self.read("send", Method::POST, &maps(), body.clone()).await;
            if self.answers.count(413) > 0 {
                return;
            }
        }
    }

    async fn rewrite(self, rewriter: usize) {
        let mut round = 0;
        while !self.run.is_over() {
            for number in (rewriter..QUOTA).step_by(REWRITERS) {
                round += 1;
                let name = format!("big-{number}");
                let path = format!("{}/{name}", maps());
                self.read("rewrite", Method::PUT, &path, large(&name, round))
                    .await;
                if self.run.is_over() {
                    return;
                }
            }
        }
    }

    /// Opens lists and watches and reads nothing of them.
    async fn hold(self, slow: Client) {
        let slow = Abuse {
            client: Arc::new(slow),
            ..self
        };
        let paths = [maps(), format!("{}?watch=1&resourceVersion=0", maps())];
        let (mut held, mut turn) = (VecDeque::new(), 0);
        while !slow.run.is_over() {
            turn += 1;
            held.extend(slow.ask("slow", Method::GET, &paths[turn % 2], "").await);
            if held.len() > HELD {
                held.pop_front();
            }
            tokio::time::sleep(BETWEEN_SLOW).await;
        }
        *slow.answers.held.lock() = held.len();
    }
}
