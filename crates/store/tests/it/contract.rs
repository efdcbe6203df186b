//! The contract case by case; each function takes any store, the tests below run them on memory.

use std::sync::Arc;
use std::time::Duration;

use mainstay_base::clock::FakeClock;
use mainstay_store::{Class, Condition, Error, Key, Op, Prefix, Store, Watch, WatchItem};

pub fn pod(name: &str) -> Key {
    Key::new("core/pods", "default", name)
}

/// The next revision of a watch as text; progress is skipped.
pub async fn next(watch: &mut Watch) -> String {
    loop {
        let item = tokio::time::timeout(Duration::from_secs(10), watch.next()).await;
        match item.expect("an item within 10 s").expect("the watch works") {
            WatchItem::Progress(_) => {}
            WatchItem::Compacted(_) => return "compacted".to_string(),
            WatchItem::Revision(revision) => {
                let text = |bytes: &Option<bytes::Bytes>| match bytes {
                    Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                    None => "-".to_string(),
                };
                let events = revision.events.iter();
                let events: Vec<_> = events
                    .map(|event| format!("{} {}>{}", event.key.name, text(&event.prev), text(&event.value)))
                    .collect();
                return events.join(", ");
            }
        }
    }
}

pub async fn names(store: &dyn Store, at: Option<u64>, after: Option<&Key>, limit: usize) -> String {
    let page = store
        .range(&Prefix::Resource("core/pods".into()), at, after, limit)
        .await
        .expect("the range works");
    let names: Vec<_> = page
        .entries
        .iter()
        .map(|entry| format!("{}={}", entry.key.name, String::from_utf8_lossy(&entry.value)))
        .collect();
    format!("{}{}", names.join(" "), if page.more { " ..." } else { "" })
}

pub async fn conditions_decide(store: Arc<dyn Store>) {
    let first = store
        .txn(vec![Condition::Absent(pod("a"))], vec![Op::put(pod("a"), "1")])
        .await
        .expect("absent");
    let again = store
        .txn(vec![Condition::Absent(pod("a"))], vec![Op::put(pod("a"), "2")])
        .await;
    let Err(Error::Conflict {
        current: Some(current),
        ..
    }) = again
    else {
        panic!("a conflict, not {again:?}")
    };
    assert_eq!((current.revision, &current.value[..]), (first, &b"1"[..]));
    let second = store
        .txn(
            vec![Condition::Revision(pod("a"), first)],
            vec![Op::put(pod("a"), "2")],
        )
        .await;
    let second = second.expect("the revision holds");
    assert!(second > first);
    let stale = store
        .txn(
            vec![Condition::Revision(pod("a"), first)],
            vec![Op::delete(pod("a"))],
        )
        .await;
    assert!(matches!(stale, Err(Error::Conflict { .. })), "{stale:?}");
    store
        .txn(
            vec![Condition::Revision(pod("a"), second)],
            vec![Op::delete(pod("a"))],
        )
        .await
        .expect("holds");
    assert_eq!(store.get(&pod("a")).await.expect("a read"), None);
    let gone = store
        .txn(
            vec![Condition::Revision(pod("a"), second)],
            vec![Op::put(pod("a"), "3")],
        )
        .await;
    assert!(
        matches!(gone, Err(Error::Conflict { current: None, .. })),
        "{gone:?}"
    );
}

pub async fn watches_see_whole_revisions_in_order(store: Arc<dyn Store>) {
    let start = store.current().await.expect("a read");
    let mut all = store.watch(Prefix::All, start).await.expect("a watch");
    let both = vec![
        Op::put(pod("a"), "1"),
        Op::put(Key::new("core/nodes", "", "n"), "x"),
    ];
    let first = store.txn(vec![], both).await.expect("a write");
    store
        .txn(vec![], vec![Op::put(pod("a"), "2")])
        .await
        .expect("a write");
    store
        .txn(vec![], vec![Op::delete(pod("a"))])
        .await
        .expect("a write");
    assert_eq!(next(&mut all).await, "a ->1, n ->x");
    assert_eq!(next(&mut all).await, "a 1>2");
    assert_eq!(next(&mut all).await, "a 2>-");
    let mut pods = store
        .watch(Prefix::Namespace("core/pods".into(), "default".into()), first)
        .await
        .expect("a watch");
    assert_eq!(next(&mut pods).await, "a 1>2");
    let mut nodes = store
        .watch(Prefix::Resource("core/nodes".into()), start)
        .await
        .expect("a watch");
    assert_eq!(next(&mut nodes).await, "n ->x");
    let newest = store.current().await.expect("a read");
    store.compact(newest).await.expect("a compaction");
    let mut compacted = store.watch(Prefix::All, start).await.expect("a watch");
    assert_eq!(next(&mut compacted).await, "compacted");
    let future = store.watch(Prefix::All, first + 1000).await;
    assert!(matches!(future, Err(Error::Future { .. })), "{future:?}");
}

