//! `mainstay server` is killed under write load, again and again: what was acknowledged is there, revisions never go back,
//! and a watch that resumes misses and repeats nothing. A few rounds here, 200 with `MAINSTAY_TEST_TIER=full`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::tools::{Running, free_port, full_tier, mainstay, wait};

const WRITERS: usize = 8;
/// Names per writer: small, so that objects are changed and deleted often.
const NAMES: u64 = 5;
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a watch may take to catch up.
const CATCH_UP: Duration = Duration::from_secs(30);

fn rounds() -> usize {
    if full_tier() { 200 } else { 4 }
}

/// What one writer knows of one name.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The last step that was acknowledged, and what it left: the step's number, or nothing after a delete.
    acknowledged: (u64, Option<u64>),
    /// The revision of that step, 0 for deletes.
    revision: u64,
    /// What a step in flight when the server died would have left.
    attempted: Option<Option<u64>>,
}

type Ledger = Arc<Mutex<BTreeMap<String, Known>>>;

/// Starts a server on the folder; `etcd` instead of the embedded store.
fn start(folder: &Path, etcd: Option<&str>) -> Running {
    let kubeconfig = folder.join("admin.kubeconfig");
    let _ = std::fs::remove_file(&kubeconfig);
    let mut command = Command::new(mainstay());
    command.args([
        "server",
        "--listen",
        &format!("127.0.0.1:{}", free_port()),
        "--data-dir",
    ]);
    command.arg(folder).stderr(Stdio::null());
    command.args(etcd.map(|url| format!("--etcd-servers={url}")));
    let process = Running(command.spawn().expect("the binary starts"));
    wait("admin.kubeconfig", START_LIMIT, || {
        kubeconfig.exists().then_some(())
    });
    process
}

