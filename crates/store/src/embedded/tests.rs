//! The log against a disk that tears, flips and refuses.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstay_base::clock::FakeClock;

use super::faulty::Faulty;
use super::{EmbeddedEngine, Options};
use crate::{Engine, Error, Key, Op, Prefix, Result, Store, WatchItem};

type Files = BTreeMap<String, Vec<u8>>;

fn small() -> Options {
    Options {
        segment_bytes: 8 << 10,
        linger: std::time::Duration::ZERO,
        ..Options::default()
    }
}

fn open(disk: &Faulty, options: Options) -> Result<(EmbeddedEngine, Arc<dyn Store>)> {
    let engine = EmbeddedEngine::open_on(Box::new(disk.clone()), FakeClock::new(), options)?;
    let store = engine.keyspace("test")?;
    Ok((engine, store))
}

fn key(number: usize) -> Key {
    Key::new("core/configmaps", "default", &format!("k{number}"))
}

async fn content(store: &dyn Store) -> String {
    let page = store.range(&Prefix::All, None, None, 0).await.expect("a read");
    let entry =
        |entry: &crate::Entry| format!("{}={}", entry.key.name, String::from_utf8_lossy(&entry.value));
    page.entries.iter().map(entry).collect::<Vec<_>>().join(" ")
}

/// Writes `count` transactions one after the other and returns the content after each, with the durable files.
async fn history(disk: &Faulty, count: usize) -> Vec<(String, Files)> {
    let (_engine, store) = open(disk, Options::default()).expect("an empty disk opens");
    let mut states = vec![(String::new(), disk.durable())];
    for number in 0..count {
        let ops = vec![
            Op::put(key(number), format!("{number}")),
            Op::delete(key(number / 2)),
        ];
        let ops = if number == 0 {
            vec![Op::put(key(0), "0")]
        } else {
            ops
        };
        store.txn(vec![], ops).await.expect("a write");
        states.push((content(&*store).await, disk.durable()));
    }
    states
}

/// Opens a copy of the files; text of the content, or of the error.
async fn reopened(files: &Files) -> std::result::Result<String, Error> {
    let (_engine, store) = open(&Faulty::of(files.clone()), Options::default())?;
    Ok(content(&*store).await)
}

