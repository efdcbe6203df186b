//! Opening a log: replay every segment in order, cut off what was never synced, refuse what is damaged.
//!
//! Which is which: batches are numbered and each is synced before the next is written. A bad frame with nothing of a
//! later batch behind it, in the newest file, is a batch that was never acknowledged. Everything else is damage. What a
//! file held before it was made anew never counts: checksums cover the file's number.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::frame::{FRAME_HEAD, Head, Kind, SEGMENT_HEAD, check_segment_head};
use super::log::{Log, Sealed, file_name, segment_of};
use super::media::{Media, MediaFile};
use super::queue::Shared;
use crate::codec::{self, Names};
use crate::error::{Error, Result};
use crate::space::{Change, FIRST_REVISION, Space};

/// Batches that can be missing between two openings; numbers further ahead are accidental bytes.
const MAX_BATCHES_AHEAD: u64 = 1 << 48;

/// A log file as it was read: what of it is whole. Reading and checking one goes on beside the replay of the one before.
struct Read {
    id: u64,
    newest: bool,
    path: PathBuf,
    file: Box<dyn MediaFile>,
    bytes: Vec<u8>,
    /// The first batch, or what is wrong with the header.
    first_batch: std::result::Result<u64, String>,
    /// The valid frames in order, each with its offset.
    frames: Vec<(Head, usize)>,
}

impl Read {
    fn of(id: u64, newest: bool, path: PathBuf, file: Box<dyn MediaFile>) -> Result<Read> {
        let length = file.length().map_err(Error::io("measure the log file", &path))?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        let filled = file
            .read_at(0, &mut bytes)
            .map_err(Error::io("read the log file", &path))?;
        bytes.truncate(filled);
        let first_batch = check_segment_head(&bytes, id);
        let mut frames = Vec::new();
        let mut offset = SEGMENT_HEAD;
        while let Some((head, _)) = Head::verify(bytes.get(offset..).unwrap_or_default(), id) {
            frames.push((head, offset));
            offset += head.frame_bytes();
            if head.kind == Kind::End {
                break;
            }
        }
        Ok(Read {
            id,
            newest,
            path,
            file,
            bytes,
            first_batch,
            frames,
        })
    }

    fn body(&self, head: &Head, offset: usize) -> &[u8] {
        &self.bytes[offset + FRAME_HEAD..offset + FRAME_HEAD + head.body_bytes]
    }
}

struct Replay<'a> {
    shared: &'a Shared,
    spaces: HashMap<u32, (Option<String>, Space)>,
    last_id: u32,
    names: Names,
    at: Duration,
    batch: u64,
}

/// Where the readable part of a segment ends.
struct Walked {
    bytes: u64,
    ended: bool,
}

/// Reads the log into `shared`'s keyspaces and returns it ready for the next batch.
pub(crate) fn open(mut media: Box<dyn Media>, shared: &Arc<Shared>) -> Result<Log> {
    let mut ids: Vec<u64> = media
        .names()
        .map_err(Error::io("list the log in", media.path("")))?
        .iter()
        .filter_map(|name| segment_of(name))
        .collect();
    ids.sort_unstable();
    let mut replay = Replay {
        shared,
        spaces: HashMap::new(),
        last_id: 0,
        names: Names::default(),
        at: shared.clock.monotonic(),
        batch: 0,
    };
    if let Some(gap) = ids.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        return Err(corrupt(
            media.path(&file_name(gap[0] + 1)),
            0,
            "the file is missing",
        ));
    }
    let mut sealed = VecDeque::new();
    let newest = ids.last().copied().unwrap_or(0);
    let mut files = Vec::new();
    for id in ids {
        let path = media.path(&file_name(id));
        let file = media
            .open(&file_name(id))
            .map_err(Error::io("open the log file", &path))?;
        files.push((id, path, file));
    }
    std::thread::scope(|scope| -> Result<()> {
        let (sender, read) = std::sync::mpsc::sync_channel(0);
        scope.spawn(move || {
            for (id, path, file) in files {
                // Nobody takes it when an earlier one is damaged.
                if sender.send(Read::of(id, id == newest, path, file)).is_err() {
                    return;
                }
            }
        });
        for segment in read {
            sealed.extend(replay.segment(&mut *media, segment?)?);
        }
        Ok(())
    })?;
    let batch = replay.batch;
    replay.finish();
    // The number of a file that was removed is given again: a gap would be a missing file.
    let last = sealed.back().map_or(0, |segment: &Sealed| segment.id);
    Ok(Log::new(media, shared.clone(), sealed, (last, batch)))
}

fn corrupt(file: PathBuf, offset: usize, what: &str) -> Error {
    Error::Corrupt {
        file,
        offset: offset as u64,
        what: what.to_string(),
    }
}