pub async fn pages_stay_at_their_revision(store: Arc<dyn Store>) {
    for name in ["a", "b", "c", "d"] {
        store
            .txn(vec![], vec![Op::put(pod(name), "1")])
            .await
            .expect("a write");
    }
    let at = store.current().await.expect("a read");
    assert_eq!(names(&*store, None, None, 2).await, "a=1 b=1 ...");
    store
        .txn(vec![], vec![Op::delete(pod("c"))])
        .await
        .expect("a write");
    store
        .txn(vec![], vec![Op::put(pod("d"), "2"), Op::put(pod("bb"), "1")])
        .await
        .expect("a write");
    assert_eq!(names(&*store, Some(at), Some(&pod("b")), 2).await, "c=1 d=1");
    assert_eq!(names(&*store, None, Some(&pod("b")), 2).await, "bb=1 d=2");
    let now = store.current().await.expect("a read");
    store.compact(now).await.expect("a compaction");
    let past = store.range(&Prefix::All, Some(at), None, 0).await;
    assert!(matches!(past, Err(Error::Compacted { .. })), "{past:?}");
}

pub async fn bad_requests_change_nothing(store: Arc<dyn Store>) {
    let before = store.current().await.expect("a read");
    let twice = vec![Op::put(pod("a"), "1"), Op::delete(pod("a"))];
    let huge = vec![Op::put(pod("a"), vec![0; 64 << 20])];
    for ops in [
        twice,
        huge,
        vec![Op::put(Key::new("pods", "", "a"), "1")],
        vec![Op::put(pod(""), "1")],
    ] {
        let answer = store.txn(vec![], ops).await;
        assert!(matches!(answer, Err(Error::Invalid(_))), "{answer:?}");
    }
    assert_eq!(store.current().await.expect("a read"), before);
}

pub async fn snapshots_restore_with_a_jump(store: Arc<dyn Store>) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("backup");
    store
        .txn(vec![], vec![Op::put(pod("a"), "1"), Op::put(pod("b"), "1")])
        .await
        .expect("a write");
    store.snapshot(&file).await.expect("a snapshot");
    store
        .txn(vec![], vec![Op::delete(pod("a")), Op::put(pod("c"), "2")])
        .await
        .expect("a write");
    let before = store.current().await.expect("a read");
    let mut watch = store.watch(Prefix::All, before).await.expect("a watch");
    let restored = store.restore(&file).await.expect("a restore");
    assert!(restored > before);
    assert_eq!(names(&*store, None, None, 0).await, "a=1 b=1");
    assert_eq!(next(&mut watch).await, "compacted");
    let entry = store.get(&pod("a")).await.expect("a read").expect("an entry");
    let next = store
        .txn(
            vec![Condition::Revision(pod("a"), entry.revision)],
            vec![Op::put(pod("a"), "3")],
        )
        .await;
    assert!(next.expect("a write") > restored);
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    for_each_case(|| ((), super::memory())).await;
}

#[tokio::test]
async fn entries_expire_as_deletes_unless_renewed() {
    let clock = FakeClock::new();
    let store = super::memory_at(clock.clone());
    let lease = |value: &'static str| Op::Put {
        key: pod("lease"),
        value: value.into(),
        ttl: Some(Duration::from_secs(40)),
        class: Class::Volatile,
    };
    let mut watch = store.watch(Prefix::All, 1).await.expect("a watch");
    store.txn(vec![], vec![lease("1")]).await.expect("a write");
    clock.advance(Duration::from_secs(30));
    store.txn(vec![], vec![lease("2")]).await.expect("a write");
    clock.advance(Duration::from_secs(30));
    store
        .txn(vec![], vec![Op::put(pod("other"), "x")])
        .await
        .expect("a write");
    clock.advance(Duration::from_secs(11));
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(next(&mut watch).await);
    }
    assert_eq!(seen, ["lease ->1", "lease 1>2", "other ->x", "lease 2>-"]);
}

#[tokio::test]
async fn embedded_keeps_the_contract() {
    for_each_case(super::embedded).await;
}

async fn for_each_case<G>(fresh: impl Fn() -> (G, Arc<dyn Store>)) {
    conditions_decide(fresh().1).await;
    let (_guard, store) = fresh();
    watches_see_whole_revisions_in_order(store).await;
    let (_guard, store) = fresh();
    pages_stay_at_their_revision(store).await;
    let (_guard, store) = fresh();
    bad_requests_change_nothing(store).await;
    let (_guard, store) = fresh();
    snapshots_restore_with_a_jump(store).await;
}

#[tokio::test]
async fn a_second_opening_of_one_directory_is_refused() {
    use mainstay_base::clock::SystemClock;
    let dir = tempfile::tempdir().expect("a directory");
    let first = mainstay_store::EmbeddedEngine::open(dir.path(), SystemClock::shared()).expect("opens");
    let second = mainstay_store::EmbeddedEngine::open(dir.path(), SystemClock::shared());
    assert!(matches!(second, Err(Error::Locked { .. })));
    drop(first);
    mainstay_store::EmbeddedEngine::open(dir.path(), SystemClock::shared())
        .map(drop)
        .expect("opens again");
}
