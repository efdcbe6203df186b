//! Follows a growing text file: whole lines only, through rotation by rename and by truncation.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What is read at most in one step.
const READ_LIMIT_BYTES: u64 = 1 << 20;
/// A line without an end is given up at this length.
const LINE_LIMIT_BYTES: usize = 64 << 10;

/// A followed file.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    open: Option<(std::fs::File, u64)>,
    position: u64,
    partial: Vec<u8>,
}

impl Tail {
    /// Follows from the start of the file; it may appear later.
    pub fn new(path: &Path) -> Self {
        Tail {
            path: path.into(),
            open: None,
            position: 0,
            partial: Vec::new(),
        }
    }

    /// Reads the whole lines written since the last call. A missing file gives none.
    ///
    /// # Errors
    /// When the file is there but cannot be read.
    pub fn lines(&mut self) -> std::io::Result<Vec<String>> {
        let mut lines = Vec::new();
        // The rest of a file that was renamed away first, then the new one.
        self.read_open(&mut lines)?;
        if self.moved_on() {
            self.open = None;
            self.partial.clear();
            self.reopen()?;
            self.read_open(&mut lines)?;
        }
        Ok(lines)
    }

    /// Whether the path names another file than the open one (or none is open yet).
    fn moved_on(&self) -> bool {
        let Ok(now) = std::fs::metadata(&self.path) else {
            return false;
        };
        self.open.as_ref().is_none_or(|(_, inode)| *inode != now.ino())
    }

    fn reopen(&mut self) -> std::io::Result<()> {
        let file = std::fs::File::open(&self.path)?;
        let inode = file.metadata()?.ino();
        self.open = Some((file, inode));
        self.position = 0;
        Ok(())
    }

    fn read_open(&mut self, lines: &mut Vec<String>) -> std::io::Result<()> {
        let Some((file, _)) = &mut self.open else {
            return Ok(());
        };
        if file.metadata()?.len() < self.position {
            // Truncated in place: start over.
            self.position = 0;
            self.partial.clear();
        }
        file.seek(SeekFrom::Start(self.position))?;
        let mut fresh = Vec::new();
        self.position += file.take(READ_LIMIT_BYTES).read_to_end(&mut fresh)? as u64;
        for byte in fresh {
            if byte == b'\n' || self.partial.len() >= LINE_LIMIT_BYTES {
                lines.push(String::from_utf8_lossy(&std::mem::take(&mut self.partial)).into_owned());
            }
            if byte != b'\n' {
                self.partial.push(byte);
            }
        }
        Ok(())
    }
}

/// Tells whether the path is the kernel's own log device and not a plain file in its place.
pub fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_char_device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    fn append(path: &Path, text: &str) {
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn partial_lines_wait_for_their_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut tail = Tail::new(&path);
        assert_eq!(tail.lines().unwrap(), Vec::<String>::new());
        append(&path, "ev partial");
        assert_eq!(tail.lines().unwrap(), Vec::<String>::new());
        append(&path, " continued\nnext\n");
        assert_eq!(tail.lines().unwrap(), ["ev partial continued", "next"]);
    }

    #[test]
    fn truncation_and_rename_lose_no_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        append(&path, "a long first line\n");
        let mut tail = Tail::new(&path);
        assert_eq!(tail.lines().unwrap(), ["a long first line"]);
        fs::File::create(&path).unwrap();
        append(&path, "short\n");
        assert_eq!(tail.lines().unwrap(), ["short"]);
        append(&path, "last words\n");
        fs::rename(&path, folder.path().join("log.1")).unwrap();
        append(&path, "new file\n");
        assert_eq!(tail.lines().unwrap(), ["last words", "new file"]);
    }
}
