//! Kill -9 under write load: a child process writes and prints what was acknowledged; after its death everything
//! printed must be there, and revisions must go on.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use mainstay_base::clock::SystemClock;
use mainstay_store::{EmbeddedEngine, Engine, Key, Op, Options, Store};

/// Rounds of one run of `cargo test`.
const ROUNDS: u32 = 10;
/// Names the directory for the child; its presence makes the test binary play the child.
const CHILD_DIR: &str = "MAINSTAY_STORE_CRASH_DIR";
const WRITERS: usize = 16;

fn open(dir: &Path) -> Arc<dyn Store> {
    let options = Options {
        segment_bytes: 1 << 20,
        ..Options::default()
    };
    let engine = EmbeddedEngine::open_with(dir, SystemClock::shared(), options).expect("the store opens");
    engine.keyspace("crash").expect("a valid name")
}

fn key(writer: usize, slot: u64) -> Key {
    Key::new("core/configmaps", &format!("w{writer}"), &format!("s{slot}"))
}

/// The child: every writer overwrites its 50 slots with a counter and prints each acknowledgement.
async fn write_for_ever(dir: &Path) {
    let store = open(dir);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for counter in 1u64.. {
                let mut value = counter.to_le_bytes().to_vec();
                value.resize(8 + (counter as usize * 37) % 3000, b'x');
                let revision = store
                    .txn(vec![], vec![Op::put(key(writer, counter % 50), value)])
                    .await;
                println!("ack {writer} {counter} {}", revision.expect("a write"));
            }
        });
    }
    writers.join_all().await;
}

/// The child's entry: does nothing when the tests run as tests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_child() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        write_for_ever(Path::new(&dir)).await;
    }
}

#[allow(clippy::disallowed_methods)] // a test may start a process
fn spawn_child(dir: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("the test binary has a path"));
    command
        .args(["--exact", "crash::crash_child", "--nocapture"])
        .env(CHILD_DIR, dir);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the child starts")
}

/// Lets a child write until it has acknowledged `wanted` times, kills it and returns all it said: per writer the last
/// counter, and the highest revision.
fn round(dir: &Path, wanted: usize) -> ([u64; WRITERS], u64) {
    let mut child = spawn_child(dir);
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let (mut last, mut highest, mut seen) = ([0; WRITERS], 0, 0);
    for line in lines.map_while(Result::ok) {
        let Some((_, ack)) = line.split_once("ack ") else {
            continue;
        };
        let numbers: Vec<u64> = ack.split(' ').filter_map(|number| number.parse().ok()).collect();
        let [writer, counter, revision] = numbers[..] else {
            continue;
        };
        last[writer as usize] = counter;
        highest = highest.max(revision);
        seen += 1;
        if seen == wanted {
            child.kill().expect("the child can be killed");
        }
    }
    child.wait().expect("the child is gone");
    assert!(seen >= wanted, "the child ended by itself after {seen}");
    (last, highest)
}

async fn verify(dir: &Path, last: [u64; WRITERS], highest: u64) {
    let store = open(dir);
    let current = store.current().await.expect("a read");
    assert!(current >= highest, "revision {current} after {highest}");
    for (writer, last) in last.into_iter().enumerate() {
        for counter in last.saturating_sub(49).max(1)..=last {
            let entry = store
                .get(&key(writer, counter % 50))
                .await
                .expect("a read")
                .expect("an acknowledged write");
            let found = u64::from_le_bytes(entry.value[..8].try_into().expect("eight bytes"));
            assert!(
                found == counter || found > last,
                "writer {writer}: {found} where {counter} was acknowledged"
            );
        }
    }
}

#[tokio::test]
async fn kill_nine_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    for number in 0..ROUNDS {
        let path = dir.path().to_path_buf();
        let wanted = 300 + 257 * number as usize;
        let said = tokio::task::spawn_blocking(move || round(&path, wanted)).await;
        let (last, highest) = said.expect("the round ends");
        verify(dir.path(), last, highest).await;
    }
}
