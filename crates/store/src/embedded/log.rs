//! The log: segments that are written front to back, one batch at a time, and cleaned oldest first.
//!
//! Cleaning copies what is still live in the oldest segment to the end, a little with every batch, then removes the
//! file. Within a batch the copies come before the transactions, so a delete always lies behind every copy of its key
//! and may be dropped when its segment is the oldest.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::committer::Journal;
use super::frame::{Batch, FRAME_HEAD, Head, Kind, SEGMENT_HEAD, segment_head};
use super::media::{Media, MediaFile};
use super::queue::{Shared, Work};
use crate::codec::{self, Names};
use crate::model::Key;
use crate::space::{Change, Slot, Space, State};

/// No segment is made smaller: a small store shall not have hundreds of files.
const MIN_SEGMENT_BYTES: u64 = 4 << 20;
/// Segments in a store of constant size: live data is spread over about twice as many.
const SEGMENTS_OF_LIVE: u64 = 4;
/// A file may be longer than it needs to be by one part in so many: changing its length costs a journal's commit.
const SLACK: u64 = 4;
/// Cleaning copies up to this many times what the batch itself writes: bounded pauses, yet faster than filling.
const COPY_SHARE: usize = 2;
/// Cleaning copies at least this much with a batch.
const COPY_AT_LEAST: usize = 64 << 10;
/// Cleaning looks at no more of the old segment than this with one batch.
const LOOK_AT_MOST: usize = 4 << 20;
/// Cleaning reads this much at once.
const BLOCK: usize = 256 << 10;
/// A buffer up to this size is kept for the next batch.
const KEPT_BUFFER: usize = 512 << 10;

/// The file name of a segment.
pub(crate) fn file_name(segment: u64) -> String {
    format!("{segment:016x}.log")
}

/// The segment of a file name; `None` = not a log file.
pub(crate) fn segment_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// A segment that is no longer written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sealed {
    /// Its number, which is its file name in hexadecimal.
    pub id: u64,
    /// Where it ends; the file may be longer.
    pub bytes: u64,
}

struct Active {
    id: u64,
    file: Box<dyn MediaFile>,
    bytes: u64,
    limit: u64,
}

struct Cleaner {
    segment: Sealed,
    file: Box<dyn MediaFile>,
    offset: u64,
    /// What was read from `block_at` on.
    block: Vec<u8>,
    block_at: u64,
}

/// See the module's text.
pub(crate) struct Log {
    media: Box<dyn Media>,
    shared: Arc<Shared>,
    sealed: VecDeque<Sealed>,
    active: Option<Active>,
    last_segment: u64,
    batch: u64,
    named: HashSet<u32>,
    cleaner: Option<Cleaner>,
    moved: Vec<(Arc<Space>, Key, u64)>,
    /// Those of the segment that is being cleaned.
    names: Names,
    /// The last batch's, empty.
    buffer: Vec<u8>,
}

type Outcome<T> = Result<T, String>;

fn failed(action: &'static str, segment: u64) -> impl FnOnce(std::io::Error) -> String {
    move |error| format!("failed to {action} log file {}: {error}", file_name(segment))
}

impl Log {
    /// Continues after recovery: the next batch begins a new segment.
    pub(crate) fn new(
        media: Box<dyn Media>,
        shared: Arc<Shared>,
        sealed: VecDeque<Sealed>,
        last: (u64, u64),
    ) -> Self {
        Log {
            media,
            shared,
            sealed,
            active: None,
            last_segment: last.0,
            batch: last.1,
            named: HashSet::new(),
            cleaner: None,
            moved: Vec::new(),
            names: Names::default(),
            buffer: Vec::new(),
        }
    }

    fn live_bytes(&self) -> u64 {
        self.shared
            .named()
            .iter()
            .map(|space| space.lock().live_log_bytes())
            .sum()
    }

    /// Ends the active segment: nothing that follows in it counts, and everything in it is durable.
    fn seal(&mut self, last: bool) -> Outcome<()> {
        let Some(mut active) = self.active.take() else {
            return Ok(());
        };
        self.batch += 1;
        let mut end = Batch::new(Vec::new(), self.batch, active.id);
        end.mark(0, Kind::End);
        let end = end.finish();
        active
            .file
            .write_at(active.bytes, &end)
            .map_err(failed("end", active.id))?;
        active.bytes += end.len() as u64;
        let held = active.file.length().map_err(failed("measure", active.id))?;
        if last || held > active.bytes + active.bytes / SLACK {
            active
                .file
                .truncate(active.bytes)
                .map_err(failed("truncate", active.id))?;
        }
        active.file.sync().map_err(failed("sync", active.id))?;
        self.sealed.push_back(Sealed {
            id: active.id,
            bytes: active.bytes,
        });
        Ok(())
    }