#[tokio::test]
async fn a_log_torn_at_any_byte_opens_with_what_was_whole() {
    let states = history(&Faulty::default(), 8).await;
    let (_, last) = states.last().expect("states");
    let (name, bytes) = last.first_key_value().expect("a segment");
    let ends: Vec<usize> = states
        .iter()
        .map(|(_, files)| files.get(name).map_or(0, Vec::len))
        .collect();
    for cut in 0..=bytes.len() {
        // The last bytes of a frame may be padding, which nobody misses.
        let whole = |slack| &states[ends.iter().rposition(|end| *end <= cut + slack).unwrap_or(0)].0;
        let mut zeroed = bytes[..cut].to_vec();
        zeroed.resize(bytes.len() + 4096, 0);
        for torn in [bytes[..cut].to_vec(), zeroed] {
            let files = Files::from([(name.clone(), torn)]);
            let content = reopened(&files).await.expect("a torn tail is no damage");
            assert!(
                [whole(0), whole(7)].contains(&&content),
                "cut at {cut}: {content}"
            );
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_is_found_or_costs_only_the_last_batch() {
    let states = history(&Faulty::default(), 6).await;
    let (_, last) = states.last().expect("states");
    let (name, bytes) = last.first_key_value().expect("a segment");
    let tail = states[states.len() - 2].1[name].len();
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        let files = Files::from([(name.clone(), flipped)]);
        match reopened(&files).await {
            Err(Error::Corrupt { file, offset, .. }) => {
                assert!(
                    file.ends_with(name) && offset as usize <= at && at < tail,
                    "{at}: {offset}"
                );
            }
            Ok(content) if at >= tail => {
                assert!(
                    states[states.len() - 2..]
                        .iter()
                        .any(|(state, _)| *state == content),
                    "byte {at}: {content}"
                );
            }
            // Padding between frames is covered by nothing and means nothing.
            Ok(content) => assert_eq!(content, states[states.len() - 1].0, "byte {at}"),
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
}

#[tokio::test]
async fn a_missing_file_is_damage() {
    let disk = Faulty::default();
    for number in 0..4 {
        let (_engine, store) = open(&disk, Options::default()).expect("opens");
        store
            .txn(vec![], vec![Op::put(key(number), "x")])
            .await
            .expect("a write");
    }
    let mut files = disk.durable();
    let second = files.keys().nth(1).cloned().expect("a file per opening");
    files.remove(&second);
    let error = reopened(&files).await.expect_err("damage");
    assert_eq!(
        error.to_string(),
        format!("disk/{second} is corrupt at byte 0: the file is missing")
    );
}

#[tokio::test]
async fn power_loss_keeps_everything_acknowledged() {
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disk = Faulty::default();
        let acknowledged = {
            let (_engine, store) = open(&disk, small()).expect("opens");
            disk.disk().syncs_left = Some(rng.u32(0..30));
            let mut acknowledged = 0;
            for number in 0..40 {
                let value = vec![b'x'; rng.usize(0..2000)];
                match store.txn(vec![], vec![Op::put(key(number), value)]).await {
                    Ok(_) => acknowledged += 1,
                    Err(error) => {
                        assert!(matches!(error, Error::Stopped(_)), "{error}");
                        break;
                    }
                }
            }
            acknowledged
        };
        let after = disk.after_power_loss(&mut rng);
        let (_engine, store) = open(&after, small()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let found = store
            .range(&Prefix::All, None, None, 0)
            .await
            .expect("a read")
            .entries
            .len();
        assert!(
            found == acknowledged || found == acknowledged + 1,
            "seed {seed}: {found} of {acknowledged}"
        );
    }
}

#[tokio::test]
async fn a_file_that_was_made_and_never_written_leaves_no_gap() {
    let disk = Faulty::default();
    let (engine, store) = open(&disk, Options::default()).expect("opens");
    store
        .txn(vec![], vec![Op::put(key(0), "0")])
        .await
        .expect("a write");
    drop((store, engine));
    let mut files = disk.durable();
    files.insert("0000000000000002.log".into(), vec![0; 4096]);
    let disk = Faulty::of(files);
    for number in 1..4 {
        let (_engine, store) = open(&disk, Options::default()).expect("opens");
        store
            .txn(vec![], vec![Op::put(key(number), "x")])
            .await
            .expect("a write");
    }
    assert_eq!(
        reopened(&disk.durable()).await.expect("opens"),
        "k0=0 k1=x k2=x k3=x"
    );
}

/// Overwrites few keys until the power fails, so that files are cleaned, retired and made anew; gives back how many were.
async fn overwritten_until_power_fails(seed: u64) -> u32 {
    let mut rng = fastrand::Rng::with_seed(seed);
    let disk = Faulty::default();
    let mut expected = BTreeMap::new();
    let mut unsure = None;
    {
        let (_engine, store) = open(&disk, small()).expect("opens");
        disk.disk().syncs_left = Some(rng.u32(0..400));
        for number in 0..400 {
            let value = format!("{number} ").repeat(rng.usize(1..150));
            let key = key(rng.usize(0..8));
            if store
                .txn(vec![], vec![Op::put(key.clone(), value.clone())])
                .await
                .is_err()
            {
                unsure = Some((key, value));
                break;
            }
            expected.insert(key, value);
        }
    }
    let reused = disk.disk().reused;
    let mut after = disk.after_power_loss(&mut rng);
    for _ in 0..2 {
        let (engine, store) = open(&after, small()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let page = store.range(&Prefix::All, None, None, 0).await.expect("a read");
        let text = |entry: crate::Entry| (entry.key, String::from_utf8_lossy(&entry.value).into_owned());
        let found: BTreeMap<Key, String> = page.entries.into_iter().map(text).collect();
        let mut with_last = expected.clone();
        with_last.extend(unsure.clone());
        assert!(found == expected || found == with_last, "seed {seed}");
        drop((store, engine));
        after = after.after_power_loss(&mut rng);
    }
    reused
}

#[tokio::test]
async fn power_loss_while_files_are_made_of_retired_ones_keeps_everything_acknowledged() {
    let mut reused = 0;
    for seed in 0..80 {
        reused += overwritten_until_power_fails(seed).await;
    }
    assert!(reused > 100, "only {reused} files were made anew");
}

#[tokio::test]
async fn a_full_disk_stops_writes_for_good_and_leaves_reads() {
    let disk = Faulty::default();
    let (_engine, store) = open(&disk, Options::default()).expect("opens");
    store
        .txn(vec![], vec![Op::put(key(1), "1")])
        .await
        .expect("a write");
    disk.disk().full = true;
    let refused = store
        .txn(vec![], vec![Op::put(key(1), "2")])
        .await
        .expect_err("no space");
    disk.disk().full = false;
    let again = store
        .txn(vec![], vec![Op::put(key(1), "3")])
        .await
        .expect_err("stopped");
    assert_eq!(refused.to_string(), again.to_string());
    assert!(
        refused
            .to_string()
            .contains("failed to write log file 0000000000000001.log"),
        "{refused}"
    );
    assert_eq!(content(&*store).await, "k1=1");
}

#[tokio::test]
async fn cleaning_bounds_the_log_and_loses_nothing() {
    let disk = Faulty::default();
    let mut expected = BTreeMap::new();
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..3 {
        let (_engine, store) = open(&disk, small()).expect("opens");
        for round in 0..1500 {
            let number = rng.usize(0..40);
            if rng.u8(0..10) == 0 {
                expected.remove(&key(number));
                store
                    .txn(vec![], vec![Op::delete(key(number))])
                    .await
                    .expect("a delete");
            } else {
                let value = format!("{round}").repeat(rng.usize(1..100));
                expected.insert(key(number), value.clone());
                store
                    .txn(vec![], vec![Op::put(key(number), value)])
                    .await
                    .expect("a write");
            }
        }
    }
    let (_engine, store) = open(&disk, small()).expect("opens");
    let page = store.range(&Prefix::All, None, None, 0).await.expect("a read");
    let found: BTreeMap<_, _> = page
        .entries
        .into_iter()
        .map(|entry| (entry.key, String::from_utf8_lossy(&entry.value).into_owned()))
        .collect();
    assert_eq!(found, expected);
    let live: usize = expected
        .iter()
        .map(|(key, value)| key.name.len() + value.len() + 60)
        .sum();
    let files = disk.durable();
    let log = files.iter().filter(|(name, _)| name.ends_with(".log"));
    let total: usize = log.map(|(_, bytes)| bytes.len()).sum();
    assert!(total < 3 * live + 4 * (8 << 10), "{total} bytes for {live} live");
}

#[tokio::test]
async fn revisions_and_history_survive_a_restart() {
    let disk = Faulty::default();
    let (first, last) = {
        let (_engine, store) = open(&disk, Options::default()).expect("opens");
        let first = store
            .txn(vec![], vec![Op::put(key(1), "1")])
            .await
            .expect("a write");
        store
            .txn(vec![], vec![Op::put(key(1), "2")])
            .await
            .expect("a write");
        (
            first,
            store
                .txn(vec![], vec![Op::delete(key(1))])
                .await
                .expect("a write"),
        )
    };
    let (_engine, store) = open(&disk, Options::default()).expect("opens");
    assert_eq!(store.current().await.expect("a read"), last);
    let mut watch = store.watch(Prefix::All, first).await.expect("a watch");
    let mut seen = Vec::new();
    while let WatchItem::Revision(revision) = watch.next().await.expect("an item") {
        let event = &revision.events[0];
        seen.push(format!("{:?}>{:?}", event.prev, event.value));
        if revision.revision == last {
            break;
        }
    }
    assert_eq!(seen, [r#"Some(b"1")>Some(b"2")"#, r#"Some(b"2")>None"#]);
    assert!(
        store
            .txn(vec![], vec![Op::put(key(1), "3")])
            .await
            .expect("a write")
            > last
    );
}

#[tokio::test]
async fn keyspaces_share_the_log_and_can_be_dropped_and_restored() {
    let disk = Faulty::default();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("backup");
    let restored = {
        let (engine, a) = open(&disk, Options::default()).expect("opens");
        let (b, c) = (
            engine.keyspace("b").expect("opens"),
            engine.keyspace("c").expect("opens"),
        );
        for store in [&a, &b, &c] {
            store
                .txn(vec![], vec![Op::put(key(1), "1")])
                .await
                .expect("a write");
        }
        a.snapshot(&file).await.expect("a snapshot");
        a.txn(vec![], vec![Op::put(key(2), "2")]).await.expect("a write");
        engine.drop_keyspace("b").await.expect("a drop");
        assert!(b.txn(vec![], vec![Op::put(key(2), "2")]).await.is_err());
        a.restore(&file).await.expect("a restore")
    };
    let (engine, a) = open(&disk, Options::default()).expect("opens");
    assert_eq!(engine.keyspaces().await.expect("names"), ["c", "test"]);
    assert_eq!(
        (content(&*a).await, a.current().await.expect("a read")),
        ("k1=1".to_string(), restored)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_running_store_holds_what_was_acknowledged() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let path = folder.path();
    assert!(EmbeddedEngine::copy_of(&path.join("none"), FakeClock::new()).is_err());
    // Small files, so that they come and go while they are copied.
    let engine = EmbeddedEngine::open_with(path, FakeClock::new(), small()).expect("it opens");
    let store = engine.keyspace("test").expect("a keyspace");
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (writer, written) = (store.clone(), count.clone());
    let writing = tokio::spawn(async move {
        for number in 1..3_000 {
            let value = format!("{number} {}", "x".repeat(500));
            let ops = vec![
                Op::put(key(0), format!("{number}")),
                Op::put(key(number % 40 + 1), value),
            ];
            writer.txn(vec![], ops).await.expect("a write");
            written.store(number, std::sync::atomic::Ordering::SeqCst);
        }
    });
    let mut copies = 0;
    while !writing.is_finished() {
        let before = count.load(std::sync::atomic::Ordering::SeqCst);
        let dir = path.to_path_buf();
        let copied = tokio::task::spawn_blocking(move || EmbeddedEngine::copy_of(&dir, FakeClock::new()));
        let copied = copied.await.expect("no panic").expect("the copy opens");
        let copy = copied.keyspace("test").expect("a keyspace");
        let found = copy.get(&key(0)).await.expect("a read");
        let found = found.map_or(0, |entry| {
            String::from_utf8_lossy(&entry.value).parse().expect("a number")
        });
        let now = count.load(std::sync::atomic::Ordering::SeqCst);
        assert!(
            (before..=now + 1).contains(&found),
            "{found} is not between {before} and {now}"
        );
        copies += 1;
        // The copy takes writes and cleans its log without touching the store.
        copy.txn(vec![], vec![Op::put(key(0), "0")])
            .await
            .expect("a write");
    }
    writing.await.expect("the writer ends");
    assert!(copies > 1, "only {copies} copies");
    let last = store.get(&key(0)).await.expect("a read").expect("it is there");
    assert_eq!(last.value, "2999");
}
