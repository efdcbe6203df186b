//! The few file operations the log needs, behind a trait so that tests can tear, flip and refuse them.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// One log file. Offsets and lengths are bytes.
pub(crate) trait MediaFile: Send {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Reads up to `into.len()` bytes; fewer only at the file's end.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize>;
    /// Makes everything written so far durable.
    fn sync(&mut self) -> Result<()>;
    /// Reserves space; where the filesystem cannot, nothing happens.
    fn reserve(&mut self, length: u64) -> Result<()>;
    fn length(&self) -> Result<u64>;
    fn truncate(&mut self, length: u64) -> Result<()>;
}

/// A directory of log files.
pub(crate) trait Media: Send {
    fn names(&self) -> Result<Vec<String>>;
    /// Creates a file, durably: its name survives a crash. It may hold what a retired one held, none of it valid here.
    fn create(&mut self, name: &str) -> Result<Box<dyn MediaFile>>;
    fn open(&self, name: &str) -> Result<Box<dyn MediaFile>>;
    /// Takes a file away, durably; a later one may be made of it.
    fn retire(&mut self, name: &str) -> Result<()> {
        self.remove(name)
    }
    /// Removes a file, durably.
    fn remove(&mut self, name: &str) -> Result<()>;
    /// The path that errors name.
    fn path(&self, name: &str) -> PathBuf;
}

/// Retired files kept: cleaning takes about one away for each that is made.
pub(super) const SPARES: usize = 2;

/// The name of a retired file; `None` = not a log file's.
pub(super) fn spare_name(name: &str) -> Option<String> {
    name.strip_suffix(".log").map(|stem| format!("{stem}.spare"))
}

/// A real directory, locked against other processes while this lives.
pub(crate) struct Directory {
    path: PathBuf,
    handle: File,
    /// Names of retired files. Writing into one again changes no metadata, so syncs need no journal.
    spares: Vec<String>,
    _lock: File,
}

impl Directory {
    /// Opens the directory, making it (mode 0700) if it is missing.
    pub(crate) fn open(path: &Path) -> crate::error::Result<Directory> {
        let create = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path);
        create.map_err(Error::io("create the directory", path))?;
        let mut options = OpenOptions::new();
        let lock_path = path.join("LOCK");
        let lock = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path);
        let lock = lock.map_err(Error::io("open the lock file", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(Error::Locked {
                    dir: path.to_path_buf(),
                });
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(Error::io("lock", &lock_path)(error)),
        }
        let handle = File::open(path).map_err(Error::io("open the directory", path))?;
        let mut directory = Directory {
            path: path.to_path_buf(),
            handle,
            spares: Vec::new(),
            _lock: lock,
        };
        let names = directory.names().map_err(Error::io("list", path))?;
        directory.spares = names
            .into_iter()
            .filter(|name| name.ends_with(".spare"))
            .collect();
        Ok(directory)
    }

    /// A retired file that nobody reads any more, under its new name.
    fn reuse(&mut self, name: &str) -> Result<Option<File>> {
        while let Some(spare) = self.spares.pop() {
            let path = self.path.join(&spare);
            let file = OpenOptions::new().read(true).write(true).open(&path)?;
            match file.try_lock() {
                Ok(()) => {
                    file.unlock()?;
                    std::fs::rename(&path, self.path.join(name))?;
                    return Ok(Some(file));
                }
                // A copy is being made of it.
                Err(std::fs::TryLockError::WouldBlock) => std::fs::remove_file(&path)?,
                Err(std::fs::TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(None)
    }
}

impl Media for Directory {
    fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&mut self, name: &str) -> Result<Box<dyn MediaFile>> {
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let reused = match path.exists() {
            true => None,
            false => self.reuse(name)?,
        };
        let file = reused.map_or_else(|| options.open(&path), Ok)?;
        self.handle.sync_all()?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> Result<Box<dyn MediaFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path.join(name))?;
        Ok(Box::new(RealFile(file)))
    }

    fn retire(&mut self, name: &str) -> Result<()> {
        match spare_name(name).filter(|_| self.spares.len() < SPARES) {
            Some(spare) => {
                std::fs::rename(self.path.join(name), self.path.join(&spare))?;
                self.spares.push(spare);
                self.handle.sync_all()
            }
            None => self.remove(name),
        }
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        std::fs::remove_file(self.path.join(name))?;
        self.handle.sync_all()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

struct RealFile(File);

impl MediaFile for RealFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < into.len() {
            match self.0.read_at(&mut into[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn sync(&mut self) -> Result<()> {
        self.0.sync_data()
    }

    fn reserve(&mut self, length: u64) -> Result<()> {
        use rustix::io::Errno;
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, length) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn length(&self) -> Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn truncate(&mut self, length: u64) -> Result<()> {
        self.0.set_len(length)
    }
}
