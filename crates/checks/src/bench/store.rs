//! The embedded store alone, beside redb and a bare log in the same run: 64 durable writers over 100,000 objects of 0.5 to
//! 8 KiB. The bare log keeps nothing that could be read: what it takes is the machine's part.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use mainstay_base::clock::{Clock, SystemClock};
use mainstay_store::{EmbeddedEngine, Engine, Key, Op, Prefix, Store};
use tokio::sync::oneshot;

use super::apiserver::bare::{LOG_BYTES, empty_log};
use super::{Figure, Report};

const WRITERS: usize = 64;
const OBJECTS: usize = 100_000;
/// Operations of the mixed phase: 90 % overwrite or create again, 10 % delete.
const MIXED: usize = 300_000;
const VALUE_BYTES: (f64, f64) = (512.0, 8192.0);
/// What redb's cache may hold, as in the reference measurements.
const REDB_CACHE_BYTES: usize = 64 << 20;

/// What is written to. All get the same operations from the same seeds.
#[derive(Clone)]
enum Subject {
    Mainstay(Arc<dyn Store>),
    Other(Sender<Write>),
}

struct Write {
    key: String,
    value: Option<Bytes>,
    done: oneshot::Sender<()>,
}

impl Subject {
    async fn write(&self, object: usize, value: Option<Bytes>) -> Result<()> {
        let namespace = format!("ns{}", object % 50);
        match self {
            Subject::Mainstay(store) => {
                let key = Key::new("core/pods", &namespace, &format!("pod-{object}"));
                let op = value.map_or_else(|| Op::delete(key.clone()), |value| Op::put(key.clone(), value));
                store.txn(Vec::new(), vec![op]).await?;
            }
            Subject::Other(queue) => {
                let (done, durable) = oneshot::channel();
                let key = format!("/registry/pods/{namespace}/pod-{object}");
                queue
                    .send(Write { key, value, done })
                    .context("the committer is gone")?;
                durable.await.context("the committer failed")?;
            }
        }
        Ok(())
    }
}

/// The same group commit around others: take everything queued, one durable step, acknowledge all.
fn committer(mut commit: impl FnMut(&[Write]) -> Result<()> + Send + 'static) -> Sender<Write> {
    let (queue, work) = channel::<Write>();
    std::thread::spawn(move || -> Result<()> {
        while let Ok(first) = work.recv() {
            let batch: Vec<Write> = std::iter::once(first).chain(work.try_iter()).collect();
            commit(&batch)?;
            // A writer that is gone needs no answer.
            for write in batch {
                let _ = write.done.send(());
            }
        }
        Ok(())
    });
    queue
}

fn redb(path: &Path) -> Result<Subject> {
    const TABLE: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("objects");
    let database = redb::Builder::new()
        .set_cache_size(REDB_CACHE_BYTES)
        .create(path)?;
    Ok(Subject::Other(committer(move |batch| {
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for write in batch {
                match &write.value {
                    Some(value) => drop(table.insert(write.key.as_str(), &value[..])?),
                    None => drop(table.remove(write.key.as_str())?),
                }
            }
        }
        Ok(transaction.commit()?)
    })))
}

fn bare_log(path: &Path) -> Result<Subject> {
    let log = empty_log(path)?;
    let mut at = 0;
    Ok(Subject::Other(committer(move |batch| {
        let mut bytes = Vec::new();
        for write in batch {
            bytes.extend_from_slice(write.key.as_bytes());
            bytes.extend_from_slice(write.value.as_deref().unwrap_or_default());
        }
        if at + bytes.len() > LOG_BYTES {
            at = 0;
        }
        log.write_all_at(&bytes, at as u64)?;
        at += bytes.len();
        Ok(log.sync_data()?)
    })))
}

/// What this process has used: CPU seconds and bytes sent to disks.
fn used() -> Result<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .context("a malformed stat file")?
        .1
        .split_whitespace()
        .collect();
    let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    let io = std::fs::read_to_string("/proc/self/io")?;
    let written = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "))
        .context("no write_bytes")?;
    Ok((ticks / 100.0, written.trim().parse()?))
}

/// The figures of one phase.
struct Phase {
    operations_per_second: f64,
    cpu_micros: f64,
    amplification: f64,
    p50: f64,
    p99: f64,
    p999: f64,
}