async fn client(folder: &Path) -> Client {
    // The file is there a moment before it is whole.
    for _ in 0..100 {
        if let Ok(parsed) = Kubeconfig::read_from(folder.join("admin.kubeconfig"))
            && let Ok(config) = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default()).await
            && let Ok(client) = Client::try_from(config)
            && client.apiserver_version().await.is_ok()
        {
            return client;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the server does not answer");
}

fn maps(client: Client) -> Api<ConfigMap> {
    Api::namespaced(client, "default")
}

fn object(name: &str, step: u64) -> ConfigMap {
    let value =
        json!({"metadata": {"name": name, "labels": {"crash": "yes"}}, "data": {"step": step.to_string()}});
    serde_json::from_value(value).expect("a ConfigMap")
}

fn step_of(map: &ConfigMap) -> u64 {
    let data = map.data.as_ref().and_then(|data| data.get("step"));
    data.and_then(|step| step.parse().ok()).expect("a step")
}

fn revision_of(map: &ConfigMap) -> u64 {
    let revision = map.metadata.resource_version.as_deref();
    revision.and_then(|text| text.parse().ok()).expect("a revision")
}

/// Creates, changes and deletes until the server is gone; every step has a number of its own.
async fn write(
    api: Api<ConfigMap>,
    writer: usize,
    ledger: Ledger,
    acks: Arc<Semaphore>,
    mut step: u64,
) -> u64 {
    loop {
        step += 1;
        let name = format!("w{writer}-{}", step % NAMES);
        let before = ledger.lock().get(&name).cloned().unwrap_or_default();
        let present = before.acknowledged.1.is_some();
        let delete = present && step.is_multiple_of(7);
        let note = |known: Known| {
            ledger.lock().insert(name.clone(), known);
        };
        note(Known {
            attempted: Some((!delete).then_some(step)),
            ..before.clone()
        });
        let done = if delete {
            api.delete(&name, &DeleteParams::default()).await.map(|_| 0)
        } else if present {
            let change = json!({"data": {"step": step.to_string()}});
            let patched = api
                .patch(&name, &PatchParams::default(), &Patch::Merge(change))
                .await;
            patched.map(|map| revision_of(&map))
        } else {
            let made = api.create(&PostParams::default(), &object(&name, step)).await;
            made.map(|map| revision_of(&map))
        };
        match done {
            Ok(revision) => {
                note(Known {
                    acknowledged: (step, (!delete).then_some(step)),
                    revision,
                    attempted: None,
                });
                acks.add_permits(1);
            }
            Err(kube::Error::Api(status)) => panic!("{name} step {step}: {status:?}"),
            Err(_) => return step,
        }
    }
}

/// What the server has now; also brings the ledger to the truth where a step's outcome was unknown.
async fn check(api: &Api<ConfigMap>, ledger: &Ledger, highest: &mut u64) {
    let list = api
        .list(&ListParams::default().labels("crash=yes"))
        .await
        .expect("the server lists");
    let at: u64 = list
        .metadata
        .resource_version
        .as_deref()
        .unwrap_or_default()
        .parse()
        .expect("a revision");
    assert!(at >= *highest, "revisions went back from {highest} to {at}");
    *highest = at;
    let present: BTreeMap<String, &ConfigMap> = list
        .items
        .iter()
        .map(|map| (map.metadata.name.clone().unwrap_or_default(), map))
        .collect();
    let mut ledger = ledger.lock();
    let unknown: Vec<_> = present
        .keys()
        .filter(|name| !ledger.contains_key(*name))
        .collect();
    assert!(unknown.is_empty(), "nobody wrote {unknown:?}");
    for (name, known) in ledger.iter_mut() {
        let found = present.get(name);
        let is = found.map(|map| step_of(map));
        let was = known.acknowledged.1;
        assert!(
            is == was || known.attempted == Some(is),
            "{name} is {is:?}; acknowledged {:?}, attempted {:?}",
            known.acknowledged,
            known.attempted
        );
        if let Some(map) = found {
            assert!(
                is != was || revision_of(map) == known.revision,
                "{name} changed its revision"
            );
            known.revision = revision_of(map);
        }
        known.acknowledged.1 = is;
        known.attempted = None;
    }
}

/// Follows one watch over all restarts.
struct Follower {
    revision: u64,
    state: BTreeMap<String, u64>,
    events: u64,
}

impl Follower {
    /// Reads events from where it stands until the server is gone or, when `upto` is given, that revision is reached.
    async fn follow(&mut self, api: &Api<ConfigMap>, upto: Option<u64>) {
        let params = WatchParams::default().labels("crash=yes").timeout(290);
        let Ok(stream) = api.watch(&params, &self.revision.to_string()).await else {
            return;
        };
        let mut stream = stream.boxed();
        while upto.is_none_or(|upto| self.revision < upto) {
            match stream.next().await {
                Some(Ok(event)) => self.take(event),
                Some(Err(_)) | None => return,
            }
        }
    }

    fn take(&mut self, event: WatchEvent<ConfigMap>) {
        let (map, kind) = match &event {
            WatchEvent::Added(map) => (map, "added"),
            WatchEvent::Modified(map) => (map, "modified"),
            WatchEvent::Deleted(map) => (map, "deleted"),
            WatchEvent::Bookmark(mark) => {
                let at = mark.metadata.resource_version.parse().expect("a revision");
                self.revision = self.revision.max(at);
                return;
            }
            WatchEvent::Error(status) => {
                panic!("the watch could not be resumed at {}: {status:?}", self.revision)
            }
        };
        let (name, step, at) = (
            map.metadata.name.clone().unwrap_or_default(),
            step_of(map),
            revision_of(map),
        );
        assert!(
            at > self.revision,
            "{name}: {kind} at {at} came after {}",
            self.revision
        );
        self.revision = at;
        self.events += 1;
        let before = match kind {
            "deleted" => self.state.remove(&name),
            _ => self.state.insert(name.clone(), step),
        };
        match kind {
            "added" => assert_eq!(before, None, "{name} was added twice"),
            "modified" => assert!(
                before.is_some_and(|old| old < step),
                "{name}: {step} came after {before:?}"
            ),
            _ => assert!(before.is_some(), "{name} was deleted twice"),
        }
    }
}

/// What outlives the server's lives: the client's side of the story.
struct Story<'a> {
    folder: &'a Path,
    etcd: Option<&'a str>,
    ledger: Ledger,
    follower: Follower,
    /// The highest revision that a list showed.
    highest: u64,
    /// The last step of each writer.
    steps: Vec<u64>,
}

