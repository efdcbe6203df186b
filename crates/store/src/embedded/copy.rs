//! A copy of a log in memory, taken while another process may be writing it: for backups of a running store.
//!
//! What was acknowledged before the copy began is in it. Segments only grow at their end and are only removed when what
//! lives in them stands in later ones, so files that were all there at one moment hold everything; descriptors keep them
//! readable after a removal, and locks keep them from being written anew after a retirement. The newest is read last, and
//! its unfinished tail is cut off as after a crash.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::log::segment_of;
use super::media::{Media, MediaFile};
use crate::error::Error;

/// How often the list of files may change under the reader; the writer makes a file per many megabytes.
const TRIES: usize = 100;

type Bytes = Arc<Mutex<Vec<u8>>>;

/// The copy. Writes change nothing but itself.
pub(crate) struct Copy {
    path: PathBuf,
    files: BTreeMap<String, Bytes>,
}

impl Copy {
    /// Copies the log files of a directory. Neither makes nor locks anything there.
    pub(crate) fn of(path: &Path) -> crate::error::Result<Copy> {
        let failed = Error::io("copy the log in", path);
        let files = open_all(path).and_then(read_all).map_err(failed)?;
        Ok(Copy {
            path: path.to_path_buf(),
            files,
        })
    }
}

fn segments(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        names.extend(entry?.file_name().into_string());
    }
    names.retain(|name| segment_of(name).is_some());
    // The names are numbers of one length.
    names.sort_unstable();
    Ok(names)
}

/// Opens files that were all there at one moment.
fn open_all(path: &Path) -> Result<Vec<(String, File)>> {
    for _ in 0..TRIES {
        let names = segments(path)?;
        let open = |name: &String| {
            let file = File::open(path.join(name))?;
            file.lock_shared()?;
            Ok((name.clone(), file))
        };
        let files: Result<Vec<(String, File)>> = names.iter().map(open).collect();
        match files {
            Ok(files) if segments(path)? == names => return Ok(files),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::ResourceBusy.into())
}

fn read_all(files: Vec<(String, File)>) -> Result<BTreeMap<String, Bytes>> {
    let read = |(name, mut file): (String, File)| {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok((name, Arc::new(Mutex::new(bytes))))
    };
    files.into_iter().map(read).collect()
}

impl Media for Copy {
    fn names(&self) -> Result<Vec<String>> {
        Ok(self.files.keys().cloned().collect())
    }

    fn create(&mut self, name: &str) -> Result<Box<dyn MediaFile>> {
        let bytes = Bytes::default();
        self.files.insert(name.to_string(), bytes.clone());
        Ok(Box::new(CopiedFile(bytes)))
    }

    fn open(&self, name: &str) -> Result<Box<dyn MediaFile>> {
        let bytes = self.files.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(Box::new(CopiedFile(bytes.clone())))
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        self.files.remove(name);
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

struct CopiedFile(Bytes);

impl MediaFile for CopiedFile {
    fn write_at(&mut self, offset: u64, written: &[u8]) -> Result<()> {
        let mut bytes = self.0.lock();
        let start = usize::try_from(offset).map_err(|_| ErrorKind::FileTooLarge)?;
        let end = start + written.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(written);
        Ok(())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize> {
        let bytes = self.0.lock();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let count = into.len().min(bytes.len() - start);
        into[..count].copy_from_slice(&bytes[start..start + count]);
        Ok(count)
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    fn reserve(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn length(&self) -> Result<u64> {
        Ok(self.0.lock().len() as u64)
    }

    fn truncate(&mut self, length: u64) -> Result<()> {
        let length = usize::try_from(length).map_err(|_| ErrorKind::FileTooLarge)?;
        self.0.lock().truncate(length);
        Ok(())
    }
}