/// Runs `operations` spread over the writers; each writer owns every 64th object.
async fn phase(subject: &Subject, operations: usize, load: bool) -> Result<Phase> {
    let clock = Arc::new(SystemClock::new());
    let (cpu, written) = used()?;
    let begin = clock.monotonic();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (subject, clock) = (subject.clone(), clock.clone());
        writers.spawn(async move {
            let mut rng = fastrand::Rng::with_seed(writer as u64 + if load { 0 } else { 1000 });
            let (mut waits, mut payload) = (Vec::new(), 0usize);
            for step in 0..operations / WRITERS {
                let own = if load {
                    step
                } else {
                    rng.usize(..OBJECTS / WRITERS)
                };
                let object = own * WRITERS + writer;
                let delete = !load && rng.u8(..10) == 0;
                let size = VALUE_BYTES.0 * (VALUE_BYTES.1 / VALUE_BYTES.0).powf(rng.f64());
                let value = (!delete).then(|| Bytes::from(vec![b'x'; size as usize]));
                payload += value.as_ref().map_or(0, Bytes::len);
                let begin = clock.monotonic();
                subject.write(object, value).await?;
                waits.push(clock.monotonic() - begin);
            }
            anyhow::Ok((waits, payload))
        });
    }
    let (mut waits, mut payload) = (Vec::new(), 0);
    while let Some(done) = writers.join_next().await {
        let (own, bytes) = done??;
        waits.extend(own);
        payload += bytes;
    }
    let seconds = (clock.monotonic() - begin).as_secs_f64();
    let (cpu_after, written_after) = used()?;
    waits.sort_unstable();
    let millis = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
    Ok(Phase {
        operations_per_second: waits.len() as f64 / seconds,
        cpu_micros: (cpu_after - cpu) * 1e6 / waits.len() as f64,
        amplification: (written_after - written) / payload as f64,
        p50: millis(0.5),
        p99: millis(0.99),
        p999: millis(0.999),
    })
}

/// Copies the log, down to the disk.
fn copy_log(from: &Path, to: &Path) -> Result<u64> {
    std::fs::create_dir(to)?;
    let mut bytes = 0;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(".log") {
            let copy = to.join(entry.file_name());
            bytes += std::fs::copy(entry.path(), &copy)?;
            // The store has synced what it wrote: what opens it need not wait for that.
            std::fs::File::open(copy)?.sync_all()?;
        }
    }
    Ok(bytes)
}

/// Opens a copy of the log as it lies on disk while the store runs: what a killed process leaves.
async fn reopen(dir: &Path) -> Result<(Duration, usize, u64)> {
    let copy = dir.join("copy");
    let bytes = copy_log(&dir.join("mainstay"), &copy)?;
    let clock = SystemClock::new();
    let begin = clock.monotonic();
    let engine = EmbeddedEngine::open(&copy, SystemClock::shared())?;
    let page = engine
        .keyspace("bench")?
        .range(&Prefix::All, None, None, 0)
        .await?;
    Ok((clock.monotonic() - begin, page.entries.len(), bytes))
}

fn figure(name: &str, value: f64, unit: &'static str, target: Option<f64>, note: String) -> Figure {
    Figure {
        name: name.to_owned(),
        value,
        unit,
        target,
        note,
    }
}

fn figures(ours: &Phase, redb: &Phase, bare: &Phase) -> Vec<Figure> {
    let beside = |of: fn(&Phase) -> f64| {
        let (own, redb, bare) = (of(ours), of(redb), of(bare));
        format!(
            "in this run redb {redb:.1}, ratio {:.2}; bare log {bare:.1}, ratio {:.2}",
            own / redb,
            own / bare
        )
    };
    vec![
        figure(
            "mixed writes, 64 durable writers",
            ours.operations_per_second,
            "ops/s",
            Some(45_000.0),
            beside(|phase| phase.operations_per_second),
        ),
        figure(
            "CPU per mixed write, driver included",
            ours.cpu_micros,
            "µs",
            Some(25.0),
            beside(|phase| phase.cpu_micros),
        ),
        figure(
            "bytes written / payload, mixed",
            ours.amplification,
            "x",
            Some(1.5),
            beside(|phase| phase.amplification),
        ),
        figure(
            "acknowledgement p50",
            ours.p50,
            "ms",
            None,
            beside(|phase| phase.p50),
        ),
        figure(
            "acknowledgement p99",
            ours.p99,
            "ms",
            None,
            beside(|phase| phase.p99),
        ),
        figure(
            "acknowledgement p99.9",
            ours.p999,
            "ms",
            None,
            beside(|phase| phase.p999),
        ),
    ]
}

async fn measure() -> Result<Report> {
    let dir = tempfile::tempdir()?;
    let engine = EmbeddedEngine::open(&dir.path().join("mainstay"), SystemClock::shared())?;
    let ours = Subject::Mainstay(engine.keyspace("bench")?);
    let loaded = phase(&ours, OBJECTS, true).await?;
    let mixed = phase(&ours, MIXED, false).await?;
    let (opened, objects, bytes) = reopen(dir.path()).await?;
    drop((ours, engine));
    let bare = phase(&bare_log(&dir.path().join("bare"))?, MIXED, false).await?;
    let redb = redb(&dir.path().join("redb"))?;
    let redb_loaded = phase(&redb, OBJECTS, true).await?;
    let redb_mixed = phase(&redb, MIXED, false).await?;
    let mut all = figures(&mixed, &redb_mixed, &bare);
    all.push(figure(
        "creates, 100,000 objects",
        loaded.operations_per_second,
        "ops/s",
        None,
        format!("redb {:.0} in this run", redb_loaded.operations_per_second),
    ));
    all.push(figure(
        "open after a kill, all served",
        opened.as_secs_f64(),
        "s",
        Some(2.0),
        format!("{objects} objects, {} MB of log in the page cache", bytes >> 20),
    ));
    Ok(Report {
        name: "store",
        figures: all,
    })
}

/// Measures the store, redb and a bare log with fsync on, in a temporary directory ($TMPDIR must be on a disk, not in memory).
pub fn run() -> Result<Report> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(measure())
}