impl Story<'_> {
    /// Starts the server and checks what the last life left.
    async fn begin(&mut self) -> (Running, Api<ConfigMap>) {
        let process = start(self.folder, self.etcd);
        let api = maps(client(self.folder).await);
        check(&api, &self.ledger, &mut self.highest).await;
        let upto = newest_event(&self.ledger, &self.follower);
        tokio::time::timeout(CATCH_UP, self.follower.follow(&api, upto))
            .await
            .expect("the watch catches up");
        (process, api)
    }

    /// One life of the server: it is killed in the middle of writes, after `acknowledged` of them were acknowledged.
    async fn life(&mut self, acknowledged: u32) {
        let (mut process, api) = self.begin().await;
        let acks = Arc::new(Semaphore::new(0));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let step = self.steps[writer];
                tokio::spawn(write(
                    api.clone(),
                    writer,
                    self.ledger.clone(),
                    acks.clone(),
                    step,
                ))
            })
            .collect();
        let killer = async {
            let reached = acks.acquire_many(acknowledged).await;
            reached.expect("the semaphore stays open").forget();
            process.0.kill().expect("it runs");
            process.0.wait().expect("it ends");
        };
        // The watch reads while the writers write, and ends when the server is gone.
        tokio::join!(killer, self.follower.follow(&api, None));
        for (writer, handle) in writers.into_iter().enumerate() {
            self.steps[writer] = handle.await.expect("no writer was refused");
        }
    }
}

/// The newest revision of a living object, when the follower has not seen it yet.
fn newest_event(ledger: &Ledger, follower: &Follower) -> Option<u64> {
    let ledger = ledger.lock();
    let newest = ledger
        .values()
        .filter(|known| known.acknowledged.1.is_some())
        .map(|known| known.revision)
        .max();
    Some(newest.unwrap_or(0).max(follower.revision))
}

fn survives(etcd: Option<&str>) {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut story = Story {
            folder: folder.path(),
            etcd,
            ledger: Ledger::default(),
            follower: Follower {
                revision: 0,
                state: BTreeMap::new(),
                events: 0,
            },
            highest: 0,
            steps: vec![0; WRITERS],
        };
        {
            let _first = start(folder.path(), etcd);
            let api = maps(client(folder.path()).await);
            let list = api.list(&ListParams::default()).await.expect("the server lists");
            story.follower.revision = list
                .metadata
                .resource_version
                .expect("a revision")
                .parse()
                .expect("a number");
        }
        let mut dice = fastrand::Rng::with_seed(1);
        for _ in 0..rounds() {
            story.life(dice.u32(20..400)).await;
        }
        let _last = story.begin().await;
        let steps: BTreeMap<String, u64> = story
            .ledger
            .lock()
            .iter()
            .filter_map(|(name, known)| Some((name.clone(), known.acknowledged.1?)))
            .collect();
        let seen: BTreeMap<String, u64> = story
            .follower
            .state
            .iter()
            .filter(|(name, _)| steps.contains_key(*name))
            .map(|(name, step)| (name.clone(), *step))
            .collect();
        assert_eq!(seen, steps, "the watch missed something");
        assert!(
            story.follower.events > 0 && story.steps.iter().sum::<u64>() > WRITERS as u64,
            "there was no load"
        );
    });
}

#[test]
fn the_embedded_store_survives_kill_under_load() {
    survives(None);
}

/// An etcd of one member, ended with this value.
pub struct Etcd {
    /// Where clients reach it.
    pub url: String,
    _process: Running,
    _data: tempfile::TempDir,
}

impl Etcd {
    /// Starts it and waits until it listens.
    pub fn start() -> Etcd {
        let data = tempfile::tempdir().expect("a folder for the test");
        let free = || format!("http://127.0.0.1:{}", free_port());
        let (url, peer) = (free(), free());
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(data.path());
        for (flag, value) in [
            ("--listen-client-urls", &url),
            ("--advertise-client-urls", &url),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &format!("default={peer}")),
            ("--log-level", &"error".to_string()),
        ] {
            command.args([flag, value]);
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = Running(child.expect("etcd is installed"));
        let address = url.trim_start_matches("http://").to_string();
        wait("etcd", START_LIMIT, || {
            std::net::TcpStream::connect(&address).ok()
        });
        Etcd {
            url,
            _process: process,
            _data: data,
        }
    }
}

#[test]
fn a_server_over_etcd_survives_kill_under_load() {
    let etcd = Etcd::start();
    survives(Some(&etcd.url));
}