    /// Creates the next segment; its header is written together with the first batch.
    fn create(&mut self, wanted: u64) -> Outcome<()> {
        let live = self.live_bytes();
        let most = self.shared.options.segment_bytes;
        let limit = (live / SEGMENTS_OF_LIVE).clamp(MIN_SEGMENT_BYTES.min(most), most);
        self.last_segment += 1;
        let id = self.last_segment;
        let mut file = self.media.create(&file_name(id)).map_err(failed("create", id))?;
        let length = limit.max(wanted);
        let held = file.length().map_err(failed("measure", id))?;
        if held > length + length / SLACK {
            file.truncate(length).map_err(failed("truncate", id))?;
        }
        file.reserve(length).map_err(failed("reserve space for", id))?;
        self.active = Some(Active {
            id,
            file,
            bytes: 0,
            limit,
        });
        self.named.clear();
        self.choose_cleaning(live, limit)
    }

    fn choose_cleaning(&mut self, live: u64, limit: u64) -> Outcome<()> {
        let total: u64 = self.sealed.iter().map(|sealed| sealed.bytes).sum();
        let Some(oldest) = self.sealed.front().copied() else {
            return Ok(());
        };
        if self.cleaner.is_some() || total <= 2 * live + limit {
            return Ok(());
        }
        let file = self
            .media
            .open(&file_name(oldest.id))
            .map_err(failed("open", oldest.id))?;
        self.cleaner = Some(Cleaner {
            segment: oldest,
            file,
            offset: SEGMENT_HEAD as u64,
            block: Vec::new(),
            block_at: 0,
        });
        self.names = Names::default();
        Ok(())
    }

    /// Begins a batch of about `wanted` bytes, in a new segment if the active one is full.
    fn begin(&mut self, wanted: u64) -> Outcome<Batch> {
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.bytes + wanted > active.limit)
        {
            self.seal(false)?;
        }
        let fresh = self.active.is_none();
        if fresh {
            self.create(wanted)?;
        }
        self.batch += 1;
        let segment = self.last_segment;
        let mut bytes = std::mem::take(&mut self.buffer);
        bytes.reserve(usize::try_from(wanted).unwrap_or(0) + SEGMENT_HEAD);
        if fresh {
            bytes.extend_from_slice(&segment_head(segment, self.batch));
        }
        let mut batch = Batch::new(bytes, self.batch, segment);
        if fresh {
            for space in self.shared.named() {
                let state = space.lock();
                self.name(&mut batch, &space, &state);
            }
        }
        Ok(batch)
    }

    fn name(&mut self, batch: &mut Batch, space: &Space, state: &State) {
        if self.named.insert(state.id) {
            batch.name(state.id, state.published(), &space.uid);
        }
    }

    fn encode(&mut self, batch: &mut Batch, work: &mut Work) {
        let segment = self.last_segment;
        let place = |changes: &mut Vec<Change>| {
            for change in changes {
                let value = change.value.as_deref().unwrap_or_default();
                change.log_bytes = u32::try_from(codec::change_bytes(&change.key, value)).unwrap_or(u32::MAX);
                change.segment = segment;
            }
        };
        match work {
            Work::Txn {
                space,
                revision,
                changes,
                ..
            } => {
                place(changes);
                let state = space.lock();
                self.name(batch, space, &state);
                batch.txn(state.id, *revision, changes);
            }
            Work::Fill {
                space,
                revision,
                changes,
                ..
            } => {
                place(changes);
                let id = space.lock().id;
                changes
                    .iter()
                    .for_each(|change| batch.copy(id, *revision, change));
            }
            Work::Switch { space, filled, .. } => {
                let (old, new) = (space.lock().id, filled.lock());
                batch.name(new.id, new.published(), &space.uid);
                self.named.insert(new.id);
                batch.mark(old, Kind::Drop);
            }
            Work::Drop { space, .. } => batch.mark(space.lock().id, Kind::Drop),
        }
    }

    /// Copies live entries of the oldest segment, up to `budget` bytes.
    fn clean(&mut self, batch: &mut Batch, budget: usize) -> Outcome<()> {
        let Some(cleaner) = &mut self.cleaner else {
            return Ok(());
        };
        let (mut copied, mut seen) = (0, 0);
        while copied < budget && seen < LOOK_AT_MOST && cleaner.offset < cleaner.segment.bytes {
            let head = cleaner.read()?;
            let body = cleaner.body(&head);
            seen += head.frame_bytes();
            let changes = match head.kind {
                Kind::Txn => body.get(8..).unwrap_or_default(),
                Kind::Copy => body,
                Kind::Name | Kind::Drop | Kind::End => &[],
            };
            let space = self.shared.by_id(head.space).filter(|_| !changes.is_empty());
            if let Some(space) = space {
                let state = space.lock();
                let mut changes = codec::Reader::new(changes);
                while let Some(record) = changes.record() {
                    if record.value.is_none() {
                        continue;
                    }
                    let key = record.key(&mut self.names);
                    let here =
                        |slot: &&Slot| slot.revision == record.revision && slot.segment == cleaner.segment.id;
                    if state.slot(&key).filter(here).is_some() {
                        batch.copy_bytes(head.space, record.bytes);
                        copied += record.bytes.len();
                        self.moved.push((space.clone(), key, record.revision));
                    }
                }
            }
            cleaner.offset += head.frame_bytes() as u64;
        }
        Ok(())
    }
}

