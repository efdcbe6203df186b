//! The log's frames: how batches are written into a segment and found again.
//!
//! A segment is a 40-byte header (magic, format u32, id u64, first batch u64, checksum u32) and frames, each aligned
//! to 8 bytes: body length u32, checksum u32, batch u64, keyspace id u32, kind u8, last-of-batch u8, two zero bytes,
//! body. The checksum covers the segment's id too, so a frame never counts in another file.

use crate::codec::{self, Reader};
use crate::space::Change;

/// Bytes of a segment's header.
pub(crate) const SEGMENT_HEAD: usize = 40;
/// Bytes of a frame before its body.
pub(crate) const FRAME_HEAD: usize = 24;

const MAGIC: &[u8; 16] = b"MAINSTAY LOG\r\n\x1a\0";
const FORMAT: u32 = 1;
const ALIGN: usize = 8;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One transaction: revision, changes.
    Txn = 1,
    /// Entries written without a transaction: moved by cleaning, or filled in by a restore.
    Copy = 2,
    /// The keyspace's name and revision.
    Name = 3,
    /// The keyspace is gone.
    Drop = 4,
    /// The segment ends here; the next one has the next id.
    End = 5,
}

impl Kind {
    fn of(tag: u8) -> Option<Kind> {
        [Kind::Txn, Kind::Copy, Kind::Name, Kind::Drop, Kind::End]
            .into_iter()
            .find(|kind| *kind as u8 == tag)
    }
}

/// A frame's head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    /// Length of the body that follows.
    pub body_bytes: usize,
    /// Number of the batch that it was committed in.
    pub batch: u64,
    /// Number of the keyspace.
    pub space: u32,
    /// What the body holds.
    pub kind: Kind,
    /// Whether it ends its batch; a batch without an end was not committed.
    pub last: bool,
    sum: u32,
}

impl Head {
    /// Bytes of the whole frame in the file.
    pub(crate) fn frame_bytes(&self) -> usize {
        (FRAME_HEAD + self.body_bytes).next_multiple_of(ALIGN)
    }

    /// Reads a head; `None` = there is none here.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Head> {
        let mut fields = Reader::new(bytes);
        let (body_bytes, sum) = (fields.u32()? as usize, fields.u32()?);
        let (batch, space, kind, last) = (
            fields.u64()?,
            fields.u32()?,
            Kind::of(fields.u8()?)?,
            fields.u8()?,
        );
        Some(Head {
            body_bytes,
            batch,
            space,
            kind,
            last: last == 1,
            sum,
        })
    }

    /// Reads and verifies the frame at the start of `bytes`.
    pub(crate) fn verify(bytes: &[u8], segment: u64) -> Option<(Head, &[u8])> {
        let head = Head::parse(bytes)?;
        let body = bytes.get(FRAME_HEAD..FRAME_HEAD + head.body_bytes)?;
        (checksum(segment, &bytes[8..FRAME_HEAD], body) == head.sum).then_some((head, body))
    }
}

fn checksum(segment: u64, head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&segment.to_le_bytes());
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}

/// The header of a segment.
pub(crate) fn segment_head(id: u64, first_batch: u64) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&FORMAT.to_le_bytes());
    head.extend_from_slice(&id.to_le_bytes());
    head.extend_from_slice(&first_batch.to_le_bytes());
    head.extend_from_slice(&crc32fast::hash(&head).to_le_bytes());
    head
}

/// Checks a segment's header and returns its first batch, or what is wrong.
pub(crate) fn check_segment_head(bytes: &[u8], id: u64) -> Result<u64, String> {
    let head = bytes
        .get(..SEGMENT_HEAD)
        .ok_or("the file is shorter than its header")?;
    let mut fields = Reader::new(head);
    let magic = fields.bytes(MAGIC.len()).unwrap_or_default();
    let (format, own_id, first_batch, sum) = (fields.u32(), fields.u64(), fields.u64(), fields.u32());
    if magic != MAGIC || sum != Some(crc32fast::hash(&head[..SEGMENT_HEAD - 4])) {
        return Err("the header fails its checksum".to_string());
    }
    if format != Some(FORMAT) {
        return Err(format!(
            "log format {} is unknown, expected {FORMAT}",
            format.unwrap_or_default()
        ));
    }
    if own_id != Some(id) {
        return Err(format!("the header says segment {}", own_id.unwrap_or_default()));
    }
    Ok(first_batch.unwrap_or_default())
}

/// Collects the frames of one batch.
pub(crate) struct Batch {
    bytes: Vec<u8>,
    starts: Vec<usize>,
    number: u64,
    segment: u64,
}

impl Batch {
    /// Begins a batch in a buffer that may already hold a segment header.
    pub(crate) fn new(bytes: Vec<u8>, number: u64, segment: u64) -> Self {
        Batch {
            bytes,
            starts: Vec::new(),
            number,
            segment,
        }
    }

    fn frame(&mut self, space: u32, kind: Kind, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.starts.push(start);
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(&self.number.to_le_bytes());
        self.bytes.extend_from_slice(&space.to_le_bytes());
        self.bytes.extend_from_slice(&[kind as u8, 0, 0, 0]);
        body(&mut self.bytes);
        let length =
            u32::try_from(self.bytes.len() - start - FRAME_HEAD).expect("batches are bounded to megabytes");
        self.bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
        let aligned = self.bytes.len().next_multiple_of(ALIGN);
        self.bytes.resize(aligned, 0);
    }

    pub(crate) fn txn(&mut self, space: u32, revision: u64, changes: &[Change]) {
        self.frame(space, Kind::Txn, |out| {
            out.extend_from_slice(&revision.to_le_bytes());
            changes
                .iter()
                .for_each(|change| codec::put_change(out, revision, change));
        });
    }

    pub(crate) fn copy(&mut self, space: u32, revision: u64, change: &Change) {
        self.frame(space, Kind::Copy, |out| codec::put_change(out, revision, change));
    }

    /// Writes a change again as it stood elsewhere.
    pub(crate) fn copy_bytes(&mut self, space: u32, change: &[u8]) {
        self.frame(space, Kind::Copy, |out| out.extend_from_slice(change));
    }

    pub(crate) fn name(&mut self, space: u32, revision: u64, uid: &str) {
        self.frame(space, Kind::Name, |out| {
            out.extend_from_slice(&revision.to_le_bytes());
            out.extend_from_slice(uid.as_bytes());
        });
    }

    pub(crate) fn mark(&mut self, space: u32, kind: Kind) {
        self.frame(space, kind, |_| {});
    }

    /// Marks the last frame, fills in the checksums and returns the bytes to write.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let last = self.starts.last().copied();
        for start in self.starts {
            if Some(start) == last {
                self.bytes[start + 21] = 1;
            }
            let frame = &self.bytes[start..];
            let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
            let sum = checksum(
                self.segment,
                &frame[8..FRAME_HEAD],
                &frame[FRAME_HEAD..FRAME_HEAD + length],
            );
            self.bytes[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
        }
        self.bytes
    }
}
