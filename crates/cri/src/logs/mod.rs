//! Container logs in the runtime's format.

pub mod read;

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// The text at the end of a log: at most `lines` lines and `bytes` bytes, without times and tags.
pub fn tail_text(path: &Path, lines: usize, bytes: usize) -> Vec<u8> {
    let options = read::Options {
        tail: Some(lines),
        ..Default::default()
    };
    let raw = last_bytes(path, 256 * 1024);
    let mut text = Vec::new();
    let start = read::tail_start(&raw, options.tail);
    for line in raw[start..].split_inclusive(|b| *b == b'\n') {
        if let Some(parsed) = read::parse(line) {
            text.extend_from_slice(&parsed.content);
            if !parsed.partial {
                text.push(b'\n');
            }
        }
    }
    let cut = text.len().saturating_sub(bytes);
    text.split_off(cut)
}

/// The last bytes of a file, from the start of a line.
fn last_bytes(path: &Path, limit: u64) -> Vec<u8> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(limit)))?;
        let mut data = Vec::new();
        file.take(limit).read_to_end(&mut data)?;
        if length > limit {
            let first = data.iter().position(|b| *b == b'\n').map_or(0, |at| at + 1);
            data.drain(..first);
        }
        Ok(data)
    };
    read().unwrap_or_default()
}
