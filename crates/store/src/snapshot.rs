//! The snapshot file: one keyspace's live entries, each with its checksum, closed by a trailer that counts them.
//!
//! `"MAINSTAY SNAPSHOT"`, format u32, revision u64, uid length u16, uid, checksum u32 of all that; then per entry
//! length u32, checksum u32, change; then length `u32::MAX`, checksum of the count, count u64. Little-endian.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::codec::{self, Names};
use crate::error::{Error, Result};
use crate::model::Key;
use crate::space::{Change, Slot};

const MAGIC: &[u8; 17] = b"MAINSTAY SNAPSHOT";
const FORMAT: u32 = 1;
const TRAILER: u32 = u32::MAX;
/// No entry is longer: transactions are bounded to less.
const MAX_ENTRY_BYTES: u32 = 64 << 20;

/// Writes a snapshot beside `path` and renames it into place once it is synced.
pub(crate) fn write(path: &Path, uid: &str, revision: u64, entries: Vec<(Key, Slot)>) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let outcome = write_file(&partial, uid, revision, entries)
        .and_then(|()| std::fs::rename(&partial, path))
        .and_then(|()| sync_parent(path));
    outcome.map_err(|error| {
        // The error to report is the first one; a partial file left behind is overwritten next time.
        let _ = std::fs::remove_file(&partial);
        Error::io("write the snapshot", path)(error)
    })
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn write_file(path: &Path, uid: &str, revision: u64, entries: Vec<(Key, Slot)>) -> std::io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&FORMAT.to_le_bytes());
    head.extend_from_slice(&revision.to_le_bytes());
    head.extend_from_slice(
        &u16::try_from(uid.len())
            .expect("uids are bounded to 128 bytes")
            .to_le_bytes(),
    );
    head.extend_from_slice(uid.as_bytes());
    let sum = crc32fast::hash(&head);
    out.write_all(&head)?;
    out.write_all(&sum.to_le_bytes())?;
    let count = entries.len() as u64;
    let mut body = Vec::new();
    for (key, slot) in entries {
        body.clear();
        codec::put_change(&mut body, slot.revision, &change_of(key, slot));
        let length = u32::try_from(body.len()).expect("transactions bound their size to megabytes");
        out.write_all(&length.to_le_bytes())?;
        out.write_all(&crc32fast::hash(&body).to_le_bytes())?;
        out.write_all(&body)?;
    }
    out.write_all(&TRAILER.to_le_bytes())?;
    out.write_all(&crc32fast::hash(&count.to_le_bytes()).to_le_bytes())?;
    out.write_all(&count.to_le_bytes())?;
    out.into_inner()?.sync_all()
}

fn change_of(key: Key, slot: Slot) -> Change {
    Change {
        key,
        value: Some(slot.value),
        class: slot.class,
        expires: slot.expires,
        prev_revision: 0,
        segment: 0,
        log_bytes: 0,
    }
}

/// Reads a snapshot front to back, checking as it goes.
pub(crate) struct Reader {
    input: BufReader<File>,
    path: PathBuf,
    offset: u64,
    revision: u64,
    entries: u64,
    done: bool,
    names: Names,
}

impl Reader {
    /// Opens a snapshot after checking every byte of it, so that a restore never fails half way for what is in the
    /// file.
    pub(crate) fn open(path: &Path) -> Result<Reader> {
        let mut probe = Reader::start(path)?;
        while !probe.chunk(1 << 20)?.is_empty() {}
        Reader::start(path)
    }

    fn start(path: &Path) -> Result<Reader> {
        let file = File::open(path).map_err(Error::io("open the snapshot", path))?;
        let mut reader = Reader {
            input: BufReader::with_capacity(1 << 20, file),
            path: path.to_path_buf(),
            offset: 0,
            revision: 0,
            entries: 0,
            done: false,
            names: Names::default(),
        };
        let mut head = reader.take(MAGIC.len() + 4 + 8 + 2)?;
        if !head.starts_with(MAGIC) {
            return Err(reader.corrupt(0, "this is no snapshot of this program"));
        }
        let mut fields = codec::Reader::new(&head[MAGIC.len()..]);
        let format = fields.u32().unwrap_or_default();
        if format != FORMAT {
            return Err(reader.corrupt(
                MAGIC.len() as u64,
                &format!("format {format} is unknown, expected {FORMAT}"),
            ));
        }
        reader.revision = fields.u64().unwrap_or_default();
        let uid_bytes = fields.u16().unwrap_or_default();
        head.extend(reader.take(usize::from(uid_bytes))?);
        let sum = reader.u32()?;
        if sum != crc32fast::hash(&head) {
            return Err(reader.corrupt(0, "the header fails its checksum"));
        }
        Ok(reader)
    }

    /// The revision the content had.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The next entries, about `bytes` of them; empty = the end, and all was there.
    pub(crate) fn chunk(&mut self, bytes: usize) -> Result<Vec<Change>> {
        let (mut changes, mut taken) = (Vec::new(), 0);
        while taken < bytes && !self.done {
            let at = self.offset;
            let length = self.u32()?;
            if length == TRAILER {
                self.trailer(at)?;
                break;
            }
            if length > MAX_ENTRY_BYTES {
                return Err(self.corrupt(at, "the entry's length is impossible"));
            }
            let sum = self.u32()?;
            let body = self.take(length as usize)?;
            let parsed = codec::Reader::new(&body).change(&mut self.names);
            let Some((_, change)) = parsed.filter(|_| sum == crc32fast::hash(&body)) else {
                return Err(self.corrupt(at, "the entry fails its checksum"));
            };
            taken += body.len();
            self.entries += 1;
            changes.push(change);
        }
        Ok(changes)
    }

    fn trailer(&mut self, at: u64) -> Result<()> {
        self.done = true;
        let sum = self.u32()?;
        let count = self.take(8)?;
        if sum != crc32fast::hash(&count) || count != self.entries.to_le_bytes() {
            return Err(self.corrupt(at, "the trailer does not match the entries"));
        }
        Ok(())
    }

    fn u32(&mut self) -> Result<u32> {
        let bytes = self.take(4)?;
        Ok(codec::Reader::new(&bytes).u32().unwrap_or_default())
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.input
            .read_exact(&mut bytes)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => self.corrupt(self.offset, "the file ends too early"),
                _ => Error::io("read the snapshot", &self.path)(error),
            })?;
        self.offset += count as u64;
        Ok(bytes)
    }

    fn corrupt(&self, offset: u64, what: &str) -> Error {
        Error::Corrupt {
            file: self.path.clone(),
            offset,
            what: what.to_string(),
        }
    }
}