impl Replay<'_> {
    /// Replays one file; the newest loses its unsynced tail. `None` = nothing in it was ever synced; it is removed.
    fn segment(&mut self, media: &mut dyn Media, read: Read) -> Result<Option<Sealed>> {
        let (id, newest) = (read.id, read.newest);
        let first_batch = match &read.first_batch {
            Ok(first_batch) => *first_batch,
            Err(_) if newest && !holds_frames(&read.bytes, id, self.batch + 1) => {
                media
                    .remove(&file_name(id))
                    .map_err(Error::io("remove the unused log file", &read.path))?;
                return Ok(None);
            }
            Err(what) => return Err(corrupt(read.path, 0, what)),
        };
        let walked = self
            .walk(&read, first_batch)
            .map_err(|(offset, what)| corrupt(read.path.clone(), offset, what))?;
        let (mut file, path) = (read.file, read.path);
        if newest && walked.ended {
            // It may have been read from memory only.
            file.sync().map_err(Error::io("sync the log file", &path))?;
        } else if newest {
            self.batch += 1;
            let mut end = super::frame::Batch::new(Vec::new(), self.batch, id);
            end.mark(0, Kind::End);
            let end = end.finish();
            let close = |file: &mut Box<dyn MediaFile>| {
                file.truncate(walked.bytes)?;
                file.write_at(walked.bytes, &end)?;
                file.sync()
            };
            close(&mut file).map_err(Error::io("cut the unsynced tail off", &path))?;
            return Ok(Some(Sealed {
                id,
                bytes: walked.bytes + end.len() as u64,
            }));
        }
        Ok(Some(Sealed {
            id,
            bytes: walked.bytes,
        }))
    }

    /// Applies frames until the segment's end or the first bad one.
    fn walk(&mut self, read: &Read, first_batch: u64) -> std::result::Result<Walked, (usize, &'static str)> {
        let mut offset = SEGMENT_HEAD;
        let mut expected = first_batch;
        for (head, at) in &read.frames {
            if self.apply(head, read.body(head, *at), read.id).is_none() {
                return Err((*at, "the record makes no sense"));
            }
            offset = at + head.frame_bytes();
            self.batch = self.batch.max(head.batch);
            expected = if head.last { head.batch + 1 } else { head.batch };
            if head.kind == Kind::End {
                return Ok(Walked {
                    bytes: offset as u64,
                    ended: true,
                });
            }
        }
        if !read.newest {
            return Err((offset, "the record fails its checksum"));
        }
        let rest = read.bytes.get(offset..).unwrap_or_default();
        if holds_frames(rest, read.id, expected) {
            return Err((offset, "the record fails its checksum, and later ones do not"));
        }
        Ok(Walked {
            bytes: offset as u64,
            ended: false,
        })
    }

    fn apply(&mut self, head: &Head, body: &[u8], segment: u64) -> Option<()> {
        let options = &self.shared.options;
        self.last_id = self.last_id.max(head.space);
        let fresh = || {
            (
                None,
                Space::new(
                    "",
                    head.space,
                    FIRST_REVISION,
                    options.history_bytes,
                    options.history_age,
                ),
            )
        };
        match head.kind {
            Kind::End => {}
            Kind::Drop => drop(self.spaces.remove(&head.space)),
            Kind::Name => {
                let mut fields = codec::Reader::new(body);
                let revision = fields.u64()?;
                let uid = fields.text(fields.left())?;
                let (name, space) = self.spaces.entry(head.space).or_insert_with(fresh);
                space.lock().raise(revision);
                *name = Some(uid.to_string());
            }
            Kind::Txn => {
                let mut fields = codec::Reader::new(body);
                let revision = fields.u64()?;
                let changes = self.changes(&mut fields, segment)?;
                let (_, space) = self.spaces.entry(head.space).or_insert_with(fresh);
                space.lock().replay(
                    revision,
                    changes.into_iter().map(|(_, change)| change).collect(),
                    self.at,
                );
            }
            Kind::Copy => {
                let changes = self.changes(&mut codec::Reader::new(body), segment)?;
                let (_, space) = self.spaces.entry(head.space).or_insert_with(fresh);
                let mut state = space.lock();
                for (revision, change) in changes {
                    if state
                        .slot(&change.key)
                        .is_none_or(|slot| slot.revision <= revision)
                    {
                        state.put(revision, change);
                    }
                }
            }
        }
        Some(())
    }

    fn changes(&mut self, fields: &mut codec::Reader, segment: u64) -> Option<Vec<(u64, Change)>> {
        let mut changes = Vec::new();
        while fields.left() > 0 {
            let (revision, mut change) = fields.change(&mut self.names)?;
            change.segment = segment;
            changes.push((revision, change));
        }
        Some(changes)
    }

    /// Hands the named keyspaces over; nameless ones are restores that never finished.
    fn finish(self) {
        let named = self
            .spaces
            .into_values()
            .filter_map(|(name, space)| Some((name?, space)))
            .inspect(|(_, space)| space.lock().learn());
        self.shared.adopt(
            named.map(|(name, space)| space.named(&name)).collect(),
            self.last_id,
        );
    }
}

/// Whether a valid frame of a batch after `expected` begins anywhere in `bytes`.
fn holds_frames(bytes: &[u8], segment: u64, expected: u64) -> bool {
    let later = expected + 1..expected + MAX_BATCHES_AHEAD;
    (0..bytes.len().saturating_sub(super::frame::FRAME_HEAD))
        .step_by(8)
        .any(|start| {
            let plausible = Head::parse(&bytes[start..]).is_some_and(|head| later.contains(&head.batch));
            plausible && Head::verify(&bytes[start..], segment).is_some()
        })
}
