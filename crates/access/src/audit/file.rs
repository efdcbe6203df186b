//! The audit log's file: appended to, turned over when it is full, old ones removed.

use std::fs::{File, OpenOptions};
use std::io::{Result, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use mainstay_base::clock::SharedClock;

/// When a file is turned over, and how many are kept.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    /// A file that would grow beyond this is closed and renamed.
    pub max_bytes: u64,
    /// Closed files kept; 0 = all.
    pub max_backups: usize,
}

/// See the module's text. Closed files are named `NAME-TIME.EXT` beside the open one, as upstream does.
pub struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    clock: SharedClock,
    file: File,
    bytes: u64,
}

impl LogFile {
    /// Opens or makes the file, mode 0600.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn open(path: &Path, rotation: Rotation, clock: SharedClock) -> Result<Self> {
        let file = open(path)?;
        Ok(LogFile {
            bytes: file.metadata()?.len(),
            path: path.to_path_buf(),
            rotation,
            clock,
            file,
        })
    }

    fn turn(&mut self) -> Result<()> {
        self.file.flush()?;
        let at = self.clock.now().strftime("%Y-%m-%dT%H-%M-%S%.3f").to_string();
        std::fs::rename(&self.path, self.sibling(&at))?;
        self.file = open(&self.path)?;
        self.bytes = 0;
        self.remove_old()
    }

    fn parts(&self) -> (String, String) {
        let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let extension = match text(self.path.extension()) {
            none if none.is_empty() => none,
            some => format!(".{some}"),
        };
        (text(self.path.file_stem()), extension)
    }

    fn sibling(&self, at: &str) -> PathBuf {
        let (stem, extension) = self.parts();
        self.path.with_file_name(format!("{stem}-{at}{extension}"))
    }

    fn remove_old(&self) -> Result<()> {
        let (stem, extension) = self.parts();
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut closed: Vec<PathBuf> = std::fs::read_dir(folder.unwrap_or(Path::new(".")))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let middle = name
                    .strip_prefix(&format!("{stem}-"))
                    .and_then(|rest| rest.strip_suffix(&extension));
                middle.is_some_and(|middle| middle.starts_with(|letter: char| letter.is_ascii_digit()))
            })
            .collect();
        closed.sort();
        let kept = match self.rotation.max_backups {
            0 => closed.len(),
            most => most.min(closed.len()),
        };
        closed[..closed.len() - kept]
            .iter()
            .try_for_each(std::fs::remove_file)
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        // The log hands over whole lines, so a file begins and ends with one.
        if self.bytes > 0 && self.bytes + bytes.len() as u64 > self.rotation.max_bytes {
            self.turn()?;
        }
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> Result<()> {
        self.file.flush()
    }
}