impl Cleaner {
    /// Reads the frame at the offset.
    fn read(&mut self) -> Outcome<Head> {
        let id = self.segment.id;
        self.load(FRAME_HEAD)?;
        let length = Head::parse(self.here()).map_or(0, |head| head.frame_bytes());
        self.load(length)?;
        let head = Head::verify(self.here(), id).map(|(head, _)| head);
        head.ok_or_else(|| format!("log file {} is corrupt at byte {}", file_name(id), self.offset))
    }

    /// The body of the frame that was read last.
    fn body(&self, head: &Head) -> &[u8] {
        &self.here()[FRAME_HEAD..FRAME_HEAD + head.body_bytes]
    }

    /// What is known of the file from the offset on.
    fn here(&self) -> &[u8] {
        let start = usize::try_from(self.offset - self.block_at).unwrap_or(usize::MAX);
        self.block.get(start..).unwrap_or_default()
    }

    /// Knows at least so many bytes from the offset on, unless the segment ends before.
    fn load(&mut self, wanted: usize) -> Outcome<()> {
        let left = usize::try_from(self.segment.bytes - self.offset).unwrap_or(usize::MAX);
        if self.here().len() >= wanted.min(left) {
            return Ok(());
        }
        self.block.resize(wanted.max(BLOCK).min(left), 0);
        self.block_at = self.offset;
        let filled = self
            .file
            .read_at(self.offset, &mut self.block)
            .map_err(failed("read", self.segment.id))?;
        self.block.truncate(filled);
        Ok(())
    }
}

impl Journal for Log {
    fn commit(&mut self, works: &mut [Work]) -> Outcome<()> {
        let own = works.iter().map(estimate).sum::<usize>();
        let budget = COPY_SHARE * own + COPY_AT_LEAST;
        let copies = if self.cleaner.is_some() {
            budget + budget / 2
        } else {
            0
        };
        let mut batch = self.begin((own + copies) as u64)?;
        self.clean(&mut batch, budget)?;
        works.iter_mut().for_each(|work| self.encode(&mut batch, work));
        let bytes = batch.finish();
        let active = self.active.as_mut().expect("begin made one");
        active
            .file
            .write_at(active.bytes, &bytes)
            .map_err(failed("write", active.id))?;
        active.file.sync().map_err(failed("sync", active.id))?;
        active.bytes += bytes.len() as u64;
        if bytes.capacity() <= KEPT_BUFFER {
            self.buffer = bytes;
            self.buffer.clear();
        }
        Ok(())
    }

    fn published(&mut self) -> Outcome<()> {
        for (space, key, revision) in self.moved.drain(..) {
            space.lock().moved(&key, revision, self.last_segment);
        }
        let Some(cleaner) = self
            .cleaner
            .take_if(|cleaner| cleaner.offset >= cleaner.segment.bytes)
        else {
            return Ok(());
        };
        let id = cleaner.segment.id;
        drop(cleaner);
        self.sealed.pop_front();
        self.media.retire(&file_name(id)).map_err(failed("remove", id))?;
        let limit = self.active.as_ref().map_or(0, |active| active.limit);
        self.choose_cleaning(self.live_bytes(), limit)
    }

    fn close(&mut self) -> Outcome<()> {
        self.seal(true)
    }
}

/// An upper bound of the bytes that work takes in the log.
fn estimate(work: &Work) -> usize {
    let change = |change: &Change| {
        let value = change.value.as_ref().map_or(0, |value| value.len());
        codec::change_bytes(&change.key, &[]) + value + FRAME_HEAD + 8
    };
    let body: usize = match work {
        Work::Txn { changes, .. } | Work::Fill { changes, .. } => changes.iter().map(change).sum(),
        Work::Switch { .. } | Work::Drop { .. } => 0,
    };
    body + 4 * FRAME_HEAD + 256
}
